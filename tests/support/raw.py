"""Talk to the broker without its client, and check that others are served meanwhile."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

from support.children import as_user
from support.rig import Rig
from support.users import BOB
from ttybroker import asking, open_fd, wire

IN_TIME = 1.0  # seconds for a bystander's lease; some milliseconds on an idle machine
LIST = asking.encode_request(wire.List())


def connect(rig: Rig) -> socket.socket:
    """Return a connection without the client around it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(rig.socket))
    return sock


def message(kind: int, body: bytes = b"", version: int = 1) -> bytes:
    """Return any message, whether there is such a kind or not."""
    return struct.pack("<BBH", version, kind, 0) + body


def opening(name: str | bytes, wait: int = 0, pid: int = 0) -> bytes:
    """Return an OPEN of version 1 with any bytes for a name; `wait` in milliseconds."""
    if isinstance(name, str):
        name = name.encode()
    return message(wire.OPEN, struct.pack("<II", wait, pid) + name)


def answer(sock: socket.socket) -> wire.Reply:
    """Return the next answer. A descriptor beside it is not taken."""
    return asking.decode_reply(sock.recv(65536))


def refusal(sock: socket.socket) -> wire.Refused:
    """Return the next answer, which must be a refusal."""
    reply = answer(sock)
    assert isinstance(reply, wire.Refused), reply
    return reply


def last_words(sock: socket.socket) -> list[wire.Reply]:
    """Return all replies until the broker ends the connection."""
    replies: list[wire.Reply] = []
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:  # more was sent than it read; its word comes next
            continue
        if not data:
            return replies
        replies.append(asking.decode_reply(data))


def cut_off(sock: socket.socket) -> str:
    """Return why the broker ends this connection, by its last message."""
    replies = last_words(sock)
    assert replies, "no last word"
    last = replies[-1]
    assert isinstance(last, wire.Refused) and last.errno == errno.EPROTO, last
    return last.cause


def others_are_served(rig: Rig, name: str = "ttyS1", uid: int = BOB) -> None:
    """Check that a bystander gets a port in time."""

    def ask() -> float:
        before = time.monotonic()
        os.close(open_fd(name, broker=str(rig.socket), wait=5))
        return time.monotonic() - before

    assert as_user(uid, (), ask) < IN_TIME
