"""What it costs to start: the CPU of a daemon and its children until a client has a port."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable

from bench import figures
from bench.build import Bench, children, end_children
from bench.figures import Row
from bench.rig import Rig, rigs

ROUNDS = 30


def rows(bench: Bench) -> list[Row]:
    """Return the rows; none without an old build."""
    if "old" not in bench.builds:
        return []
    found = []
    for what, cold, limit in (("warm, it started before", False, 0.60),
                              ("cold, its first start", True, 1.10)):  # fmt: skip
        with rigs(bench.builds, 1) as each:
            for rig in each.values():
                rig.client()
            jobs = {name: _job(rig, cold) for name, rig in each.items()}
            figures.interleave(1, jobs)  # the first start of all
            spent = figures.interleave(ROUNDS, jobs)
        what = f"start to first grant, CPU with children, {what}: new/old"
        found.append(figures.ratio(what, spent["new"], spent["old"], limit))
    return found


def _job(rig: Rig, cold: bool) -> Callable[[], float]:
    def start() -> float:
        """One start. The seconds of CPU of all processes that it made; they have ended then.

        A child that ended while the daemon ignored SIGCHLD would be missing: wait(2).
        """
        if cold and rig.run.exists():
            shutil.rmtree(rig.run)
        known, before = children(), _cpu()
        rig.start()
        rig.clients[0].ask("first", "p0")
        rig.kill()
        end_children(known)
        spent = _cpu() - before
        rig.clients[0].ask("let_go")
        rig.tidy()
        return spent

    return start


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
