"""The two ends of a lease on the device: lock and open it, put it in order and hang it up.

Everything here may block on a bad device: workers.py says how the loop gets on meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios
import time

from ttybroker.wire import Holder
from ttybrokerd.root import TYPE_CHECKING, linux
from ttybrokerd.root.device import Devices, Seen
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.others import Others, excused, named
from ttybrokerd.root.refusal import Refusal, busy, of_device

if TYPE_CHECKING:
    from collections.abc import Callable

DRAIN_LIMIT = 30.0  # seconds for unsent output, as the kernel's closing_wait
DRAIN_STALL = 1.0  # seconds without one byte less: nobody is taking it
DRAIN_LOOK = 0.01  # seconds between looks
DESCRIPTIONS = 64  # of one lease: they cost the kernel memory that no limit of the user counts
PTY_SETTLE = 0.01  # seconds in which a pty's far end gets the last bytes: nothing tells of that


def acquire(
    lease: Lease,
    devices: Devices,
    seen: Seen,
    others: Others,
    pid: int,
    ghosts: frozenset[int],
    mode: int = os.O_RDWR,
) -> tuple[Lease, int] | Refusal:
    """Lock the port for the process `pid` and open it; `mode` as Devices.open().

    `ghosts` are the users of hung-up holders who still keep a dead descriptor, and with it maybe
    an flock, which then means nothing. Returns the lease, filled in, and the holder's descriptor;
    or a Refusal, with nothing left behind, if any step fails. Closes `seen`.
    """
    locks = others.files
    holder = -1
    try:
        taken = locks.take(seen.kernel_name, pid or os.getpid())
        lease.replaced = taken.replaced
        if taken.ours:
            lease.lock_pid = pid or os.getpid()
        if (login := others.login(seen)) is not None:
            raise busy(login)
        if taken.root_stale:  # guard: hang-up-after-a-lost-broker
            _hang_up(devices, seen, others, ghosts)
            locks.hung_up(seen.kernel_name)
        lease.guard = devices.open(seen)
        if taken.root_stale:  # until it was hung up, a copy could set this
            fcntl.ioctl(lease.guard, linux.TIOCNXCL)
        _check_exclusive(lease.guard, seen, others, ghosts)
        lease.settings = termios.tcgetattr(lease.guard)
        holder = devices.open(seen, mode)
        lease.watcher = linux.weak_reference(holder)  # guard: exclusive-is-the-last-step
        if lease.lock_pid is None and locks.left_behind(seen.kernel_name, pid):
            lease.lock_pid = pid  # of a broker that was killed before it answered, or later
        _flock(holder, seen, others, ghosts, dead=bool(ghosts) or taken.root_stale)
        if lease.session is not None:
            _share(holder)
        fcntl.ioctl(holder, linux.TIOCEXCL)  # guard: make-the-port-exclusive
        return lease, holder  # TIOCEXCL was last: it may outlive us
    except (Refusal, OSError, termios.error) as error:
        if holder >= 0:
            os.close(holder)
        lease.close()
        return error if isinstance(error, Refusal) else _broken(error)
    finally:
        seen.close()


def _hang_up(devices: Devices, seen: Seen, others: Others, ghosts: frozenset[int]) -> None:
    """End what a holder may have whose broker is gone, and who undid its locks.

    Raises Refusal EBUSY if an outsider has the port: it is left alone.
    """
    descriptor = devices.open(seen)
    try:
        _check_exclusive(descriptor, seen, others, ghosts)
        _flock(descriptor, seen, others, ghosts, dead=True)
        fcntl.ioctl(descriptor, linux.TIOCVHANGUP)
    finally:
        os.close(descriptor)


def release(lease: Lease, drain: bool) -> select.epoll | None:
    """End the lease on the device: let output drain, flush, put the settings back, hang up.

    The hang-up is for a second descriptor that the holder may have made through /dev/tty; it
    honours HUPCL, so the lines move no more than at any last close. A device that is gone
    answers EIO to all of it; whichever step fails, the others are taken. Returns as
    Lease.close().
    """
    pty, guard = lease.target.pty, lease.guard  # of a pty, a kernel worker carries it: tty_buffer.c
    out = (lambda: time.sleep(PTY_SETTLE)) if pty else (lambda: _drain(guard))
    steps: list[Callable[[], object]] = [
        *([out] if drain else []),
        lambda: linux.end_loopback(guard),
        lambda: termios.tcflush(guard, termios.TCIOFLUSH),  # guard: flush-unread-input
        # guard: restore-settings
        lambda: termios.tcsetattr(guard, termios.TCSANOW, lease.settings),
        lambda: fcntl.ioctl(guard, linux.TIOCNXCL),  # guard: end-exclusive-use
        lambda: fcntl.ioctl(guard, linux.TIOCVHANGUP),  # guard: hang-up-at-the-end
    ]
    for step in steps:
        try:
            step()
        except (OSError, termios.error):
            pass
    return lease.close()


def join(lease: Lease, devices: Devices, seen: Seen, mode: int) -> int | Refusal:
    """Open a leased port once more, for the session that has it.

    Returns a descriptor of an open file description of its own: the lease lasts until the last of
    them is closed. Or a Refusal, with nothing left behind. Closes `seen`.
    """
    holder = -1
    try:
        assert lease.watcher is not None  # it is held
        if len(linux.listed(lease.watcher.fileno())) >= DESCRIPTIONS:
            what = f"this session has it open {DESCRIPTIONS} times already"
            raise Refusal(errno.EDQUOT, what, advice="close some of them first")
        holder = devices.open(seen, mode)
        lease.watcher.register(holder, 0)  # guard: watch-each-description
        _share(holder)
        return holder
    except (Refusal, OSError) as error:
        if holder >= 0:
            os.close(holder)
        return error if isinstance(error, Refusal) else _broken(error)
    finally:
        seen.close()


def _share(holder: int) -> None:
    """Lock one of several descriptions: an outsider's exclusive lock is refused until the last is
    closed. Where a program of the session has locked another of them for itself, that holds."""
    try:
        fcntl.flock(holder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass


def _check_exclusive(descriptor: int, seen: Seen, others: Others, ghosts: frozenset[int]) -> None:
    """Whoever set TIOCEXCL has the port, whatever dead copies there are. Raises Refusal EBUSY."""
    if linux.is_exclusive(descriptor):  # guard: exclusive-port-is-busy
        takers = others.takers(seen)
        known = takers and not excused(takers, ghosts)
        raise busy(named(takers) if known else Holder(how="exclusive"))


def _flock(descriptor: int, seen: Seen, others: Others, ghosts: frozenset[int], dead: bool) -> None:
    """Take the flock, unless a dead copy has it, if there is one (`dead`).

    Raises Refusal EBUSY if somebody else has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # guard: flock-the-port
    except BlockingIOError:
        takers = others.takers(seen)
        if not excused(takers, ghosts, dead=dead):  # guard: flocked-port-is-busy
            raise busy(named(takers)) from None


def _drain(guard: int) -> None:
    """Wait until all is sent, the chip's own queue too: hang-up would throw it away."""
    now = time.monotonic()
    end, stall, before = now + DRAIN_LIMIT, now + DRAIN_STALL, 0
    while (left := linux.unsent(guard)) or linux.transmitting(guard):
        if left != before:
            before, stall = left, time.monotonic() + DRAIN_STALL
        if time.monotonic() >= min(end, stall):
            return
        time.sleep(DRAIN_LOOK)


def _broken(error: OSError | termios.error) -> Refusal:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else errno.EIO
    return Refusal(of_device(number), f"cannot be set up: {os.strerror(number)}")
