"""io_uring without a library, just enough to hide a file in one: io_uring_setup(2) and its kin.

A registered file is a reference that no descriptor table shows, no fork copies and no close of
its descriptor ends.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct

SETUP, ENTER, REGISTER = 425, 426, 427  # asm-generic/unistd.h, the same everywhere
REGISTER_FILES, GETEVENTS, OP_WRITE, FIXED_FILE = 2, 1, 23, 1  # linux/io_uring.h
SQES = 0x10000000  # where mmap finds them
_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"io_uring, system call {number}")
    return result


class Ring:
    """A ring that holds one file. Raises OSError ENOSYS or EPERM where users may not have one."""

    def __init__(self, descriptor: int) -> None:
        parameters = ctypes.create_string_buffer(120)
        self.fd = _call(SETUP, 4, parameters)
        entries, cq_entries = struct.unpack_from("II", parameters, 0)
        self._sq = struct.unpack_from("7I", parameters, 40)  # head tail mask entries flags . array
        self._cq = struct.unpack_from("6I", parameters, 80)  # head tail mask entries . cqes
        size = max(self._sq[6] + 4 * entries, self._cq[5] + 16 * cq_entries)
        self._rings = mmap.mmap(self.fd, size)
        self._sqes = mmap.mmap(self.fd, 64 * entries, offset=SQES)
        _call(REGISTER, self.fd, REGISTER_FILES, ctypes.byref(ctypes.c_int(descriptor)), 1)

    def write(self, data: bytes) -> int:
        """Write to the registered file. Raises OSError."""
        buffer = ctypes.create_string_buffer(data, len(data))
        tail = self._get(self._sq[1])
        slot = tail & self._get(self._sq[2])
        struct.pack_into("<BBHiQQIIQ24x", self._sqes, 64 * slot, OP_WRITE, FIXED_FILE, 0, 0,
                         2**64 - 1, ctypes.addressof(buffer), len(data), 0, 1)  # fmt: skip
        self._set(self._sq[6] + 4 * slot, slot)
        self._set(self._sq[1], tail + 1)
        _call(ENTER, self.fd, 1, 1, GETEVENTS, None, 0)
        head = self._get(self._cq[0])
        at = self._cq[5] + 16 * (head & self._get(self._cq[2]))
        (result,) = struct.unpack_from("i", self._rings, at + 8)
        self._set(self._cq[0], head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result)

    def close(self) -> None:
        """Let go of the ring, and with it of the file."""
        self._rings.close()
        self._sqes.close()
        os.close(self.fd)

    def _get(self, at: int) -> int:
        return int(struct.unpack_from("I", self._rings, at)[0])

    def _set(self, at: int, value: int) -> None:
        struct.pack_into("I", self._rings, at, value)


def missing() -> str:
    """Why there is no io_uring for this process, or ""."""
    try:
        Ring(os.open("/dev/null", os.O_WRONLY)).close()
    except OSError as error:
        return f"this kernel has no io_uring for users: {errno.errorcode[error.errno or 0]}"
    return ""
