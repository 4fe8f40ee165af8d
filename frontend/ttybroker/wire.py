"""The protocol: one SOCK_SEQPACKET datagram is one message; here are its bytes and nothing else.

No I/O, no clock, no policy: values in, bytes out, and back. docs/protocol.md says what each
message means; the comments below say its form. The broker speaks versions 1 and 2. A datagram
that is not exactly one well-formed message raises `Malformed`, and nothing else does.

Here is what both halves need, and what the broker does: read requests, write replies. The other
direction is the client's (`asking`). This imports next to nothing, because every client pays for
it at start.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from typing import Self, dataclass_transform
else:

    def dataclass_transform():
        return lambda base: base


SOCKET = "/run/ttybroker/socket"  # where the daemon listens
VERSION = 2
VERSIONS = (1, 2)
MAX_REQUEST = 2048  # bytes; a CHECK with MAX_GROUPS groups fits, and a LIST with MAX_NAMES names
MAX_REPLY = 65536
MAX_GROUPS = 256
MAX_NAMES = 30
MAX_NAME = 64
MAX_LABEL = 80  # characters
MAX_COPIES = 64  # of a row; with the longest labels it fits into an answer
# Seconds of the epoch, in the year 6325: no clock of ours says that, but a lock file's date may.
LAST_MOMENT = 2.0**37
NOBODY = 0xFFFFFFFF  # (uid_t)-1, no user has it: chown(2)
NO_SESSION = bytes(16)  # a new session; in a GRANT: one that cannot be joined

OPEN, LIST, REVOKE, CHECK, CONNECT, STATUS = 1, 2, 3, 4, 5, 6
GRANT, DONE, REFUSED, PORTS, VERDICT, RUNNING, WAITING, LENT, ENDING = range(129, 138)

# flags of OPEN
READ, WRITE, APPEND, SYNC, YIELD_USER, YIELD_ALL, KEEP, PROGRESS = (1 << bit for bit in range(8))
# flags of LIST
DETAILS, WATCH = 1, 2
# reasons of WAITING
BUSY, SLOW, ABSENT, ASKED, LENT_OUT = 1, 2, 3, 4, 5
# facts of a port: docs/architecture.md, "A new field of list --json"
(SPEED, CFLAG, LINES, RECEIVED, SENT, FRAME, PARITY, OVERRUN, BREAK, BUFFER_OVERRUN,
 IFLAG, KEPT) = FACTS = range(1, 13)  # fmt: skip

HEAD_FORM = struct.Struct("<BBH")
OPEN_FORM_1 = struct.Struct("<II")
OPEN_FORM = struct.Struct("<IIIH16s")
LIST_FORM_1 = struct.Struct("<I")
LIST_FORM = struct.Struct("<IBB")
U32 = struct.Struct("<I")
CHECK_FORM = struct.Struct("<IH")
HOLDER_FORM = struct.Struct("<BIId")
PORTS_FORM = struct.Struct("<BH")
GRANT_FORM = struct.Struct("<B16s")
WAITING_FORM = struct.Struct("<BHI")
FACT_FORM = struct.Struct("<BQ")


class Malformed(ValueError):
    """These bytes are not a message of this protocol."""


def valid_name(name: str) -> bool:
    """Return whether `name` matches `[A-Za-z][A-Za-z0-9_-]{0,63}` as a whole, in ASCII."""
    return (
        0 < len(name) <= MAX_NAME
        and name.isascii()  # guard: ascii-name
        and name[0].isalpha()
        and name.replace("_", "a").replace("-", "a").isalnum()
    )


@dataclass_transform()
class Value:
    """Compare, hash and show by fields, which are a class's annotations.

    Dataclasses do the same, but they load `inspect` at every start. A default is the class's
    attribute, so it must not be mutable. Raises TypeError for arguments that are not the fields.
    """

    _fields: tuple[str, ...] = ()
    _required = 0  # so many, and they come first

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        setattr(cls, "__match_args__", cls._fields)  # noqa: B010 (which mypy makes itself)
        cls._required = sum(name not in cls.__dict__ for name in cls._fields)

    def __init__(self, *values: object, **named: object) -> None:
        fields = self._fields
        if named:
            values = self._in_order(values, named)
        if not self._required <= len(values) <= len(fields):
            raise TypeError(f"{type(self).__name__} has the fields {fields}")
        for field, value in zip(fields, values, strict=False):
            setattr(self, field, value)

    def _in_order(self, values: tuple[object, ...], named: dict[str, object]) -> tuple[object, ...]:
        """Return all values in the order of the fields. Raises TypeError."""
        rest = self._fields[len(values) :]
        missing = set(self._fields[len(values) : self._required]) - named.keys()
        if missing or named.keys() - set(rest):
            raise TypeError(f"{type(self).__name__} has the fields {self._fields}")
        return values + tuple(
            named[field] if field in named else getattr(self, field) for field in rest
        )

    def replace(self, **named: object) -> Self:
        """Return a copy with other values in these fields."""
        values = {field: getattr(self, field) for field in self._fields}
        return type(self)(**{**values, **named})

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, field) for field in self._fields)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        shown = (f"{field}={getattr(self, field)!r}" for field in self._fields)
        return f"{type(self).__name__}({', '.join(shown)})"


class Holder(Value):
    """Who has a port.

    An unknown value is None, or "" in a text. `since` is in seconds of the epoch. `how` is "lease"
    for a client of the broker; for others it says how the broker noticed them: "lock file",
    "flock", "exclusive" or "login". `label` is what the holder says about itself. The broker knows
    no user's name: `users.named` fills in `user` on the other side.
    """

    uid: int | None = None
    user: str = ""
    pid: int | None = None
    program: str = ""
    since: float | None = None
    how: str = "lease"
    label: str = ""

    def __str__(self) -> str:
        if self.how == "exclusive":  # the kernel does not tell who set it
            return "a program that set it exclusive"
        uid = "somebody" if self.uid is None else f"uid {self.uid}"
        who = f"{self.user} ({uid})" if self.user else uid
        if self.program:
            who += f" with {self.program}"
        if self.pid is not None:
            who += f" (pid {self.pid})"
        if self.label:
            who += f" for {self.label!r}"
        return who if self.how == "lease" else f"{who}, by {self.how}"


class PortInfo(Value):
    """One row of a list.

    `state` is "free" (no lock is seen), "busy", "opening", "closing", "busy elsewhere" (somebody
    waits for it), "exclusive" (the last open found it so; the holder's `since` is that moment),
    "gone" or "refused" (such as a console, or kept from the caller). `lent` is the
    session that waits to have the port back. `copies` are revoked holders that still keep a
    descriptor. `facts` are pairs of a fact's number (SPEED, ...) and its value.
    """

    name: str
    device: str
    state: str
    rule: str
    waiting: int = 0
    holder: Holder | None = None
    lent: Holder | None = None
    copies: tuple[Holder, ...] = ()
    facts: tuple[tuple[int, int], ...] = ()


class Open(Value):
    """Ask for a port.

    `wait` is in milliseconds. `pid` is the process that the client acts for, or 0. `self_pid` is
    the client's own pid as it sees it, or 0. `flags` are READ, WRITE, ...
    """

    name: str
    wait: int = 0
    pid: int = 0
    self_pid: int = 0
    flags: int = 0
    session: bytes = NO_SESSION
    label: str = ""


class List(Value):
    """Ask for the ports that the caller may use.

    An answer is one message, and a list may be longer. So `start` is the number of rows to leave
    out. `flags` are DETAILS and WATCH. `names` are the ports to list; none: all.
    """

    start: int = 0
    flags: int = 0
    names: tuple[str, ...] = ()


class Revoke(Value):
    """Take a port back; keep the old holder's user from it for `hold` milliseconds."""

    name: str
    hold: int = 0


class Check(Value):
    """Ask whether an open would be allowed.

    `uid` None is the sender. For another user, the client claims the groups.
    """

    name: str
    uid: int | None = None
    groups: tuple[int, ...] = ()


class Connect(Value):
    """Ask for a further connection."""


class Status(Value):
    """Ask how the broker is confined, as far as only the broker can tell."""


class Grant(Value):
    """Hand over the descriptor beside this message. `joined`: the session had the port before."""

    session: bytes = NO_SESSION
    joined: bool = False


class Done(Value):
    """Say that it has happened. `withdrawn` counts the waiting requests that a REVOKE ended."""

    withdrawn: int = 0


class Refused(Value):
    """Say no. `errno` is of errno(3). `cause` and `advice` are for people, without the name."""

    errno: int
    cause: str
    holder: Holder | None = None
    advice: str = ""

    def message(self, name: str = "") -> str:
        """Return the line to show: the port's name, the cause, the holder, and what to do."""
        text = f"{name}: {self.cause}" if name else self.cause
        if self.holder is not None:
            text += f": held by {self.holder}"
        return f"{text}; {self.advice}" if self.advice else text


class Ports(Value):
    """Answer with a part of a list; `more` says that there are further ports."""

    ports: tuple[PortInfo, ...]
    more: bool = False


class Verdict(Value):
    """Tell what the policy says; `known` is whether some rule names the port at all."""

    allowed: bool
    known: bool
    rule: str
    message: str


class Running(Value):
    """Tell what /proc does not show about the broker.

    `landlock` is the ABI level in force, 0 if none.
    """

    landlock: int
    dumpable: bool
    version: str = ""


class Waiting(Value):
    """Say why the answer is delayed; the answer comes later.

    `reason` is BUSY, SLOW, ABSENT, ASKED or LENT_OUT, or 0 if it is not known. `place` counts the
    requests in front. `left` is what is left of the wait, in milliseconds.
    """

    message: str
    reason: int = 0
    place: int = 0
    left: int = 0
    holder: Holder | None = None


class Lent(Value):
    """Ask a session that yields to let go of its port within `grace` milliseconds."""

    grace: int
    holder: Holder | None = None


class Ending(Value):
    """Say that the lease of a session that yields ends in `left` milliseconds, and why."""

    left: int
    cause: str


Request = Open | List | Revoke | Check | Connect | Status
Reply = Grant | Done | Refused | Ports | Verdict | Running | Waiting | Lent | Ending


class Reader:
    """Take fields off a datagram from the left. Raises Malformed if one is missing."""

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

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        try:
            return self.take(self.number(2)).decode()
        except UnicodeDecodeError:
            raise Malformed("text is not UTF-8") from None

    def name(self) -> str:
        return self.take(len(self.data) - self.at).decode("utf-8", "surrogateescape")

    def end(self) -> None:
        if self.at != len(self.data):  # guard: trailing-bytes
            raise Malformed("message too long")


def read_head(data: bytes) -> tuple[int, int, Reader]:
    if len(data) < HEAD_FORM.size:
        raise Malformed("message too short")
    version, kind, zero = HEAD_FORM.unpack_from(data)
    if version not in VERSIONS:  # guard: protocol-version
        raise Malformed(f"protocol version {version}, not 1 or 2")
    if zero:  # guard: reserved-bytes
        raise Malformed("reserved bytes are not zero")
    return version, kind, Reader(data, HEAD_FORM.size)


def pack_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def decode_request(data: bytes) -> Request:
    """Return the request in `data`, whose first byte is its version. Raises Malformed.

    Whether the name is valid is not checked here.
    """
    if len(data) > MAX_REQUEST:  # guard: request-size
        raise Malformed("message too long")
    version, kind, body = read_head(data)
    request: Request
    if kind == OPEN:
        return _decode_open(body, version)
    if kind == REVOKE:
        hold = 0 if version == 1 else body.number(4)
        return Revoke(body.name(), hold)
    if kind == CHECK:
        return _decode_check(body)
    if kind == LIST:
        request = _decode_list(body, version)
    elif kind in (CONNECT, STATUS):
        request = Connect() if kind == CONNECT else Status()
    else:
        raise Malformed(f"unknown kind of request: {kind}")
    body.end()
    return request


def _decode_open(body: Reader, version: int) -> Open:
    if version == 1:
        wait, pid = body.fields(OPEN_FORM_1)
        return Open(body.name(), wait, pid)
    wait, pid, self_pid, flags, session = OPEN_FORM.unpack(body.take(OPEN_FORM.size))
    label = body.text()
    if flags >= 2 * PROGRESS:  # guard: open-flags
        raise Malformed("unknown flags")
    if len(label) > MAX_LABEL:  # guard: label-size
        raise Malformed("label too long")
    return Open(body.name(), wait, pid, self_pid, flags, session, label)


def _decode_list(body: Reader, version: int) -> List:
    if version == 1:
        return List(body.number(4))
    start, flags, count = body.fields(LIST_FORM)
    if flags > DETAILS | WATCH:  # guard: list-flags
        raise Malformed("unknown flags")
    if count > MAX_NAMES:  # guard: name-count
        raise Malformed("too many names")
    return List(start, flags, tuple(body.text() for _ in range(count)))


def _decode_check(body: Reader) -> Check:
    uid, count = body.fields(CHECK_FORM)
    if count > MAX_GROUPS:  # guard: group-count
        raise Malformed("too many groups")
    groups = struct.unpack(f"<{count}I", body.take(4 * count))
    return Check(body.name(), None if uid == NOBODY else uid, groups)


def pack_text(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if len(raw) > 0xFFFF:  # cut between characters, or nobody could read it
        raw = raw[:0xFFFF].decode("utf-8", "ignore").encode()
    return len(raw).to_bytes(2, "little") + raw


def _encode_holder(holder: Holder | None, version: int) -> bytes:
    """Return the bytes of a holder.

    known u8; where that is 1: uid u32, pid u32, since f64, user text (version 1 only), program
    text, how text, label text (version 2 only).
    """
    if holder is None:
        return b"\0"
    uid = NOBODY if holder.uid is None else holder.uid
    since = holder.since if holder.since is not None and 0 < holder.since < LAST_MOMENT else 0.0
    fixed = HOLDER_FORM.pack(1, uid, holder.pid or 0, since)
    what = pack_text(holder.program) + pack_text(holder.how)
    if version == 1:
        return fixed + pack_text(holder.user) + what
    return fixed + what + pack_text(holder.label)


def size_of(port: PortInfo, version: int = VERSION) -> int:
    """Return the number of bytes that the port takes in a PORTS message."""
    return len(_encode_port(port, version))


def _encode_port(port: PortInfo, version: int) -> bytes:
    """Return the bytes of a port.

    name, device, state and rule text, waiting u16, holder; from version 2 on also: lent holder,
    count u8, count x holder, count u8, count x (fact u8, value u64).
    """
    texts = (
        pack_text(port.name) + pack_text(port.device) + pack_text(port.state) + pack_text(port.rule)
    )
    data = texts + port.waiting.to_bytes(2, "little") + _encode_holder(port.holder, version)
    if version == 1:
        return data
    first = port.copies[:MAX_COPIES]  # guard: a-row-fits
    copies = [_encode_holder(copy, version) for copy in first]
    facts = [FACT_FORM.pack(*fact) for fact in port.facts]
    parts = (data, _encode_holder(port.lent, version), bytes((len(copies),)), *copies,
             bytes((len(facts),)), *facts)  # fmt: skip
    return b"".join(parts)


def encode_reply(reply: Reply, version: int = VERSION, name: str = "") -> bytes:
    """Return the datagram for `reply`. Fields that version 1 lacks are left out.

    `name` is the port that the request was about, which texts of version 1 contain.
    """
    kind, body = _reply(reply, version, name)
    return HEAD_FORM.pack(version, kind, 0) + body


def _reply(reply: Reply, version: int, name: str) -> tuple[int, bytes]:
    if isinstance(reply, Grant):  # flags u8, session 16 bytes; nothing in version 1
        return GRANT, b"" if version == 1 else GRANT_FORM.pack(reply.joined, reply.session)
    if isinstance(reply, Refused):  # errno u16, holder, cause text, advice text
        fixed = reply.errno.to_bytes(2, "little") + _encode_holder(reply.holder, version)
        if version == 1:  # message text instead of the last two
            return REFUSED, fixed + pack_text(reply.message(name))
        return REFUSED, fixed + pack_text(reply.cause) + pack_text(reply.advice)
    if isinstance(reply, Ports):  # more u8, count u16, count x port
        rows = b"".join(_encode_port(port, version) for port in reply.ports)
        return PORTS, PORTS_FORM.pack(reply.more, len(reply.ports)) + rows
    if isinstance(reply, Waiting):
        if version == 1:  # message text
            return WAITING, pack_text(f"{name}: {reply.message}" if name else reply.message)
        # reason u8, place u16, left u32, holder, message text
        fixed = WAITING_FORM.pack(reply.reason, reply.place, reply.left)
        return WAITING, fixed + _encode_holder(reply.holder, version) + pack_text(reply.message)
    if isinstance(reply, Running):  # landlock u8, dumpable u8, version text (not in version 1)
        told = b"" if version == 1 else pack_text(reply.version)
        return RUNNING, bytes((reply.landlock, reply.dumpable)) + told
    if isinstance(reply, Verdict):  # allowed u8, known u8, rule text, message text
        flags = bytes((reply.allowed, reply.known))
        return VERDICT, flags + pack_text(reply.rule) + pack_text(reply.message)
    if isinstance(reply, Lent):  # grace u32, holder
        return LENT, U32.pack(reply.grace) + _encode_holder(reply.holder, version)
    if isinstance(reply, Ending):  # left u32, cause text
        return ENDING, U32.pack(reply.left) + pack_text(reply.cause)
    # withdrawn u16; nothing in version 1
    return DONE, b"" if version == 1 else reply.withdrawn.to_bytes(2, "little")
