"""A port from first lock to last, where a step fails that cannot be made to fail for real."""

from __future__ import annotations

import errno
import fcntl
import os
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from ttybroker.wire import Holder
from ttybrokerd.root import linux, port
from ttybrokerd.root.device import Devices, Seen, Target
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.others import Others
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.table import Ask

DEAD = OSError(errno.EIO, "Input/output error")


@pytest.fixture
def device() -> Iterator[str]:
    master, slave = os.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    os.close(slave)
    yield path
    os.close(master)


@pytest.fixture
def locks(tmp_path: Path) -> Iterator[LockFiles]:
    made = LockFiles(str(tmp_path))
    yield made
    made.close()


@pytest.fixture
def watches() -> Iterator[int]:
    descriptor = linux.inotify()
    yield descriptor
    os.close(descriptor)


def look(devices: Devices, path: str) -> Seen:
    return devices.look(Target("gps", path, pty=True, console=False))


def acquire(path: str, locks: LockFiles, watches: int) -> tuple[Lease, int] | Refusal:
    devices = Devices()
    seen = look(devices, path)
    ask = Ask(0, Holder(0), now=0, wait=0)
    lease = Lease(seen.rdev, ask, seen.target, "", os.getpid(), "gps", locks, watches)
    return port.acquire(lease, devices, seen, Others(locks), os.getpid(), frozenset())


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("step", [1, 2])
def test_a_device_that_dies_while_it_is_opened_leaves_nothing(
    step: int, device: str, locks: LockFiles, watches: int, mocker: MockerFixture
) -> None:
    """The first open is the guard's, the second the holder's."""
    opened = Devices.open
    calls: list[Seen] = []

    def dying(self: Devices, seen: Seen, *mode: int) -> int:
        calls.append(seen)
        if len(calls) == step:
            raise Refusal(errno.ENODEV, "cannot be opened: No such device")
        return opened(self, seen, *mode)

    mocker.patch.object(Devices, "open", dying)
    before = open_descriptors()
    refusal = acquire(device, locks, watches)
    assert isinstance(refusal, Refusal) and refusal.number == errno.ENODEV
    assert open_descriptors() == before
    assert os.listdir(locks.path) == []


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("ttybrokerd.root.linux.is_exclusive", DEAD),
        ("ttybrokerd.root.port.termios.tcgetattr", termios.error(errno.EIO, "Input/output error")),
        ("ttybrokerd.root.port.fcntl.flock", DEAD),
        ("ttybrokerd.root.port.fcntl.ioctl", DEAD),
        ("ttybrokerd.root.linux.weak_reference", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_whatever_step_fails_the_refusal_has_its_cause_and_nothing_is_left(
    where: str,
    error: OSError | termios.error,
    device: str,
    locks: LockFiles,
    watches: int,
    mocker: MockerFixture,
) -> None:
    mocker.patch(where, side_effect=error)
    before = open_descriptors()
    refusal = acquire(device, locks, watches)
    assert isinstance(refusal, Refusal)
    assert refusal.number == error.args[0]
    assert os.strerror(error.args[0]) in refusal.reason
    assert open_descriptors() == before
    assert os.listdir(locks.path) == []


def test_a_device_that_answers_nothing_any_more_is_let_go_of_all_the_same(
    device: str, locks: LockFiles, watches: int, mocker: MockerFixture
) -> None:
    before = open_descriptors()
    result = acquire(device, locks, watches)
    assert not isinstance(result, Refusal)
    held, descriptor = result
    held.listen(descriptor, os.getpid())
    os.close(descriptor)
    for call in ("fcntl.ioctl", "termios.tcflush", "termios.tcsetattr"):
        mocker.patch(f"ttybrokerd.root.port.{call}", side_effect=DEAD)
    mocker.patch("ttybrokerd.root.linux.unsent", side_effect=DEAD)
    assert port.release(held, drain=True) is None
    assert open_descriptors() == before
    assert os.listdir(locks.path) == []


@pytest.mark.root  # TIOCSTI
def test_settings_are_put_back_and_what_was_not_read_is_gone(
    device: str, locks: LockFiles, watches: int, mocker: MockerFixture
) -> None:
    """A pty's driver does that at a hang-up; here there is none, as with a real port's."""
    keeper = os.open(device, os.O_RDWR | os.O_NOCTTY)
    before = termios.tcgetattr(keeper)
    result = acquire(device, locks, watches)
    assert not isinstance(result, Refusal)
    held, descriptor = result
    changed = termios.tcgetattr(descriptor)
    changed[0] ^= termios.IXANY
    changed[6][termios.VMIN] = 77
    termios.tcsetattr(descriptor, termios.TCSANOW, changed)
    fcntl.ioctl(descriptor, termios.TIOCSTI, b"x")
    assert fcntl.ioctl(keeper, termios.FIONREAD, bytes(4)) != bytes(4)
    os.close(descriptor)
    mocker.patch("ttybrokerd.root.linux.TIOCVHANGUP", 0)
    assert port.release(held, drain=False) is None
    assert termios.tcgetattr(keeper) == before
    assert fcntl.ioctl(keeper, termios.FIONREAD, bytes(4)) == bytes(4)
    os.close(keeper)


@pytest.mark.parametrize(
    ("queue", "chip", "looks"),
    [
        ([300, 200, 100, 100, 100, 100, 100, 100], [], 5),  # falls until 1 s, then stands
        ([3, 2, 1, 0], [False], 4),  # all is sent
        ([0], [False], 1),
        ([1, 0, 0], [True, False], 3),  # the last bytes are in the chip for a look longer
        ([0] * 9, [True] * 9, 3),  # and there they stay
        (list(range(1000, 0, -1)), [], 61),  # falls for ever: 30 s of it
    ],
)
def test_unsent_output_is_waited_for_as_long_as_it_gets_less_and_not_for_ever(
    queue: list[int], chip: list[bool], looks: int, mocker: MockerFixture
) -> None:
    now = [0.0]
    clock = mocker.patch("ttybrokerd.root.port.time")
    clock.monotonic.side_effect = lambda: now[0]
    clock.sleep.side_effect = lambda _: now.__setitem__(0, now[0] + 0.5)
    unsent = mocker.patch("ttybrokerd.root.linux.unsent", side_effect=queue)
    mocker.patch("ttybrokerd.root.linux.transmitting", side_effect=chip)
    port._drain(-1)
    assert unsent.call_count == looks
