"""`make install` puts a launcher in place that starts, and `make uninstall` leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ttybrokerd.root.fresh import SHIPPED

pytest.importorskip("prctl", reason="python-prctl is copied by the install: extra `broker`")

if TYPE_CHECKING:
    from launcher.conftest import Launcher

pytestmark = pytest.mark.root

SOURCE = Path(__file__).parents[2] / "packaging" / "launcher"
COMMANDS = ["bin/ttybroker", "bin/ttyrun", "sbin/ttybrokerd"]


def make(launcher: Launcher, *arguments: str) -> None:
    build = launcher.base / "build-install"
    command = ["make", "-s", "-C", str(SOURCE), f"BUILD={build}", f"VENV={sys.prefix}"]
    subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, umask=0o077)


def test_everything_is_roots_and_readable(own: Launcher) -> None:
    """Also with the umask of a careful administrator."""
    prefix = own.base / "stage" / "opt"
    make(own, "install", "PREFIX=/opt", f"DESTDIR={own.base}/stage")
    commands = sorted(str(path.relative_to(prefix)) for path in prefix.glob("*bin/*"))
    assert commands == COMMANDS
    for path in prefix.rglob("*"):
        if path.is_symlink():
            if path.parent.name == "kernel":  # ttybroker.service says what they are for
                assert path.readlink() == Path("/") / path.name
            else:  # a completion's second name
                assert path.resolve(strict=True).parent == path.parent
            continue
        status = path.lstat()
        wanted = 0o755 if path.is_dir() or path.parent.name in ("bin", "sbin") else 0o644
        if path.name == "ttyrun":
            wanted = 0o4755
        assert (status.st_uid, status.st_gid) == (0, 0), path
        assert oct(status.st_mode & 0o7777) == oct(wanted), path
    code = prefix / "lib/ttybroker"
    for name in ("ttybroker/__init__.py", "ttybrokerd/__init__.py", "serial/__init__.py"):
        assert (code / name).is_file()
        assert list((code / name).parent.glob("__pycache__/__init__.*.pyc"))
    assert str(own.base) not in (prefix / "bin/ttybroker").read_text()
    for page in ("man1/ttybroker.1", "man1/ttyrun.1", "man5/ttybroker-policy.5"):
        assert (prefix / "share/man" / page).is_file()
    unit = (prefix / "lib/systemd/system/ttybroker.service").read_text()
    assert "ExecStart=/opt/sbin/ttybrokerd --policy /opt/etc/ttybroker/policy.toml\n" in unit
    policy = prefix / "etc/ttybroker/policy.toml"
    assert policy.read_bytes() == Path(SHIPPED).read_bytes()
    policy.write_text("# mine\n")
    make(own, "install-data", "PREFIX=/opt", f"DESTDIR={own.base}/stage")
    make(own, "uninstall", "PREFIX=/opt", f"DESTDIR={own.base}/stage")
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == [policy]
    assert policy.read_text() == "# mine\n"
    assert not code.exists()


def test_the_demo_runs_from_what_was_installed(own: Launcher) -> None:
    """Its lines come in order also where standard output is no terminal."""
    prefix = own.base / "whole"
    make(own, "install", f"PREFIX={prefix}")
    done = subprocess.run(
        [prefix / "bin/ttybroker", "demo"], cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    second_list = done.stdout.rindex("busy, 1 waiting")
    assert second_list < done.stdout.index("the third has it") < done.stdout.index("Done: no")


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_the_systems_own_policy_is_in_etc(own: Launcher, prefix: str) -> None:
    stage = own.base / "stage"
    make(own, "install-data", f"PREFIX={prefix}", f"DESTDIR={stage}")
    assert (stage / "etc/ttybroker/policy.toml").read_bytes() == Path(SHIPPED).read_bytes()
    unit = (stage / prefix[1:] / "lib/systemd/system/ttybroker.service").read_text()
    assert "/ttybrokerd --policy /etc/ttybroker/policy.toml\n" in unit


def test_a_distributions_package_copies_no_library(own: Launcher) -> None:
    """It names the directory where they are, which then must be root's alone too."""
    library = own.base / "dist-packages"
    library.mkdir()
    make(own, "all", f"LIBRARY={library}")
    for script in ("ttybroker", "ttybrokerd", "ttyrun_main.py"):
        text = (own.base / "build-install" / script).read_text()
        assert text.count("sys.path.append") == text.count(f'sys.path.append("{library}")') == 1
    own.build(f"LIBRARY={library}")
    assert own.seen()
    library.chmod(0o777)
    assert f"{library}: others than root can change it" in own.refused()


def test_installed_launcher_accepts_its_own_code(own: Launcher) -> None:
    """Every component of it, for a user: what comes back is not one of the stub's refusals."""
    prefix = own.base / "prefix"
    own.base.joinpath("prefix").mkdir(mode=0o755)
    make(own, "install", f"PREFIX={prefix}", "CODE=$(PREFIX)/lib/ttybroker")
    for directory in (prefix, prefix / "bin", prefix / "lib"):
        assert oct(directory.stat().st_mode & 0o777) == "0o755"
    done = own.run(program=prefix / "bin/ttyrun")
    assert "install ttyrun again" not in done.stderr
    assert "others than root" not in done.stderr


def test_hardening_is_in_the_file(own: Launcher) -> None:
    """Position independent, no loader to prepare, nothing writable and executable."""
    facts = subprocess.run(
        ["readelf", "-hlW", own.program], check=True, capture_output=True, text=True
    ).stdout
    assert "Type:                              DYN" in facts
    assert "INTERP" not in facts and "GNU_RELRO" in facts
    assert "RWE" not in facts and "GNU_STACK" in facts
