"""What a client of the fuzzer receives, as the model has it."""

from __future__ import annotations

import functools
import socket
import struct

from attack.model import WARNING, Answer, Who
from attack.stage import Different
from ttybroker import asking, wire
from ttybrokerd.root.leases import TIME_LIMIT

TAKE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)


def receive(sock: socket.socket) -> tuple[bytes, int | None]:
    """A message and the descriptor beside it. Raises BlockingIOError if there is none."""
    try:
        data, ancillary, _, _ = sock.recvmsg(65536, 64, TAKE)
    except ConnectionResetError:  # told once, and then comes what lies there
        data, ancillary, _, _ = sock.recvmsg(65536, 64, TAKE)
    if not ancillary:
        return data, None
    (_, kind, raw), *_ = ancillary
    if kind != socket.SCM_RIGHTS or len(raw) != 4:
        raise Different(f"strange company: {ancillary}")
    return data, struct.unpack("i", raw)[0]


def whose(holder: wire.Holder | None) -> Who | None:
    """A holder as the model has it."""
    if holder is None:
        return None
    since = holder.since if holder.how == "lease" else None
    return Who(holder.uid, holder.pid, holder.how, since)


def as_row(row: wire.PortInfo) -> tuple[object, ...]:
    """A row of a list; of a port that is opened by now it may know since when."""
    holder = whose(row.holder)
    if row.state == "opening" and holder is not None:
        holder = holder._replace(since=None)
    return row.name, row.state, row.waiting, holder


@functools.lru_cache(maxsize=4096)
def read_answer(data: bytes, with_descriptor: bool) -> Answer:
    """A reply as the model has it."""
    if data and with_descriptor == (data[1] == wire.GRANT):
        match reply := asking.decode_reply(data):
            case wire.Grant():
                return Answer("grant")
            case wire.Done():
                return Answer("done")
            case wire.Lent() if reply.grace == 1000:
                return Answer("lent", holder=whose(reply.holder))
            case wire.Ending() if reply.cause == TIME_LIMIT and reply.left <= 1000 * WARNING:
                return Answer("ending")
            case wire.Waiting():
                return Answer("waiting")
            case wire.Running():
                return Answer("running")
            case wire.Refused() if reply.cause and reply.message().isprintable():
                kind = "cut" if reply.cause.startswith("cut off: ") else "refused"
                return Answer(kind, reply.errno, whose(reply.holder))
            case wire.Verdict():
                return Answer("verdict", facts=(reply.allowed, reply.known))
            case wire.Ports():
                return Answer("ports", facts=tuple(map(as_row, reply.ports)))
    return Answer(f"nothing like an answer: {data!r}, with a descriptor: {with_descriptor}")


def same(seen: Answer, due: Answer) -> bool:
    """Whether it is what the model says."""
    return seen.kind == due.kind if due.kind == "grant" else seen == due
