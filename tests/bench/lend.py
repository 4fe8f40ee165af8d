"""How soon another program has a port that a monitor lends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

from bench import figures
from bench.build import HERE, Bench
from bench.figures import Row
from bench.rig import Rig, Talk

ROUNDS = 40
HANGS = 5
PORT = "p0"
MILLISECONDS = 1e3
AT_ONCE, AFTER_GRACE = 50.0, 1200.0  # ms


def rows(bench: Bench) -> list[Row]:
    """Return the rows: the monitor lets go at once, and it is suspended."""
    with Rig(bench.new, 1) as rig, contextlib.ExitStack() as stack:
        rig.start()
        monitor, flasher = (_opener(bench, rig, stack, kind) for kind in ("monitor", "open_fd"))
        monitor.answer(PORT)
        lent = [_borrow(rig, monitor, flasher) for _ in range(ROUNDS)]
        hung = []
        for _ in range(HANGS):
            rig.until_held(PORT, monitor.process.pid)
            os.kill(monitor.process.pid, signal.SIGSTOP)
            hung.append(_borrow(rig, monitor, flasher))
            os.kill(monitor.process.pid, signal.SIGCONT)
        monitor.answer("")
    what = "asked until another has the port"
    return [
        figures.middle(f"{what}: a monitor that lends it", lent, AT_ONCE, unit="ms"),
        figures.middle(f"{what}: one that is suspended", hung, AFTER_GRACE, unit="ms"),
    ]


def _opener(bench: Bench, rig: Rig, stack: contextlib.ExitStack, kind: str) -> Talk:
    words = (str(HERE / "opener.py"), str(bench.new.code), kind, str(rig.socket))
    talk = Talk(bench.new, sys.executable, "-I", *words)
    stack.callback(talk.close)
    return talk


def _borrow(rig: Rig, monitor: Talk, flasher: Talk) -> float:
    """Open the port that the monitor has, and close it; milliseconds until it was open."""
    rig.until_held(PORT, monitor.process.pid)
    _, spent = json.loads(flasher.answer(PORT))
    flasher.answer("")
    return float(spent) * MILLISECONDS
