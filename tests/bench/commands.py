"""What a command costs: whole processes beside the bare interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable

from bench import figures
from bench.build import PYTHON, Bench
from bench.figures import Row
from bench.rig import Rig

ROUNDS = 30


def rows(bench: Bench) -> list[Row]:
    """Return the rows, all of this build."""
    build = bench.new
    with Rig(build, 1) as rig:
        rig.start()
        env = {**os.environ, "TTYBROKER_SOCKET": str(rig.socket)}
        ttybroker = str(build.commands / "ttybroker")

        def job(*words: str) -> Callable[[], None]:
            def run() -> None:
                build.call(*words, env=env)

            return run

        path = f"import sys; sys.path.append({str(build.code)!r}); "
        jobs: dict[str, Callable[[], None]] = {
            "bare": job(PYTHON, "-I", "-c", "pass"),
            "serial": job(PYTHON, "-I", "-c", f"{path}import serial, socket"),
            "ours": job(PYTHON, "-I", "-c", f"{path}from ttybroker import open_tty"),
            "check": job(ttybroker, "check", "p0"),
            "list": job(ttybroker, "list"),
        }
        times = figures.interleave(ROUNDS, jobs)
    return [
        figures.ratio(what, times[one], times[other], limit)
        for what, one, other, limit in (
            ("from ttybroker import open_tty / import serial, socket", "ours", "serial", 1.3),
            ("ttybroker check / python -I -c pass", "check", "bare", 4.0),
            ("ttybroker list / python -I -c pass", "list", "bare", 8.0),
        )
    ]
