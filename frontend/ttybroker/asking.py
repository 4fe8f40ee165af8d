"""The client's half of the protocol: requests into bytes, and bytes into replies.

The broker's half is `wire`, with all that both need. No process that stays root loads this one.
"""

from __future__ import annotations

import struct

from ttybroker import wire

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WAIT = 0xFFFFFFFE / 1000  # seconds
_MAX_PID = 0x7FFFFFFF  # pid_t is an int, and kill(2) takes no more


def valid_label(label: str) -> bool:
    """Whether clients may give this label: 80 characters at most, and all of them printable."""
    return len(label) <= wire.MAX_LABEL and label.isprintable()


def warning(name: str, ending: wire.Ending) -> str:
    """Return the line to show when a lease ends soon: its port, when, and why."""
    when = f"in {ending.left / 1000:.0f} s" if ending.left else "now"
    return f"{name}: the lease ends {when}: {ending.cause}"


def encode_request(request: wire.Request, version: int = wire.VERSION) -> bytes:
    """Return the datagram for `request`. Fields that version 1 lacks are left out."""
    kind, body = _request(request, version)
    return wire.HEAD_FORM.pack(version, kind, 0) + body


def _request(request: wire.Request, version: int) -> tuple[int, bytes]:
    if isinstance(request, wire.Open):
        name = wire.pack_name(request.name)
        if version == 1:  # wait u32, pid u32, name
            return wire.OPEN, wire.OPEN_FORM_1.pack(request.wait, request.pid) + name
        # wait u32, pid u32, self u32, flags u16, session 16 bytes, label text, name
        fixed = wire.OPEN_FORM.pack(
            request.wait, request.pid, request.self_pid, request.flags, request.session
        )
        return wire.OPEN, fixed + wire.pack_text(request.label) + name
    if isinstance(request, wire.Revoke):  # hold u32 (not in version 1), name
        hold = b"" if version == 1 else wire.U32.pack(request.hold)
        return wire.REVOKE, hold + wire.pack_name(request.name)
    if isinstance(request, wire.Check):  # uid u32, count u16, count x gid u32, name
        groups = request.groups
        uid = wire.NOBODY if request.uid is None else request.uid
        packed = wire.CHECK_FORM.pack(uid, len(groups)) + struct.pack(f"<{len(groups)}I", *groups)
        return wire.CHECK, packed + wire.pack_name(request.name)
    if isinstance(request, wire.List):
        if version == 1:  # start u32
            return wire.LIST, wire.LIST_FORM_1.pack(request.start)
        # start u32, flags u8, count u8, count x text
        names = b"".join(map(wire.pack_text, request.names))
        return wire.LIST, wire.LIST_FORM.pack(
            request.start, request.flags, len(request.names)
        ) + names
    return (wire.CONNECT if isinstance(request, wire.Connect) else wire.STATUS), b""


def decode_reply(data: bytes) -> wire.Reply:
    """Return the reply in `data`, whose first byte is its version. Raises Malformed.

    In version 1, the `cause` of a REFUSED and the `message` of a WAITING are whole lines to show,
    which include the port's name.
    """
    version, kind, body = wire.read_head(data)
    decode = _DECODERS.get(kind)
    if decode is None or (version == 1 and kind in (wire.LENT, wire.ENDING)):
        raise wire.Malformed(f"unknown kind of reply: {kind}")
    reply = decode(body, version)
    body.end()
    return reply


def _flag(body: wire.Reader) -> bool:
    value = body.take(1)[0]
    if value > 1:
        raise wire.Malformed("a flag is 0 or 1")
    return value == 1


def _decode_grant(body: wire.Reader, version: int) -> wire.Grant:
    if version == 1:
        return wire.Grant()
    joined = _flag(body)
    return wire.Grant(body.take(16), joined)


def _decode_done(body: wire.Reader, version: int) -> wire.Done:
    return wire.Done() if version == 1 else wire.Done(body.number(2))


def _decode_refused(body: wire.Reader, version: int) -> wire.Refused:
    number, holder, cause = body.number(2), _decode_holder(body, version), body.text()
    return wire.Refused(number, cause, holder, "" if version == 1 else body.text())


def _decode_ports(body: wire.Reader, version: int) -> wire.Ports:
    more, count = _flag(body), body.number(2)
    return wire.Ports(tuple(_decode_port(body, version) for _ in range(count)), more)


def _decode_verdict(body: wire.Reader, _version: int) -> wire.Verdict:
    return wire.Verdict(_flag(body), _flag(body), body.text(), body.text())


def _decode_running(body: wire.Reader, version: int) -> wire.Running:
    landlock, dumpable = body.number(1), _flag(body)
    return wire.Running(landlock, dumpable, "" if version == 1 else body.text())


def _decode_waiting(body: wire.Reader, version: int) -> wire.Waiting:
    if version == 1:
        return wire.Waiting(body.text())
    reason, place, left = body.fields(wire.WAITING_FORM)
    holder = _decode_holder(body, version)
    return wire.Waiting(body.text(), reason, place, left, holder)


def _decode_lent(body: wire.Reader, version: int) -> wire.Lent:
    return wire.Lent(body.number(4), _decode_holder(body, version))


def _decode_ending(body: wire.Reader, _version: int) -> wire.Ending:
    return wire.Ending(body.number(4), body.text())


def _decode_holder(body: wire.Reader, version: int) -> wire.Holder | None:
    if not _flag(body):
        return None
    body.at -= 1
    _, uid, pid, since = wire.HOLDER_FORM.unpack(body.take(wire.HOLDER_FORM.size))
    if not 0 <= since < wire.LAST_MOMENT:
        raise wire.Malformed("a moment out of range")
    if pid > _MAX_PID:
        raise wire.Malformed("a pid out of range")
    user = body.text() if version == 1 else ""
    program, how = body.text(), body.text()
    label = "" if version == 1 else body.text()
    known_uid = None if uid == wire.NOBODY else uid
    return wire.Holder(known_uid, user, pid or None, program, since or None, how, label)


def _decode_port(body: wire.Reader, version: int) -> wire.PortInfo:
    name, device, state, rule = body.text(), body.text(), body.text(), body.text()
    if not state[:1].isalpha():
        raise wire.Malformed("a port without a state")
    waiting, holder = body.number(2), _decode_holder(body, version)
    if version == 1:
        return wire.PortInfo(name, device, state, rule, waiting, holder)
    lent = _decode_holder(body, version)
    copies = tuple(_decode_copy(body) for _ in range(body.number(1)))
    facts = tuple(_decode_fact(body) for _ in range(body.number(1)))
    return wire.PortInfo(name, device, state, rule, waiting, holder, lent, copies, facts)


def _decode_fact(body: wire.Reader) -> tuple[int, int]:
    fact, value = wire.FACT_FORM.unpack(body.take(wire.FACT_FORM.size))
    if fact == wire.KEPT and value >= wire.LAST_MOMENT:
        raise wire.Malformed("a moment out of range")
    return fact, value


def _decode_copy(body: wire.Reader) -> wire.Holder:
    holder = _decode_holder(body, wire.VERSION)
    if holder is None:
        raise wire.Malformed("a copy that nobody keeps")
    return holder


_DECODERS: dict[int, Callable[[wire.Reader, int], wire.Reply]] = {
    wire.GRANT: _decode_grant,
    wire.DONE: _decode_done,
    wire.REFUSED: _decode_refused,
    wire.PORTS: _decode_ports,
    wire.VERDICT: _decode_verdict,
    wire.RUNNING: _decode_running,
    wire.WAITING: _decode_waiting,
    wire.LENT: _decode_lent,
    wire.ENDING: _decode_ending,
}
