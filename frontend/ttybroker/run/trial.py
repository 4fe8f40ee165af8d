"""Whether a filter and a supervisor can work here.

If only a try can tell, a child tries and ends. A filter stays for good, so this process must not be
the one that tries.
"""

from __future__ import annotations

import errno
import os

from ttybroker.run import notify, target
from ttybroker.run.aside import reap

_UNREADABLE = "the memory of another process cannot be read here"


def obstacle_here() -> str:
    """Return why this process cannot have a filter with a listener, "" if it can.

    Only a filter that is there could refuse one. So a process without any filter needs no trial.
    """
    try:
        notify.check_kernel()
    except OSError as error:
        return str(error)
    return "" if _unfiltered() else _try_in_a_child()


def _unfiltered() -> bool:
    """Return whether this process has no seccomp filter: Seccomp in proc_pid_status(5) is 0."""
    try:
        with open("/proc/self/status", "rb") as file:
            return b"\nSeccomp:\t0\n" in file.read()
    except OSError:
        return False


def _try_in_a_child() -> str:
    """Put a filter on a child. Then both look into each other's memory, as they do later."""
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, _trial(parent).encode() or b"+")
        finally:
            os._exit(0)
    os.close(writing)
    answer = os.read(reading, 4096)
    os.close(reading)
    reap(child)
    if answer != b"+":
        return answer.decode() or "a process that tried it was killed"
    return ""


def _trial(parent: int) -> str:
    readable = target.may_read(parent)
    try:
        notify.try_here()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "another supervisor is there already"
        return str(error)
    return "" if readable else _UNREADABLE
