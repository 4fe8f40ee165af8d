"""What a revoked or a careless holder leaves on a port, as far as a pty can show it."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from real.test_restart import end, row, systemd
from support.children import Chat, Child
from support.daemon import Daemon
from support.rig import Rig
from support.systemd import Systemd
from support.users import BOB
from ttybroker import PortBusy, client, open_fd
from ttybrokerd.root import linux

__all__ = ["systemd"]
pytestmark = pytest.mark.root
N_NULL = struct.pack("i", 27)
RACES = 20


@pytest.fixture
def daemon(rig: Rig) -> Daemon:
    rig.port("ttyS0")
    return rig.daemon()


def holder(rig: Rig, act: Callable[[int], object]) -> Child:
    """Bob, who has done this to the port and keeps its descriptor, whatever becomes of it."""

    def hold(chat: Chat) -> None:
        descriptor = open_fd("ttyS0", wait=5, broker=str(rig.socket))
        chat.say()
        act(descriptor)
        chat.say()
        chat.hear()

    child = rig.child(BOB, hold)
    child.hear()
    return child


def revoke(rig: Rig) -> None:
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")


@contextmanager
def outsider(rig: Rig) -> Iterator[int]:
    """The port, without the broker, as root."""
    descriptor = os.open(rig.ports["ttyS0"].path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def next_one_sends(rig: Rig, finds: list[object] | None = None) -> None:
    """Have the port and send; `finds`: what its settings must be."""
    descriptor = open_fd("ttyS0", wait=5, broker=str(rig.socket))
    assert finds is None or termios.tcgetattr(descriptor) == finds
    os.write(descriptor, b"goes out")
    assert rig.ports["ttyS0"].read(8) == b"goes out"
    os.close(descriptor)


@pytest.mark.parametrize("keeps", [True, False])
def test_stopped_output_goes_on_for_the_next_holder(rig: Rig, daemon: Daemon, keeps: bool) -> None:
    child = holder(rig, lambda fd: termios.tcflow(fd, termios.TCOOFF))
    child.hear()
    if keeps:
        revoke(rig)
    else:
        child.kill()
    next_one_sends(rig)


def test_an_outsiders_exclusive_use_beside_a_dead_copy_is_believed(
    rig: Rig, daemon: Daemon
) -> None:
    """A dead copy's own has ended: it needs no excuse."""
    child = holder(rig, lambda fd: fcntl.ioctl(fd, termios.TIOCEXCL))
    child.hear()
    revoke(rig)
    next_one_sends(rig)
    daemon.record("release", reason="closed")
    with outsider(rig) as fd:
        fcntl.ioctl(fd, termios.TIOCEXCL)
        with pytest.raises(PortBusy, match="exclusive"):
            open_fd("ttyS0", broker=str(rig.socket))
        fcntl.ioctl(fd, termios.TIOCNXCL)
    os.close(open_fd("ttyS0", wait=5, broker=str(rig.socket)))


def set_for_ever(fd: int) -> None:
    """Change settings and stop the output, until the descriptor is dead."""
    mine = termios.tcgetattr(fd)
    mine[0], mine[3] = termios.IXANY, 0
    mine[6][termios.VSTART] = b"q"
    try:
        while True:
            termios.tcsetattr(fd, termios.TCSANOW, mine)
            termios.tcflow(fd, termios.TCOOFF)
    except (OSError, termios.error):
        pass


def unusual(rig: Rig) -> list[object]:
    """Settings that no driver makes by itself, as root sets them before a lease."""
    with outsider(rig) as fd:
        mine = termios.tcgetattr(fd)
        mine[0], mine[3], mine[4] = termios.IGNBRK, termios.ECHO, termios.B300
        mine[5] = termios.B300
        mine[6][termios.VSTART] = b"z"
        termios.tcsetattr(fd, termios.TCSANOW, mine)
        return termios.tcgetattr(fd)


def race(rig: Rig, daemon: Daemon, act: Callable[[int], object]) -> None:
    """Revoke a port whose holder goes on setting it: who has it next finds it as it was before,
    and sends. (That one's close makes a pty forget what was set: it resets at a hang-up.)"""
    before = unusual(rig)
    child = holder(rig, act)
    time.sleep(0.01)
    revoke(rig)
    next_one_sends(rig, before)
    child.kill()
    daemon.settled()


def test_who_goes_on_setting_while_it_is_revoked_leaves_nothing(rig: Rig, daemon: Daemon) -> None:
    for _ in range(RACES):
        race(rig, daemon, set_for_ever)


@pytest.mark.parametrize("again", [True, False])
def test_a_hang_up_is_heard_under_a_discipline_without_poll(
    rig: Rig, systemd: Systemd, again: bool
) -> None:
    """By the next daemon too, which begins when it is attached already."""
    systemd.start()
    child = holder(rig, lambda fd: fcntl.ioctl(fd, termios.TIOCSETD, N_NULL))
    child.hear()
    if again:
        end(systemd, rig)
        systemd.start()
    assert row(rig).state == "busy"
    with outsider(rig) as fd:
        fcntl.ioctl(fd, linux.TIOCVHANGUP)
    release = rig.daemons[-1].record("release", timeout=5)
    assert release.fields["reason"] == "hung up or unplugged"


def test_what_cannot_be_put_back_is_logged_and_tried_at_the_next_grant(rig: Rig) -> None:
    rig.port("ttyS0")
    hook = """
from ttybrokerd.root import settings
real, left = settings._put, [2]
def put(tty, number, value):
    if number == settings.linux.TCSETS2 and left[0]:
        left[0] -= 1
        raise OSError(5, "Input/output error")
    real(tty, number, value)
settings._put = put
"""
    daemon = rig.daemon(hook=hook)
    with outsider(rig) as fd:
        before = termios.tcgetattr(fd)
    child = holder(rig, lambda fd: None)
    child.hear()
    revoke(rig)
    reason = daemon.record("settings-failed").fields["reason"]
    assert reason == "termios: Input/output error; tried again at the next grant"
    with outsider(rig) as fd:
        assert termios.tcgetattr(fd) != before  # a pty's driver has set its own
    descriptor = open_fd("ttyS0", wait=5, broker=str(rig.socket))
    assert termios.tcgetattr(descriptor) == before
    os.close(descriptor)
