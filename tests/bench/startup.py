"""What starting costs: imports, and the commands, whole processes side by side."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
from collections.abc import Callable

from bench import figures
from support.processes import ROOT, python_path
from support.rig import Rig

ROUNDS = 30


def run() -> None:
    """Print the table."""
    rig = Rig()
    try:
        rig.port("ttyS0")
        rig.daemon()
        for source in ("broker", "frontend"):  # as an installation does
            compileall.compile_dir(ROOT / source, quiet=1)
        env = {**os.environ, **python_path(), "TTYBROKER_SOCKET": str(rig.socket)}

        def job(*arguments: str) -> Callable[[], None]:
            def run_once() -> None:
                subprocess.run([sys.executable, *arguments], env=env, check=True,
                               capture_output=True)  # fmt: skip

            return run_once

        times = figures.interleave(
            ROUNDS,
            bare=job("-c", "pass"),
            serial=job("-c", "import serial, socket"),
            ours=job("-c", "from ttybroker import open_tty"),
            check=job("-m", "ttybroker.cli", "check", "ttyS0"),
            list=job("-m", "ttybroker.cli", "list"),
        )
        rows = []
        for title, one, other, most in (
            ("from ttybroker import open_tty / import serial, socket", "ours", "serial", "1.30"),
            ("ttybroker check / python -c pass", "check", "bare", "4.00"),
            ("ttybroker list / python -c pass", "list", "bare", "8.00"),
        ):
            rows.append((title, f"{figures.paired(times, one, other):.2f}", f"at most {most}"))
        figures.table("Start-up, whole processes, paired medians", rows)
    finally:
        rig.close()
