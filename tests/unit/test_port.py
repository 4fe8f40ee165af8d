"""A port from first lock to last, where a step fails that cannot be made to fail for real."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from ttybroker.wire import Holder
from ttybrokerd.root import linux, port
from ttybrokerd.root.ask import Ask
from ttybrokerd.root.device import Devices, Seen, Target
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.others import Others, Taker
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.sessions import Session

NOBODYS = frozenset[int]()
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


def look(devices: Devices, path: str) -> Seen:
    return devices.look(Target("gps", path, pty=True, console=False))


def acquire(
    path: str, locks: LockFiles, devices: Devices | None = None, ghosts: frozenset[int] = NOBODYS
) -> tuple[Lease, int] | Refusal:
    devices = devices or Devices()
    seen = look(devices, path)
    ask = Ask(0, Holder(0), now=0, wait=0)
    lease = Lease(seen.rdev, ask, seen.target, "", os.getpid(), "gps", locks)
    return port.acquire(lease, devices, seen, Others(locks), ghosts)


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("step", [1, 2])
def test_a_device_that_dies_while_it_is_opened_leaves_nothing(
    step: int, device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    """The first open is the broker's, the second the holder's."""
    opened = Devices.open
    calls: list[Seen] = []

    def dying(self: Devices, seen: Seen, *mode: int) -> int:
        calls.append(seen)
        if len(calls) == step:
            raise Refusal(errno.ENODEV, "cannot be opened: No such device")
        return opened(self, seen, *mode)

    mocker.patch.object(Devices, "open", dying)
    before = open_descriptors()
    refusal = acquire(device, locks)
    assert isinstance(refusal, Refusal) and refusal.number == errno.ENODEV
    assert open_descriptors() == before
    assert os.listdir(locks.path) == []


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("ttybrokerd.root.linux.is_exclusive", DEAD),
        ("ttybrokerd.root.settings.read", DEAD),
        ("ttybrokerd.root.settings.clean", DEAD),
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
    mocker: MockerFixture,
) -> None:
    mocker.patch(where, side_effect=error)
    before = open_descriptors()
    refusal = acquire(device, locks)
    assert isinstance(refusal, Refusal)
    assert refusal.number == error.args[0]
    assert os.strerror(error.args[0]) in refusal.reason
    assert open_descriptors() == before
    assert os.listdir(locks.path) == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errno.EINVAL, errno.EIO), (errno.EPROTO, errno.EIO), (errno.ETIMEDOUT, errno.EIO),
        (errno.EACCES, errno.EIO), (errno.ECONNREFUSED, errno.EIO), (errno.ENOENT, errno.EIO),
        (errno.ENODEV, errno.ENODEV), (errno.ENOMEM, errno.ENOMEM),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", ["settings.clean", "settings.read", "linux.weak_reference"])
def test_what_a_driver_says_is_never_taken_for_the_clients_mistake(
    step: str, error: int, told: int, device: str, locks: LockFiles,
    mocker: MockerFixture,
) -> None:  # fmt: skip
    """EINVAL is "not a port's name" to a client, EACCES "not permitted", and so on."""
    mocker.patch(f"ttybrokerd.root.{step}", side_effect=OSError(error, os.strerror(error)))
    refusal = acquire(device, locks)
    assert isinstance(refusal, Refusal)
    assert refusal.number == told and os.strerror(error) in refusal.reason


def test_a_device_that_answers_nothing_any_more_is_let_go_of_all_the_same(
    device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    before = open_descriptors()
    result = acquire(device, locks)
    assert not isinstance(result, Refusal)
    held, descriptor = result
    held.exit_fd = os.pidfd_open(os.getpid())
    os.close(descriptor)
    for call in ("port.fcntl.ioctl", "port.termios.tcflush", "settings.fcntl.ioctl"):
        mocker.patch(f"ttybrokerd.root.{call}", side_effect=DEAD)
    mocker.patch("ttybrokerd.root.linux.unsent", side_effect=DEAD)
    assert port.release(held, Devices(), Others(locks), closed=True) is None
    assert open_descriptors() == before
    assert os.listdir(locks.path) == []


def test_a_flock_that_ends_while_it_is_looked_at_keeps_nobody_off(
    device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    outsider = os.open(device, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(outsider, fcntl.LOCK_EX)
    asked = Others.takers

    def ends(self: Others, seen: Seen, *, fresh: bool = True) -> tuple[Taker, ...] | None:
        fcntl.flock(outsider, fcntl.LOCK_UN)
        return asked(self, seen)

    mocker.patch.object(Others, "takers", ends)
    result = acquire(device, locks)
    os.close(outsider)
    assert not isinstance(result, Refusal), result.reason
    lease, descriptor = result
    os.close(descriptor)
    lease.close()


@pytest.mark.parametrize(
    ("lock", "known", "fresh"),
    [
        (fcntl.LOCK_SH, True, 0),
        (fcntl.LOCK_SH, False, 1),  # taken since the locks were read
        (fcntl.LOCK_EX, True, 1),  # some outsider may have it alone since then
    ],
)
def test_beside_dead_copies_that_share_nobody_waits_for_a_new_reading_of_all_locks(
    lock: int, known: bool, fresh: int, device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    """With 60,000 locks of one user there is a new one every three seconds."""
    copy = os.open(device, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(copy, lock)
    asked, takers = list[bool](), Others.takers

    def told(self: Others, seen: Seen, *, fresh: bool = True) -> tuple[Taker, ...] | None:
        asked.append(fresh)
        return takers(self, seen, fresh=fresh) if fresh or known else ()

    mocker.patch.object(Others, "takers", told)
    result = acquire(device, locks, ghosts=frozenset({os.getuid()}))
    os.close(copy)
    assert not isinstance(result, Refusal), result.reason
    lease, descriptor = result
    os.close(descriptor)
    lease.close()
    assert sum(asked) == fresh


def test_a_session_joins_by_the_node_that_it_has_and_by_no_other(
    device: str, locks: LockFiles
) -> None:
    """The broker hears of closes at one node. It would miss the last one at another."""
    held, devices = Held(device, locks), Devices()
    joined = port.join(held.lease, devices, look(devices, device), os.O_RDWR)
    assert isinstance(joined, int)
    os.close(joined)
    ends = os.openpty()  # stands for another node with the number of the device
    before = open_descriptors()
    refusal = port.join(held.lease, devices, look(devices, os.ttyname(ends[1])), os.O_RDWR)
    assert isinstance(refusal, Refusal) and refusal.number == errno.EBUSY
    assert refusal.cause == f"this session has it by another node, {device}"
    other = look(devices, os.ttyname(ends[1]))
    other.target = other.target.replace(path=device)  # where another adapter has come
    refusal = port.join(held.lease, devices, other, os.O_RDWR)
    assert isinstance(refusal, Refusal) and refusal.number == errno.EIO
    assert open_descriptors() == before
    for end in ends:
        os.close(end)
    held.close()
    held.release(closed=True)


class Held:
    """A lease of a pty, and the far side of all that is done to it: `keeper` is an outsider's
    descriptor, which a hang-up leaves dead as any other."""

    def __init__(self, path: str, locks: LockFiles, devices: Devices | None = None) -> None:
        self.devices = devices or Devices()
        self.others = Others(locks)
        self.path = path
        result = acquire(path, locks, self.devices)
        assert not isinstance(result, Refusal), result
        self.lease, self.descriptor = result

    def close(self) -> None:
        """The holder's last copy."""
        os.close(self.descriptor)

    def release(self, closed: bool) -> None:
        dead = port.release(self.lease, self.devices, self.others, closed)
        if dead is not None:
            dead.watcher.close()

    def debt(self) -> bool:
        with opened(self.path) as fd:
            return self.devices.debts.due(fd) is not None


@contextmanager
def opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def change(fd: int) -> None:
    """As a holder does, and its exclusive use with it."""
    changed = termios.tcgetattr(fd)
    changed[0] ^= termios.IXANY
    changed[6][termios.VMIN] = 77
    termios.tcsetattr(fd, termios.TCSANOW, changed)
    fcntl.ioctl(fd, termios.TIOCEXCL)


def as_found(path: str) -> list[object]:
    """What anybody finds who opens it now."""
    with opened(path) as fd:
        return [*termios.tcgetattr(fd), linux.is_exclusive(fd)]


N_NULL = struct.pack("i", 27)


@pytest.fixture
def no_hang_up(mocker: MockerFixture) -> list[bool]:
    """A pty's driver sets everything back at a hang-up; here there is none, so it keeps all, as a
    real port does. Whether HUPCL was set at each time that there would have been one."""
    hupcl: list[bool] = []
    real = fcntl.ioctl

    def ioctl(fd: int, number: int, *value: bytes) -> object:
        if number == linux.TIOCVHANGUP:
            hupcl.append(bool(termios.tcgetattr(fd)[2] & termios.HUPCL))
            return b""
        return real(fd, number, *value)

    mocker.patch("ttybrokerd.root.port.fcntl.ioctl", ioctl)
    return hupcl


@pytest.mark.root  # TIOCSTI
def test_after_a_close_all_is_as_it_was_and_nothing_is_opened_again(
    device: str, locks: LockFiles, mocker: MockerFixture, no_hang_up: list[bool]
) -> None:
    """To open it once more would move the lines once more."""
    before = as_found(device)
    with opened(device) as keeper:
        held = Held(device, locks)
        again = mocker.spy(Devices, "open_again")
        change(held.descriptor)
        fcntl.ioctl(held.descriptor, termios.TIOCSTI, b"x")
        assert fcntl.ioctl(keeper, termios.FIONREAD, bytes(4)) != bytes(4)
        held.close()
        held.release(closed=True)
        assert again.call_count == 0
        assert as_found(device) == before
        assert fcntl.ioctl(keeper, termios.FIONREAD, bytes(4)) == bytes(4)
        assert not held.debt()


@pytest.mark.root
def test_the_lines_fall_once(device: str, locks: LockFiles, no_hang_up: list[bool]) -> None:
    """HUPCL is off for the hang-up, and on for the last close, if it was found so."""
    with opened(device) as keeper:
        found = termios.tcgetattr(keeper)
        found[2] |= termios.HUPCL
        termios.tcsetattr(keeper, termios.TCSANOW, found)
        held = Held(device, locks)
        held.release(closed=False)
        assert no_hang_up == [False]
        assert termios.tcgetattr(keeper) == found
        held.close()


@pytest.mark.root
def test_what_is_set_again_after_it_was_put_back_is_put_back_again(
    device: str, locks: LockFiles, mocker: MockerFixture, no_hang_up: list[bool]
) -> None:
    """By a second descriptor, of /dev/tty: nobody knows who has it, so there is a debt too."""
    before = as_found(device)
    with opened(device) as second:
        held = Held(device, locks)
        held.close()
        sleeps: list[float] = []

        def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            if len(sleeps) < 5:  # the drain's, the look's, and two looks at the new description
                change(second)

        mocker.patch("ttybrokerd.root.port.time.sleep", sleep)
        held.release(closed=True)
        fcntl.ioctl(second, termios.TIOCNXCL)  # which can be set at any time, and is not looked at
        assert as_found(device) == before
        assert held.debt()


@pytest.mark.root
@pytest.mark.parametrize("closed", [True, False])
def test_a_port_that_somebody_else_hung_up_is_put_back_afresh(
    closed: bool, device: str, locks: LockFiles
) -> None:
    """The dead copy keeps its exclusive use; the new description ends that. (A pty's settings
    are its driver's own after a hang-up, not those that the lease found.)"""
    before = as_found(device)
    held = Held(device, locks)
    with opened(device) as other:
        fcntl.ioctl(other, linux.TIOCVHANGUP)
    assert as_found(device) != before
    held.release(closed)
    assert as_found(device) == before
    assert held.debt()
    held.close()


@pytest.mark.root
@pytest.mark.parametrize("copy", [True, False])
def test_a_debt_is_paid_at_the_next_grant_if_a_dead_copy_was_there(
    copy: bool, device: str, locks: LockFiles
) -> None:
    """Its last call may reach the device after all was put back. Without one, what is found later
    is by somebody who may."""
    before = as_found(device)
    held = Held(device, locks)
    if not copy:
        held.close()
    held.release(closed=False)
    assert as_found(device) == before and held.debt() is copy
    if copy:
        fcntl.flock(held.descriptor, fcntl.LOCK_UN)
    with opened(device) as late:
        change(late)
        fcntl.ioctl(late, termios.TIOCNXCL)
        set_late = termios.tcgetattr(late)
        following = Held(device, locks, held.devices)
        assert (termios.tcgetattr(following.descriptor) == set_late) is not copy
        following.close()
        following.release(closed=True)
        assert not following.debt()
    if copy:
        held.close()


@pytest.mark.root
def test_a_line_discipline_that_is_left_at_a_close_goes_and_nothing_is_owed(
    device: str, locks: LockFiles
) -> None:
    before = as_found(device)
    held = Held(device, locks)
    change(held.descriptor)
    fcntl.ioctl(held.descriptor, termios.TIOCSETD, N_NULL)
    held.close()
    held.release(closed=True)
    assert as_found(device) == before
    assert held.lease.not_put_back == [] and not held.debt()


@pytest.mark.root
@pytest.mark.parametrize("closed", [True, False])
def test_no_end_waits_for_what_a_holder_goes_on_writing(
    closed: bool, device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    """To change the line discipline the kernel waits, without limit, until all is sent. So that
    is left for after the hang-up, whoever attached one, and when."""
    held = Held(device, locks)
    asked: list[tuple[int, int]] = []
    real, flush = fcntl.ioctl, termios.tcflush

    def attach(fd: int, queue: int) -> None:
        flush(fd, queue)
        real(held.lease.own_fd, termios.TIOCSETD, N_NULL)

    def ioctl(fd: int, number: int, *value: bytes) -> object:
        asked.append((fd, number))
        return real(fd, number, *value)

    mocker.patch("ttybrokerd.root.port.termios.tcflush", attach)
    mocker.patch("ttybrokerd.root.settings.fcntl.ioctl", ioctl)
    if not closed:
        real(held.lease.own_fd, termios.TIOCSETD, N_NULL)
    own_fd = held.lease.own_fd
    held.release(closed)
    assert (own_fd, linux.TCSETS2) in asked
    assert (own_fd, termios.TIOCSETD) not in asked
    held.close()


@pytest.mark.root
def test_another_device_with_the_same_number_is_owed_nothing(
    device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    held = Held(device, locks)
    held.release(closed=False)
    assert held.debt()
    with opened(device) as fd:
        status = list(os.fstat(fd))
    status[1] += 1  # st_ino
    mocker.patch("ttybrokerd.root.debts.os.fstat", return_value=os.stat_result(
        status, {"st_rdev": held.lease.key}))  # fmt: skip
    assert held.devices.debts.due(0) is None
    held.close()


@pytest.mark.root
def test_a_node_that_is_another_device_by_now_is_not_opened(
    device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    held = Held(device, locks)
    master, slave = os.openpty()
    held.lease.target = Target("gps", os.ttyname(slave), pty=True, console=False)
    opens = mocker.spy(Devices, "open")
    held.release(closed=False)
    assert opens.call_count == 0
    assert held.lease.not_put_back == [] and not held.debt()
    for fd in (held.descriptor, slave, master):
        os.close(fd)


@pytest.mark.root
def test_a_login_that_took_the_port_over_keeps_its_settings_but_no_discipline(
    device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    held = Held(device, locks)
    with opened(device) as getty:
        fcntl.ioctl(getty, linux.TIOCVHANGUP)
    with opened(device) as getty:
        change(getty)
        its = termios.tcgetattr(getty)
        fcntl.ioctl(getty, termios.TIOCSETD, N_NULL)
        mocker.patch("ttybrokerd.root.others.Others.login", return_value=Holder(0))
        held.release(closed=False)
        assert termios.tcgetattr(getty) == its
        assert held.debt()
    held.close()


def test_a_port_in_anothers_line_discipline_is_granted_in_the_usual_one(
    device: str, locks: LockFiles
) -> None:
    with opened(device) as keeper:
        before = termios.tcgetattr(keeper)
        fcntl.ioctl(keeper, termios.TIOCSETD, N_NULL)
        held = Held(device, locks)
        assert termios.tcgetattr(held.descriptor) == before
        held.close()
        held.release(closed=True)


def test_a_step_that_fails_on_a_device_that_is_there_is_told_and_owed(
    device: str, locks: LockFiles, mocker: MockerFixture
) -> None:
    held = Held(device, locks)
    held.close()
    mocker.patch("ttybrokerd.root.settings._steps", return_value=[("break", mocker.Mock(
        side_effect=DEAD))])  # fmt: skip
    held.release(closed=False)
    assert held.lease.not_put_back == ["break: Input/output error"]
    assert held.debt()


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(("lent", "limit"), [(True, port.LENT_DRAIN), (False, port.DRAIN_LIMIT)])
def test_a_port_that_was_lent_has_little_time_for_unsent_output_and_keeps_its_settings(
    device: str, locks: LockFiles, mocker: MockerFixture, closed: bool, lent: bool,
    limit: float,
) -> None:  # fmt: skip
    """Also where its session has not closed it, as one that is suspended."""
    held = Held(device, locks)
    held.lease.session = Session(bytes(16), 0)
    held.lease.target = held.lease.target.replace(pty=False)
    let_out = mocker.patch("ttybrokerd.root.port._drain")
    change(held.descriptor)
    if closed:
        held.close()
    dead = port.release(held.lease, held.devices, held.others, closed, lent)
    if dead is not None:
        dead.watcher.close()
        held.close()
    assert [call.args[1] for call in let_out.call_args_list] == ([limit] if closed or lent else [])
    assert (held.lease.left is not None) == (closed or lent)


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
    port._drain(-1, port.DRAIN_LIMIT)
    assert unsent.call_count == looks
