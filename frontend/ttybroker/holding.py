"""Who has a port, as a sentence for the person who wants it."""

from __future__ import annotations

import os
import time

from ttybroker.copies import copies
from ttybroker.users import name_of, named

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ttybroker.wire import Holder

_BY = {
    "lock file": "by its lock file",
    "flock": "by flock",
    "exclusive": "by a program that set it exclusive",
    "login": "by a login",
}
_A_DAY = 86400
_ROUNDED = 0.1  # seconds by which two ways to tell a process's beginning may differ


def holding(holder: Holder, device: str = "", broker: int = 0) -> str:
    """Return a clause like "alice has it with picocom (pid 42) since 22:50".

    device: the port's path. Where the holder's process has ended, /proc is searched for copies of
    it. broker: the broker's pid, whose own descriptor is no copy. May block as long as the name
    service does.
    """
    user, label = _user(holder), f" for {holder.label!r}" if holder.label else ""
    if holder.how == "exclusive":
        return f"held {_BY['exclusive']}"
    if has_ended(holder):
        kept = _copies(holder, device, broker)
        return f"{user} has it{label}{since(holder)}: its process has ended, {kept}"
    program = f" with {holder.program}" if holder.program else ""
    pid = f" (pid {holder.pid})" if holder.pid else ""
    how = "" if holder.how == "lease" else f", {_BY.get(holder.how, f'by {holder.how}')}"
    return f"{user} has it{program}{pid}{label}{since(holder)}{how}"


def ended(holders: Iterable[Holder | None]) -> frozenset[int]:
    """Return the pids among those of these leases' holders which no process has any more."""
    gone = (one for one in holders if one is not None and has_ended(one))
    return frozenset(one.pid for one in gone if one.pid is not None)


def left_behind(holder: Holder, name: str, path: str | None) -> str:
    """Return the clause of `holding` if the holder's process has ended; "" if not.

    name: of the port. path: of the broker's socket. None: a socket of this program's own, whose
    broker is not asked. If the broker is in a pid namespace that cannot be seen from here, its pids
    mean nothing here, and this returns "".
    """
    if not has_ended(holder):
        return ""
    if path is None:
        return holding(holder)
    from ttybroker.client import connect  # here, for most holders live
    from ttybroker.errors import BrokerError

    try:
        with connect(path) as broker:
            device = next((port.device for port in broker.ports((name,))), "")
            pid, _ = broker.status()
    except BrokerError:
        return ""
    return holding(holder, device, pid) if pid else ""


def since(holder: Holder) -> str:
    """Return " since 22:50", with the date where that is a day ago or more; "" if not known."""
    if holder.since is None:
        return ""
    long_ago = time.time() - holder.since >= _A_DAY
    return time.strftime(" since %Y-%m-%d %H:%M" if long_ago else " since %H:%M",
                         time.localtime(holder.since))  # fmt: skip


def _copies(holder: Holder, device: str, broker: int) -> str:
    if not device:
        return "a copy of it is still open"
    try:
        seen = copies(device)
    except OSError:
        seen = []
    found = [copy for copy in seen if copy.pid != broker and copy.uid == holder.uid]
    if not found:
        return "a copy of it is still open in a process that cannot be seen from here"
    # A process that began before the lease may have a dead copy, of an earlier one.
    first = next((copy for copy in found if not _before(copy.pid, holder.since)), found[0])
    user = name_of(first.uid) or f"uid {first.uid}"
    others = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{user}'s {first.program} (pid {first.pid}) has a copy{others}"


def _before(pid: int, since: float | None) -> bool:
    """Return whether this process began before that moment: proc_pid_stat(5), starttime."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return False
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return since is not None and time.time() - age < since - _ROUNDED


def with_what(holder: Holder) -> str:
    """Return a clause like "alice's picocom (pid 42)". May block as `holding` may."""
    pid = f" (pid {holder.pid})" if holder.pid else ""
    return f"{_user(holder)}'s {holder.program or 'program'}{pid}"


def has_ended(holder: Holder) -> bool:
    """Whether the process that was granted this lease has ended; False if its pid is not known."""
    return holder.how == "lease" and holder.pid is not None and not _lives(holder.pid)


def _user(holder: Holder) -> str:
    return named(holder).user or ("somebody" if holder.uid is None else f"uid {holder.uid}")


def _lives(pid: int) -> bool:
    """Return whether there is such a process; /proc may hide those of others: proc(5), hidepid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
