"""The supervisor: answers the open() and access() of a port by an unmodified program.

What it answers with comes from the broker; everything that is no brokered port goes on
in the kernel, with the program's own rights, as if nobody had looked. So does a path it
cannot read.

What an injected descriptor cannot be, and a plain open() of the node would have been:
read-only or write-only (it is always both), waiting for carrier (the broker does not
wait for it, whatever the flags), and the controlling terminal of a session leader that
has none and does not say O_NOCTTY (TIOCSCTTY still makes it so). stat() is never asked
about: a program that calls it first (screen, C-Kermit) needs the node, or a link with
the alias's name that leads to it.

When the supervisor is killed, the program keeps the ports it has; the kernel answers
ENOSYS to every call that would have been asked about.
"""

from __future__ import annotations

import errno
import os
import threading

from ttybroker.run import notify, target
from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol, TypeVar

    from ttybroker.wire import PortInfo, Verdict

    class Client(Protocol):
        """What is needed of `ttybroker.client.Client`."""

        def open(self, name: str, *, wait: float | None = None, pid: int = 0) -> int: ...
        def check(self, name: str) -> Verdict: ...
        def ports(self) -> list[PortInfo]: ...
        def close(self) -> None: ...

    Connect = Callable[[], Client]
    T = TypeVar("T")

_ENOUGH_IDLE = 2  # threads that wait for work, connections without any; more than that end
_DEAD = (errno.ECONNREFUSED, errno.EPROTO)  # what BrokerUnavailable and ProtocolError have
# Decided by the string alone, where no alias has that path: ports are not called so.
_NEVER = frozenset(("/dev/tty", "/dev/null", "/dev/zero", "/dev/full", "/dev/ptmx"))
_NEVER_BELOW = ("/dev/pts/", "/proc/", "/sys/")

# open(2) and access(2) of a device can fail like this; anything else would puzzle a program.
_ORDINARY = (errno.EACCES, errno.EBUSY, errno.ENOENT, errno.ENODEV, errno.EIO, errno.ENXIO)


def is_serial_name(name: str) -> bool:
    """Whether `name` looks like a kernel name of a serial port: tty, letters, a number."""
    if not (name.startswith("tty") and name.isascii() and name.isalnum()):
        return False
    letters = name[3:].rstrip("0123456789")
    return letters.isalpha() and len(letters) + 3 < len(name)


class Names:
    """Which paths are brokered: those of `wanted`, or of all there is when that is empty."""

    def __init__(self, wanted: tuple[str, ...], ports: Iterable[PortInfo]) -> None:
        self._wanted = wanted
        self.paths: dict[str, str] = {}
        self.update(ports)

    def update(self, ports: Iterable[PortInfo]) -> None:
        """Take the list as it is now: adapters come and go, and an alias goes with its own."""
        devices = {port.name: port.device for port in ports}
        names = self._wanted or tuple(devices)
        paths = {f"/dev/{name}": name for name in names}
        # A node that has a name of its own here keeps it; else the first alias has it.
        for name in names:
            paths.setdefault(devices.get(name) or f"/dev/{name}", name)
        self.paths = paths

    def of(self, path: str) -> str | None:
        """The port at this very path. Names of serial ports nobody listed count, too: the
        broker has something to say about them."""
        name = self.paths.get(path)
        if name is None and not self._wanted and path.startswith("/dev/tty"):
            return path[5:] if is_serial_name(path[5:]) else None
        return name


class Complaints:
    """One line on stderr for each cause a port was refused for, not for every retry."""

    def __init__(self) -> None:
        self._said: set[tuple[str, int]] = set()

    def say(self, name: str, number: int, line: str) -> None:
        if (name, number) not in self._said:
            self._said.add((name, number))
            say(line)

    def forget(self, name: str) -> None:
        """It worked: a refusal after this is news again."""
        self._said -= {said for said in self._said if said[0] == name}


class Connections:
    """To the broker: one question at a time on each, so as many as there are questions."""

    def __init__(self, connect: Connect, first: Client) -> None:
        self._connect = connect
        self._spare = [first]

    def ask(self, question: Callable[[Client], T]) -> T:
        """`question(client)`, on a connection that is free or a new one. OSError."""
        try:
            client = self._spare.pop()
        except IndexError:
            client = self._connect()
        keep = False
        try:
            answer = question(client)
            keep = True
            return answer
        except OSError as error:
            keep = error.errno not in _DEAD
            raise
        finally:
            if keep and len(self._spare) < _ENOUGH_IDLE:
                self._spare.append(client)
            else:
                client.close()


class Supervisor:
    """Answers one listener, with as many threads as there are calls that wait for the broker.

    `wait` is in seconds, as for `Client.open`. `close` of the listener is the caller's.
    """

    def __init__(
        self, listener: int, broker: Connections, names: Names, wait: float | None
    ) -> None:
        self._listener = listener
        self._broker = broker
        self._names = names
        self._wait = wait
        self._complaints = Complaints()
        self._lock = threading.Lock()
        self._idle = 0

    def start(self) -> None:
        """Begin to answer."""
        notify.wake_in_step(self._listener)
        self._idle = _ENOUGH_IDLE
        for _ in range(_ENOUGH_IDLE):
            threading.Thread(target=self._work, daemon=True).start()

    def _add_thread(self) -> None:
        with self._lock:
            self._idle += 1
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError:  # no thread to be had: those that are there do it one by one
            with self._lock:
                self._idle -= 1

    def _work(self) -> None:
        """One thread's life. Following a path can block (a dead file server, one that the
        program itself runs), and the broker can take its time: somebody else has to wait in
        the kernel before that."""
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
                self._answer(call)
            except Exception as error:
                say(f"could not answer process {call.pid}: {error!r}")
                notify.refuse(self._listener, call.id, errno.EIO)
            with self._lock:
                self._idle += 1
                if self._idle > _ENOUGH_IDLE:
                    self._idle -= 1
                    return

    def _answer(self, call: notify.Notification) -> None:
        request = _read(call)
        name = self._find(call.pid, *request) if request else None
        if name is None or request is None:
            notify.let_go_on(self._listener, call.id)
        elif notify.is_waiting(self._listener, call.id):
            try:
                self._give(call, name, request[2])
            except OSError as error:
                self._refuse(call, name, error)

    def _find(self, pid: int, dirfd: int, path: str, flags: int) -> str | None:
        """The port that the process means, or None. Names first: most paths need no more."""
        name = self._names.of(path)
        if name is not None or path in _NEVER or path.startswith(_NEVER_BELOW):
            return name
        place = target.locate(pid, dirfd, path)
        try:
            node = target.device_behind(place, follow=not flags & os.O_NOFOLLOW)
        except FileNotFoundError:
            last = target.dangling_name(place)
            return self._names.of(f"/dev/{last}") if last else None
        if node is None:
            return None
        if node not in self._names.paths and is_serial_name(node.rpartition("/")[2]):
            try:
                self._names.update(self._broker.ask(lambda client: client.ports()))
            except OSError:
                pass  # the open itself will say it
        return self._names.of(node)

    def _give(self, call: notify.Notification, name: str, flags: int) -> None:
        access = call.kind in (notify.ACCESS, notify.FACCESSAT)
        if access or f"/dev/{name}" not in self._names.paths:
            verdict = self._broker.ask(lambda client: client.check(name))
            if not verdict.known:
                notify.let_go_on(self._listener, call.id)
                return
            if not verdict.allowed:
                raise PermissionError(errno.EACCES, f"{name}: {verdict.message}")
            if access:
                self._allow(call, flags)
                return
        self._open(call, name, flags)

    def _allow(self, call: notify.Notification, mode: int) -> None:
        """access(2) for reading and writing; no device can be executed."""
        if mode & os.X_OK:
            notify.refuse(self._listener, call.id, errno.EACCES)
        else:
            notify.give_value(self._listener, call.id, 0)

    def _open(self, call: notify.Notification, name: str, flags: int) -> None:
        pid = target.process_of(call.pid)
        fd = self._broker.ask(lambda client: client.open(name, wait=self._wait, pid=pid))
        if not flags & os.O_NONBLOCK:
            os.set_blocking(fd, True)
        try:
            notify.put_fd(self._listener, call.id, fd, cloexec=bool(flags & os.O_CLOEXEC))
        except OSError as error:  # the program's own limit: nothing of ours to complain of
            notify.refuse(self._listener, call.id, error.errno or errno.EMFILE)
        self._complaints.forget(name)

    def _refuse(self, call: notify.Notification, name: str, error: OSError) -> None:
        number = error.errno or errno.EIO
        self._complaints.say(name, number, line_of(error))
        if number == errno.ETIMEDOUT:
            number = errno.EBUSY
        if number == errno.EINVAL:
            number = errno.ENOENT
        number = number if number in _ORDINARY else errno.EIO
        notify.refuse(self._listener, call.id, number)


def line_of(error: OSError) -> str:
    """What to show: a BrokerError's own words, a plain OSError's without the number."""
    return str(error.strerror) if type(error).__module__ == "builtins" else str(error)


def _read(call: notify.Notification) -> tuple[int, str, int] | None:
    """(dirfd, path, flags or mode) of a call; None when it cannot be the open of a port."""
    kind, args = call.kind, call.args
    if kind in (notify.OPEN, notify.CREAT, notify.ACCESS):
        dirfd, address = target.AT_FDCWD, args[0]
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC if kind == notify.CREAT else args[1]
    elif kind in (notify.OPENAT, notify.OPENAT2, notify.FACCESSAT):
        dirfd, address, flags = _signed(args[0]), args[1], args[2]
    else:
        return None
    if kind == notify.OPENAT2:
        how = target.read_open_how(call.pid, args[2])
        if how is None or how[1]:  # RESOLVE_*: whoever says these is after files, not ports
            return None
        flags = how[0]
    flags &= 0xFFFFFFFF
    if kind not in (notify.ACCESS, notify.FACCESSAT) and not _can_be_a_port(flags):
        return None
    path = target.read_path(call.pid, address)
    return None if path is None else (dirfd, path, flags)


def _can_be_a_port(flags: int) -> bool:
    if flags & (os.O_PATH | os.O_DIRECTORY):
        return False
    return flags & (os.O_CREAT | os.O_EXCL) != os.O_CREAT | os.O_EXCL  # a lock file, say


def _signed(value: int) -> int:
    """The C int in a 64-bit argument."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value & 0x80000000 else value


def reach(connect: Connect, wanted: tuple[str, ...]) -> tuple[Connections, Names]:
    """The broker and the names that are brokered; raises OSError when one of them is refused."""
    client = connect()
    for name in wanted:
        verdict = client.check(name)
        if not verdict.allowed:
            raise PermissionError(errno.EACCES, f"{name}: {verdict.message}")
    names = Names(wanted, client.ports())
    return Connections(connect, client), names
