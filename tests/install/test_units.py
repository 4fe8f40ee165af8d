"""The systemd units, as far as they can be judged where no systemd runs; the lab runs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
EXPOSURE = 1.4  # of 10; README.md says so too


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False
    )


def test_the_sandbox_is_as_narrow_as_the_readme_says() -> None:
    done = analyze("security", "--offline=true", UNITS / "ttybroker.service")
    assert f"Overall exposure level for ttybroker.service: {EXPOSURE} OK" in done.stdout
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"`systemd-analyze security` {EXPOSURE}" in readme


def test_systemd_knows_every_word_of_them(tmp_path: Path) -> None:
    """It warns about what it does not know, and then goes on without."""
    units = [tmp_path / unit.name for unit in UNITS.iterdir()]
    for unit in units:
        text = (UNITS / unit.name).read_text()
        unit.write_text(text.replace("/usr/sbin/ttybrokerd", "/bin/true"))  # not installed here
    done = analyze("verify", "--man=no", *units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
