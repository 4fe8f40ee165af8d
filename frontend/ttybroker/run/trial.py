"""Whether a filter and a supervisor can work here, tried by a child that then ends.

Once a filter is on, it stays on: so this process must not be the one that tries.
"""

from __future__ import annotations

import errno
import os
import socket

from ttybroker.run import notify, target
from ttybroker.run.aside import LINE_MAX, reap


def try_in_a_child(scope: int) -> str:
    """Put a filter on a child that then ends, and look into a memory, as later on."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            mine.close()
            theirs.send(_trial(parent if scope == 0 else 0).encode() or b"+")
            theirs.recv(1)  # stay, to be looked at
        finally:
            os._exit(0)
    theirs.close()
    with mine:
        answer = mine.recv(LINE_MAX)
        readable = scope == 0 or target.may_read(child)
    reap(child)
    if answer != b"+":
        return answer.decode() or "the trial of it was killed"
    return "" if readable else _UNREADABLE


_UNREADABLE = "the memory of another process cannot be read here"


def _trial(parent: int) -> str:
    try:
        notify.check_support()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "another supervisor is there already"
        return str(error)
    return "" if not parent or target.may_read(parent) else _UNREADABLE
