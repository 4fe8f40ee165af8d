"""Run a program under a tracer that looks at nothing: what a stop at an open costs by itself.

    tracer.py CODE PROGRAM [ARGUMENT...]

It has the filter of CODE, a directory with the packages of a build.
"""

from __future__ import annotations

import ctypes
import os
import sys

sys.path.append(sys.argv[1])

from ttybroker.run import notify, trace
from ttybroker.run.kernel import libc

CONT = 7  # PTRACE_CONT, linux/ptrace.h
WALL = 0x40000000  # linux/wait.h


def main() -> None:
    """Start the program, and let it go on whenever it stops, until it ends."""
    ready = os.pipe()
    program = os.fork()
    if program == 0:
        os.read(ready[0], 1)
        notify.install(plain=notify.PLAIN_INHERITED, traced=True)
        os.execv(sys.argv[2], sys.argv[2:])
    if not trace.seize(program):
        sys.exit("a child cannot be traced here")
    os.write(ready[1], b"+")
    status = ctypes.c_int()
    at = ctypes.byref(status)
    while (pid := libc.waitpid(-1, at, WALL)) > 0:
        if status.value & 0xFF == 0x7F:  # it has stopped, at an event or at a signal
            number = 0 if status.value >> 16 else status.value >> 8
            libc.ptrace(CONT, pid, None, number)


main()
