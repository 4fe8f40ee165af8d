"""How a command ends: by a signal, as the shell expects, or where its output is gone."""

from __future__ import annotations

import os
import signal


def end_by(number: int) -> int:
    """End this process by the signal `number`, as if nobody had caught it: signal(7).

    A shell then sees that it was the signal, and ends its loop for a Ctrl-C. Returns the exit
    status that stands for it, for where the signal is blocked.
    """
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def forget_output() -> None:
    """Keep the interpreter from complaining at its end about output that it cannot write."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # a terminal has given up the file system, and writes without a buffer
        return
    os.dup2(null, 1)
    os.close(null)
