"""The way to the broker: find it, ask, receive. One connection carries one request at a time."""

from __future__ import annotations

import errno
import os
import select
import struct
import sys
import time
from _thread import allocate_lock

from ttybroker import asking, wire
from ttybroker.errors import (
    BY_ERRNO,
    BrokerError,
    BrokerUnavailable,
    InvalidName,
    ProtocolError,
)
from ttybroker.say import printable

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")
else:
    import _socket as socket  # what `socket` has besides is enums, which cost more than all of ours

VARIABLE = "TTYBROKER_SOCKET"
MAX_PID = 0x7FFFFFFF  # pid_t
_TRUNCATED = socket.MSG_CTRUNC | socket.MSG_TRUNC
_WENT_AWAY = "the broker went away; is it running? see: systemctl status ttybroker.service"
# How long an answer may take, in seconds. The broker gives a device 40 to open, on top of the
# caller's own wait (root/ask.py, OPEN_LIMIT). A port that is taken back is reset first.
DEVICE_LIMIT = 45.0
ANSWER_LIMIT = 10.0
_LONGEST_POLL = 0x7FFFFFFF  # milliseconds, an int: poll(2)
_TIMEVAL = struct.Struct("qq")  # struct timeval: seconds, microseconds
_UCRED_SPACE = socket.CMSG_LEN(12)  # struct ucred: pid, uid, gid
_RIGHTS_SPACE = socket.CMSG_LEN(4)  # room for one descriptor; CMSG_SPACE(4) has it for two

# If a daemon ends before it answers, as at a restart, the client asks the next one. It does so for
# as long as it would have waited anyway, or this many times in all.
TRIES = 5
COMES_BACK = 2.0  # seconds until somebody listens again; systemd's socket always listens
PAUSE = 0.05  # seconds between looks

FULL = (errno.EMFILE, errno.ENFILE)  # no descriptor is left: for the process, for the machine

# a path, a connected socket, or wherever it is
Broker = str | os.PathLike[str] | socket.socket | None

_old: dict[str, set[str]] = {}  # where a daemon speaks version 1; what was said to be lost there

_pair: Client | None = None  # to the backend of init_backend()
_pair_pid = 0  # the process it belongs to: a forked child must not mix its answers with ours
_pair_lock = allocate_lock()


class BrokenOff(BrokerUnavailable):
    """The broker ended before it answered. A lease that it may have granted ended with it."""


class OldBroker(BrokenOff):
    """The broker speaks only version 1. It ended the connection and did nothing."""


class RetryBudget:
    """How often an interrupted request is repeated."""

    def __init__(self, wait: float | None) -> None:
        self._end = time.monotonic() + _milliseconds(wait) / 1000 if wait else None
        self._tries = 1

    def left(self) -> float | None:
        """Return the rest of the wait in seconds.

        It is at least 0.001, because 0 would mean "do not wait".
        """
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)

    def another(self) -> bool:
        """Return whether the request may be repeated once more."""
        self._tries += 1
        return self._tries <= TRIES if self._end is None else time.monotonic() < self._end


class Client:
    """A connection to the broker.

    Only one thread at a time may use it, so make one for each thread. If it was made from the path
    of the broker's socket, it connects again when the broker is restarted.
    """

    def __init__(self, sock: socket.socket, path: str | None = None, label: str = "") -> None:
        self._sock = sock
        self._path = path
        self._label = label
        self._version = wire.VERSION  # an older broker refuses it, and is asked again
        self._name = ""  # of the port that the request under way is about
        self._end = 0.0  # when to give up on its answer, by time.monotonic()
        self._tell: Callable[[wire.Waiting], None] | None = None  # why it waits
        self.session = wire.NO_SESSION  # of the last port that was opened
        self.joined = False  # the session had it already

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait on."""
        return self._sock.fileno()

    @property
    def path(self) -> str | None:
        """Return the path of the broker's socket; None if there is only this connection."""
        return self._path

    def close(self) -> None:
        """End the connection. This withdraws a request that is in progress."""
        self._sock.close()

    def take_socket(self) -> socket.socket:
        """Return the socket itself, which the caller must close."""
        return self._sock

    def time_left(self) -> float:
        """Return in how many seconds the client gives up waiting for the current answer."""
        return max(self._end - time.monotonic(), 0.0)

    def open(
        self,
        name: str,
        *,
        wait: float | None = None,
        pid: int = 0,
        flags: int = 0,
        session: bytes = wire.NO_SESSION,
    ) -> int:
        """Return an open descriptor of the port `name`: non-blocking, close-on-exec, the caller's.

        wait: seconds to queue for a busy port; None: do not queue. pid: the process on whose behalf
        this asks, which must belong to the caller; 0: the caller itself. The lock file names it.
        flags: READ and others of ttybroker.wire. session: 16 bytes, those of an earlier open to
        join.

        An older broker may not support all of these. Then `tell_why` says which are lost.
        `self.session` is the session afterwards. Raises BrokerError; TypeError or ValueError
        for an invalid name, pid or wait.
        """

        def ask(left: float | None) -> int:
            self.ask_open(name, wait=left, pid=pid, flags=flags, session=session)
            return self.take_descriptor()

        return self._until_answered(ask, wait)

    def ask_open(
        self,
        name: str,
        *,
        wait: float | None = None,
        pid: int = 0,
        flags: int = 0,
        session: bytes = wire.NO_SESSION,
        tell: Callable[[wire.Waiting], None] | None = None,
    ) -> None:
        """Send the request of `open`, and do not wait for the answer.

        tell: `take_answer` calls it each time that the reason for the wait has changed, instead of
        `tell_why`. An older broker reports only a slow device.
        """
        if not 0 <= pid <= MAX_PID:
            raise ValueError(f"pid must be that of a process or 0, not {pid}")
        milliseconds = _milliseconds(wait)
        self._tell = tell
        if tell is not None:
            flags |= wire.PROGRESS
        request = wire.Open(checked(name), milliseconds, pid, os.getpid(), flags, session,
                            self._label)  # fmt: skip
        if self._version == 1:
            self._say_lost(request)
        self._send(request, milliseconds / 1000 + DEVICE_LIMIT)

    def take_descriptor(self) -> int:
        """Wait for the answer to `ask_open`, and take the descriptor."""
        while (descriptor := self.take_answer()) is None:
            pass
        return descriptor

    def take_answer(self) -> int | None:
        """Take the next message after `ask_open`.

        Returns None if the message only gave the reason for a delay. That has been reported.
        """
        return self._granted(*self._receive())

    def _granted(self, reply: wire.Reply, descriptor: int | None) -> int | None:
        if isinstance(reply, wire.Grant) and descriptor is not None:
            self.session, self.joined = reply.session, reply.joined
            return descriptor
        if descriptor is not None:
            os.close(descriptor)
        if not isinstance(reply, wire.Waiting):
            raise _unexpected(reply)
        if self._version > 1:
            reply.message = f"{self._name}: {reply.message}"
        if self._tell is not None:
            self._tell(reply)
        elif reply.reason in (0, wire.SLOW):
            tell_why(reply.message)
        return None

    def news(self) -> wire.Lent | wire.Ending | int | None:
        """Return the next message about the port that this connection lends (YIELD_USER or _ALL).

        It is Lent if somebody asks for the port, Ending if its lease ends soon, or a descriptor if
        the port is back. The caller owns the descriptor. It is None if the message only gave the
        reason for a delay. Raises BrokerError if the port does not come back.
        """
        reply, descriptor = self._receive()
        if isinstance(reply, wire.Lent | wire.Ending) and descriptor is None:
            return reply
        return self._granted(reply, descriptor)

    def ports(self, names: tuple[str, ...] = (), *, details: bool = False) -> list[wire.PortInfo]:
        """Return the ports that the caller may use; for root and the policy's admins every port.

        names: only these, in the order of the whole list; none: all. details: with the facts about
        lines that the caller has leased; root and admins get those of all leased lines. Raises
        BrokerError.
        """
        for name in names:
            checked(name)
        return self._until_answered(lambda _: self._ports(names, wire.DETAILS if details else 0))

    def watch(
        self,
        names: tuple[str, ...] = (),
        *,
        details: bool = False,
        again: float | None = None,
        reader: int | None = None,
    ) -> Iterator[list[wire.PortInfo]]:
        """Yield what `ports` returns, now and each time that something in it has changed.

        This does not end by itself, and the connection is for this alone from then on. After
        `again` seconds without news it yields the last list once more. Raises BrokerError, and
        BrokenPipeError when nobody reads from the pipe or terminal `reader` any more.
        """
        for name in names:
            checked(name)
        flags = wire.WATCH | (wire.DETAILS if details else 0)
        asked = names if len(names) <= wire.MAX_NAMES else ()
        budget = RetryBudget(None)
        while True:
            try:
                self._check_version("--watch")
                self._send(wire.List(0, flags, asked))
                for ports in self._updates(again, reader):
                    budget = RetryBudget(None)
                    yield [port for port in ports if not names or port.name in names]
            except BrokenOff:
                for pause in self.come_back(budget):
                    time.sleep(pause)

    def _updates(self, again: float | None, reader: int | None) -> Iterator[list[wire.PortInfo]]:
        """Yield each answer to a watched list, and the last one again as `watch` says."""
        poll, ports = select.poll(), self._update()
        poll.register(self._sock, select.POLLIN)
        if reader is not None:
            poll.register(reader, 0)  # POLLERR when the other end of a pipe is closed: poll(2)
        self._end = float("inf")
        while True:
            yield ports
            ready = dict(poll.poll(None if again is None else again * 1000))
            if reader in ready:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            if self._sock.fileno() in ready:
                ports = self._update()

    def _update(self) -> list[wire.PortInfo]:
        """Return one answer, with all of its messages."""
        found: list[wire.PortInfo] = []
        while True:
            reply, descriptor = self._receive()
            if descriptor is not None:
                os.close(descriptor)
            if not isinstance(reply, wire.Ports):
                raise _unexpected(reply)
            found += reply.ports
            if not reply.more:
                return found

    def _check_version(self, option: str) -> None:
        """Raise BrokerError if the broker is too old for an option that the caller uses."""
        if self._version == 1:
            what = f"this broker is an older one, without {option}"
            raise BrokerError(errno.EOPNOTSUPP, what)

    def _ports(self, names: tuple[str, ...], flags: int) -> list[wire.PortInfo]:
        found: list[wire.PortInfo] = []
        asked = names if len(names) <= wire.MAX_NAMES else ()
        while True:
            if flags:
                self._check_version("--details")
            reply = self._answer(wire.List(len(found), flags, asked))
            if not isinstance(reply, wire.Ports) or (reply.more and not reply.ports):
                raise _unexpected(reply)
            found.extend(reply.ports)
            if not reply.more:  # an older broker leaves none out
                return [port for port in found if not names or port.name in names]

    def revoke(self, name: str, hold: float = 0) -> int:
        """Take the port back from its holder, and return when it is free.

        hold: keep the holder's user from the port for that many seconds. Returns how many waiting
        requests of the holder's user were withdrawn with it.

        Raises BrokerError, also if the broker ends meanwhile. The request is not repeated then,
        because it might hit the next holder.
        """
        request = wire.Revoke(checked(name), _milliseconds(hold))
        try:
            reply = self._answer_revoke(request)
        except OldBroker:  # which took nothing back
            for pause in self.come_back(RetryBudget(None)):
                time.sleep(pause)
            reply = self._answer_revoke(request)
        if not isinstance(reply, wire.Done):
            raise _unexpected(reply)
        return reply.withdrawn

    def _answer_revoke(self, request: wire.Revoke) -> wire.Reply:
        if request.hold and self._version == 1:
            what = f"{request.name}: not taken back: this broker is an older one, without --hold"
            raise BrokerError(errno.EOPNOTSUPP, what)
        return self._answer(request, DEVICE_LIMIT)

    def check(
        self, name: str, *, uid: int | None = None, groups: tuple[int, ...] = ()
    ) -> wire.Verdict:
        """Return what the policy says about `name` for the caller.

        Root and admins may ask about a user with this uid and these groups. Raises BrokerError.
        """
        if len(groups) > wire.MAX_GROUPS:
            what = f"{name}: the user is in more than {wire.MAX_GROUPS} groups; ask as that user"
            raise BrokerError(errno.E2BIG, what)
        request = wire.Check(checked(name), uid, groups)

        def ask(_: float | None) -> wire.Verdict:
            reply = self._answer(request)
            if not isinstance(reply, wire.Verdict):
                raise _unexpected(reply)
            return reply

        return self._until_answered(ask)

    def shares_pids(self) -> bool:
        """Return whether the broker's pids mean something here: unix(7), SO_PEERCRED.

        In a pid namespace of our own, such as a container's, the broker has none.
        """
        peer = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return any(peer[:4])

    def status(self) -> tuple[int, wire.Running]:
        """Return the broker's pid, and what it says about itself.

        The pid comes from the kernel (SCM_CREDENTIALS, unix(7)). It is 0 if the broker is in a pid
        namespace that cannot be seen from here. Raises BrokerError.
        """
        return self._until_answered(lambda _: self._status())

    def _status(self) -> tuple[int, wire.Running]:
        self._have_signed(True)
        self._send(wire.Status())
        reply, pid = self._receive_signed()
        self._have_signed(False)
        if not isinstance(reply, wire.Running):
            raise _unexpected(reply)
        return pid, reply

    def _have_signed(self, wanted: bool) -> None:
        """Ask the kernel to put the sender's credentials beside each message, or stop that."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, wanted)
        except OSError as error:
            raise _unavailable(error) from None

    def come_back(self, budget: RetryBudget) -> Iterator[float]:
        """Connect to the next broker after this one has ended.

        Yields the seconds to wait between tries. Raises BrokerUnavailable if none starts, or after
        enough tries.
        """
        if self._path is None or not budget.another():
            raise BrokerUnavailable(errno.ECONNREFUSED, _WENT_AWAY)
        end = time.monotonic() + COMES_BACK
        while True:
            try:
                sock = _dial(self._path)
                break
            except BrokerUnavailable:
                if time.monotonic() >= end:
                    raise
            yield PAUSE
        self._sock.close()
        self._sock = sock
        self._version = 1 if self._path in _old else wire.VERSION

    def _until_answered(self, ask: Callable[[float | None], T], wait: float | None = None) -> T:
        budget = RetryBudget(wait)
        while True:
            try:
                return ask(wait)
            except BrokenOff:
                for pause in self.come_back(budget):
                    time.sleep(pause)
                wait = budget.left()

    def connection(self, label: str = "") -> Client:
        """Return a further connection, from a backend of init_backend()."""
        self._send(wire.Connect())
        descriptor = self.take_descriptor()
        try:
            return Client(socket.socket(fileno=descriptor), label=label)
        except OSError:
            os.close(descriptor)
            raise _broken("the broker sent no socket") from None

    def _say_lost(self, request: wire.Open) -> None:
        """Say, once for each broker, which of the caller's wishes it does not support."""
        path = self._path or ""
        said = _old.get(path, set())
        lost = _lost(request) - said
        if lost:
            said |= lost
            what = " and ".join(sorted(lost))
            tell_why(f"{request.name}: the broker at {path} is an older one, without {what}")

    def _send(self, request: wire.Request, limit: float | None = None) -> None:
        """Send a request, and allow the answer `limit` seconds, or ANSWER_LIMIT."""
        self._name = getattr(request, "name", "")
        self._end = time.monotonic() + (ANSWER_LIMIT if limit is None else limit)
        data = asking.encode_request(request, self._version)
        try:
            self._sock.sendmsg([data], _credentials(), socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionError):
            pass  # its last word may still be there to read
        except OSError as error:
            raise _unavailable(error) from None

    def _answer(self, request: wire.Request, limit: float | None = None) -> wire.Reply:
        """Send a request, and return the reply, which has no descriptor beside it."""
        self._send(request, limit)
        reply, descriptor = self._receive()
        if descriptor is not None:
            os.close(descriptor)
            raise _broken("the broker sent a descriptor nobody asked for")
        return reply

    def _receive_signed(self) -> tuple[wire.Reply, int]:
        """Return a reply and the pid of its sender. There is no room for a descriptor beside it."""
        data, ancillary, flags = self._take(_UCRED_SPACE)
        if data and (flags & _TRUNCATED or not ancillary):
            raise _broken("the broker's answer is not signed, or too large")
        return self._read(data, flags), int.from_bytes(ancillary[0][2][:4], sys.byteorder)

    def _receive(self) -> tuple[wire.Reply, int | None]:
        """Return a reply and the descriptor beside it.

        With MSG_CMSG_CLOEXEC: socket.recv_fds() ignores its flags and would let every child inherit
        the port.
        """
        data, ancillary, flags = self._take(_RIGHTS_SPACE)
        descriptor = _descriptor(ancillary)
        if descriptor is None and flags & _TRUNCATED == socket.MSG_CTRUNC:  # recvmsg(2)
            raise _too_many(errno.EMFILE, self._name)
        try:
            return self._read(data, flags), descriptor
        except BrokerError:
            if descriptor is not None:
                os.close(descriptor)
            raise

    def _take(self, room: int) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        """Return the next datagram, its control messages, and the flags of recvmsg(2)."""
        try:
            self._wait()
            try:
                return self._sock.recvmsg(wire.MAX_REPLY, room, socket.MSG_CMSG_CLOEXEC)[:3]
            except ConnectionResetError:  # cut off while we sent; told once, then its last word
                return self._sock.recvmsg(wire.MAX_REPLY, room, socket.MSG_CMSG_CLOEXEC)[:3]
        except ConnectionError:
            raise BrokenOff(errno.ECONNREFUSED, _WENT_AWAY) from None
        except BrokerError:
            raise
        except OSError as error:
            raise _unavailable(error) from None

    def _wait(self) -> None:
        """Wait until there is something to read.

        Raises BrokerUnavailable when the broker's time is over. The connection is closed then,
        because a late answer must not be taken for the answer to the next request.
        """
        if self._sock.fileno() < 0:  # closed: recvmsg(2) says so
            return
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while not poll.poll(min(self.time_left() * 1000 + 1, _LONGEST_POLL)):
            if not self.time_left():
                self.close()
                raise _silent(self._path)

    def _read(self, data: bytes, flags: int) -> wire.Reply:
        """Return the reply in a datagram, masked so that a terminal obeys nothing in it.

        Raises the error if the reply is a refusal.
        """
        if not data:
            _old.pop(self._path or "", None)  # the next daemon may be a newer one
            raise BrokenOff(errno.ECONNREFUSED, _WENT_AWAY)
        if flags & _TRUNCATED:
            raise _broken("the broker's answer is too large")
        try:
            reply = asking.decode_reply(data)
        except wire.Malformed as malformed:
            raise _broken(f"this is not the broker's protocol: {malformed}") from None
        _mask(reply)
        if isinstance(reply, wire.Refused):
            raise self._refusal(reply, data[0])
        return reply

    def _refusal(self, refused: wire.Refused, version: int) -> BrokerError:
        if version == self._version == wire.VERSION:
            kind = BY_ERRNO.get(refused.errno, BrokerError)
            return kind.of(refused, self._name, self._path)
        if refused.errno == errno.EPROTO and self._version != version:
            if self._path is None:
                what = "the broker behind this socket is an older one: connect by its path instead"
                return ProtocolError(errno.EPROTO, what)
            _old.setdefault(self._path, set())
            return OldBroker(errno.EPROTO, refused.cause)
        kind = BY_ERRNO.get(refused.errno, BrokerError)
        if kind is InvalidName:  # a driver's EINVAL: the name is good, or it would not be asked for
            kind = BrokerError
        return kind(refused.errno, refused.cause, refused.holder)


def _warn(message: str) -> None:
    """Warn by logging, which is loaded only here."""
    import logging

    logging.getLogger("ttybroker").warning(message)


tell_why: Callable[[str], None] = _warn  # gets the reason when a port takes long to open


def connect(broker: Broker = None, *, label: str = "") -> Client:
    """Connect to the broker.

    `broker` is a path, or a connected socket, which the caller keeps. If it is None, the broker is
    the backend of init_backend(). Without a backend it is the one at $TTYBROKER_SOCKET, and
    otherwise the one at /run/ttybroker/socket.

    `label` says for whom the ports are opened, in at most 80 printable characters. Others see it
    beside the holder. Nobody checks it.

    Raises BrokerUnavailable; BrokerError if too many files are open; TypeError or ValueError for an
    invalid label.
    """
    if not isinstance(label, str):
        raise TypeError(f"a label must be a string, not {label!r}")
    if not asking.valid_label(label):
        raise ValueError(f"a label is at most {wire.MAX_LABEL} printable characters")
    if isinstance(broker, socket.socket):
        try:
            return Client(socket.socket(fileno=os.dup(broker.fileno())), label=label)
        except OSError as error:
            if error.errno in FULL:
                raise _too_many(error.errno) from None
            what = f"the socket to the broker: {error.strerror}; make another connection"
            raise BrokerUnavailable(errno.ECONNREFUSED, what) from None
    if broker is None and _pair is not None:
        return _further_connection(_pair, label)
    path = os.fsdecode(broker or os.environ.get(VARIABLE) or wire.SOCKET)
    return Client(_dial(path), path, label)


def _dial(path: str) -> socket.socket:
    """Connect to the socket at `path`. Raises BrokerUnavailable; BrokerError without a descriptor.

    connect(2) waits while the listener's backlog is full, so it has a limit: SO_SNDTIMEO,
    socket(7).
    """
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        if error.errno in FULL:
            raise _too_many(error.errno) from None
        step = "may this process make sockets? see its RestrictAddressFamilies= or container"
        what = f"no broker at {path}: {error.strerror}; {step}"
        raise BrokerUnavailable(errno.ECONNREFUSED, what) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(ANSWER_LIMIT), 0))
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise _silent(path) from None
    except OSError as error:
        sock.close()
        step = "is ttybrokerd running? see: systemctl status ttybroker.socket"
        if error.errno == errno.EACCES:
            step = f"its mode or that of a directory keeps you out; see: namei -l {path}"
        what = f"no broker at {path}: {error.strerror or error}; {step}"
        raise BrokerUnavailable(errno.ECONNREFUSED, what) from None
    return sock


def adopt_pair(pair: int) -> None:
    """Make the backend at the other end of this socket the broker of this process."""
    global _pair, _pair_pid
    _pair, _pair_pid = Client(socket.socket(fileno=pair)), os.getpid()


def has_backend() -> bool:
    """Return whether this process has a backend of its own, which no other program can ask."""
    return _pair is not None


def connection_for_child() -> socket.socket:
    """Return a connection to the backend of init_backend(), for a process to be forked.

    Pass it as `broker=` in the child. The broker serves only one process on a connection, the first
    that uses it.

    Raises BrokerUnavailable without a backend.
    """
    if _pair is None:
        what = "there is no backend of init_backend() in this process"
        raise BrokerUnavailable(errno.ECONNREFUSED, what)
    from socket import socket as whole  # it is the caller's, with all its methods

    return whole(fileno=_further_connection(_pair).take_socket().detach())


def _further_connection(pair: Client, label: str = "") -> Client:
    """Return a connection for one request.

    Each request has its own connection, so a thread that waits for a port does not keep other
    threads from asking.
    """
    if os.getpid() != _pair_pid:
        what = f"the backend belongs to process {_pair_pid}, not to its forked child; use a daemon"
        raise BrokerUnavailable(errno.ECONNREFUSED, what)
    with _pair_lock:
        return pair.connection(label)


def checked(name: str) -> str:
    """Return the name. Raises InvalidName; TypeError if it is no string."""
    if not isinstance(name, str):
        raise TypeError(f"a port is meant by its name, such as 'ttyS0', not by {name!r}")
    if not wire.valid_name(name):
        from ttybroker.names import not_a_name  # here, for most names are good

        raise InvalidName(errno.EINVAL, not_a_name(name))
    return name


def _milliseconds(wait: float | None) -> int:
    if wait is None:
        return 0
    if not hasattr(wait, "__float__"):
        raise TypeError(f"wait must be a number of seconds or None, not {wait!r}")
    if not wait >= 0:
        raise ValueError(f"wait must be a number of seconds or None, not {wait!r}")
    return -int(-1000 * float(min(wait, asking.MAX_WAIT)) // 1)


def _credentials() -> list[tuple[int, int, bytes]]:
    """Return the credentials to send, for a set-user-ID or set-group-ID program.

    The broker knows the effective ids (SO_PEERCRED). By default the kernel would put the real ones
    beside a message.
    """
    uid, gid = os.geteuid(), os.getegid()
    if (uid, gid) == (os.getuid(), os.getgid()):
        return []
    ucred = b"".join(number.to_bytes(4, sys.byteorder) for number in (os.getpid(), uid, gid))
    return [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ucred)]


def _descriptor(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(data) >= 4:
            return int.from_bytes(data[:4], sys.byteorder)
    return None


def _unexpected(reply: wire.Reply) -> BrokerError:
    return _broken(f"the broker answered with {type(reply).__name__}")


def _broken(what: str) -> ProtocolError:
    step = "is it ttybrokerd that listens there? see: systemctl status ttybroker.service"
    return ProtocolError(errno.EPROTO, f"{what}; {step}")


def explained(error: OSError, name: str = "") -> OSError:
    """Return what to raise instead of this error: a BrokerError if no descriptor is left."""
    full = error.errno in FULL and not isinstance(error, BrokerError)
    return _too_many(error.errno or 0, name) if full else error


def _too_many(number: int, name: str = "") -> BrokerError:
    """Return the error for want of a descriptor: EMFILE, or ENFILE for the whole machine's."""
    what = "too many open files here; close some, or allow more: ulimit -n"
    return BrokerError(number, f"{name}: {what}" if name else what)


def _lost(request: wire.Open) -> set[str]:
    """Return what the request wants that version 1 has no field for."""
    lost = set()
    if request.session != wire.NO_SESSION:
        lost.add("joining a session")
    if request.flags & (wire.YIELD_USER | wire.YIELD_ALL):
        lost.add("yielding")
    if request.flags & (wire.READ | wire.WRITE | wire.APPEND | wire.SYNC):
        lost.add("flags of open(2)")
    if request.label:
        lost.add("labels")
    return lost


def _mask(value: object) -> object:
    """Replace unprintable characters in every text of a message, in place.

    A program names itself, and anybody may listen at a socket. For a text, return the masked text.
    """
    if isinstance(value, str):
        return value if value.isprintable() else printable(value)
    if isinstance(value, tuple):
        return tuple(map(_mask, value))
    if isinstance(value, wire.Value):
        fields = vars(value)
        for name in fields:
            fields[name] = _mask(fields[name])
    return value


def _silent(path: str | None) -> BrokerUnavailable:
    if path is None:
        return BrokerUnavailable(errno.ECONNREFUSED, "the broker does not answer")
    what = f"the broker at {path} does not answer; see: systemctl status ttybroker.service"
    return BrokerUnavailable(errno.ECONNREFUSED, what)


def _unavailable(error: OSError) -> BrokerUnavailable:
    step = "is it running? see: systemctl status ttybroker.service"
    what = f"the broker does not answer: {error.strerror or error}; {step}"
    return BrokerUnavailable(errno.ECONNREFUSED, what)
