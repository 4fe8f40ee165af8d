"""Attacks on the others' time: floods by one user, four and sixteen, and how long others then wait.

Each kind of flood keeps 250 connections of a user busy, or silent, or opens them anew. Meanwhile
another user opens and closes a port on fresh connections, and root lists, opens and revokes.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attack.floods import FLOODS
from support.children import Chat
from support.raw import IN_TIME
from support.rig import Rig
from support.users import ALICE, BOB
from ttybroker import client, open_fd

pytestmark = [pytest.mark.root, pytest.mark.alone]

Scale = Callable[[int, int], int]
Count = Callable[[str, int], None]
Say = Callable[[str], None]

FAST = 0.020  # seconds; or three times calm
MANY = range(ALICE, ALICE + 17)


def opens(rig: Rig, seconds: float) -> Callable[[Chat], list[float]]:
    """Open and close a port for so long; how long each open took.

    The time for which it was ready to run, and no processor was free, is the machine's and does
    not count.
    """

    def body(_: Chat) -> list[float]:
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before, stood = time.monotonic(), ready_for()
            os.close(open_fd("ttyS1", broker=str(rig.socket), wait=30))
            times.append(time.monotonic() - before - (ready_for() - stood))
            time.sleep(0.002)
        return times

    return body


def ready_for() -> float:
    """How long this process has waited for a processor, in seconds: sched-stats.rst of the
    kernel's documentation, /proc/PID/schedstat."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def spin(chat: Chat) -> None:
    """Use a processor, and do not connect, until a word comes."""
    while not select.select([chat.sock], [], [], 0)[0]:
        pass


def root_works(rig: Rig) -> list[float]:
    """Root lists, opens and takes back, three times each. Return how long each took, in order.

    What else the machine does may stop one of them for a while, so the middle of each counts.
    """
    acts: tuple[Callable[[client.Connection], object], ...] = (
        lambda connection: connection.ports(),
        lambda connection: os.close(connection.open("ttyS2", wait=5)),
        revoked,
    )
    times: list[float] = []
    for act in acts:
        took = []
        for _ in range(3):
            before = time.monotonic()
            with client.connect(str(rig.socket)) as connection:
                act(connection)
            took.append(time.monotonic() - before)
        assert sorted(took)[1] < 3 * IN_TIME, took
        times += took
    return sorted(times)


def revoked(connection: client.Connection) -> None:
    with contextlib.suppress(client.BrokerError):  # nobody has it just now
        connection.revoke("ttyS0")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """By four users at full scale alone, so that `make test` ends in time."""
    full = metafunc.config.getoption("--full", default=False)
    metafunc.parametrize("users", [1, 4, 16] if full else [1, 16])
    metafunc.parametrize("kind", FLOODS)


def test_a_flood_keeps_nobody_else_waiting(
    rig: Rig, kind: str, users: int, scale: Scale, count: Count, measured: Say, progress: Say
) -> None:
    seconds = scale(1, 8)
    for name in ("ttyS0", "ttyS1", "ttyS2"):
        rig.port(name)
    daemon = rig.daemon()
    who = [uid for uid in MANY if uid != BOB][:users]
    spinning = [rig.child(uid, spin) for uid in who] if users > 1 else []
    calm = rig.child(BOB, opens(rig, seconds)).result(seconds + 60)
    for child in spinning:
        child.say()
        child.wait()
    flooding = [rig.child(uid, lambda chat: FLOODS[kind](rig, chat)) for uid in who]
    for child in flooding:
        child.hear(60)
    other = rig.child(BOB, opens(rig, seconds))
    root = root_works(rig)
    times = other.result(seconds + 120)
    for child in flooding:
        child.say()
    done = sum(child.result(60) for child in flooding)
    count("floods, each with the p99 of others' opens, calm and in it", 1)
    count("requests in floods", done)
    limit = max(3 * p99(calm), FAST)
    measured(f"{kind} by {users}: {p99(calm) * 1000:.1f} and {p99(times) * 1000:.1f} ms")
    progress(f"{kind} by {users}: {done / seconds:.0f} a second; others' opens p99 "
             f"{p99(calm) * 1000:.1f} ms calm, {p99(times) * 1000:.1f} in the flood, "
             f"{len(calm)} and {len(times)} opens; the slowest of root's commands "
             f"{root[-1] * 1000:.0f} ms")  # fmt: skip
    assert times
    assert p99(times) < scale(1, 0) * IN_TIME + limit, (p99(calm), p99(times))
    daemon.settled()
