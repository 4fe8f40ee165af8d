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


def holding(holder: Holder, device: str = "", broker: int = 0) -> str:
    """Return a clause like "alice has it with picocom (pid 42) since 22:50".

    device: the port's path. Where the holder's process has ended, /proc is searched for copies of
    it. broker: the broker's pid, whose own descriptor is no copy. May block as long as the name
    service does.
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


def ended(holders: Iterable[Holder | None]) -> frozenset[int]:
    """Return the pids among those of these leases' holders which no process has any more."""
    pids = [one.pid for one in holders if one is not None and one.how == "lease" and one.pid]
    return frozenset(pid for pid in pids if not _lives(pid))


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
    first = found[0]
    user = name_of(first.uid) or f"uid {first.uid}"
    others = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{user}'s {first.program} (pid {first.pid}) has a copy{others}"


def _lives(pid: int | None) -> bool:
    """Return whether there is such a process; /proc may hide those of others: proc(5), hidepid."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
