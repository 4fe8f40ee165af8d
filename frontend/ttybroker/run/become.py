"""Becoming the program: the filter on, the listener handed over, exec."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct

from ttybroker.run import notify
from ttybroker.run.job import NOT_EXECUTABLE, NOT_FOUND, Failure

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.run.job import LaunchJob


def become_program(job: LaunchJob, talk: socket.socket) -> None:
    """Put the filter on, hand its listener to the supervisor, and become the program."""
    direct = open_direct(job)  # before the filter, after the fork: the supervisor keeps no copy
    try:
        listener = notify.install()
    except OSError as error:
        raise Failure(f"{job.argv[0]}: no seccomp filter: {error}")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", listener))]
    talk.sendmsg([b"L"], rights)
    talk.close()
    os.close(listener)
    exec_program(job, direct)


def open_direct(job: LaunchJob) -> list[tuple[int, tuple[int, ...]]]:
    """(our descriptor, where the program wants it) of every port it is to find open.

    Blocking, as programs expect of what they inherit. Raises Failure.
    """
    if not job.direct:
        return []
    import fcntl

    from ttybroker.run.supervise import line_of

    above = 1 + max(number for numbers, _ in job.direct for number in numbers)
    opened = []
    try:
        client = job.connect()
        for numbers, name in job.direct:
            fd = client.open(name, wait=job.wait, pid=os.getpid())
            os.set_blocking(fd, True)
            # Out of the way of the numbers that the others are to have.
            opened.append((fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above), numbers))
            os.close(fd)
        client.close()
    except OSError as error:
        raise Failure(line_of(error))
    return opened


def exec_program(job: LaunchJob, direct: list[tuple[int, tuple[int, ...]]]) -> None:
    """Become the program, with nothing of ours left: does not return. Raises Failure."""
    for fd, numbers in direct:
        for number in numbers:
            os.dup2(fd, number)
    if job.before_exec is None:
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; programs rely
            signal.signal(ignored, signal.SIG_DFL)
    else:
        job.before_exec()
    try:
        try:
            os.execve(job.program, job.argv, job.env)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without a first line: what execvp(3) and the shells do.
            os.execve("/bin/sh", ["/bin/sh", job.program, *job.argv[1:]], job.env)
    except OSError as error:
        status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        raise Failure(f"{job.argv[0]}: {error.strerror}", status)
