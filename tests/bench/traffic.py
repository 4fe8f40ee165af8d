"""Bytes on a brokered descriptor against bytes on a direct one, of the same pty: no byte passes
through the broker, so there must be no difference."""

from __future__ import annotations

import os

from bench import figures
from support.rig import Rig
from ttybroker import client

TRIPS = 200  # round trips of one byte in one timing
PART = 2048  # bytes, less than a pty's buffer
PARTS = 256


def run() -> None:
    """Print the table."""
    rig = Rig()
    try:
        pty = rig.port("ttyS0")
        rig.daemon()
        with client.connect(str(rig.socket)) as connection:
            brokered = connection.open("ttyS0")
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        direct = os.open(pty.path, flags | os.O_NONBLOCK)
        _compare("Round trip of one byte", 200, _trips, pty.master, brokered, direct)
        _compare("Throughput, both ways", 60, _parts, pty.master, brokered, direct)
        os.close(brokered)
        os.close(direct)
    finally:
        rig.close()


def _compare(title: str, rounds: int, job: object, master: int, brokered: int, direct: int) -> None:
    assert callable(job)
    times = figures.interleave(
        rounds, brokered=lambda: job(master, brokered), direct=lambda: job(master, direct)
    )
    ratio = figures.paired(times, "brokered", "direct")
    figures.table(f"{title} (0.98 to 1.02)", [("brokered/direct, paired medians", f"{ratio:.3f}")])


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
