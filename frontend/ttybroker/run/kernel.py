"""System calls that the standard library lacks, or makes slow to load. By ctypes.

`socket` and `signal` load `enum`, which costs 6 ms of the 30 ms of a start. Every failing call
raises OSError with its errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

# linux/prctl.h
PR_GET_DUMPABLE = 3  # 2.4
PR_SET_DUMPABLE = 4  # 2.4
PR_SET_CHILD_SUBREAPER = 36  # 3.4
PR_SET_NO_NEW_PRIVS = 38  # 3.5
PR_SET_PTRACER = 0x59616D61  # Documentation/admin-guide/LSM/Yama.rst, 3.4

_SOL_SOCKET, _SO_PEERCRED = 1, 17  # asm-generic/socket.h
_PIDFD_GETFD = 438  # 5.6, the same everywhere
_OPENAT2 = 437  # 5.6, the same everywhere
# COMPAT_UTS_MACHINE: what setarch(8) has the kernel name as the machine, also to a 64-bit process
_COMPAT = {"i686": "x86_64", "armv8l": "aarch64"}
_NAMED = os.uname().machine
MACHINE = _COMPAT.get(_NAMED, _NAMED) if sys.maxsize > 2**32 else _NAMED
_KCMP = {"x86_64": 312}.get(MACHINE, 272)  # 3.5; asm/unistd_64.h, asm-generic/unistd.h
_KCMP_EPOLL_TFD = 7  # linux/kcmp.h, 4.13
_AT_FDCWD = -100  # linux/fcntl.h
_RESOLVE_CACHED = 0x20  # linux/openat2.h, 5.12
_PAGE = 4096  # no architecture has smaller ones

# signal(7): the same numbers on every machine in `notify.MACHINES`
SIGINT, SIGCHLD, SIGCONT = 2, 17, 18
SIG_DFL, SIG_IGN = 0, 1
# Not to be ignored: faults, SIGKILL and SIGSTOP, SIGCHLD, which we wait for, SIGCONT.
_KEPT = {4, 5, 6, 7, 8, 9, 11, SIGCHLD, SIGCONT, 19, 31}
_SIGNALS = 64  # _NSIG

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.signal.restype = ctypes.c_void_p
libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.process_vm_readv.restype = ctypes.c_ssize_t
libc.process_vm_readv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)


def fail(what: str) -> OSError:
    """Return the OSError of the call that has just failed."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, value: int) -> int:
    """Call prctl(2) with one argument."""
    result: int = libc.prctl(
        ctypes.c_int(option),
        ctypes.c_ulong(value),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    if result < 0:
        raise fail("prctl")
    return result


def set_signal(number: int, action: int) -> None:
    """Call signal(2) with SIG_DFL or SIG_IGN. Python's own table does not learn of it."""
    libc.signal(number, action)


def signal_action(number: int) -> int:
    """Return SIG_DFL, SIG_IGN, or the address of a handler: what signal(2) was told."""
    action: int | None = libc.signal(number, SIG_IGN)
    libc.signal(number, action or SIG_DFL)
    return action or SIG_DFL


def outlive_signals() -> None:
    """Ignore every signal that would end or stop this process and that can be ignored.

    A service manager sends SIGTERM to all processes of a unit at once. The supervisor must answer
    until the program has ended.
    """
    for number in range(1, _SIGNALS + 1):
        if number not in _KEPT:
            libc.signal(number, SIG_IGN)


def take_fd(process: int, number: int) -> int:
    """Return a copy of descriptor `number` of the process with this pidfd: pidfd_getfd(2).

    It is close-on-exec. Needs the right to trace that process.
    """
    fd: int = libc.syscall(
        ctypes.c_long(_PIDFD_GETFD),
        ctypes.c_int(process),
        ctypes.c_int(number),
        ctypes.c_uint(0),
    )
    if fd < 0:
        raise fail("pidfd_getfd")
    return fd


class _EpollSlot(ctypes.Structure):
    _fields_ = (("efd", ctypes.c_uint32), ("tfd", ctypes.c_uint32), ("toff", ctypes.c_uint32))


def is_in_set(pid: int, number: int, owner: int, epoll: int, entry: int, nth: int) -> bool:
    """Return whether a descriptor is the same open file description as an entry of an epoll set.

    It is descriptor `number` of thread `pid`. The set is descriptor `epoll` of process `owner`. Of
    the entries that were added under the number `entry` it is the `nth`, from 0. False when that
    cannot be told. kcmp(2).
    """
    slot = _EpollSlot(epoll, entry, nth)
    result: int = libc.syscall(
        ctypes.c_long(_KCMP),
        ctypes.c_int(pid),
        ctypes.c_int(owner),
        ctypes.c_int(_KCMP_EPOLL_TFD),
        ctypes.c_ulong(number),
        ctypes.byref(slot),
    )
    return result == 0


def open_cached(path: str, *, follow: bool) -> int:
    """Return an O_PATH descriptor of `path`, if the kernel has the way to it in memory.

    RESOLVE_CACHED asks no disk and no server. Raises BlockingIOError if it would have to, and on
    kernels before 5.12.
    """
    try:
        return _openat2(_AT_FDCWD, path, _CACHED if follow else _CACHED_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.E2BIG):
            raise BlockingIOError(errno.EAGAIN, "this kernel has no RESOLVE_CACHED") from None
        raise


def open_resolved(directory: int, path: str, resolve: int) -> int:
    """Return an O_PATH descriptor of `path`, under these RESOLVE_ flags of openat2(2)."""
    return _openat2(directory, path, _open_how(0, resolve))


def _open_how(flags: int, resolve: int) -> ctypes.Array[ctypes.c_uint64]:
    """Return a struct open_how: linux/openat2.h."""
    return (ctypes.c_uint64 * 3)(flags | os.O_PATH | os.O_CLOEXEC, 0, resolve)


# Made once, as is the prototype: each open that is traced is looked at by them.
_CACHED = _open_how(0, _RESOLVE_CACHED)
_CACHED_NOFOLLOW = _open_how(os.O_NOFOLLOW, _RESOLVE_CACHED)
_syscall_openat2 = libc["syscall"]
_syscall_openat2.restype = ctypes.c_long
_syscall_openat2.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
)


def _openat2(directory: int, path: str, how: ctypes.Array[ctypes.c_uint64]) -> int:
    fd: int = _syscall_openat2(_OPENAT2, directory, os.fsencode(path), how, ctypes.sizeof(how))
    if fd < 0:
        raise fail("openat2")
    return fd


class Memory:
    """Read the memory of other processes: process_vm_readv(2). For one thread.

    Each traced open uses it. So whatever a call needs is made only once.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(_PAGE)
        pinned = (ctypes.c_char * _PAGE).from_buffer(self._buffer)
        # two struct iovec, each an address and a length: here, and there
        self._vectors = (ctypes.c_size_t * 4)(ctypes.addressof(pinned), 0, 0, 0)
        self._here = ctypes.addressof(self._vectors)
        self._there = self._here + ctypes.sizeof(self._vectors) // 2

    def read(self, pid: int, address: int, size: int) -> bytearray:
        """Return at most `size` bytes, none of them beyond the page of `address`.

        A mapping may end there. Raises OSError: EFAULT for a bad address, EPERM where the rules of
        ptrace(2) forbid it.
        """
        size = min(size, _PAGE - address % _PAGE)
        vectors = self._vectors
        vectors[1] = vectors[3] = size
        vectors[2] = address
        count: int = libc.process_vm_readv(pid, self._here, 1, self._there, 1, 0)
        if count < 0:
            raise fail("process_vm_readv")
        return self._buffer[:count]


class _Ucred(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_int), ("uid", ctypes.c_uint), ("gid", ctypes.c_uint))


def peer_pid(sock: int) -> int:
    """Return the pid that SO_PEERCRED gives for a connected socket.

    0 if that process is in no pid namespace that is visible from here, or if the descriptor is not
    a socket.
    """
    peer = _Ucred()
    size = ctypes.c_uint(ctypes.sizeof(peer))
    if libc.getsockopt(sock, _SOL_SOCKET, _SO_PEERCRED, ctypes.byref(peer), ctypes.byref(size)):
        return 0
    return int(peer.pid)
