"""Account for what a broker has open: by so many clients and leases, and nothing else."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter

from support.daemon import Daemon
from support.processes import descriptors
from support.raw import LIST, connect

LEASE = Counter({"pty": 1, "eventpoll": 1, "pidfd": 1})  # its own, weak reference, holder's end

# A daemon on a kernel before 6.16, which has no SO_PASSRIGHTS.
OLD_KERNEL = "from ttybrokerd.root import linux; linux.refuse_descriptors = lambda sock: None"


def kinds(pid: int) -> Counter[str]:
    """The open descriptors of a process, by kind."""
    found: Counter[str] = Counter()
    for what in descriptors(pid).values():
        anonymous = re.fullmatch(r"anon_inode:\[?(\w+)\]?", what)
        if anonymous:
            found[anonymous[1]] += 1
        elif what.startswith("socket:"):
            found["socket"] += 1
        elif what.startswith("/dev/pts/"):
            found["pty"] += 1
        else:
            found[what] += 1
    return found


def explained(daemon: Daemon, before: Counter[str], clients: int, leases: int) -> None:
    """Fails unless the daemon comes to have exactly what so many clients and leases explain."""
    wanted = before + Counter({"socket": clients})
    for _ in range(leases):
        wanted += LEASE
    end = time.monotonic() + 15
    while (now := kinds(daemon.pid)) != wanted:
        assert time.monotonic() < end, f"too many: {now - wanted}, too few: {wanted - now}"
        with contextlib.suppress(OSError), connect(daemon.rig) as sock:  # one round with it
            sock.send(LIST)
            sock.recv(65536)
