"""How many backends a caller of `ttyrun` may have at once.

Backends belong to root, so no limit of the caller counts them. A backend outlives its `ttyrun`
while somebody keeps its port. Each backend holds a lock on one byte of its caller's file. The lock
belongs to the open file description, so it ends when the last copy of the descriptor is closed:
fcntl(2), F_OFD_SETLK.
"""

from __future__ import annotations

import fcntl
import os
import struct

DIRECTORY = "/run/ttyrun"
MOST = 32
_FLOCK = struct.Struct("@hhqqi")  # struct flock with 64-bit offsets: fcntl(2)


class AllTaken(Exception):
    """A caller has as many as it may have."""


def take(uid: int) -> int:
    """Return a descriptor that stands for one of the places that this user has.

    Raises AllTaken, or OSError if the directory cannot be used.
    """
    try:
        os.mkdir(DIRECTORY, 0o755)
    except FileExistsError:
        pass
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(f"{DIRECTORY}/{uid}", flags, 0o600)
    for byte in range(MOST):  # guard: ttyrun-backends-per-caller
        try:
            lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
            return descriptor
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody has it
            continue
        except OSError:
            os.close(descriptor)
            raise
    os.close(descriptor)
    raise AllTaken(f"{MOST} of your brokers have or want a port already; end some of them first")
