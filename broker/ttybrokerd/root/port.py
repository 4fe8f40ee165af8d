"""A leased port as the broker holds it, from first lock to last: the part that touches devices.

The device is opened twice. The holder's descriptor is passed on and closed here; the guard's is
never read or written, and stays as long as the lease: with it the holder's close cannot block,
an unplug shows as a hang-up on it, and taking the port back needs no new open.
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
from ttybrokerd.root import linux, logins
from ttybrokerd.root.device import Devices, Seen, Target
from ttybrokerd.root.lean import TYPE_CHECKING, partial
from ttybrokerd.root.locks import LockFiles, flock_holder, process
from ttybrokerd.root.record import Settings
from ttybrokerd.root.refusal import Refusal, busy

if TYPE_CHECKING:
    from collections.abc import Callable

DRAIN_LIMIT = 30.0  # seconds for unsent output, as the kernel's closing_wait
DRAIN_STALL = 1.0  # seconds without one byte less: nobody is taking it
DRAIN_LOOK = 0.01  # seconds between looks
PTY_SETTLE = 0.01  # seconds in which a pty's far end gets the last bytes: nothing tells of that


class OpenPort:
    """What one lease holds in the broker. `watcher` lists the holder's description until its
    last copy is closed; `exit_fd` is a pidfd, readable when the holder's process has ended."""

    __slots__ = ("exit_fd", "guard", "inotify", "lock_left", "lock_name", "lock_pid", "locks",
                 "settings", "target", "watch", "watcher")  # fmt: skip

    def __init__(self, target: Target, lock_name: str, locks: LockFiles, inotify: int) -> None:
        self.target = target
        self.lock_name = lock_name
        self.locks = locks
        self.inotify = inotify
        self.lock_left: Refusal | None = None  # why the lock file could not be removed, if so
        self.lock_pid: int | None = None  # None: the lock file is the holder's own
        self.guard = -1
        self.exit_fd = -1
        self.watch: int | None = None
        self.watcher: select.epoll | None = None
        self.settings: Settings = []

    def listen(self, descriptor: int, pid: int) -> None:
        """Have the kernel tell of closes, and of the end of the process `pid` (0: unknown).
        `descriptor` is our own copy of the holder's: while it is open nothing can be missed.
        Blocks on no device. Raises OSError when the kernel is out of watches (inotify(7))."""
        self.watch = linux.watch_closes(self.inotify, descriptor)
        self.exit_fd = _exit_fd(pid)

    def listen_again(self) -> None:
        """The same for a lease of an earlier broker, whose pidfd there is; the watch is on the
        guard's node, which is the holder's. What was missed before that, `held` tells."""
        self.watch = linux.watch_closes(self.inotify, self.guard)

    def lock_again(self, pid: int) -> None:
        """Make sure of the lock that an earlier broker took for the process `pid` (0: for
        itself). It names that process or, if it has ended, the earlier broker, which signed for
        it; then we sign. Raises Refusal as LockFiles.take()."""
        lives = self.exit_fd >= 0 and not linux.ended(self.exit_fd)
        signer = pid if lives else os.getpid()
        named = self.locks.named(self.lock_name)
        if named is not None and (named == pid or process(named) is None):
            self.locks.sign(self.lock_name, signer, instead_of=named)
        else:
            self.locks.take(self.lock_name, signer)
        self.lock_pid = signer

    def held(self) -> bool:
        """Whether any copy of the holder's descriptor is open anywhere."""
        # guard: watch-the-last-copy
        return self.watcher is not None and linux.still_open(self.watcher)

    def sign(self, pid: int) -> None:
        """The holder's process has ended but its descriptor lives on: `pid` (ours) vouches for
        the lock. Raises Refusal EIO if the directory is full or read-only."""
        if self.lock_pid is not None and self.lock_pid != pid:
            self.locks.sign(self.lock_name, pid, instead_of=self.lock_pid)
            self.lock_pid = pid  # guard: broker-signs-for-the-dead

    def close(self) -> select.epoll | None:
        """Let go of everything. What is left of a holder that was hung up is returned: its
        watcher, while the dead description is still open somewhere."""
        ghost = self.watcher if self.held() else None
        if self.watcher is not None and ghost is None:
            self.watcher.close()
        self.watcher = None
        if self.watch is not None:
            linux.unwatch(self.inotify, self.watch)
        for descriptor in (self.guard, self.exit_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self.guard = self.exit_fd = -1
        if self.lock_pid is not None:
            try:
                self.locks.release(self.lock_name, self.lock_pid)
            except Refusal as refusal:  # guard: lock-left-is-logged
                self.lock_left = refusal
        return ghost


def acquire(
    devices: Devices, seen: Seen, locks: LockFiles, inotify: int, pid: int, ghosts: bool
) -> tuple[OpenPort, int] | Refusal:
    """Lock the port for the process `pid` and open it: what the broker keeps, and the holder's
    descriptor. `ghosts`: a hung-up holder still keeps its dead descriptor, and with it an flock
    and maybe the exclusive flag, which then mean nothing.

    Returns a Refusal, with nothing left behind, if any step fails. Closes `seen`.
    """
    port = OpenPort(seen.target, seen.kernel_name, locks, inotify)
    holder = -1
    try:
        if locks.take(seen.kernel_name, pid or os.getpid()):
            port.lock_pid = pid or os.getpid()
        if (login := logins.holder(seen.kernel_name, seen.rdev)) is not None:
            raise busy(login)
        port.guard = devices.open(seen)
        if linux.is_exclusive(port.guard) and not ghosts:  # guard: exclusive-port-is-busy
            raise busy(flock_holder(seen.node) or Holder(how="exclusive"))
        port.settings = termios.tcgetattr(port.guard)
        holder = devices.open(seen)
        port.watcher = linux.weak_reference(holder)  # guard: exclusive-is-the-last-step
        if port.lock_pid is None and locks.left_behind(seen.kernel_name, pid):
            port.lock_pid = pid  # of a broker that was killed before it answered, or later
        _lock(holder, seen, ghosts)  # last: TIOCEXCL may outlive us
        return port, holder
    except (Refusal, OSError, termios.error) as error:
        if holder >= 0:
            os.close(holder)
        port.close()
        return error if isinstance(error, Refusal) else _broken(error)
    finally:
        seen.close()


def release(port: OpenPort, drain: bool) -> select.epoll | None:
    """End the lease on the device: let output drain, flush, put the settings back, hang up.

    The hang-up is for a second descriptor that the holder may have made through /dev/tty; it
    honours HUPCL, so the lines move no more than at any last close. A device that is gone
    answers EIO to all of it; whichever step fails, the others are taken. Returns as
    OpenPort.close().
    """
    pty, guard = port.target.pty, port.guard  # of a pty, a kernel worker carries it: tty_buffer.c
    out = partial(time.sleep, PTY_SETTLE) if pty else partial(_drain, guard)
    steps: list[Callable[[], object]] = [
        *([out] if drain else []),
        partial(linux.end_loopback, guard),
        partial(termios.tcflush, guard, termios.TCIOFLUSH),  # guard: flush-unread-input
        # guard: restore-settings
        partial(termios.tcsetattr, guard, termios.TCSANOW, port.settings),
        partial(fcntl.ioctl, guard, linux.TIOCNXCL),  # guard: end-exclusive-use
        partial(fcntl.ioctl, guard, linux.TIOCVHANGUP),  # guard: hang-up-at-the-end
    ]
    for step in steps:
        try:
            step()
        except (OSError, termios.error):
            pass
    return port.close()


def _lock(holder: int, seen: Seen, ghosts: bool) -> None:
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # guard: flock-the-port
    except BlockingIOError:
        if not ghosts:  # guard: flocked-port-is-busy
            raise busy(flock_holder(seen.node) or Holder(how="flock")) from None
    fcntl.ioctl(holder, linux.TIOCEXCL)  # guard: make-the-port-exclusive


def _exit_fd(pid: int) -> int:
    """A pidfd of the holder; -1 when it has ended already or is in another pid namespace."""
    try:
        return os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        return -1


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
    return Refusal(number, f"cannot be set up: {os.strerror(number)}")
