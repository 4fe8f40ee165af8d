"""What another process means by a path: read it, and follow it to a port.

Nothing here grants anything. Whoever changes the path after we read it gets the port it
named first, from a broker that would have given it anyway, or the kernel's own answer.
"""

from __future__ import annotations

import os
import stat
import struct

AT_FDCWD = -100  # linux/fcntl.h
PATH_MAX = 4096  # linux/limits.h
_MOST_PATHS = 256  # bytes; nearly every path is shorter, and reading less is faster
_MANY_LINKS = 40  # MAXSYMLINKS, linux/namei.h
_OPEN_HOW = struct.Struct("=QQQ")  # struct open_how, linux/openat2.h, 5.6: flags, mode, resolve


def read_path(pid: int, address: int) -> str | None:
    """The string at `address` of the process; None when there is none to be read."""
    raw = _read_memory(pid, address, _MOST_PATHS)
    end = raw.find(b"\0")
    if end < 0 and len(raw) == _MOST_PATHS:
        raw = _read_memory(pid, address, PATH_MAX)
        end = raw.find(b"\0")
    return os.fsdecode(raw[:end]) if end > 0 else None


def read_open_how(pid: int, address: int) -> tuple[int, int] | None:
    """(flags, resolve) of an openat2(2) whose struct open_how lies there; None when unreadable."""
    raw = _read_memory(pid, address, _OPEN_HOW.size)
    if len(raw) != _OPEN_HOW.size:
        return None
    flags, _mode, resolve = _OPEN_HOW.unpack(raw)
    return flags, resolve


def _read_memory(pid: int, address: int, size: int) -> bytes:
    """At most `size` bytes; fewer where the mapping ends, none where ptrace(2) rules forbid it."""
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.pread(fd, size, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(fd)


def may_read(pid: int) -> bool:
    """Whether /proc/PID/mem opens for us: the ptrace(2) right that everything here needs."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    except OSError:
        return False
    return True


def process_of(pid: int) -> int:
    """The process that thread `pid` belongs to; `pid` itself when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY)
    except OSError:
        return pid
    try:
        text = os.read(fd, 4096)  # the line is among the first ones
    except ProcessLookupError:
        return pid
    finally:
        os.close(fd)
    at = text.find(b"\nTgid:\t")
    return int(text[at + 7 : text.index(b"\n", at + 7)]) if at >= 0 else pid


def locate(pid: int, dirfd: int, path: str) -> str:
    """The same place as a path of ours, through the process's root, directory or descriptor."""
    if path.startswith("/"):
        return f"/proc/{pid}/root{path}"
    if dirfd == AT_FDCWD:
        return f"/proc/{pid}/cwd/{path}"
    return f"/proc/{pid}/fd/{dirfd}/{path}"


def device_behind(place: str, *, follow: bool) -> str | None:
    """The node a `locate`d path leads to, "/dev/ttyUSB3"; None when that is no character device.

    Raises FileNotFoundError when nothing is there. Nothing is opened, so no line moves.
    """
    try:
        if not stat.S_ISCHR(os.stat(place, follow_symlinks=follow).st_mode):
            return None
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def dangling_name(place: str) -> str | None:
    """The NAME when the path leads to a /dev/NAME that does not exist; else None.

    An alias need not have a node. Its directory must be our /dev itself, by whatever way.
    """
    for _ in range(_MANY_LINKS):
        parent, _, last = place.rstrip("/").rpartition("/")
        try:
            target = os.readlink(place)
        except OSError:
            return last if _is_dev(parent) else None
        place = target if target.startswith("/") else f"{parent}/{target}"
    return None


def _is_dev(directory: str) -> bool:
    try:
        found, dev = os.stat(directory or "/"), os.stat("/dev")
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (dev.st_dev, dev.st_ino)
