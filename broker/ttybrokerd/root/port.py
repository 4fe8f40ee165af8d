"""The two ends of a lease on the device: lock and open it, put it in order and hang it up.

Everything here may block on a bad device: workers.py says how the loop gets on meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios
import time

from ttybroker.wire import Holder
from ttybrokerd.root import TYPE_CHECKING, linux, settings
from ttybrokerd.root.device import Devices, Seen
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.others import Others, excused, named
from ttybrokerd.root.refusal import Refusal, busy, of_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybrokerd.root.copies import DeadCopy
    from ttybrokerd.root.settings import Settings

DRAIN_LIMIT = 30.0  # seconds for unsent output, as the kernel's closing_wait
LENT_DRAIN = 0.1  # seconds, if the port is lent and somebody waits for it
DRAIN_STALL = 1.0  # seconds without one byte less: nobody is taking it
DRAIN_LOOK = 0.01  # seconds between looks
DESCRIPTIONS = 64  # of one lease: they cost the kernel memory that no limit of the user counts
PTY_SETTLE = 0.01  # seconds in which a pty's far end gets the last bytes: nothing tells of that
LOOK = 0.001  # seconds after which to look whether somebody has changed the settings again
LOOKS = 5
# what it means if it fails
AT_THE_END = {
    linux.TIOCNXCL: "exclusive use does not end (TIOCNXCL)",
    linux.TIOCVHANGUP: "it is not hung up, so who kept a copy can use it (TIOCVHANGUP)",
}
GOES_WITHIN = 0.1  # seconds from a hang-up until an unplugged device's node is gone


def acquire(
    lease: Lease, devices: Devices, seen: Seen, others: Others, ghosts: frozenset[int]
) -> tuple[Lease, int] | Refusal:
    """Lock the port for the holder's process and open it.

    If its session had the port before, the settings that it left are set again. `ghosts` are the
    users of hung-up holders who still keep a dead descriptor. Such a descriptor may have an flock,
    which means nothing then.

    Returns the lease, filled in, and the holder's descriptor. If any step fails, returns a Refusal,
    with nothing left behind. Closes `seen`.
    """
    locks, ask = others.files, lease.ask
    resumed, ask.left = ask.left, None
    holder = -1
    try:
        pid = lease.live_pid()
        taken = locks.take(seen.kernel_name, pid or os.getpid())
        lease.replaced = taken.replaced
        if taken.ours:
            lease.lock_pid = pid or os.getpid()
        if (login := others.login(seen.kernel_name, seen.rdev)) is not None:
            raise busy(login)
        if taken.root_stale:  # guard: hang-up-after-a-lost-broker
            _hang_up(devices, seen, others, ghosts)
            locks.hung_up(seen.kernel_name)
        lease.own_fd = devices.open(seen)
        debt = devices.debts.due(seen.node)
        if taken.root_stale or (debt is not None and debt.exclusive):  # a copy may have set it
            fcntl.ioctl(lease.own_fd, linux.TIOCNXCL)
        _check_exclusive(lease.own_fd, seen, others, ghosts)
        holder = devices.open(seen, ask.mode)
        _flock(holder, seen, others, ghosts, dead=bool(ghosts) or taken.root_stale)
        if lease.session is not None:
            _share(holder)
        settings.clean(lease.own_fd)  # guard: handed-out-clean
        if debt is not None:
            # guard: pay-the-debt
            lease.not_put_back = settings.put_back(lease.own_fd, debt.settings)
        lease.settings = settings.read(lease.own_fd) if debt is None else debt.settings
        if resumed is not None:
            lease.not_put_back += settings.put_back(lease.own_fd, resumed)
        lease.watcher = linux.weak_reference(holder)  # guard: exclusive-is-the-last-step
        if lease.lock_pid is None and locks.left_behind(seen.kernel_name, pid):
            lease.lock_pid = pid  # by a broker that was killed before it answered, or later
        # guard: make-the-port-exclusive
        fcntl.ioctl(holder, linux.TIOCEXCL)  # last, because it stays set if we are killed
        return lease, holder
    except (Refusal, OSError, MemoryError) as error:
        if holder >= 0:
            os.close(holder)
        lease.close()
        return error if isinstance(error, Refusal) else _broken(error)
    finally:
        seen.close()


def _hang_up(devices: Devices, seen: Seen, others: Others, ghosts: frozenset[int]) -> None:
    """Hang up a port whose holder may live on without its locks, and whose broker is gone.

    Raises Refusal EBUSY if an outsider has the port, which is then left alone.
    """
    descriptor = devices.open(seen)
    try:
        _check_exclusive(descriptor, seen, others, ghosts)
        _flock(descriptor, seen, others, ghosts, dead=True)
        fcntl.ioctl(descriptor, linux.TIOCVHANGUP)
    finally:
        os.close(descriptor)


def release(
    lease: Lease, devices: Devices, others: Others, closed: bool, lent: bool = False
) -> DeadCopy | None:
    """End the lease on the device, and leave it as it was found.

    With `closed` the holder has closed it. Then unsent output is let out, the settings are put
    back, and the port is hung up, because the holder may have made a second descriptor through
    /dev/tty. In all other cases, and if the settings do not stay put back, the port is hung up
    first. Then the settings are put back on a new description.

    With `lent`, output has LENT_DRAIN to go out. The settings that the session had are kept for it,
    even if it has not closed the port. Whichever step fails, the others are taken. Returns as
    Lease.close().
    """
    own_fd, alive = lease.own_fd, True
    try:
        usual = settings.plain(own_fd)
    except OSError:  # somebody else hung it up, or it is unplugged
        alive = usual = False
    # Under another discipline nobody can ask what is unsent. TIOCSETD waited until it was sent.
    if alive and (closed or lent) and usual:
        if lease.session is not None:
            lease.left = _read(own_fd)
        _let_out(lease, LENT_DRAIN if lent else DRAIN_LIMIT)
    settled = closed and usual and _settle(lease)
    if alive and not settled:
        # Without HUPCL the lines fall once, at the end, and not at the hang-up and at the end.
        # guard: lines-fall-once, no-wait-for-a-writer
        _takes(settings.keep_lines, own_fd, lease.settings)
    failed: list[str] = []
    settled &= _tells(own_fd, linux.TIOCNXCL, failed)  # guard: end-exclusive-use
    _tells(own_fd, linux.TIOCVHANGUP, failed)  # guard: hang-up-at-the-end
    # guard: failed-end-is-logged
    if failed and alive and devices.there(lease.target, own_fd):
        lease.not_ended = failed
    devices.debts.forget(lease.key)
    if not settled:
        # guard: put-back-afresh
        lease.not_put_back = _put_back_afresh(
            lease, devices, others, alive=alive, stranger=closed and usual
        )
    return lease.close()


def join(lease: Lease, devices: Devices, seen: Seen, mode: int) -> int | Refusal:
    """Open a leased port once more, for the session that has it.

    Returns a descriptor of an open file description of its own. The lease lasts until the last of
    them is closed. On a failure, returns a Refusal, with nothing left behind. Closes `seen`.
    """
    holder, watcher = -1, lease.watcher
    try:
        if watcher is None:  # guard: no-join-of-an-ended-lease
            raise ended()
        if len(linux.listed(watcher.fileno())) >= DESCRIPTIONS:
            what = f"this session has it open {DESCRIPTIONS} times already"
            raise Refusal(errno.EDQUOT, what, advice="close some of them first")
        # guard: join-by-the-same-node
        if not os.path.samestat(os.fstat(seen.node), os.fstat(lease.own_fd)):
            if seen.target.path == lease.target.path:  # another device, plugged in just now
                raise ended()
            what = f"this session has it by another node, {lease.target.path}"
            raise Refusal(errno.EBUSY, what, advice="open that one, whose closes are heard")
        holder = devices.open(seen, mode)
        watcher.register(holder, 0)  # guard: watch-each-description
        _share(holder)
        return holder
    except (Refusal, OSError, ValueError, MemoryError) as error:
        if holder >= 0:
            os.close(holder)
        if isinstance(error, ValueError):  # a worker has closed it meanwhile
            return ended()
        return error if isinstance(error, Refusal) else _broken(error)
    finally:
        seen.close()


def _share(holder: int) -> bool:
    """Lock one of several descriptions, shared; return whether that worked.

    An outsider's exclusive lock is refused until the last is closed. If a program of the session
    has locked another of them for itself, that lock holds.
    """
    try:
        fcntl.flock(holder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _let_out(lease: Lease, limit: float) -> None:
    """Let output drain, for `limit` seconds at most. If that fails, so will the next step."""
    try:
        if lease.target.pty:  # a kernel worker carries it to the far end: tty_buffer.c
            time.sleep(PTY_SETTLE)
        else:
            _drain(lease.own_fd, limit)
    except OSError:
        pass


def _settle(lease: Lease) -> bool:
    """Put the settings back; return whether that worked and they stay so."""
    own_fd = lease.own_fd
    try:
        termios.tcflush(own_fd, termios.TCIOFLUSH)  # guard: flush-unread-input
    except (OSError, termios.error):
        return False
    # guard: restore-settings
    failed = settings.put_back(own_fd, lease.settings, discipline=False)
    time.sleep(LOOK)
    return not failed and settings.holds(own_fd, lease.settings)  # guard: settings-stay-put-back


def _read(own_fd: int) -> Settings | None:
    try:
        return settings.read(own_fd)
    except OSError:
        return None


def _put_back_afresh(
    lease: Lease, devices: Devices, others: Others, *, alive: bool, stranger: bool
) -> list[str]:
    """Put the settings back on a new description; return what failed.

    A call that was under way at the hang-up goes on, and may reach the device after it. So the
    settings stay owed to the next grant as long as anybody may have such a call: while the holder's
    descriptor is open, or if a `stranger` goes on setting by another one.

    `alive`: the broker hung the port up. If it did not, an unplugged device is about to go, or a
    login has taken the port over. A login keeps its own terminal settings.
    """
    found, target, own_fd = lease.settings, lease.target, lease.own_fd
    if not alive and _went(lease, devices):
        return []
    login = not alive and _login(lease, others)
    failed, exclusive = ["not reached"], True
    try:
        fresh = devices.open_again(target, own_fd)
    except Refusal as refusal:
        failed = [refusal.cause]
    else:
        _takes(termios.tcflush, fresh, termios.TCIOFLUSH)
        # guard: end-exclusive-use-afresh
        exclusive = not _takes(fcntl.ioctl, fresh, linux.TIOCNXCL)
        failed = _put_back(fresh, found, login)
        os.close(fresh)
    if failed and not devices.there(target, own_fd):
        return []
    if failed or exclusive or login or stranger or lease.held():
        devices.debts.owe(own_fd, found, exclusive)  # guard: owed-to-the-next-grant
    return failed


def _put_back(tty: int, found: Settings, login: bool) -> list[str]:
    """Put the settings back until they stay so, LOOKS times at most; return what failed."""
    failed: list[str] = []
    for _ in range(LOOKS):
        failed = settings.put_back(tty, found, terminal=not login)
        time.sleep(LOOK)
        if failed or login or settings.holds(tty, found):
            break
    return failed


def _went(lease: Lease, devices: Devices) -> bool:
    """Return whether the node goes now, as an unplugged device's does soon after its hang-up."""
    end = time.monotonic() + GOES_WITHIN
    while devices.there(lease.target, lease.own_fd):
        if time.monotonic() >= end:
            return False
        time.sleep(LOOK)
    return True


def _login(lease: Lease, others: Others) -> bool:
    try:
        return others.login(lease.lock_name, lease.key) is not None
    except OSError:
        return False


def _check_exclusive(descriptor: int, seen: Seen, others: Others, ghosts: frozenset[int]) -> None:
    """Raise Refusal EBUSY if TIOCEXCL is set: whoever set it has the port.

    That is so if there are dead copies, too.
    """
    exclusive = linux.is_exclusive(descriptor)
    others.found(seen, exclusive)
    if exclusive:  # guard: exclusive-port-is-busy
        takers = others.takers(seen)
        known = takers and not excused(takers, ghosts)
        raise busy(named(takers) if known else Holder(how="exclusive"))


def _flock(descriptor: int, seen: Seen, others: Others, ghosts: frozenset[int], dead: bool) -> None:
    """Take the flock. Do without it if a dead copy has it; `dead`: there may be one.

    Raises Refusal EBUSY if somebody else has it. Whoever had it may be gone by the time the kernel
    is asked who that is. Then it is tried once more.
    """
    for _ in range(2):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # guard: flock-the-port
            return
        except BlockingIOError:
            # If we can share it, nobody has it alone. Then who shared it a moment ago will do.
            # guard: no-wait-beside-who-shares
            shares = dead and _share(descriptor)
            if shares and excused(others.takers(seen, fresh=False), ghosts, dead=dead):
                return
            takers = others.takers(seen)
        if excused(takers, ghosts, dead=dead):  # guard: flocked-port-is-busy
            return
        if takers != ():  # guard: flock-that-just-went
            break
    raise busy(named(takers))


def _takes(step: Callable[..., object], *arguments: object) -> bool:
    """Take a step that may fail and on which no other depends. Return whether it worked."""
    try:
        step(*arguments)
    except (OSError, termios.error):
        return False
    return True


def _tells(own_fd: int, number: int, failed: list[str]) -> bool:
    """Make this call at the end of a lease, whatever became of others. Return whether it worked.

    If it did not, `failed` gets what that means, with its cause.
    """
    try:
        fcntl.ioctl(own_fd, number)
    except OSError as error:
        failed.append(f"{AT_THE_END[number]}: {error.strerror}")
        return False
    return True


def _drain(own_fd: int, limit: float) -> None:
    """Wait until all is sent, the chip's own queue too: a hang-up would throw it away.

    It takes `limit` seconds at most, and DRAIN_STALL without progress.
    """
    now = time.monotonic()
    end, stall, before = now + limit, now + DRAIN_STALL, 0
    while (left := linux.unsent(own_fd)) or linux.transmitting(own_fd):
        if left != before:
            before, stall = left, time.monotonic() + DRAIN_STALL
        if time.monotonic() >= min(end, stall):
            return
        time.sleep(DRAIN_LOOK)


def ended() -> Refusal:
    """Return the refusal of an open that joins a lease which is over by now."""
    what = "the port was taken back from this session meanwhile"
    return Refusal(errno.EIO, what, advice="ask again")


def _broken(error: OSError | MemoryError) -> Refusal:
    if isinstance(error, MemoryError):
        return Refusal.out_of_means(error)
    number = error.errno or errno.EIO
    what = f"cannot be set up: {os.strerror(number)}"
    return Refusal(of_device(number), what, advice="is it plugged in?")
