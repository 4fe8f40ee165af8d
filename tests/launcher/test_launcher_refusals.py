"""`ttyrun` starts nothing when it, its name or its install path is not what it must be."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from launcher.conftest import Launcher

pytestmark = pytest.mark.root

SOURCE = Path(__file__).parents[2] / "packaging" / "launcher"
PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h

# --- its name ------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], [b""]], ids=["argc 0", "empty"])
def test_no_name_is_refused(launcher: Launcher, argv: list[bytes]) -> None:
    """Linux 5.18 makes of the first the second; before, argv[1] was the environment's first."""
    libc = ctypes.CDLL(None)
    array = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    environment = (ctypes.c_char_p * 2)(b"ttyS0", None)

    def execve() -> None:
        libc.execve(bytes(launcher.program), array, environment)

    assert "argv[0]" in launcher.refused(status=2, before=execve)


# --- its set-user-ID bit ------------------------------------------------------------------


def test_without_the_bit_it_says_what_to_do(own: Launcher) -> None:
    os.chmod(own.program, 0o755)
    line = own.refused()
    assert "4755" in line and "ttybroker run" in line


@pytest.mark.parametrize("mode", [0o755, 0o4755, 0o6755])
@pytest.mark.parametrize("user", [0, 1], ids=["by its maker", "by another"])
def test_copy_is_harmless(launcher: Launcher, mine: Path, mode: int, user: int) -> None:
    """It has its maker's uid, at most."""
    copy = mine / "ttyrun"
    shutil.copyfile(launcher.program, copy)
    os.chown(copy, launcher.uid, launcher.gid)
    os.chmod(copy, mode)
    os.chmod(mine, 0o755)
    assert "4755" in launcher.refused(program=copy, uid=launcher.uid + user)


def test_hard_link_runs_the_same_code(launcher: Launcher, mine: Path) -> None:
    """Nothing is found by way of the launcher's own name or place."""
    link = mine / "ttyrun"
    os.link(launcher.program, link)
    (mine / "lib").mkdir()
    for name in ("lib/ttyrun_main.py", "ttyrun_main.py", "os.py"):
        (mine / name).write_text("raise SystemExit(66)\n")
    plain = launcher.seen()
    linked = launcher.seen(program=link, cwd=mine)
    assert (linked["path"], linked["modules"]) == (plain["path"], plain["modules"])


def test_no_new_privileges_is_the_same_as_no_bit(launcher: Launcher) -> None:
    """What a caller needs before he may put a seccomp filter around it."""
    libc = ctypes.CDLL(None)
    line = launcher.refused(before=lambda: libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) and None)
    assert "4755" in line


def test_root_of_a_user_namespace_is_nobody_here(launcher: Launcher) -> None:
    """The kernel ignores the bit of a file whose owner the namespace does not know."""
    unshare = shutil.which("unshare") or ""
    try:
        subprocess.run([unshare, "-Ur", "true"], check=True, user=launcher.uid)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no user namespaces for everybody here, or no unshare(1)")
    line = launcher.refused(
        before=lambda: os.execv(unshare, [unshare, "-Ur", str(launcher.program)])
    )
    assert line.startswith("ttyrun: /: others than root can change it (owner 65534")


# --- its install path ------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    if how == "world":
        os.chmod(path, path.stat().st_mode | 0o002)
    elif how == "sticky":
        os.chmod(path, path.stat().st_mode | 0o1002)
    elif how == "group":
        os.chmod(path, path.stat().st_mode | 0o020)
    elif how == "owner":
        os.chown(path, 60123, 0)
    else:
        real = path.with_name(path.name + ".real")
        path.rename(real)
        path.symlink_to(real)


HOW = ["world", "sticky", "group", "owner", "link"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("part", ["", "lib", "lib/ttyrun_main.py", "lib/pkg", "lib/pkg/a.py"])
def test_code_that_others_can_change_is_refused(own: Launcher, part: str, how: str) -> None:
    (own.code / "pkg").mkdir(mode=0o755)
    (own.code / "pkg/a.py").touch(mode=0o644)
    assert own.run().returncode == 0
    if not part and how == "link":
        return  # then it would not be found; "up" of the next test is a link half way
    spoil(own.base / part, how)
    line = own.refused()
    reason = "is a symbolic link" if how == "link" else "others than root can change it"
    assert line.startswith(f"ttyrun: {own.base / part}: {reason}"), line


@pytest.mark.parametrize("constant", ["PYTHON_PATH", "STDLIB_PATH"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("part", ["up", "up/down"])
def test_interpreter_that_others_can_change_is_refused(
    own: Launcher, python: str, part: str, how: str, constant: str
) -> None:
    (own.base / "up").mkdir(mode=0o755)
    if constant == "PYTHON_PATH":
        shutil.copy(python, own.base / "up/down")
    else:
        (own.base / "up/down").mkdir(mode=0o755)
    own.build(f"{constant}={own.base}/up/down")
    assert own.run().returncode == 0
    spoil(own.base / part, how)
    line = own.refused()
    reason = "is a symbolic link" if how == "link" else "others than root can change it"
    assert line.startswith(f"ttyrun: {own.base / part}: {reason}"), line


def test_relative_path_is_refused_wherever_it_is_started(own: Launcher) -> None:
    """It would be the caller's directory."""
    own.build("STDLIB_PATH=lib")
    assert own.refused(cwd=own.base).startswith("ttyrun: lib: not an absolute path")
    command = ["make", "-s", "-C", SOURCE, f"BUILD={own.base}/build-no", "PREFIX=opt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "not an absolute path" in done.stderr


@pytest.mark.parametrize("user", [True, False], ids=["caller", "root"])
def test_missing_code_is_named(own: Launcher, user: bool) -> None:
    shutil.rmtree(own.code)
    assert f"{own.code}: No such file" in own.refused(user=user)


def test_missing_entry_is_pythons_own_error(own: Launcher) -> None:
    (own.code / "ttyrun_main.py").unlink()
    done = own.run()
    assert done.returncode == 2 and "ttyrun_main.py" in done.stderr
