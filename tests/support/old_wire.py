"""Frozen: ttybroker/wire.py of commit 7778755, which speaks version 1. Not to be improved.

Clients and daemons of that commit are still running; the tests speak to this build in their words.

The protocol: one SOCK_SEQPACKET datagram is one message; here are its bytes and nothing else.

No I/O, no clock, no policy: values in, bytes out, and back. A datagram that is not
exactly one well-formed message raises `Malformed`, and nothing else does. Both halves
use this module; it imports next to nothing because every client pays for it at start.

    header   version u8, kind u8, zero u16       little-endian throughout
    OPEN     wait u32 (milliseconds, 0 = do not wait), pid u32 (0 = the sender), name
    LIST     start u32: leave out so many ports, which earlier answers held
    REVOKE   name
    CHECK    uid u32 (NOBODY = the sender), count u16, count x gid u32, name
    CONNECT  nothing; a further connection of the same caller (forked backend only)
    STATUS   nothing; how is the broker confined?
    GRANT    nothing, and one descriptor beside it
    DONE     nothing
    REFUSED  errno u16, holder, message
    PORTS    more u8 (1 = there are more; ask with a higher start), count u16, count x port
    VERDICT  allowed u8, known u8, rule text, message text
    RUNNING  landlock u8, dumpable u8
    WAITING  message text; not yet the answer, which follows

A name is the rest of its datagram. A text is a u16 length and that many bytes of UTF-8.
"""

from __future__ import annotations

import struct

SOCKET = "/run/ttybroker/socket"  # where the daemon listens
VERSION = 1
MAX_REQUEST = 2048  # bytes; a CHECK with MAX_GROUPS groups fits
MAX_REPLY = 65536
MAX_GROUPS = 256
MAX_NAME = 64
MAX_WAIT = 0xFFFFFFFE / 1000  # seconds
_END = 2.0**37  # seconds of the epoch, in the year 6325: no clock of ours, but a lock file's date
NOBODY = 0xFFFFFFFF  # (uid_t)-1, no user has it: chown(2)

OPEN, LIST, REVOKE, CHECK, CONNECT, STATUS = 1, 2, 3, 4, 5, 6
GRANT, DONE, REFUSED, PORTS, VERDICT, RUNNING, WAITING = 129, 130, 131, 132, 133, 134, 135

_HEAD = struct.Struct("<BBH")
_OPEN = struct.Struct("<II")
_LIST = struct.Struct("<I")
_CHECK = struct.Struct("<IH")
_HOLDER = struct.Struct("<BIId")
_PORTS = struct.Struct("<BH")


class Malformed(ValueError):
    """These bytes are not a message of this protocol."""


def valid_name(name: str) -> bool:
    """Whether `name` matches `[A-Za-z][A-Za-z0-9_-]{0,63}` as a whole, in ASCII."""
    return (
        0 < len(name) <= MAX_NAME
        and name.isascii()
        and name[0].isalpha()
        and name.replace("_", "a").replace("-", "a").isalnum()
    )


class _Value:
    """Compared, hashed and shown by its fields. (dataclasses load `inspect`, at every start.)"""

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, field) for field in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._fields()!r}"


class Holder(_Value):
    """Who has a port. `since` is seconds of the epoch; unknown: None, or "" in a text.

    `how` is "lease" for a client of the broker, else what gave the holder away:
    "lock file", "flock", "exclusive" or "login".
    """

    __slots__ = ("how", "pid", "program", "since", "uid", "user")

    def __init__(
        self,
        uid: int | None = None,
        user: str = "",
        pid: int | None = None,
        program: str = "",
        since: float | None = None,
        how: str = "lease",
    ) -> None:
        self.uid = uid
        self.user = user
        self.pid = pid
        self.program = program
        self.since = since
        self.how = how

    def __str__(self) -> str:
        who = self.user or ("somebody" if self.uid is None else "a user")
        if self.uid is not None:
            who += f" (uid {self.uid})"
        if self.program:
            who += f" with {self.program}"
        if self.pid is not None:
            who += f" (pid {self.pid})"
        return who if self.how == "lease" else f"{who}, by {self.how}"


class Port(_Value):
    """One row of a list. `state` is "free", "busy", "opening", "closing", "busy elsewhere" (with
    somebody waiting for it), "gone" or "refused" (the active console, a device not safe to open).
    """

    __slots__ = ("device", "holder", "name", "rule", "state", "waiting")

    def __init__(
        self,
        name: str,
        device: str,
        state: str,
        rule: str,
        waiting: int = 0,
        holder: Holder | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self.state = state
        self.rule = rule
        self.waiting = waiting
        self.holder = holder


class Open(_Value):
    """Give me the port: `wait` in milliseconds, `pid` the process on whose behalf, or 0."""

    __slots__ = ("name", "pid", "wait")

    def __init__(self, name: str, wait: int = 0, pid: int = 0) -> None:
        self.name = name
        self.wait = wait
        self.pid = pid


class List(_Value):
    """What may I use, and who has it? From port number `start` on: a list may be long, and an
    answer is one message."""

    __slots__ = ("start",)

    def __init__(self, start: int = 0) -> None:
        self.start = start


class Revoke(_Value):
    """Take the port back from whoever holds it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Check(_Value):
    """Would it be allowed? `uid` None is the sender; another's groups are the asker's claim."""

    __slots__ = ("groups", "name", "uid")

    def __init__(self, name: str, uid: int | None = None, groups: tuple[int, ...] = ()) -> None:
        self.name = name
        self.uid = uid
        self.groups = groups


class Connect(_Value):
    """A further connection, please."""

    __slots__ = ()


class Status(_Value):
    """What keeps you in bounds, of that which only you can tell?"""

    __slots__ = ()


class Grant(_Value):
    """Here it is: the descriptor lies beside the message."""

    __slots__ = ()


class Done(_Value):
    """What was asked has happened."""

    __slots__ = ()


class Refused(_Value):
    """No: `errno` is one of errno(3), `message` is for people, `holder` where one is known."""

    __slots__ = ("errno", "holder", "message")

    def __init__(self, errno: int, message: str, holder: Holder | None = None) -> None:
        self.errno = errno
        self.message = message
        self.holder = holder


class Ports(_Value):
    """Part of a list; `more` says that there are ports beyond."""

    __slots__ = ("more", "ports")

    def __init__(self, ports: tuple[Port, ...], more: bool = False) -> None:
        self.ports = ports
        self.more = more


class Verdict(_Value):
    """What the policy says; `known` is whether some rule names the port at all."""

    __slots__ = ("allowed", "known", "message", "rule")

    def __init__(self, allowed: bool, known: bool, rule: str, message: str) -> None:
        self.allowed = allowed
        self.known = known
        self.rule = rule
        self.message = message


class Running(_Value):
    """What /proc does not show of the broker: the Landlock ABI level in force, 0 if none, and
    whether it is dumpable."""

    __slots__ = ("dumpable", "landlock")

    def __init__(self, landlock: int, dumpable: bool) -> None:
        self.landlock = landlock
        self.dumpable = dumpable


class Waiting(_Value):
    """Not yet: why an answer takes its time, for people. The answer itself comes after it."""

    __slots__ = ("message",)

    def __init__(self, message: str) -> None:
        self.message = message


Request = Open | List | Revoke | Check | Connect | Status
Reply = Grant | Done | Refused | Ports | Verdict | Running | Waiting


class _Reader:
    """Takes fields off a datagram from the left; anything missing is Malformed."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise Malformed("message too short")
        part = self.data[self.at : end]
        self.at = end
        return part

    def integers(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def flag(self) -> bool:
        value = self.take(1)[0]
        if value > 1:
            raise Malformed("a flag is 0 or 1")
        return value == 1

    def text(self) -> str:
        size = int.from_bytes(self.take(2), "little")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise Malformed("text is not UTF-8") from None

    def name(self) -> str:
        return self.take(len(self.data) - self.at).decode("utf-8", "surrogateescape")

    def end(self) -> None:
        if self.at != len(self.data):
            raise Malformed("message too long")


def _head(kind: int) -> bytes:
    return _HEAD.pack(VERSION, kind, 0)


def _read_head(data: bytes) -> tuple[int, _Reader]:
    if len(data) < _HEAD.size:
        raise Malformed("message too short")
    version, kind, zero = _HEAD.unpack_from(data)
    if version != VERSION:
        raise Malformed(f"protocol version {version}, not {VERSION}")
    if zero:
        raise Malformed("reserved bytes are not zero")
    return kind, _Reader(data, _HEAD.size)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def encode_request(request: Request) -> bytes:
    """The datagram for `request`."""
    if isinstance(request, Open):
        return _head(OPEN) + _OPEN.pack(request.wait, request.pid) + _bytes(request.name)
    if isinstance(request, Revoke):
        return _head(REVOKE) + _bytes(request.name)
    if isinstance(request, Check):
        groups = request.groups
        uid = NOBODY if request.uid is None else request.uid
        packed = _CHECK.pack(uid, len(groups)) + struct.pack(f"<{len(groups)}I", *groups)
        return _head(CHECK) + packed + _bytes(request.name)
    if isinstance(request, List):
        return _head(LIST) + _LIST.pack(request.start)
    return _head(CONNECT if isinstance(request, Connect) else STATUS)


def decode_request(data: bytes) -> Request:
    """The request in `data`; raises Malformed. Whether the name is valid is not judged here."""
    if len(data) > MAX_REQUEST:
        raise Malformed("message too long")
    kind, body = _read_head(data)
    request: Request
    if kind == OPEN:
        wait, pid = body.integers(_OPEN)
        return Open(body.name(), wait, pid)
    if kind == REVOKE:
        return Revoke(body.name())
    if kind == CHECK:
        return _decode_check(body)
    if kind == LIST:
        request = List(*body.integers(_LIST))
    elif kind in (CONNECT, STATUS):
        request = Connect() if kind == CONNECT else Status()
    else:
        raise Malformed(f"unknown kind of request: {kind}")
    body.end()
    return request


def _decode_check(body: _Reader) -> Check:
    uid, count = body.integers(_CHECK)
    if count > MAX_GROUPS:
        raise Malformed("too many groups")
    groups = struct.unpack(f"<{count}I", body.take(4 * count))
    return Check(body.name(), None if uid == NOBODY else uid, groups)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if len(raw) > 0xFFFF:  # cut between characters, or nobody could read it
        raw = raw[:0xFFFF].decode("utf-8", "ignore").encode()
    return len(raw).to_bytes(2, "little") + raw


def _encode_holder(holder: Holder | None) -> bytes:
    if holder is None:
        return b"\0"
    uid = NOBODY if holder.uid is None else holder.uid
    since = holder.since if holder.since is not None and 0 < holder.since < _END else 0.0
    fixed = _HOLDER.pack(1, uid, holder.pid or 0, since)
    return fixed + _text(holder.user) + _text(holder.program) + _text(holder.how)


def _decode_holder(body: _Reader) -> Holder | None:
    if not body.flag():
        return None
    body.at -= 1
    _, uid, pid, since = _HOLDER.unpack(body.take(_HOLDER.size))
    if not 0 <= since < _END:
        raise Malformed("a moment out of range")
    user, program, how = body.text(), body.text(), body.text()
    return Holder(None if uid == NOBODY else uid, user, pid or None, program, since or None, how)


def size_of(port: Port) -> int:
    """Bytes that the port takes in a PORTS message."""
    return len(_encode_port(port))


def _encode_port(port: Port) -> bytes:
    texts = _text(port.name) + _text(port.device) + _text(port.state) + _text(port.rule)
    return texts + port.waiting.to_bytes(2, "little") + _encode_holder(port.holder)


def _decode_port(body: _Reader) -> Port:
    name, device, state, rule = body.text(), body.text(), body.text(), body.text()
    waiting = int.from_bytes(body.take(2), "little")
    return Port(name, device, state, rule, waiting, _decode_holder(body))


def encode_reply(reply: Reply) -> bytes:
    """The datagram for `reply`."""
    if isinstance(reply, Refused):
        fixed = reply.errno.to_bytes(2, "little")
        return _head(REFUSED) + fixed + _encode_holder(reply.holder) + _text(reply.message)
    if isinstance(reply, Ports):
        rows = b"".join(_encode_port(port) for port in reply.ports)
        return _head(PORTS) + _PORTS.pack(reply.more, len(reply.ports)) + rows
    if isinstance(reply, Waiting):
        return _head(WAITING) + _text(reply.message)
    if isinstance(reply, Running):
        return _head(RUNNING) + bytes((reply.landlock, reply.dumpable))
    if isinstance(reply, Verdict):
        flags = bytes((reply.allowed, reply.known))
        return _head(VERDICT) + flags + _text(reply.rule) + _text(reply.message)
    return _head(GRANT if isinstance(reply, Grant) else DONE)


def decode_reply(data: bytes) -> Reply:
    """The reply in `data`; raises Malformed."""
    kind, body = _read_head(data)
    reply: Reply
    if kind == REFUSED:
        number = int.from_bytes(body.take(2), "little")
        holder = _decode_holder(body)
        reply = Refused(number, body.text(), holder)
    elif kind == PORTS:
        more = body.flag()
        count = int.from_bytes(body.take(2), "little")
        reply = Ports(tuple(_decode_port(body) for _ in range(count)), more)
    elif kind == VERDICT:
        reply = Verdict(body.flag(), body.flag(), body.text(), body.text())
    elif kind == WAITING:
        reply = Waiting(body.text())
    elif kind == RUNNING:
        reply = Running(body.take(1)[0], body.flag())
    elif kind in (GRANT, DONE):
        reply = Grant() if kind == GRANT else Done()
    else:
        raise Malformed(f"unknown kind of reply: {kind}")
    body.end()
    return reply
