"""The supervisor: answers the open() and access() of a port by an unmodified program.

Its answers come from the broker. Every call that is not about a brokered port goes on in the
kernel, with the program's own rights, as if nobody had looked. So does a call whose path the
supervisor cannot read.

One run is one session of the broker: it may open again what it has already. The lease is the lock,
so an flock(2) on a port of the run succeeds at once. It succeeds even beside a dead copy, whose
holder was hung up and may keep its own lock for ever.

An injected descriptor differs in two ways from a plain open() of the node. It does not wait for
carrier, because the broker does not, whatever the flags. And it does not become the controlling
terminal of a session leader that has none and does not say O_NOCTTY (TIOCSCTTY still does that). An
older broker opens only for reading and writing. stat() is never asked about: a program that calls
it first (screen, C-Kermit) needs the node, or a link to it that has the alias's name.

If the supervisor is killed, the program keeps the ports that it has. The kernel answers ENOSYS to
every call that would have been asked about.
"""

from __future__ import annotations

import errno
import gc
import os
from _thread import allocate_lock, stack_size, start_new_thread
from fcntl import F_GETFL, F_SETFL, fcntl

from ttybroker.run import notify, target
from ttybroker.run.broker import Interrupted, Patience, line_for, line_of, program_of
from ttybroker.run.hold import Held
from ttybroker.run.kernel import Memory, take_fd
from ttybroker.run.leased import Leased
from ttybroker.run.names import Finder, Names, is_serial_name
from ttybroker.run.pending import Pending
from ttybroker.say import say
from ttybroker.wire import APPEND, READ, SYNC, WRITE

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.run.broker import Broker
    from ttybroker.run.job import LaunchJob
    from ttybroker.wire import Verdict

_ENOUGH_IDLE = 2  # threads that wait for work; more than that end
_STACK = 256 * 1024  # bytes a thread; the most that a run has is one for each open that waits
_ACCESS = (notify.ACCESS, notify.FACCESSAT)

# open(2) and access(2) of a device can fail like this; anything else would puzzle a program.
_ORDINARY = (errno.EACCES, errno.EBUSY, errno.ENOENT, errno.ENODEV, errno.EIO, errno.ENXIO,
             errno.EMFILE)  # fmt: skip


class Complaints:
    """Print one line on stderr for each cause of a refusal, not one for every retry."""

    def __init__(self) -> None:
        self._said: dict[str, set[int]] = {}  # by port; several threads change it

    def say(self, name: str, number: int, line: str) -> None:
        said = self._said.setdefault(name, set())
        if number not in said:
            said.add(number)
            say(line)

    def forget(self, name: str) -> None:
        """Note that the port was granted: a refusal after this is news again."""
        self._said.pop(name, None)


_HIDDEN, _CONTROLLING, _NOT_HELD, _UNNAMED = -1, -2, -3, -6  # causes that are no errno


class Supervisor:
    """Answer one listener, with as many threads as there are calls that wait for the broker.

    The caller closes the listener.
    """

    def __init__(self, listener: int, broker: Broker, names: Names, job: LaunchJob) -> None:
        self._listener = listener
        self._broker = broker
        self.complaints = Complaints()
        self.finder = Finder(names, broker.ports, self._unnamed)
        self.leased = Leased()
        self._held = Held(job.held)
        self._job = job
        self._lock = allocate_lock()
        self._idle = 0

    def start(self) -> None:
        """Begin to answer. Raises OSError if no thread can be started."""
        gc.enable()  # all is loaded: `command` had put it off until now
        notify.wake_in_step(self._listener)
        stack_size(_STACK)
        self._idle = 1
        try:
            start_new_thread(self._work, ())
        except RuntimeError:
            raise OSError(errno.EAGAIN, "no supervisor: no thread can be started; try again later")
        self._add_thread()

    def take_over(self, names: list[str], fds: list[int]) -> None:
        """Take copies of the ports that the launcher has opened for the program.

        They are held, or their descriptions are remembered.
        """
        for name, fd in zip(names, fds, strict=True):
            self.leased.add(fd)
            self._held.keep(name, fd)
            os.close(fd)

    def hidden(self, pid: int) -> None:
        """Say, once in a run, that a process keeps us from reading its calls."""
        what = "hides its memory (PR_SET_DUMPABLE): its opens of ports cannot be answered"
        self.complaints.say("", _HIDDEN, f"{program_of(pid)} {what}")

    def _unnamed(self, line: str) -> None:
        """Say it once in a run: some programs try every port that there is."""
        self.complaints.say("", _UNNAMED, line)

    def _add_thread(self) -> None:
        with self._lock:
            self._idle += 1
        try:
            start_new_thread(self._work, ())
        except RuntimeError:  # no thread to be had: those that are there do it one by one
            with self._lock:
                self._idle -= 1

    def _work(self) -> None:
        """Live the life of one thread.

        Following a path can block, on a dead file server or one that the program itself runs. The
        broker can take its time too. Before either, another thread has to be waiting in the kernel.
        """
        memory = Memory()
        while True:
            try:
                call = notify.receive(self._listener)
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                # ENOENT: its caller was killed; or nobody is left, and then every further
                # try would say so at once, for as long as this process lives.
                if error.errno == errno.ENOENT and not notify.is_deserted(self._listener):
                    continue
                return
            with self._lock:
                self._idle -= 1
                alone = self._idle == 0
            if alone:
                self._add_thread()
            try:
                self._answer(call, memory)
            except Exception as error:
                notify.refuse(self._listener, call.id, errno.EIO)  # first: its caller waits
                say(f"could not answer process {call.pid}: {error!r}")
            with self._lock:
                self._idle += 1
                if self._idle > _ENOUGH_IDLE:
                    self._idle -= 1
                    return

    def _answer(self, call: notify.Notification, memory: Memory) -> None:
        if call.kind == notify.FLOCK:
            self._answer_lock(call)
            return
        try:
            request = read_request(call.pid, call.kind, call.args, memory)
        except PermissionError:
            self.hidden(call.pid)
            request = None
        name = None
        if request is not None:
            name = self.finder.find(call.pid, *request)
        if name is None or request is None:
            notify.let_go_on(self._listener, call.id)
        elif notify.is_waiting(self._listener, call.id):
            _, path, flags, _ = request
            try:
                self._give(call, name, path, flags)
            except Interrupted:
                self._interrupt(call)
            except OSError as error:
                self._refuse(call, name, error)

    def _give(self, call: notify.Notification, name: str, path: str, flags: int) -> None:
        access = call.kind in _ACCESS
        own = target.descriptor_of(call.pid, path)
        if own is not None and not access and self._copy(call, own, flags):
            return
        if access or not self.finder.listed(name):
            verdict: Verdict | None = None
            try:
                verdict = self._broker.check(name)
            except OSError:  # without a broker it is any missing file of /dev
                if self.finder.listed(name) or is_serial_name(name):
                    raise
            if verdict is None or not verdict.known:
                notify.let_go_on(self._listener, call.id)
                return
            if not verdict.allowed:
                raise PermissionError(errno.EACCES, f"{name}: {verdict.message}")
            if access:
                self._allow(call, flags)
                return
        self._open(call, name, flags)

    def _allow(self, call: notify.Notification, mode: int) -> None:
        """Answer access(2) for reading and writing. No device can be executed."""
        if mode & os.X_OK:
            notify.refuse(self._listener, call.id, errno.EACCES)
        else:
            notify.give_value(self._listener, call.id, 0)

    def _answer_lock(self, call: notify.Notification) -> None:
        """Answer an flock(2): the lease of the port is the lock."""
        if self.leased.has(call.pid, call.args[0] & 0xFFFFFFFF):
            notify.give_value(self._listener, call.id, 0)
        else:
            notify.let_go_on(self._listener, call.id)

    def _copy(self, call: notify.Notification, number: int, flags: int) -> bool:
        """Answer the open of /dev/fd/N, where N is a port that the process has open.

        The answer is the same open file description, because a new one would be a second open of
        the port. Returns False if the process has only the port's path (O_PATH) there, so that this
        is a real open: open(2).
        """
        process = os.pidfd_open(target.process_of(call.pid))
        try:
            fd = take_fd(process, number)
        finally:
            os.close(process)
        if fcntl(fd, F_GETFL) & os.O_PATH:
            os.close(fd)
            return False
        self._put(call, fd, flags)
        return True

    def _open(self, call: notify.Notification, name: str, flags: int) -> None:
        pid = target.process_of(call.pid)
        if not flags & os.O_NOCTTY and target.would_get_terminal(pid):
            what = "does not become the controlling terminal by open() here; TIOCSCTTY does it"
            self.complaints.say("", _CONTROLLING, f"{name}: {what} (setsid -c)")
        patience = self._patience(call, name)
        fd = self._broker.open(name, self._job.wait, pid, patience, _wire_flags(flags))
        if not flags & os.O_NONBLOCK:
            os.set_blocking(fd, True)
        if flags & os.O_APPEND:
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | os.O_APPEND)
        self.leased.add(fd)
        try:
            self._held.keep(name, fd)
        except OSError as error:
            self.complaints.say("", _NOT_HELD, f"{error.strerror} from this open on")
        self.complaints.forget(name)  # before the program goes on, and may be refused the next
        self._put(call, fd, flags)

    def _put(self, call: notify.Notification, fd: int, flags: int) -> None:
        try:
            notify.put_fd(self._listener, call.id, fd, cloexec=bool(flags & os.O_CLOEXEC))
        except OSError as error:  # the program's own limit: nothing of ours to complain of
            notify.refuse(self._listener, call.id, error.errno or errno.EMFILE)

    def _refuse(self, call: notify.Notification, name: str, error: OSError) -> None:
        number = error.errno or errno.EIO
        self.complaints.say(name, number, line_of(error))
        if number == errno.ETIMEDOUT:
            number = errno.EBUSY
        if number == errno.EINVAL:
            number = errno.ENOENT
        if number == errno.EDQUOT:
            number = errno.EMFILE
        number = number if number in _ORDINARY else errno.EIO
        notify.refuse(self._listener, call.id, number)

    def _interrupt(self, call: notify.Notification) -> None:
        """End the call as a driver ends an open that a signal interrupts.

        It is restarted after a handler with SA_RESTART or a stop. It fails with EINTR after any
        other handler.
        """
        pending = Pending(call.pid)
        notify.refuse(
            self._listener, call.id, notify.ERESTARTSYS if pending.is_ours else errno.EINTR
        )

    def _patience(self, call: notify.Notification, name: str) -> Patience:
        """Return what ends the wait of a call: it is over, or a signal waits for its thread."""

        def gone() -> bool:
            return not notify.is_waiting(self._listener, call.id) or Pending(call.pid).any

        return Patience(gone, line_for(self._job, name, call.pid))


def read_request(
    pid: int, kind: int, args: list[int], memory: Memory
) -> tuple[int, str, int, int] | None:
    """Return (dirfd, path, flags or mode, RESOLVE_ flags) of a call.

    None if the call cannot be the open of a port. Raises PermissionError if the process's memory
    may not be read.
    """
    if kind in (notify.OPEN, notify.CREAT, notify.ACCESS):
        dirfd, address = target.AT_FDCWD, args[0]
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC if kind == notify.CREAT else args[1]
    elif kind in (notify.OPENAT, notify.OPENAT2, notify.FACCESSAT):
        dirfd, address, flags = _signed(args[0]), args[1], args[2]
    else:
        return None
    resolve = 0
    if kind == notify.OPENAT2:
        how = target.read_open_how(pid, args[2], memory)
        if how is None:
            return None
        flags, resolve = how
    flags &= 0xFFFFFFFF
    if kind not in _ACCESS and not _can_be_a_port(flags):
        return None
    path = target.read_path(pid, address, memory)
    return None if path is None else (dirfd, path, flags, resolve)


def _wire_flags(flags: int) -> int:
    """Return the flags of open(2) to send to the broker.

    Reading and writing is 0, because an older broker knows nothing else. O_DSYNC, which the
    protocol lacks, becomes O_SYNC; neither can be set later. O_ASYNC is left out: an open with it
    has no effect, open(2), and here F_SETFL would send SIGIO to this process.
    """
    access = {os.O_RDONLY: READ, os.O_WRONLY: WRITE}.get(flags & os.O_ACCMODE, 0)
    if flags & os.O_APPEND:
        access |= APPEND
    if flags & os.O_SYNC:  # it has the bit of O_DSYNC, too
        access |= SYNC
    return access


def _can_be_a_port(flags: int) -> bool:
    if flags & (os.O_PATH | os.O_DIRECTORY):
        return False
    return flags & (os.O_CREAT | os.O_EXCL) != os.O_CREAT | os.O_EXCL  # a lock file, say


def _signed(value: int) -> int:
    """Return the C int in a 64-bit argument."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value & 0x80000000 else value
