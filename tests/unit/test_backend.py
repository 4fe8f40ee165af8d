"""What cannot be provoked of a backend's start."""

from __future__ import annotations

import errno
import os
import socket

from ttybrokerd import backend


def test_the_process_between_ends_though_no_backend_can_be_forked() -> None:
    """It is a copy of the program, which must not go on twice."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    between = os.fork()
    if between == 0:
        try:
            os.fork = no_process
            backend._leave(theirs)
        finally:
            os._exit(99)
    theirs.close()
    assert os.waitstatus_to_exitcode(os.waitpid(between, 0)[1]) == 0
    assert os.strerror(errno.EAGAIN) in ours.recv(4096).decode()
    ours.close()


def no_process() -> int:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
