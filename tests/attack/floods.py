"""Floods by one user: each says a word when it is under way, and ends at a word."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Callable
from itertools import cycle

from support.children import Chat
from support.raw import LIST, connect, opening
from support.rig import Rig
from ttybroker import asking, wire

CONNECTIONS = 250
UNDER_WAY = 2  # requests on each
WATCH = asking.encode_request(wire.List(flags=wire.WATCH | wire.DETAILS))
CHECK = asking.encode_request(wire.Check("ttyS0"))
SEQPACKET_NOW = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
AGAIN = 20  # connects between two looks whether it is to end

Flood = Callable[[Rig, Chat], int]


def busy(
    *messages: bytes, connections: int = CONNECTIONS, connects: int = 0, under_way: int = UNDER_WAY
) -> Flood:
    """Keep so many connections busy with these messages, in turn, and make `connects` more, each
    time that some are answered; what is granted is closed at once, and what goes on is read."""

    def flood(rig: Rig, chat: Chat) -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        socks = {}
        poll = select.epoll()
        for _, message in zip(range(connections), cycle(messages), strict=False):
            sock = connect(rig)
            socks[sock.fileno()] = sock, message
            poll.register(sock, select.EPOLLIN)
            for _ in range(under_way if message else 0):
                sock.send(message)
        poll.register(chat.sock, select.EPOLLIN)
        chat.say()
        done = 0
        while True:
            for number, _ in poll.poll(0 if connects else None):
                if number == chat.sock.fileno():
                    chat.hear()
                    return done
                sock, message = socks[number]
                data, descriptors, _, _ = socket.recv_fds(sock, 65536, 4)
                for descriptor in descriptors:
                    os.close(descriptor)
                if data and message:
                    done += 1
                    if message != WATCH or data[1] == wire.REFUSED:
                        sock.send(message)
                else:
                    poll.unregister(number)
                    sock.close()
            for _ in range(connects):
                done += connect_once(rig)

    return flood


def connect_once(rig: Rig) -> bool:
    """Connect and leave, unless there is no room."""
    with socket.socket(socket.AF_UNIX, SEQPACKET_NOW) as sock:
        return sock.connect_ex(str(rig.socket)) == 0


REFUSED = opening("no-such-thing")
OPEN = opening("ttyS0", wait=1000)
FLOODS: dict[str, Flood] = {
    "list": busy(LIST),
    "check": busy(CHECK),
    "open": busy(OPEN),
    "refused": busy(REFUSED),
    "silent": busy(b""),
    "watch": busy(WATCH, under_way=1),
    "connect": busy(b"", connections=1, connects=AGAIN),
    "all": busy(LIST, CHECK, OPEN, REFUSED, b"", connects=AGAIN),
}
