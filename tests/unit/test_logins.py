"""Who is logged in on a port, by utmp(5) and by the kernel's word."""

from __future__ import annotations

import os
import pty
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ttybrokerd.root import logins
from ttybrokerd.root.logins import LINGER, Logins
from ttybrokerd.root.table import RETRY

LOGIN_PROCESS, DEAD_PROCESS = 6, 8


class Login(NamedTuple):
    """A process that has a terminal."""

    pid: int
    rdev: int


@pytest.fixture(autouse=True)
def ptys_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pty stands for a port here, as long as no test has it otherwise."""
    monkeypatch.setattr(logins, "AMBIGUOUS", ())


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


def look(path: str) -> Logins:
    found = Logins(path)
    found.refresh()
    return found


def test_a_getty_is_found_behind_other_logins(tmp_path: Path, login: Login) -> None:
    others = [entry(7, 1, b"tty1"), entry(LOGIN_PROCESS, login.pid, b"ttyS70")]
    path = utmp(tmp_path / "utmp", *others, entry(LOGIN_PROCESS, login.pid, b"ttyS7"))
    found = look(path).holder("ttyS7", login.rdev)
    assert found is not None
    assert (found.pid, found.uid, found.how) == (login.pid, os.getuid(), "login")
    assert look(path).holder("ttyS8", login.rdev) is None


def test_what_utmp_says_counts_for_nothing_without_the_terminal(
    tmp_path: Path, login: Login
) -> None:
    """The file is stale, or its pid is another process by now."""
    path = utmp(tmp_path / "utmp", entry(LOGIN_PROCESS, login.pid, b"ttyS7"))
    assert look(path).holder("ttyS7", os.makedev(4, 71)) is None
    ended = utmp(tmp_path / "ended", entry(LOGIN_PROCESS, 0x7FFFFFFF, b"ttyS7"))
    assert look(ended).holder("ttyS7", login.rdev) is None
    dead = utmp(tmp_path / "dead", entry(DEAD_PROCESS, login.pid, b"ttyS7"))
    assert look(dead).holder("ttyS7", login.rdev) is None


def test_half_a_record_is_nobody(tmp_path: Path, login: Login) -> None:
    half = utmp(tmp_path / "half", entry(LOGIN_PROCESS, login.pid, b"ttyS7")[:-1])
    assert look(half).holder("ttyS7", login.rdev) is None


def test_without_utmp_a_login_is_whose_terminal_the_port_is(tmp_path: Path, login: Login) -> None:
    """As on Debian 13. The name is nobody's business then."""
    found = look(str(tmp_path / "none")).holder("ttyS7", login.rdev)
    assert found is not None
    assert (found.pid, found.uid, found.how) == (login.pid, os.getuid(), "login")
    assert look(str(tmp_path / "none")).holder("ttyS7", os.makedev(4, 71)) is None


def test_an_empty_utmp_is_a_utmp(tmp_path: Path, login: Login) -> None:
    """Nobody is logged in, and no process is looked at."""
    assert look(utmp(tmp_path / "empty")).holder("ttyS7", login.rdev) is None


@pytest.mark.alone
def test_a_login_that_ended_is_over_only_when_its_terminal_was_hung_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd does that some milliseconds after the end of a getty, to whoever has the port."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pid, master = pty.fork()
    if pid == 0:
        os.write(1, b"!")
        signal.pause()
    assert os.read(master, 1) == b"!"
    rdev = os.stat(f"/proc/{pid}/fd/0").st_rdev
    found = look(str(tmp_path / "none"))
    assert found.holder("ttyS7", rdev) is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(master)
    now[0] += LINGER - 0.01
    lingering = found.holder("ttyS7", rdev)
    assert lingering is not None and lingering.pid == pid
    nobodys = os.makedev(4, 4000)
    assert found.holder("ttyS8", nobodys) is None
    now[0] += 0.02
    assert found.holder("ttyS7", rdev) is None
    assert LINGER >= 2 * RETRY  # who waits looks so often: it is a whole RETRY after the end


def test_a_pty_has_no_login_for_its_number_is_each_containers_own(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Logins("/nonexistent")
    seen.refresh()
    assert seen.holder("pts0", login.rdev) is not None
    monkeypatch.undo()
    assert seen.holder("pts0", login.rdev) is None


def test_what_another_thread_reads_meanwhile_ends_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists and opens are made by different threads. What one of them raises ends the broker."""
    seen = Logins("/nonexistent")

    class Read(dict[int, list[int]]):
        """What was read before; as soon as it is asked, the next reading is there, with nobody."""

        def __contains__(self, key: object) -> bool:
            seen._by_terminal = {}
            return super().__contains__(key)

    seen._by_terminal = Read({7: [os.getpid()]})
    assert seen.holder("x", 7) is None


def test_for_a_pty_no_process_is_looked_at(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Logins("/nonexistent")
    monkeypatch.undo()
    assert seen.holder_now("pts0", login.rdev) is None
    monkeypatch.setattr(logins, "AMBIGUOUS", ())
    assert seen.holder("pts0", login.rdev) is None  # as of the last look: there was none
    found = seen.holder_now("pts0", login.rdev)
    assert found is not None and found.pid == login.pid
