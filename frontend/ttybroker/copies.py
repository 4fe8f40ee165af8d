"""Find the processes that have a device open, in /proc.

The broker may not look into other processes. Root may look into all, and a user into their own:
proc_pid_fd(5). So the client does this. Pids are those of this process's /proc.
"""

from __future__ import annotations

import os

from ttybroker.say import printable
from ttybroker.wire import Value

_UNIX98 = range(136, 144)  # majors of ptys: Documentation/admin-guide/devices.txt
_OWN_TERMINAL = os.makedev(5, 0)  # /dev/tty: the same


class Copy(Value):
    """A process that has a device open. `uid` is its effective one."""

    pid: int
    uid: int
    program: str
    descriptors: tuple[int, ...]


def copies(device: str) -> list[Copy]:
    """Return each visible process that has a descriptor of the device.

    Raises OSError if there is no such device.
    """
    wanted = _identity(os.stat(device))
    found = []
    for entry in _listed("/proc"):
        if entry.isdigit() and (descriptors := _descriptors(entry, wanted)):
            try:
                found.append(Copy(int(entry), *_who(entry), descriptors))
            except (OSError, ValueError):  # it has ended
                continue
    return sorted(found, key=lambda copy: copy.pid)


def _identity(found: os.stat_result) -> tuple[int, int]:
    """Return the device's number, and for a pty the mount of devpts that it is in.

    A container has a mount of its own, with the same numbers.
    """
    is_pty = os.major(found.st_rdev) in _UNIX98
    return found.st_rdev, found.st_dev if is_pty else 0


def _descriptors(pid: str, wanted: tuple[int, int]) -> tuple[int, ...]:
    """Return those of each thread: one may have its own table, and the first may have ended."""
    found: set[int] = set()
    for thread in _listed(f"/proc/{pid}/task"):
        directory = f"/proc/{pid}/task/{thread}/fd"
        for number in _listed(directory):
            try:
                identity = _identity(os.stat(f"{directory}/{number}"))
            except OSError:  # closed meanwhile
                continue
            if identity == wanted or (identity[0] == _OWN_TERMINAL and _terminal(pid) == wanted[0]):
                found.add(int(number))
    return tuple(sorted(found))


def _terminal(pid: str) -> int:
    """Return the device number of the terminal that /dev/tty means in this process.

    0 if it has none. proc_pid_stat(5), tty_nr.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            number = int(file.read().rpartition(b")")[2].split()[4])
    except (OSError, IndexError):
        return 0
    return os.makedev(number >> 8 & 0xFFF, (number & 0xFF) | (number >> 12 & 0xFFF00))


def _who(pid: str) -> tuple[int, str]:
    """Return effective uid and printable name of a process."""
    with open(f"/proc/{pid}/comm", errors="replace") as file:
        program = file.read().rstrip("\n")
    with open(f"/proc/{pid}/status", "rb") as file:
        uid = next(line.split()[2] for line in file if line.startswith(b"Uid:"))
    return int(uid), printable(program)


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # of somebody else's process, or it has ended
        return []
