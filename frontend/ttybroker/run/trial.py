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
    """Put a filter on a child, and look into its memory, as the supervisor does later.

    This process looks, because Yama 1 lets only an ancestor.
    """
    answer, say = os.pipe()
    until_closed, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go)
            os.write(say, _trial().encode() or b"+")
            os.close(say)
            os.read(until_closed, 1)
        finally:
            os._exit(0)
    os.close(say)
    os.close(until_closed)
    told = os.read(answer, 4096)
    readable = target.may_read(child)
    os.close(answer)
    os.close(go)
    reap(child)
    if told != b"+":
        return told.decode() or "a process that tried it was killed"
    return "" if readable else _UNREADABLE


def _trial() -> str:
    try:
        notify.try_here()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "another supervisor is there already"
        return str(error)
    return ""
