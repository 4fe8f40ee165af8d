"""Who has a port, as a sentence for the person who wants it."""

from __future__ import annotations

import os
import time

from ttybroker.users import name_of, named

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.wire import Holder

_BY = {
    "lock file": "by its lock file",
    "flock": "by flock",
    "exclusive": "by a program that set it exclusive",
    "login": "by a login",
}
_A_DAY = 86400
_UNIX98 = range(136, 144)  # majors of ptys: Documentation/admin-guide/devices.txt


def holding(holder: Holder, device: str = "", broker: int = 0) -> str:
    """Return a clause like "alice has it with picocom (pid 42) since 22:50".

    device: the port's path, to look in /proc for copies where the holder's process has ended;
    broker: the broker's pid, whose own descriptor is none. May block as long as the name service
    does.
    """
    holder = named(holder)
    user = holder.user or ("somebody" if holder.uid is None else f"uid {holder.uid}")
    label = f" for {holder.label!r}" if holder.label else ""
    if holder.how == "exclusive":
        return f"held {_BY['exclusive']}"
    if holder.how == "lease" and not _lives(holder.pid):
        kept = _copies(holder, device, broker)
        return f"{user} has it{label}{since(holder)}: its process has ended, {kept}"
    program = f" with {holder.program}" if holder.program else ""
    pid = f" (pid {holder.pid})" if holder.pid else ""
    how = "" if holder.how == "lease" else f", {_BY.get(holder.how, f'by {holder.how}')}"
    return f"{user} has it{program}{pid}{label}{since(holder)}{how}"


def since(holder: Holder) -> str:
    """Return " since 22:50", with the date where that is a day ago or more; "" if not known."""
    if holder.since is None:
        return ""
    long_ago = time.time() - holder.since >= _A_DAY
    return time.strftime(" since %Y-%m-%d %H:%M" if long_ago else " since %H:%M",
                         time.localtime(holder.since))  # fmt: skip


def copies(device: str) -> list[tuple[int, int, str]]:
    """Return pid, uid and program of each process that has a descriptor of the device.

    Of other users' processes only root sees the descriptors: proc_pid_fd(5). A pid is as this
    process's /proc has it.
    """
    try:
        wanted = _identity(os.stat(device))
    except OSError:
        return []
    found = []
    for entry in _listed("/proc"):
        if entry.isdigit() and _has(entry, wanted):
            try:
                uid = os.stat(f"/proc/{entry}").st_uid
                with open(f"/proc/{entry}/comm", errors="replace") as file:
                    found.append((int(entry), uid, _printable(file.read().rstrip("\n"))))
            except OSError:  # ended meanwhile
                continue
    return sorted(found)


def _identity(found: os.stat_result) -> tuple[int, int]:
    """A device's number; that of a pty is one of its own mount of devpts, as a container has it."""
    is_pty = os.major(found.st_rdev) in _UNIX98
    return found.st_rdev, found.st_dev if is_pty else 0


def _has(pid: str, wanted: tuple[int, int]) -> bool:
    for number in _listed(f"/proc/{pid}/fd"):
        try:
            if _identity(os.stat(f"/proc/{pid}/fd/{number}")) == wanted:
                return True
        except OSError:  # closed meanwhile
            continue
    return False


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # of somebody else's process, or it has ended
        return []


def _copies(holder: Holder, device: str, broker: int) -> str:
    if not device:
        return "a copy of it is still open"
    found = [copy for copy in copies(device) if copy[0] != broker and copy[1] == holder.uid]
    if not found:
        return "a copy of it is still open in a process that cannot be seen from here"
    pid, uid, program = found[0]
    others = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{name_of(uid) or f'uid {uid}'}'s {program} (pid {pid}) has a copy{others}"


def _lives(pid: int | None) -> bool:
    return pid is not None and os.path.exists(f"/proc/{pid}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
