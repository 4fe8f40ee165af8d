"""How much the daemon does in a second when it is the bound: many ports, many clients."""

from __future__ import annotations

import time

from bench import figures
from bench.build import Bench
from bench.figures import Row
from bench.memory import resident
from bench.rig import USER, Rig, rigs

PORTS = 64
CLIENTS = 1000
USERS = 5  # among whom the clients are divided: one may have 256
CYCLES = 30  # of each user in one timing
ROUNDS = 60


def rows(bench: Bench) -> list[Row]:
    """Return the rows: memory of this build, cycles new/old."""
    with rigs(bench.builds, PORTS) as each:
        for rig in each.values():
            rig.start()
            for user in range(USERS):
                rig.client(uid=USER + user).ask("dial", CLIENTS // USERS)
        sizes = {name: resident(rig.pid) / 1024 for name, rig in each.items()}
        jobs = {name: lambda rig=rig: _rate(rig) for name, rig in each.items()}
        rates = figures.interleave(ROUNDS, jobs)
    what = f"daemon with {CLIENTS:,} idle clients, resident"
    found = [Row(what, sizes["new"], 16.0, unit="MB", old=sizes.get("old"))]
    if "old" in rates:
        what = f"cycles a second, {PORTS} ports, {CLIENTS:,} clients: new/old"
        found.append(figures.ratio(what, rates["new"], rates["old"], 1.5, at_least=True))
    old = figures.median(rates["old"]) if "old" in rates else None
    what = f"cycles a second, {PORTS} ports, {CLIENTS:,} clients"
    return [*found, Row(what, figures.median(rates["new"]), old=old)]


def _rate(rig: Rig) -> float:
    """All users at the same time: cycles of all of them a second."""
    before = time.perf_counter()
    for user, client in enumerate(rig.clients):
        client.send("cycles", CYCLES, PORTS, user * PORTS // USERS)
    for client in rig.clients:
        client.take()
    spent = time.perf_counter() - before
    rig.settled()
    return USERS * CYCLES / spent
