"""Bytes on a brokered descriptor against bytes on a direct one, of the same pty.

No byte passes through the broker, so there must be no difference.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from bench import figures
from bench.build import Bench
from bench.figures import Row
from bench.rig import Rig

TRIPS = 20  # round trips of one byte in one timing: too short to be disturbed in most
PART = 2048  # bytes, less than a pty's buffer
PARTS = 8
LIMIT = 1.02


def rows(bench: Bench) -> list[Row]:
    """Return the rows, all of this build."""
    with Rig(bench.new, 1) as rig:
        rig.start()
        master, path = rig.ptys[0]
        brokered = _lease(rig)
        # By the lease's descriptor, for the port is exclusive.
        direct = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
        ends = (master, brokered, direct)
        found = [
            _compare("round trip of a byte, brokered/direct", 3000, _trips, *ends),
            _compare("throughput both ways, brokered/direct", 1500, _parts, *ends),
        ]
        os.close(brokered)
        os.close(direct)
        rig.settled()
    return found


def _lease(rig: Rig) -> int:
    """A descriptor that the broker gave, here. A client asks; it comes by the client's socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        client = rig.client(uid=0, pass_fds=[theirs.fileno()])
        client.ask("pass_on", "p0", theirs.fileno())
        _, descriptors, _, _ = socket.recv_fds(ours, 16, 1, socket.MSG_CMSG_CLOEXEC)
    return descriptors[0]


def _compare(
    what: str, rounds: int, job: Callable[[int, int], None], master: int, brokered: int, direct: int
) -> Row:
    times = figures.interleave(
        rounds, {"brokered": lambda: job(master, brokered), "direct": lambda: job(master, direct)}
    )
    return figures.ratio(what, times["brokered"], times["direct"], LIMIT)


def _trips(master: int, port: int) -> None:
    for _ in range(TRIPS):
        os.write(master, b"x")
        os.read(port, 1)
        os.write(port, b"y")
        os.read(master, 1)


def _parts(master: int, port: int) -> None:
    data = bytes(PART)
    for _ in range(PARTS):
        for source, sink in ((master, port), (port, master)):
            left = os.write(source, data)
            while left:
                left -= len(os.read(sink, left))
