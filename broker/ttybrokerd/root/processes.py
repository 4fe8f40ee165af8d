"""What the kernel tells of a process: proc(5)."""

from __future__ import annotations

import os

from ttybroker.wire import Holder
from ttybrokerd.root import linux

_TICKS = os.sysconf("SC_CLK_TCK")


def process(pid: int) -> Holder | None:
    """Return the real uid and the name of a live process; None if there is none, or it has ended.

    The name is the process's own choice (PR_SET_NAME), so whatever is not plain ASCII is masked.
    Its command line is not read: a hostile process can make that block.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    try:
        fields = status(pid)
        # A zombie has ended, but its parent has not asked yet. If only the first thread of a live
        # process has ended, that looks the same but for the number of threads.
        # guard: zombie-has-ended
        if b"Z" in fields[b"State"].split()[0] and int(fields[b"Threads"]) == 1:
            return None
        uid = int(fields[b"Uid"].split()[0])
        return Holder(uid, "", pid, printable(fields[b"Name"].strip()))
    except KeyError:  # ended meanwhile, or a /proc that hides it
        return Holder(None, "", pid)


def uids(pid: int) -> list[int]:
    """Return the real, effective, saved and file-system uid of a process; [] if not told."""
    return [int(uid) for uid in status(pid).get(b"Uid", b"").split()]


def lives_here(pid: int) -> bool:
    """Return whether a process has a pid in this pid namespace alone, and in none below it.

    See proc_pid_status(5), NSpid. Returns False if that is not told.
    """
    return len(status(pid).get(b"NSpid", b"").split()) == 1


def began(pid: int) -> float | None:
    """Return when a process began, in seconds since boot (CLOCK_BOOTTIME); None if not told.

    See proc_pid_stat(5), starttime.
    """
    try:
        fields = linux.read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[19]) / _TICKS


def status(pid: int) -> dict[bytes, bytes]:
    """Return the fields of proc_pid_status(5); {} if there is no such process, or it hides."""
    try:
        lines = linux.read_file(f"/proc/{pid}/status").splitlines()
    except OSError:
        return {}
    return dict(line.partition(b":")[::2] for line in lines)


def program(pid: int) -> str:
    """Return the name of a process, masked as in `process`; "" if it cannot be told."""
    try:
        return printable(linux.read_file(f"/proc/{pid}/comm").rstrip(b"\n"))
    except OSError:
        return ""


def printable(raw: bytes) -> str:
    """Return `raw` with everything but printable ASCII replaced by a question mark."""
    # guard: printable-process-name
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in raw)
