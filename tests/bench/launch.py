"""What the launchers cost: their start, and the opens of the program that they run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable

from bench import figures
from bench.build import HERE, PYTHON, Bench, Build, children, end_children
from bench.figures import MICROSECONDS, Row
from bench.rig import USER, Rig, rigs

STARTS = 50
ROUNDS = 20
PORTS = 20
CONTINUED = 25.0  # µs; the only time that is a limit
# It goes into a file: on a command line the paths in it would be a reason to look at all opens.
OPENS = """
import json, os, sys, time

def timed(path, flags):
    before = time.perf_counter()
    descriptor = os.open(path, flags)
    times.append(time.perf_counter() - before)
    return descriptor

def ports():
    return [timed(f"/dev/p{n}", os.O_RDWR | os.O_NOCTTY) for n in range(20)]

def close(held):
    for descriptor in held:
        os.close(descriptor)
    time.sleep(0.1)  # the leases are over by then; that is not what is timed

found = {}
for kind in sys.argv[2:]:
    times = []
    if kind == "injected":
        for _ in range(3):
            close(ports())
    elif kind == "joined":
        held = ports()
        times.clear()
        close(held + ports())
    else:
        path, flags = {
            "untrapped": ("/etc/hostname", os.O_RDONLY | os.O_CLOEXEC),
            "continued": (sys.argv[1], os.O_RDWR),
        }[kind]
        for _ in range(2000):
            os.close(timed(path, flags))
    found[kind] = sorted(times)[len(times) // 10]  # disturbed least
print(json.dumps(found))
"""


def rows(bench: Bench) -> list[Row]:
    """Return the rows: starts and injected opens new/old, other opens of this build."""
    with rigs(bench.builds, PORTS) as each, rigs(bench.builds, 0) as usual:
        for name in each:
            each[name].start()
            # As on a machine: ttyrun finds what a daemon at the usual place has prepared.
            usual[name].start(usual[name].build.daemon)
        return [*_starts(each), *_opens(each, bench)]


def _environment(rig: Rig) -> dict[str, str]:
    home = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(rig.base), "LANG": "C.UTF-8"}
    return {**home, "TTYBROKER_SOCKET": str(rig.socket)}


def _starts(each: dict[str, Rig]) -> list[Row]:
    if "old" not in each:
        return []
    found = []
    for words, limit in ((["ttybroker", "run"], 0.65), (["ttyrun"], 0.60)):
        jobs = {name: _start(rig, words) for name, rig in each.items()}
        figures.interleave(1, jobs)  # warm
        spent = figures.interleave(STARTS, jobs)
        what = f"{' '.join(words)} -- true: new/old"
        found.append(figures.ratio(what, spent["new"], spent["old"], limit))
    return found


def _start(rig: Rig, words: list[str]) -> Callable[[], float]:
    command = [str(rig.build.commands / words[0]), *words[1:], "--", "true"]

    def job() -> float:
        known = children()
        before = time.perf_counter()
        process = rig.build.start(*command, uid=USER, env=_environment(rig))
        status = process.wait()
        spent = time.perf_counter() - before
        if status != 0:
            raise RuntimeError(f"{rig.build.name}: {command} ended with {status}")
        end_children(known)  # what ttyrun left us
        return spent

    return job


def _opens(each: dict[str, Rig], bench: Bench) -> list[Row]:
    file = bench.base / "file"
    file.touch()
    file.chmod(0o666)
    opens = bench.base / "opens.py"
    opens.write_text(OPENS)
    program = [PYTHON, "-I", "-S", str(opens), str(file)]
    beside_them = ["plain", "bare", "unasked"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in [*each, *beside_them]}
    wait = ["--wait", "10", "--"]

    def launched(rig: Rig) -> None:
        run = [str(rig.build.commands / "ttybroker"), "run", *wait]
        kinds = ["untrapped", "continued", "injected"]
        if rig is new:  # the old build refuses a second open
            kinds.append("joined")
        found[rig.build.name].append(_call(rig.build, [*run, *program, *kinds], rig))
        rig.settled()

    new = each["new"]
    jobs = {name: lambda rig=rig: launched(rig) for name, rig in each.items()}

    def beside(name: str, words: list[str]) -> None:
        found[name].append(_call(new.build, words, new))

    bare = new.build.python(str(HERE / "tracer.py"), str(new.build.code))
    jobs["plain"] = lambda: beside("plain", [*program, "untrapped"])
    jobs["bare"] = lambda: beside("bare", [*bare, *program, "continued"])
    unasked = new.build.python(str(HERE / "unasked.py"), str(new.build.code))
    jobs["unasked"] = lambda: beside("unasked", [*unasked, *wait, *program, "injected"])
    figures.interleave(ROUNDS, jobs)

    def values(name: str, kind: str) -> list[float]:
        return [result[kind] for result in found[name]]

    def micros(what: str, kind: str, limit: float | None) -> Row:
        new, *old = (figures.median(values(name, kind)) * MICROSECONDS for name in each)
        return Row(what, new, limit, unit="µs", old=old[0] if old else None)

    made = []
    if "old" in found:
        what = "an injected open under run: new/old"
        pairs = values("new", "injected"), values("old", "injected")
        made.append(figures.ratio(what, *pairs, 0.60))
    what = "a second open of a session / its first, injected"
    made.append(figures.ratio(what, values("new", "joined"), values("new", "injected"), 0.50))
    what = "a continued open under run (a file, for writing)"
    made.append(micros(what, "continued", CONTINUED))
    stop = figures.median(values("bare", "continued")) * MICROSECONDS
    made.append(Row("the same under a tracer that looks at nothing", stop, unit="µs"))
    untrapped = values("new", "untrapped"), values("plain", "untrapped")
    made.append(figures.ratio("an untrapped open under run / plain", *untrapped, 1.10))
    own = figures.median(values("unasked", "injected")) * MICROSECONDS
    return [
        *made,
        micros("an injected open under run", "injected", None),
        Row("the same if no broker has to be asked", own, unit="µs"),
    ]


def _call(build: Build, words: list[str], rig: Rig) -> dict[str, float]:
    """What the program printed."""
    told = build.call(*words, uid=USER, env=_environment(rig), stdin=subprocess.DEVNULL)
    found: dict[str, float] = json.loads(told)
    return found


assert os.path.exists("/etc/hostname"), "the file that is opened untrapped"
