"""Programs on real ports by `ttybroker run` and `ttyrun`, in each way to answer their opens.

tests/run has every corner of it, with a broker made of files. Here it is the installed one, with
the system call numbers and the registers of this machine.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from lines import FAR, NEAR, far, receive, swallow
from service import BOB, PATIENT, Service, until
from ttybroker import client

pytestmark = pytest.mark.bare  # none of it is systemd's

YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
# Yama's setting; --via; the mode of seccomp that the program runs under, and whether it is traced.
WAYS = {
    "traced": ("0", "auto", "2", True),
    "listened": ("0", "notify", "2", False),
    "traced under Yama": ("1", "auto", "2", True),
    "tree": ("1", "notify", "2", False),
    "pty": ("0", "pty", "0", False),
}
SAYS = """
import os, sys, tty
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
tty.setraw(fd)
os.write(fd, open("/proc/self/status", "rb").read() + b"end")
print(os.read(fd, 1))
"""
SHELL = 'exec 3<>"$1"; printf hello >&3; head -c 7 <&3; exit 7'


@pytest.fixture
def end() -> Iterator[int]:
    """Return the other end of the port's wire."""
    descriptor = far(FAR)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of a way that works now."""
    before = YAMA.read_text()
    YAMA.write_text(WAYS[request.param][0])
    yield request.param
    YAMA.write_text(before)


@pytest.fixture(params=["ttybroker run", "ttyrun"])
def words(request: pytest.FixtureRequest, way: str) -> list[str]:
    """Return how a program is started that way on the port."""
    return [*request.param.split(), "--via", WAYS[way][1], NEAR, "--"]


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        user=BOB, group=pwd.getpwuid(BOB).pw_gid, extra_groups=[],
    )  # fmt: skip


def end_of(process: subprocess.Popen[bytes], way: str) -> tuple[int, bytes]:
    """Return exit status and output. Only of the pty there is something to say."""
    output, errors = process.communicate(timeout=PATIENT)
    if way == "pty":
        assert errors.startswith(b"tty") and b": copying through a pty: " in errors
        assert errors.count(b"\n") == 1
    else:
        assert errors == b""
    return process.returncode, output


def test_a_shell_writes_and_reads(broker: Service, end: int, way: str, words: list[str]) -> None:
    process = start(*words, "sh", "-c", SHELL, "sh", f"/dev/{NEAR}")
    assert receive(end, 5) == b"hello"
    os.write(end, b"welcome\n")
    assert end_of(process, way) == (7, b"welcome")


def test_what_the_program_runs_under_and_that_it_is_the_holder(
    broker: Service, end: int, way: str, words: list[str]
) -> None:
    process = start(*words, "python3", "-I", "-c", SAYS, f"/dev/{NEAR}")
    said = b""
    while not said.endswith(b"end"):
        said += receive(end, 1)
    status = dict(re.findall(r"^(\w+):\s+(\d+)", said.decode(), re.M))
    assert (status["Seccomp"], status["TracerPid"] != "0") == WAYS[way][2:]
    holder = broker.port(NEAR).holder
    assert holder is not None and holder.uid == BOB
    if way != "pty":
        assert holder.pid == int(status["Pid"])
    os.write(end, b"!")
    assert end_of(process, way) == (0, b"b'!'\n")


def test_cat_reads_and_a_revoke_ends_it(
    broker: Service, end: int, way: str, words: list[str]
) -> None:
    """It opens the port as it opens any file."""
    process = start(*words, "cat", f"/dev/{NEAR}")
    assert process.stdout is not None
    until("cat to have the port", lambda: broker.port(NEAR).holder, told=broker.log)
    os.write(end, b"a line\n")
    assert process.stdout.readline() == b"a line\n"
    with client.connect() as connection:
        connection.revoke(NEAR)
    output, errors = process.communicate(timeout=PATIENT)
    assert process.returncode in (0, 1) and output == b"", errors


def test_picocom_sets_sends_and_receives(
    broker: Service, end: int, way: str, words: list[str]
) -> None:
    command = [*words, "picocom", "-b", "115200", f"/dev/{NEAR}"]
    screen = pexpect.spawn("runuser", ["-u", "bob", "--", *command], cwd="/", timeout=PATIENT)
    try:
        screen.expect_exact("Terminal ready")
        os.write(end, b"here I am")
        screen.expect_exact("here I am")
        screen.send("typed")
        assert receive(end, 5) == b"typed"
        screen.send("\x01\x18")
        screen.expect(pexpect.EOF)
    finally:
        screen.close(force=True)
    assert screen.exitstatus == 0
    swallow(end, b"")
