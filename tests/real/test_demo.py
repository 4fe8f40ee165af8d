"""`make demo` shows what the README says, by itself, and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import ROOT, python_path

pytestmark = pytest.mark.root

IN_THE_END = 20  # seconds, as promised


# Runs "$@" with a /run of its own, and shows what is left in that.
ALONE = 'mount -t tmpfs -o mode=755 tmpfs /run && "$@"; status=$?; ls -A /run; exit $status'


@pytest.mark.parametrize("hidden", [False, True])
def test_the_demo_shows_everything_and_ends_by_itself(hidden: bool, tmp_path: Path) -> None:
    """Also in a clone that nobody else can enter: what it needs is loaded before."""
    path = python_path()
    if hidden:
        for half in ("broker", "frontend"):
            shutil.copytree(ROOT / half, tmp_path / half)
        tmp_path.chmod(0o700)
        path = {"PYTHONPATH": f"{tmp_path}/broker:{tmp_path}/frontend"}
    demo = [sys.executable, "-m", "ttybrokerd.demo"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", ALONE, "sh", *demo],
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        timeout=IN_THE_END,
        check=False,
    )
    shown = done.stdout
    assert ("what the demo needs is loaded now" in shown) >= hidden
    assert (done.returncode, done.stderr) == (0, "")
    assert "this process is now uid 65534, without a capability" in shown
    assert len(re.findall(r"UTC +48\.117\d\d N +11\.516\d\d E +08 satellites", shown)) == 4
    assert re.search(r"^ttyS0 +busy +nobody python\S* \(\d+\)", shown, re.M)
    assert re.search(r"ttyS0: busy: held by nobody \(uid 65534\) with python\S* \(pid \d+\)", shown)
    assert re.search(r"^ttyS0 +busy, 1 waiting ", shown, re.M)
    assert re.search(r"the third has it after 0\.\d\d s of waiting", shown)
    assert "our next read: " in shown
    assert shown.splitlines()[-1] == "Done: no process, lock or file is left."


def test_without_root_it_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    from ttybrokerd import demo

    effective = os.geteuid()
    os.seteuid(60101)
    try:
        assert demo.main() == 1
    finally:
        os.seteuid(effective)
    assert capsys.readouterr().err == (
        "the demo starts a root backend: run it as root, or with sudo\n"
    )
