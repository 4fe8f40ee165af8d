"""What several attacks use, beside tests/support."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import struct
import time
from collections import Counter

from support.children import as_user
from support.daemon import Daemon
from support.processes import descriptors
from support.rig import Rig
from support.users import BOB
from ttybroker import open_fd, wire

IN_TIME = 1.0  # seconds for a bystander's lease; some milliseconds on an idle machine
LEASE = Counter({"pty": 1, "eventpoll": 1, "pidfd": 1})  # guard, weak reference, holder's end

LIST = wire.encode_request(wire.List())

# A daemon on a kernel before 6.16, which has no SO_PASSRIGHTS.
OLD_KERNEL = "from ttybrokerd.root import linux; linux.refuse_descriptors = lambda sock: None"


def connect(rig: Rig) -> socket.socket:
    """A connection without the client around it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(rig.socket))
    return sock


def message(kind: int, body: bytes = b"") -> bytes:
    """Any message, whether there is such a kind or not."""
    return struct.pack("<BBH", wire.VERSION, kind, 0) + body


def opening(name: str, wait: int = 0, pid: int = 0) -> bytes:
    """An OPEN; `wait` in milliseconds."""
    return wire.encode_request(wire.Open(name, wait, pid))


def answer(sock: socket.socket) -> wire.Reply:
    """The next answer. A descriptor beside it is not taken."""
    return wire.decode_reply(sock.recv(65536))


def refusal(sock: socket.socket) -> wire.Refused:
    """The next answer, which is a no."""
    reply = answer(sock)
    assert isinstance(reply, wire.Refused), reply
    return reply


def cut_off(sock: socket.socket) -> str:
    """Why the broker ends this connection, in its last word."""
    last: wire.Reply | None = None
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:  # more was sent than it read; its word comes next
            continue
        if not data:
            break
        last = wire.decode_reply(data)
    assert isinstance(last, wire.Refused) and last.errno == errno.EPROTO, last
    return last.message


def others_are_served(rig: Rig, name: str = "ttyS1", uid: int = BOB) -> None:
    """A bystander gets a port, in time."""

    def ask() -> float:
        before = time.monotonic()
        os.close(open_fd(name, broker=str(rig.socket), wait=5))
        return time.monotonic() - before

    assert as_user(uid, (), ask) < IN_TIME


def kinds(pid: int) -> Counter[str]:
    """The open descriptors of a process, by kind."""
    found: Counter[str] = Counter()
    for what in descriptors(pid).values():
        anonymous = re.fullmatch(r"anon_inode:\[?(\w+)\]?", what)
        if anonymous:
            found[anonymous[1]] += 1
        elif what.startswith("socket:"):
            found["socket"] += 1
        elif what.startswith("/dev/pts/"):
            found["pty"] += 1
        else:
            found[what] += 1
    return found


def explained(daemon: Daemon, before: Counter[str], clients: int, leases: int) -> None:
    """Fails unless the daemon comes to have exactly what so many clients and leases explain."""
    wanted = before + Counter({"socket": clients})
    for _ in range(leases):
        wanted += LEASE
    end = time.monotonic() + 15
    while (now := kinds(daemon.pid)) != wanted:
        assert time.monotonic() < end, f"too many: {now - wanted}, too few: {wanted - now}"
        with contextlib.suppress(OSError), connect(daemon.rig) as sock:  # one round with it
            sock.send(LIST)
            sock.recv(65536)
