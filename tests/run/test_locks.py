"""flock(2) under `run`: a port's lease is its lock, and every other lock is the kernel's."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

import pytest

from run.conftest import LIMIT, Rig

LAYOUTS = pytest.mark.parametrize(
    "env",
    [
        {"TEST_VIA": "auto"},
        {"TEST_VIA": "notify"},
        {"TEST_PTRACE_SCOPE": "1", "TEST_VIA": "notify"},
    ],
    ids=["traced", "listened", "tree"],
)
TRY = """
import fcntl, subprocess, sys
NB = fcntl.LOCK_NB
def lock(fd, operation):
    try: fcntl.flock(fd, operation)
    except OSError as error: return error.errno
    return 0
port = lambda: os.open("/dev/ttyS7", os.O_RDWR | os.O_NOCTTY)
"""


@pytest.fixture
def dead_copy(rig: Rig) -> None:
    """Lock the port's node, as somebody does who was hung up and keeps a dead descriptor."""
    fcntl.flock(rig.device.near, fcntl.LOCK_EX)


@pytest.mark.usefixtures("dead_copy")
@LAYOUTS
@pytest.mark.parametrize("operation", ["fcntl.LOCK_EX", "fcntl.LOCK_SH"])
def test_a_port_of_the_run_is_locked_beside_a_dead_copy(
    rig: Rig, env: dict[str, str], operation: str
) -> None:
    code = f"print(lock(port(), {operation} | NB))"
    assert rig.python(TRY + code, env=env)[1:] == ("0\n", "")


@LAYOUTS
def test_two_opens_of_one_run_are_locked_at_once(rig: Rig, env: dict[str, str]) -> None:
    code = "ports = port(), port(); print(*(lock(fd, fcntl.LOCK_EX | NB) for fd in ports))"
    assert rig.python(TRY + code, env=env)[1:] == ("0 0\n", "")


def test_a_pty_is_locked_by_the_kernel_as_the_manual_says(rig: Rig) -> None:
    code = "ports = [os.open(sys.argv[1], os.O_RDWR) for _ in '12']\n"
    code += "print(*(lock(fd, fcntl.LOCK_EX | NB) for fd in ports))"
    words = ("--via", "pty", "--", sys.executable, "-c", f"import os{TRY}{code}", "/dev/ttyS7")
    assert rig.run(*words)[1] == f"0 {errno.EWOULDBLOCK}\n"


@pytest.mark.usefixtures("dead_copy")
@LAYOUTS
@pytest.mark.parametrize("how", [("--fd", "3", "ttyS7"), ("--hold", "--fd", "3", "ttyS7")])
def test_a_descriptor_that_was_handed_over_is_known(
    rig: Rig, env: dict[str, str], how: tuple[str, ...]
) -> None:
    code = "print(lock(3, fcntl.LOCK_EX | NB), lock(os.dup(3), fcntl.LOCK_EX | NB))"
    assert rig.python(TRY + code, *how, env=env)[1:] == ("0 0\n", "")


@pytest.mark.usefixtures("dead_copy")
@LAYOUTS
def test_copies_children_and_opens_of_later_are_known(rig: Rig, env: dict[str, str]) -> None:
    code = """
os.close(port()); os.close(port())
first = port(); copy = os.dup(first); os.close(first)
os.set_inheritable(copy, True)
again = f"import fcntl; fcntl.flock({copy}, fcntl.LOCK_EX | fcntl.LOCK_NB); print('child')"
sys.stdout.flush()
subprocess.run([sys.executable, "-c", again], close_fds=False)
os.close(copy)
print(lock(port(), fcntl.LOCK_EX | NB))"""
    assert rig.python(TRY + code, env=env)[1:] == ("child\n0\n", "")


@LAYOUTS
def test_other_locks_are_the_kernel_s(rig: Rig, env: dict[str, str], tmp_path: Path) -> None:
    """This includes a descriptor that has the number of a port which the program has closed."""
    (tmp_path / "file").touch()
    code = f"""
file = lambda: os.open("{tmp_path}/file", os.O_RDWR)
os.close(port())
one, two = file(), file()
print(lock(one, fcntl.LOCK_EX | NB), lock(two, fcntl.LOCK_EX | NB), lock(two, fcntl.LOCK_SH | NB))
print(lock(one, fcntl.LOCK_UN), lock(two, fcntl.LOCK_EX | NB), lock(99, fcntl.LOCK_EX | NB))"""
    assert rig.python(TRY + code, env=env)[1:] == ("0 11 11\n0 0 9\n", "")


@LAYOUTS
def test_the_same_device_by_another_description_is_none_of_the_run_s(
    rig: Rig, env: dict[str, str]
) -> None:
    """The program had that description before, for example as a dead copy of its own."""
    inherited = os.open(rig.device.node, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(rig.device.near, fcntl.LOCK_EX)
    code = f"mine = port(); print(lock({inherited}, fcntl.LOCK_EX | NB))"
    try:
        assert rig.python(TRY + code, env=env, pass_fds=[inherited])[1] == "11\n"
    finally:
        os.close(inherited)


@pytest.mark.usefixtures("dead_copy")
@LAYOUTS
@pytest.mark.parametrize("how", [("ttyS7",), ("--hold", "ttyS7")])
def test_a_lock_that_would_wait_is_had_at_once(
    rig: Rig, env: dict[str, str], how: tuple[str, ...]
) -> None:
    """It succeeds with two opens of the run, and beside the open that --hold keeps."""
    code = "ports = port(), port(); print(*(lock(fd, fcntl.LOCK_EX) for fd in ports))"
    assert rig.python(TRY + code, *how, env=env)[1:] == ("0 0\n", "")


@LAYOUTS
def test_a_lock_of_another_file_waits(rig: Rig, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = f"""
import signal
one, two = (os.open("{tmp_path}/file", os.O_RDWR) for _ in range(2))
os.close(port())
lock(one, fcntl.LOCK_EX)
signal.signal(signal.SIGALRM, lambda *_: os._exit(7))
signal.setitimer(signal.ITIMER_REAL, 0.2)
print(lock(two, fcntl.LOCK_EX))"""
    program = ["--", sys.executable, "-c", f"import os, sys\n{TRY}{code}"]
    process = rig.start(*program, env=env)
    assert process.communicate(timeout=LIMIT) == (b"", b"")
    assert process.returncode == 7
