"""A client of one build, told what to do and to time by lines of JSON.

    client.py CODE SOCKET [YARDSTICK_FD DEVICE]

A line is [COMMAND, ARGUMENT...], the answer a line of JSON. It runs on the code in CODE and
uses what that build gives to everybody: ttybroker.open_fd, ttybroker.client.connect.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

sys.path.append(sys.argv[1])

from ttybroker import open_fd
from ttybroker.client import connect

PATH = sys.argv[2]
FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
PERIOD = 0.01  # seconds
MOST_BEHIND = 0.5  # seconds; a machine that is too slow for the rest is not the broker's fault
now = time.perf_counter
connections: list[socket.socket] = []


def dial(count: int) -> None:
    """Have so many connections, each known to the broker."""
    while len(connections) < count:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(PATH)
        connections.append(sock)
        connect(sock).check("p0")


def first(name: str) -> None:
    """Open a port by a connection of its own, and keep it."""
    kept.append(open_fd(name, broker=PATH))


def let_go() -> None:
    """Close what is kept."""
    while kept:
        os.close(kept.pop())


def pass_on(name: str, number: int) -> None:
    """Open a port and pass it on by this socket."""
    descriptor = open_fd(name, broker=PATH)
    with socket.socket(fileno=number) as sock:
        socket.send_fds(sock, [b"port"], [descriptor])
    os.close(descriptor)


def burst(ports: int) -> list[list[float]]:
    """Open all the ports and close them together; by turns with the yardstick.

    Returns seconds: of the yardstick, of open_fd on a connection that is there.
    """
    dial(1)
    yardstick, broker = [], []
    for number in range(ports):
        os.close(os.open(sys.argv[4], FLAGS))
        before = now()
        descriptor = open_by_yardstick()
        yardstick.append(now() - before)
        os.close(descriptor)
        c_backend.send(b"-")  # have it remove its lock
        c_backend.recv(64)
        before = now()
        descriptor = open_fd(f"p{number}", broker=connections[0])
        broker.append(now() - before)
        kept.append(descriptor)
    let_go()
    return [yardstick, broker]


def open_by_yardstick() -> int:
    """Return the descriptor that the C backend sends."""
    c_backend.send(b"ttyS0")
    _, ancillary, _, _ = c_backend.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    return int.from_bytes(ancillary[0][2], "little")


def cycles(count: int, ports: int, start: int) -> None:
    """Open and close so often, another port and another connection each time."""
    for turn in range(start, start + count):
        sock = connections[turn % len(connections)]
        os.close(open_fd(f"p{turn % ports}", broker=sock, wait=30))


def opens(count: int, first: int, ports: int) -> list[float]:
    """Open and close so often one of these ports, by a connection of its own each time, as a
    program does that wants one port. Returns the seconds of each open.
    """
    spent = []
    for turn in range(count):
        before = now()
        descriptor = open_fd(f"p{first + turn % ports}", broker=PATH, wait=30)
        spent.append(now() - before)
        os.close(descriptor)
    return spent


def until_told(ports: int) -> list[tuple[float, float]]:
    """Open and close a port each 10 ms until a line comes.

    What counts is the time from when an open was due: while the broker stands still, others
    would have asked it as well. Returns when each was due (CLOCK_MONOTONIC), and the seconds until
    the descriptor was there.
    """
    poll = select.poll()
    poll.register(0, select.POLLIN)
    spent, turn, due = [], 0, time.monotonic()
    while not poll.poll(max(0.0, due - time.monotonic()) * 1000):
        descriptor = open_fd(f"p{turn % ports}", broker=PATH, wait=30)
        spent.append((due, time.monotonic() - due))
        os.close(descriptor)
        turn += 1
        due = max(due + PERIOD, time.monotonic() - MOST_BEHIND)
    sys.stdin.readline()
    return spent


def check(names: list[str]) -> float:
    """Return the seconds of asking what the policy says of these names."""
    dial(1)
    client = connect(connections[0])
    before = now()
    for name in names:
        client.check(name)
    return now() - before


def ports(count: int) -> float:
    """Return the seconds of one list, which has so many ports."""
    dial(1)
    client = connect(connections[0])
    before = now()
    found = client.ports()
    spent = now() - before
    assert len(found) == count, f"a list of {len(found)} ports, not of {count}"
    return spent


COMMANDS = {name: globals()[name]
            for name in ("dial", "first", "let_go", "pass_on", "burst", "cycles", "opens",
                         "until_told", "check", "ports")}  # fmt: skip
kept: list[int] = []
if len(sys.argv) > 3:
    c_backend = socket.socket(fileno=int(sys.argv[3]))
for line in iter(sys.stdin.readline, ""):
    command, *arguments = json.loads(line)
    print(json.dumps(COMMANDS[command](*arguments)), flush=True)
