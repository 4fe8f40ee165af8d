"""`ttybroker term` beside pyserial's miniterm on a port of its own: from exec to the first byte."""

from __future__ import annotations

import os
import pty
import time
from collections.abc import Callable

from bench import figures
from bench.build import Bench, open_pty
from bench.figures import Row
from bench.rig import TIMEOUT, Rig

ROUNDS = 30
LOOK = 0.0005  # seconds; a pty's far end cannot be waited on before its near end is open
EXIT = b"\x1d"  # Ctrl+]


def rows(bench: Bench) -> list[Row]:
    """Return the row, of this build."""
    build = bench.new
    master, path = open_pty()
    try:
        with Rig(build, 1) as rig:
            rig.start()
            env = {**os.environ, "TTYBROKER_SOCKET": str(rig.socket), "XDG_CONFIG_HOME": "/none"}
            miniterm = f"import sys; sys.path.append({str(build.code)!r}); "
            miniterm += "from serial.tools.miniterm import main; main()"

            def job(far: int, *words: str) -> Callable[[], float]:
                return lambda: _first_byte(bench, far, list(words), env)

            jobs = {
                "term": job(rig.ptys[0][0], str(build.commands / "ttybroker"), "term", "p0"),
                "miniterm": job(master, *build.python("-c", miniterm, path, "115200")),
            }
            figures.interleave(1, jobs)
            times = figures.interleave(ROUNDS, jobs)
    finally:
        os.close(master)
    what = "ttybroker term / miniterm on a direct port, to the first byte"
    return [figures.ratio(what, times["term"], times["miniterm"], 1.3)]


def _first_byte(bench: Bench, far: int, words: list[str], env: dict[str, str]) -> float:
    """Seconds until a key that was pressed before the start is at the far end of the port."""
    screen, keyboard = pty.openpty()
    os.set_blocking(far, False)
    try:
        os.write(screen, b"x")
        began = time.perf_counter()
        streams = {"stdin": keyboard, "stdout": keyboard, "stderr": keyboard}
        process = bench.new.start(*words, env=env, **streams)
        while not _came(far):
            if time.perf_counter() - began > TIMEOUT:
                raise RuntimeError(f"{words[0]} sends nothing")
            time.sleep(LOOK)
        took = time.perf_counter() - began
        os.write(screen, EXIT)
        process.wait(TIMEOUT)
    finally:
        os.close(screen)
        os.close(keyboard)
    return took


def _came(far: int) -> bool:
    try:
        return b"x" in os.read(far, 64)
    except OSError:  # EAGAIN, or EIO: the near end is not open
        return False
