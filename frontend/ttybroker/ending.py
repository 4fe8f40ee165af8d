"""How a command ends by a signal: as the shell that started it expects."""

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
