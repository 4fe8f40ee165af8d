"""What another process means by a path: read it, and follow it to a port.

Nothing here grants anything. If somebody changes the path after it was read, the process gets the
port that it named first, which the broker would have given anyway, or the kernel's own answer.
"""

from __future__ import annotations

import os
import stat
import struct

from ttybroker.run.kernel import Memory, open_cached, open_resolved

AT_FDCWD = -100  # linux/fcntl.h
PATH_MAX = 4096  # linux/limits.h
_MOST_PATHS = 256  # bytes; nearly every path is shorter, and reading less is faster
_MANY_LINKS = 40  # MAXSYMLINKS, linux/namei.h
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}  # links to /proc/self/fd
_OWN = (("/proc/self/", ""), ("/proc/thread-self/", ""), ("/dev/fd/", "fd/"))
_OWN_BEGIN = ("/dev/", "/proc/")  # of all of these paths
_OPEN_HOW = struct.Struct("=QQQ")  # struct open_how, linux/openat2.h, 5.6: flags, mode, resolve


def read_path(pid: int, address: int, memory: Memory) -> str | None:
    """Return the string at `address` of the process, None if it cannot be a path.

    Raises PermissionError if ptrace(2) forbids to look: the process has made itself undumpable, or
    has another user's rights.
    """
    raw = bytearray()
    while len(raw) < PATH_MAX:
        try:
            raw += memory.read(pid, address + len(raw), PATH_MAX if raw else _MOST_PATHS)
        except PermissionError:
            raise
        except OSError:
            return None
        end = raw.find(0)
        if end >= 0:
            return os.fsdecode(bytes(raw[:end])) if end else None
    return None


def read_open_how(pid: int, address: int, memory: Memory) -> tuple[int, int] | None:
    """Return (flags, resolve) of the struct open_how of an openat2(2); None if it is unreadable."""
    try:
        raw = memory.read(pid, address, _OPEN_HOW.size)
        if len(raw) < _OPEN_HOW.size:
            raw += memory.read(pid, address + len(raw), _OPEN_HOW.size - len(raw))
    except OSError:
        return None
    flags, _mode, resolve = _OPEN_HOW.unpack(raw)
    return flags, resolve


def may_read(pid: int) -> bool:
    """Return whether /proc/PID/mem opens for us: everything here needs that ptrace(2) right."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    except OSError:
        return False
    return True


def process_of(pid: int) -> int:
    """Return the process that thread `pid` belongs to; `pid` itself when it is gone."""
    try:
        os.close(os.pidfd_open(pid))  # EINVAL for a thread that is not its process's first
        return pid
    except OSError:
        pass
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


def would_get_terminal(pid: int) -> bool:
    """Return whether open(2) of a terminal would make it the process's controlling one.

    That is so if the process leads its session and has none: proc_pid_stat(5).
    """
    try:
        if os.getsid(pid) != pid:
            return False
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return int(words[4]) == 0


def locate(pid: int, dirfd: int, path: str) -> str:
    """Return the same place as a path of ours, through the process's root or descriptor."""
    whole = absolute(pid, dirfd, path)
    if whole is not None and (own := of_itself(pid, whole)) is not None:
        return own
    if path.startswith("/"):
        return f"/proc/{pid}/root{path}"
    if dirfd == AT_FDCWD:
        return f"/proc/{pid}/cwd/{path}"
    return f"/proc/{pid}/fd/{dirfd}/{path}"


def descriptor_of(pid: int, path: str) -> int | None:
    """Return N if the path is that of the process's own descriptor: /dev/stdin, /dev/fd/N, ..."""
    path = _plain(path)
    if not path.startswith(_OWN_BEGIN):
        return None
    own = of_itself(pid, path)
    if own is None or not own.startswith(f"/proc/{pid}/fd/"):
        return None
    number = own.rpartition("/")[2]
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    return int(number) if is_number and own == f"/proc/{pid}/fd/{number}" else None


def of_itself(pid: int, path: str) -> str | None:
    """Return a path through the process's own entry in /proc by its number, else None.

    "self" would be this process. A path through its own root is the same without that.
    """
    path = _plain(path)
    if path in _STANDARD:
        return f"/proc/{pid}/fd/{_STANDARD[path]}"
    for prefix, directory in ((f"/proc/{pid}/", ""), *_OWN):
        if path.startswith(prefix):
            own = f"{directory}{path[len(prefix) :]}"
            within = of_itself(pid, own[4:]) if own.startswith("root/") else None
            return within or f"/proc/{pid}/{own}"
    return None


def _plain(path: str) -> str:
    """Return the path without doubled slashes and single dots: path_resolution(7)."""
    if "//" not in path and "/./" not in path:
        return path
    first, *middle, last = path.split("/")
    return "/".join((first, *(part for part in middle if part not in ("", ".")), last))


def absolute(pid: int, dirfd: int, path: str) -> str | None:
    """Return the path from the root, without looking at it; None if its beginning has no name."""
    if path.startswith("/"):
        return path
    start = "cwd" if dirfd == AT_FDCWD else f"fd/{dirfd}"
    try:
        directory = os.readlink(f"/proc/{pid}/{start}")
    except OSError:
        return None
    return f"{directory}/{path}" if directory.startswith("/") else None


def same_view(pid: int) -> bool:
    """Return whether its paths lead where ours do: it has the same mounts and the same root."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt") and (
            os.readlink(f"/proc/{pid}/root") == os.readlink("/proc/self/root")
        )
    except OSError:
        return False


def device_now(path: str, *, follow: bool) -> str | None:
    """Do as `device_behind`, and never wait.

    Raises BlockingIOError if it would have to ask a disk or a server, FileNotFoundError if nothing
    is there.
    """
    try:
        fd = open_cached(path, follow=follow)
    except (BlockingIOError, FileNotFoundError):
        raise
    except OSError:
        return None
    return _node_of(fd)


def device_resolved(pid: int, dirfd: int, path: str, resolve: int) -> str | None:
    """Return the node that openat2(2) with these RESOLVE_ flags finds for the process.

    None if it finds no character device, or if the process has another root.
    """
    if path.startswith("/") and not same_view(pid):
        return None
    start = "cwd" if dirfd == AT_FDCWD else f"fd/{dirfd}"
    try:
        directory = os.open(f"/proc/{pid}/{start}", os.O_PATH | os.O_CLOEXEC)
        try:
            fd = open_resolved(directory, path, resolve)
        finally:
            os.close(directory)
    except OSError:
        return None
    return _node_of(fd)


def device_behind(place: str, *, follow: bool) -> str | None:
    """Return the node that a `locate`d path leads to, "/dev/ttyUSB3".

    None if that is not a character device. Raises FileNotFoundError if nothing is there. Nothing is
    opened, so no modem line changes.
    """
    try:
        if not stat.S_ISCHR(os.stat(place, follow_symlinks=follow).st_mode):
            return None
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except FileNotFoundError:
        raise
    except OSError:
        return None
    return _node_of(fd)


def _node_of(fd: int) -> str | None:
    """Return the name of the device that this O_PATH descriptor leads to, and close it."""
    try:
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            return None
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def dangling_name(place: str) -> str | None:
    """Return NAME if the path leads to a /dev/NAME that does not exist, else None.

    An alias need not have a node. The path's directory must be our /dev itself, by whatever way.
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
