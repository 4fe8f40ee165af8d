"""Who is logged in on a port, by utmp(5) and by the kernel's word."""

from __future__ import annotations

import os
import pty
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ttybrokerd.root import logins

LOGIN_PROCESS, DEAD_PROCESS = 6, 8


class Login(NamedTuple):
    """A process that has a terminal."""

    pid: int
    rdev: int


@pytest.fixture
def login() -> Iterator[Login]:
    pid, master = pty.fork()
    if pid == 0:
        os.write(1, b"!")
        signal.pause()
    try:
        assert os.read(master, 1) == b"!"  # the terminal is its own by now
        yield Login(pid, os.stat(f"/proc/{pid}/fd/0").st_rdev)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(master)


def entry(kind: int, pid: int, line: bytes) -> bytes:
    """A record of utmp, filled up with what is nobody's business here."""
    return struct.pack("hi32s", kind, pid, line).ljust(logins.SIZE, b"\xff")


def utmp(path: Path, *entries: bytes) -> str:
    path.write_bytes(b"".join(entries))
    return str(path)


def test_a_getty_is_found_behind_other_logins(tmp_path: Path, login: Login) -> None:
    others = [entry(7, 1, b"tty1"), entry(LOGIN_PROCESS, login.pid, b"ttyS70")]
    path = utmp(tmp_path / "utmp", *others, entry(LOGIN_PROCESS, login.pid, b"ttyS7"))
    found = logins.holder("ttyS7", login.rdev, path)
    assert found is not None
    assert (found.pid, found.uid, found.how) == (login.pid, os.getuid(), "login")
    assert logins.holder("ttyS8", login.rdev, path) is None


def test_what_utmp_says_counts_for_nothing_without_the_terminal(
    tmp_path: Path, login: Login
) -> None:
    """The file is stale, or its pid is another process by now."""
    path = utmp(tmp_path / "utmp", entry(LOGIN_PROCESS, login.pid, b"ttyS7"))
    assert logins.holder("ttyS7", os.makedev(4, 71), path) is None
    ended = utmp(tmp_path / "ended", entry(LOGIN_PROCESS, 0x7FFFFFFF, b"ttyS7"))
    assert logins.holder("ttyS7", login.rdev, ended) is None
    dead = utmp(tmp_path / "dead", entry(DEAD_PROCESS, login.pid, b"ttyS7"))
    assert logins.holder("ttyS7", login.rdev, dead) is None


def test_no_utmp_or_half_a_record_is_nobody(tmp_path: Path, login: Login) -> None:
    assert logins.holder("ttyS7", login.rdev, str(tmp_path / "none")) is None
    half = utmp(tmp_path / "half", entry(LOGIN_PROCESS, login.pid, b"ttyS7")[:-1])
    assert logins.holder("ttyS7", login.rdev, half) is None
