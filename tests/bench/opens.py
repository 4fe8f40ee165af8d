"""What an open costs on a connection that is there, with a manager that takes the descriptors;
beside a C backend of the bare idea, the yardstick.

Broker, yardstick and client are on one processor: whether the scheduler puts them on one or on
two is chance, and doubles the time. What takes the descriptors is where it likes.
"""

from __future__ import annotations

import os

from bench import figures
from bench.build import Bench
from bench.figures import MICROSECONDS, Row
from bench.rig import Rig, rigs

BURSTS = 80
PORTS = 60  # opened one after the other in a burst, and closed together after it


def rows(bench: Bench) -> list[Row]:
    """Return the rows: new/old, and this build by the yardstick."""
    of_yardstick: dict[str, list[float]] = {name: [] for name in bench.builds}

    def job(name: str, rig: Rig) -> float:
        yardstick, broker = map(_least, rig.clients[0].ask("burst", PORTS))
        rig.settled()
        of_yardstick[name].append(broker / yardstick)
        return broker

    with rigs(bench.builds, PORTS) as each:
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(everywhere)})
        try:
            for rig in each.values():
                rig.start().client_with_yardstick(bench.yardstick)
        finally:
            os.sched_setaffinity(0, everywhere)
        jobs = {name: lambda name=name, rig=rig: job(name, rig) for name, rig in each.items()}
        figures.interleave(1, jobs)  # warm
        for values in of_yardstick.values():
            values.clear()
        spent = figures.interleave(BURSTS, jobs)
    found = []
    old = {name: figures.median(values) for name, values in of_yardstick.items()}.get("old")
    if "old" in spent:
        what = "open_fd, warm, descriptors stored: new/old"
        found.append(figures.ratio(what, spent["new"], spent["old"], 0.70))
    what = "open_fd, warm, descriptors stored / C yardstick"
    found.append(figures.middle(what, of_yardstick["new"], None, old=old))
    times = {name: figures.median(values) * MICROSECONDS for name, values in spent.items()}
    what = "open_fd, warm, descriptors stored"
    return [*found, Row(what, times["new"], unit="µs", old=times.get("old"))]


def _least(times: list[float]) -> float:
    """The tenth part of a burst that was disturbed least ends here."""
    return figures.percentile(times, 0.1)
