"""The command `ttybroker` of this checkout, as a separate process, on a rig's broker."""

from __future__ import annotations

import os
import subprocess
import sys

from support.processes import python_path
from support.rig import Rig
from support.waiting import TIMEOUT

TTYBROKER = (sys.executable, "-m", "ttybroker.cli")


def environment(rig: Rig, **more: str) -> dict[str, str]:
    """Return the environment in which it finds this checkout and the rig's broker."""
    return {**os.environ, **python_path(), "TTYBROKER_SOCKET": str(rig.socket), **more}


def command(rig: Rig, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as root."""
    return _done(rig, *TTYBROKER, *words)


def in_a_shell(rig: Rig, line: str) -> subprocess.CompletedProcess[str]:
    """Run the command as root in a shell. line: the words after its name, with redirections."""
    return _done(rig, "sh", "-c", f"{' '.join(TTYBROKER)} {line}")


def _done(rig: Rig, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment(rig), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=TIMEOUT, check=False)  # fmt: skip
