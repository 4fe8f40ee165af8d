"""Calls that Python has not: by ctypes, with errno made an exception."""

from __future__ import annotations

import ctypes

CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000  # linux/sched.h
MS_REC, MS_PRIVATE = 0x4000, 0x40000  # sys/mount.h
PR_SET_DUMPABLE = 4  # linux/prctl.h

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """A function of libc that returns -1 and errno."""
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name} {arguments}")
    return result


def own_mounts() -> None:
    """A mount namespace of one's own."""
    call("unshare", CLONE_NEWNS)
    call("mount", None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
