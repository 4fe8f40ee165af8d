"""The way to the broker: find it, ask, receive. One connection carries one request at a time."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from _thread import allocate_lock

from ttybroker import wire
from ttybroker.errors import (
    BY_ERRNO,
    BrokerError,
    BrokerUnavailable,
    InvalidName,
    ProtocolError,
)

VARIABLE = "TTYBROKER_SOCKET"
MAX_PID = 0x7FFFFFFF  # pid_t
# plain numbers, because an operation on socket's enum flags is slow
_NO_SIGNAL = int(socket.MSG_NOSIGNAL)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)
_WENT_AWAY = "the broker went away; is it running?"
_UCRED_SPACE = socket.CMSG_LEN(12)  # struct ucred: pid, uid, gid
_RIGHTS_SPACE = socket.CMSG_LEN(4)  # room for one descriptor; CMSG_SPACE(4) has it for two

# When a daemon ends before it answers, as one does that is started again: whoever asked asks the
# next one, for as long as it would have waited anyway, or so many times in all.
TRIES = 5
COMES_BACK = 2.0  # seconds until somebody listens again; behind systemd's socket there always is
PAUSE = 0.05  # seconds between looks

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

Broker = str | socket.socket | None  # a path, a connected socket, or wherever it is

_pair: Client | None = None  # to the backend of init_backend()
_pair_pid = 0  # the process it belongs to: a forked child must not mix its answers with ours
_pair_lock = allocate_lock()


class BrokenOff(BrokerUnavailable):
    """The broker ended before it answered; what a broken-off request was granted ended with it."""


class Again:
    """How often a request is asked again that was broken off."""

    def __init__(self, wait: float | None) -> None:
        self._end = time.monotonic() + wait if wait else None
        self._tries = 1

    def left(self) -> float | None:
        """What is left of its wait, which does not come to nothing: that would be no wait."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)

    def another(self) -> bool:
        """Whether it may be asked once more."""
        self._tries += 1
        return self._tries <= TRIES if self._end is None else time.monotonic() < self._end


class Client:
    """A connection to the broker. Not for two threads at once: make one for each. With the path
    of the broker's socket, it is made anew when the broker is started again."""

    def __init__(self, sock: socket.socket, path: str | None = None) -> None:
        self._sock = sock
        self._path = path
        self._port = ""  # that was asked for last

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket's descriptor, to wait on."""
        return self._sock.fileno()

    def close(self) -> None:
        """End the connection; a request under way is withdrawn by that."""
        self._sock.close()

    def detach(self) -> socket.socket:
        """The socket itself, from now on the caller's to close."""
        return self._sock

    def open(self, name: str, *, wait: float | None = None, pid: int = 0) -> int:
        """An open descriptor of the port `name`: non-blocking, close-on-exec, the caller's own.

        wait: seconds to queue for a busy port; None: do not. pid: the process on whose behalf
        (it is named in the lock file), one of the caller's own; 0: the caller.
        Raises BrokerError.
        """

        def ask(left: float | None) -> int:
            self.ask_open(name, wait=left, pid=pid)
            return self.take_descriptor()

        return self._until_answered(ask, wait)

    def ask_open(self, name: str, *, wait: float | None = None, pid: int = 0) -> None:
        """The first half of `open`: ask, and do not wait for the answer."""
        if not 0 <= pid <= MAX_PID:
            raise ValueError(f"pid is that of a process, or 0, not {pid}")
        self._port = _checked(name)
        self._send(wire.Open(name, _milliseconds(wait), pid))

    def take_descriptor(self) -> int:
        """The second half of `open`: wait for the answer and take the descriptor."""
        while (descriptor := self.take_answer()) is None:
            pass
        return descriptor

    def take_answer(self) -> int | None:
        """The next message of the second half; None if it only was the reason for a delay, which
        `tell_why` was told."""
        reply, descriptor = self._receive()
        if isinstance(reply, wire.Grant) and descriptor is not None:
            return descriptor
        if descriptor is not None:
            os.close(descriptor)
        if not isinstance(reply, wire.Waiting):
            raise _unexpected(reply, self._port)
        tell_why(reply.message)
        return None

    def ports(self) -> list[wire.Port]:
        """What the caller may use; for root and the policy's admins every port."""
        return self._until_answered(lambda _: self._ports())

    def _ports(self) -> list[wire.Port]:
        found: list[wire.Port] = []
        while True:
            self._send(wire.List(len(found)))
            reply = self._plain()
            if not isinstance(reply, wire.Ports) or (reply.more and not reply.ports):
                raise _unexpected(reply)
            found.extend(reply.ports)
            if not reply.more:
                return found

    def revoke(self, name: str) -> None:
        """Take the port back from its holder; returns when it is free. Raises BrokerError; if
        the broker ends meanwhile, too: asked again, the next holder might be hit."""
        self._send(wire.Revoke(_checked(name)))
        reply = self._plain()
        if not isinstance(reply, wire.Done):
            raise _unexpected(reply)

    def check(
        self, name: str, *, uid: int | None = None, groups: tuple[int, ...] = ()
    ) -> wire.Verdict:
        """What the policy says of `name` for the caller, or (for root and admins) for a user
        with this uid and these groups. Raises BrokerError."""
        if len(groups) > wire.MAX_GROUPS:
            what = f"{name}: a user in more than {wire.MAX_GROUPS} groups cannot be asked about"
            raise BrokerError(errno.E2BIG, what)
        request = wire.Check(_checked(name), uid, groups)

        def ask(_: float | None) -> wire.Verdict:
            self._send(request)
            reply = self._plain()
            if not isinstance(reply, wire.Verdict):
                raise _unexpected(reply)
            return reply

        return self._until_answered(ask)

    def status(self) -> tuple[int, wire.Running]:
        """The broker's pid, by the kernel's word (SCM_CREDENTIALS, unix(7); 0 if it is in a pid
        namespace that cannot be seen from here), and its own account. Raises BrokerError."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._send(wire.Status())
            reply, pid = self._receive_signed()
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        except BrokerError:
            raise
        except OSError as error:
            raise _unavailable(error) from None
        if not isinstance(reply, wire.Running):
            raise _unexpected(reply)
        return pid, reply

    def come_back(self, again: Again) -> Iterator[float]:
        """Connect to the broker that follows the one that has ended. Yields the seconds to wait
        between tries. Raises BrokerUnavailable when none comes, or enough is enough."""
        if self._path is None or not again.another():
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

    def _until_answered(self, ask: Callable[[float | None], T], wait: float | None = None) -> T:
        again = Again(wait)
        while True:
            try:
                return ask(wait)
            except BrokenOff:
                for pause in self.come_back(again):
                    time.sleep(pause)
                wait = again.left()

    def connection(self) -> Client:
        """A further connection, from a backend of init_backend()."""
        self._send(wire.Connect())
        descriptor = self.take_descriptor()
        try:
            return Client(socket.socket(fileno=descriptor))
        except OSError:
            os.close(descriptor)
            raise ProtocolError(errno.EPROTO, "the broker sent no socket") from None

    def _send(self, request: wire.Request) -> None:
        try:
            self._sock.sendmsg([wire.encode_request(request)], _credentials(), _NO_SIGNAL)
        except (BrokenPipeError, ConnectionError):
            pass  # its last word may still be there to read
        except OSError as error:
            raise _unavailable(error) from None

    def _receive_signed(self) -> tuple[wire.Reply, int]:
        """A reply and the pid of its sender; there is no room for a descriptor beside it."""
        data, ancillary, flags, _ = self._sock.recvmsg(wire.MAX_REPLY, _UCRED_SPACE)
        if not data:
            raise BrokerUnavailable(errno.ECONNREFUSED, _WENT_AWAY)
        if flags & _TRUNCATED or not ancillary:
            raise ProtocolError(errno.EPROTO, "the broker's answer is not signed, or too large")
        return _decode(data), int.from_bytes(ancillary[0][2][:4], sys.byteorder)

    def _plain(self) -> wire.Reply:
        reply, descriptor = self._receive()
        if descriptor is not None:
            os.close(descriptor)
            raise ProtocolError(errno.EPROTO, "the broker sent a descriptor nobody asked for")
        return reply

    def _receive(self) -> tuple[wire.Reply, int | None]:
        """A reply and the descriptor beside it. MSG_CMSG_CLOEXEC, because socket.recv_fds()
        ignores its flags and would let every child inherit the port."""
        try:
            data, ancillary, flags, _ = self._take()
        except ConnectionError:
            raise BrokenOff(errno.ECONNREFUSED, _WENT_AWAY) from None
        except OSError as error:
            raise _unavailable(error) from None
        descriptor = _descriptor(ancillary)
        try:
            if not data:
                raise BrokenOff(errno.ECONNREFUSED, _WENT_AWAY)
            if flags & _TRUNCATED:
                raise ProtocolError(errno.EPROTO, "the broker's answer is too large")
            return _decode(data), descriptor
        except BrokerError:
            if descriptor is not None:
                os.close(descriptor)
            raise

    def _take(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        try:
            return self._sock.recvmsg(wire.MAX_REPLY, _RIGHTS_SPACE, _CLOSE_ON_EXEC)
        except ConnectionResetError:  # cut off while we sent; told once, then comes its last word
            return self._sock.recvmsg(wire.MAX_REPLY, _RIGHTS_SPACE, _CLOSE_ON_EXEC)


def _warn(message: str) -> None:
    """By logging, which is loaded when it is needed."""
    import logging

    logging.getLogger("ttybroker").warning(message)


tell_why: Callable[[str], None] = _warn  # gets the reason when a port takes long to open


def connect(broker: Broker = None) -> Client:
    """A connection to the broker: `broker` (a path, or a connected socket that stays the
    caller's), else a further one to the backend of init_backend(), else $TTYBROKER_SOCKET,
    else /run/ttybroker/socket.

    Raises BrokerUnavailable.
    """
    if isinstance(broker, socket.socket):
        return Client(broker.dup())
    if broker is None and _pair is not None:
        return _further_connection(_pair)
    path = broker or os.environ.get(VARIABLE) or wire.SOCKET
    return Client(_dial(path), path)


def _dial(path: str) -> socket.socket:
    """A connection to the socket at `path`. Raises BrokerUnavailable."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        what = f"no broker at {path}: {error.strerror or error}; is ttybrokerd running?"
        raise BrokerUnavailable(errno.ECONNREFUSED, what) from None
    return sock


def adopt_pair(pair: int) -> None:
    """From now on this process's broker is the backend at the other end of this socket."""
    global _pair, _pair_pid
    _pair, _pair_pid = Client(socket.socket(fileno=pair)), os.getpid()


def connection_for_child() -> socket.socket:
    """A connection to the backend of init_backend() for a process that is about to be forked:
    there, pass it as `broker=`. To the broker a connection is one process, the first to use it.

    Raises BrokerUnavailable without a backend.
    """
    if _pair is None:
        what = "there is no backend of init_backend() in this process"
        raise BrokerUnavailable(errno.ECONNREFUSED, what)
    return _further_connection(_pair).detach()


def _further_connection(pair: Client) -> Client:
    """One of its own for every request, so that a thread that waits for a port keeps no other
    thread from asking."""
    if os.getpid() != _pair_pid:
        what = f"the backend belongs to process {_pair_pid}, not to its forked child; use a daemon"
        raise BrokerUnavailable(errno.ECONNREFUSED, what)
    with _pair_lock:
        return pair.connection()


def _checked(name: str) -> str:
    if not wire.valid_name(name):
        shown = repr(name if len(name) <= 80 else name[:80] + "...")
        what = f"{shown}: not a port's name: a letter, then up to 63 letters, digits, - or _"
        raise InvalidName(errno.EINVAL, what)
    return name


def _milliseconds(wait: float | None) -> int:
    if wait is None:
        return 0
    if not wait >= 0:
        raise ValueError(f"wait is a number of seconds, or None, not {wait!r}")
    return -int(-1000 * min(wait, wire.MAX_WAIT) // 1)


def _credentials() -> list[tuple[int, int, bytes]]:
    """Who is asking, for a set-user-ID or set-group-ID program: the broker knows the effective
    ids (SO_PEERCRED), and unasked the kernel would put the real ones beside a message."""
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


def _decode(data: bytes) -> wire.Reply:
    try:
        return wire.decode_reply(data)
    except wire.Malformed as malformed:
        what = f"this is not the broker's protocol: {malformed}"
        raise ProtocolError(errno.EPROTO, what) from None


def _unexpected(reply: wire.Reply, port: str = "") -> BrokerError:
    """The error for an answer that grants nothing; `port`: the one that was to be opened."""
    if isinstance(reply, wire.Refused):
        kind = BY_ERRNO.get(reply.errno, BrokerError)
        return kind(reply.errno, reply.message, reply.holder, port)
    return ProtocolError(errno.EPROTO, f"the broker answered with {type(reply).__name__}")


def _unavailable(error: OSError) -> BrokerUnavailable:
    what = f"the broker does not answer: {error.strerror or error}; is it running?"
    return BrokerUnavailable(errno.ECONNREFUSED, what)
