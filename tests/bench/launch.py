"""What the launchers cost: the time to a program's first byte on its port, and its opens."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable

from bench import figures
from matrix.stage import NAMELESS, NODE, Installation, Stage
from support.processes import PR_SET_CHILD_SUBREAPER, prctl
from support.rig import Rig

ROUNDS = 20
PROGRAM = ["sh", "-c", f"echo first >{NODE}"]
PORTS = 20
OPENS = """
import json, os, statistics, sys, time

def timed(path, flags):
    before = time.perf_counter()
    descriptor = os.open(path, flags)
    times.append(time.perf_counter() - before)
    return descriptor

found = {}
for kind in sys.argv[3:]:
    times = []
    if kind == "injected":
        for _ in range(10):
            held = [timed(f"/dev/b{n}", os.O_RDWR | os.O_NOCTTY) for n in range(int(sys.argv[2]))]
            for descriptor in held:
                os.close(descriptor)
            time.sleep(0.1)  # the leases are over by then; that is not what is timed
    else:
        path, flags = {
            "untrapped": ("/etc/hostname", os.O_RDONLY | os.O_CLOEXEC),
            "continued": (sys.argv[1], os.O_RDWR),
        }[kind]
        for _ in range(2000):
            os.close(timed(path, flags))
    found[kind] = statistics.median(times)
print(json.dumps(found))
"""


def run() -> None:
    """Print the tables."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    installation = Installation()
    rig = Rig()
    for number in range(PORTS):
        rig.port(f"b{number}")
    stage = Stage(rig, installation.base)
    try:
        rig.daemon()
        _starts(stage, installation)
        _opens(stage, installation)
    finally:
        stage.close()
        rig.close()
        installation.remove()
        prctl(PR_SET_CHILD_SUBREAPER, 0)


def _starts(stage: Stage, installation: Installation) -> None:
    def job(*words: str, uid: int = NAMELESS) -> Callable[[], float]:
        def once() -> float:
            before = time.perf_counter()
            with stage.start(*words, uid=uid) as process:
                stage.hear(b"first")
                spent = time.perf_counter() - before
                process.communicate()
            stage.demand_free(5)
            return spent

        return once

    jobs = {
        "plain": job(*PROGRAM, uid=0),
        "ttybroker run": job(*installation.launcher("ttybroker run"), *PROGRAM),
        "ttyrun": job(*installation.launcher("ttyrun"), *PROGRAM),
    }
    if shutil.which("sudo"):
        jobs["sudo"] = job("sudo", "-n", *PROGRAM, uid=0)
    times = figures.interleave(ROUNDS, **jobs)
    rows: list[tuple[str, ...]] = [("", "median", "over plain", "at most")]
    most = {"ttybroker run": "80 ms", "ttyrun": "120 ms"}
    plain = figures.median(times["plain"])
    for name, values in times.items():
        middle = figures.median(values)
        over = f"{(middle - plain) * 1e3:.0f} ms"
        rows.append((name, f"{middle * 1e3:.0f} ms", over, most.get(name, "")))
    figures.table("From start to the program's first byte on the port", rows)


def _opens(stage: Stage, installation: Installation) -> None:
    file = stage.home / "file"
    file.touch()
    os.chmod(file, 0o666)
    program = [sys._base_executable, "-I", "-S", "-c", OPENS, str(file), str(PORTS)]  # type: ignore[attr-defined]
    results: dict[str, list[dict[str, float]]] = {"plain": [], "run": []}
    kinds = ("untrapped", "continued", "injected")
    for _ in range(5):
        plain = stage.run(*program, *kinds[:2])
        launched = stage.run(*installation.launcher("ttybroker run"), *program, *kinds)
        results["plain"].append(json.loads(plain.out))
        results["run"].append(json.loads(launched.out))

    def middle(where: str, kind: str) -> float:
        return figures.median([result[kind] for result in results[where]])

    ratio = middle("run", "untrapped") / middle("plain", "untrapped")
    figures.table(
        "An open under `ttybroker run`",
        [
            ("untrapped, of plain", f"{ratio:.2f}", "at most 1.10"),
            ("continued (a file, for writing)", figures.microseconds(middle("run", "continued")),
             "under 30 µs"),
            ("injected (the port)", figures.microseconds(middle("run", "injected")),
             "under 150 µs"),
        ],
    )  # fmt: skip
