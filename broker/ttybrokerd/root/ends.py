"""How the end of a lease is heard: its last copy is closed, its port is hung up, its holder ends.

The kernel tells of each. `Ends` calls `over` for a lease that has ended, and `orphaned` for one
that goes on without its holder's process.
"""

from __future__ import annotations

import os
import time

from ttybrokerd.root import TYPE_CHECKING, linux
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.loop import NOTHING, READ, Loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybrokerd.root.inotify import Inotify

CLOSED, HUNG_UP = "closed", "hung up or unplugged"  # how a lease ended
# Seconds after a close at which to look again whether it was the holder's last. The kernel tells of
# a close just before it forgets the description (fs/file_table.c, __fput). A process that closes
# may lose its processor in between.
LOOK_AGAIN = (0.002, 0.02, 0.2, 2.0)  # guard: look-again-for-a-close


class Ends:
    """Hears of the leases that are held. It hears of one as long as that has a `watch`."""

    def __init__(
        self,
        loop: Loop,
        inotify: Inotify,
        over: Callable[[Lease, str], None],
        orphaned: Callable[[Lease], None],
    ) -> None:
        self._loop = loop
        self._inotify = inotify
        self._over = over
        self._orphaned = orphaned
        self._looks: dict[Lease, list[float]] = {}  # moments at which to `look_after` it again

    def hear(self, lease: Lease, descriptor: int, pid: int = 0) -> None:
        """Hear of this lease from now on.

        `descriptor` is of its node. Nothing is missed as long as the broker has a copy of the
        holder's description. `pid` is the holder's process, if the lease has no pidfd of it; 0 if
        it is not known. Blocks on no device. Raises OSError when the kernel is out of watches:
        inotify(7).
        """
        lease.watch = self._inotify.closes(descriptor, lambda: self._on_close(lease))
        if lease.exit_fd < 0:
            lease.exit_fd = _exit_fd(pid)
        # guard: watch-for-unplugging
        self._loop.add(lease.own_fd, NOTHING, lambda: self._over(lease, HUNG_UP))
        # guard: watch-for-unplugging, hang-up-under-any-discipline
        self._loop.add(lease.hangup_fd, READ, lambda: self._over(lease, HUNG_UP))
        if lease.exit_fd >= 0:
            self._loop.add(lease.exit_fd, READ, lambda: self._on_exit(lease))
        elif lease.pid:  # it ended while the port was being opened
            self._on_exit(lease)

    def stop(self, lease: Lease) -> None:
        """Hear of this lease no more: it is over."""
        for descriptor in (lease.own_fd, lease.hangup_fd, lease.exit_fd):
            self._loop.remove(descriptor)
        if lease.watch is not None:
            self._inotify.forget_closes(lease.watch)
            lease.watch = None
        self._looks.pop(lease, None)

    def look_after(self, lease: Lease) -> None:
        """Say that the lease is over if the holder's last copy is closed, and no other comes."""
        # guard: no-end-before-a-join
        if lease.watch is not None and not lease.joining and not lease.held():
            # its holder may have closed it before we heard
            self._over(lease, HUNG_UP if linux.hung_up(lease.own_fd) else CLOSED)

    def tick(self, now: float) -> float | None:
        """Look again at what is due; return when the next look is, by time.monotonic()."""
        for lease, looks in list(self._looks.items()):
            if looks[0] <= now:
                looks.pop(0)
                if not looks:
                    del self._looks[lease]
                self.look_after(lease)
        return min((looks[0] for looks in self._looks.values()), default=None)

    def _on_close(self, lease: Lease) -> None:
        """Note that somebody closed the node: the lease is over if that was the last copy."""
        self.look_after(lease)
        if lease.watch is not None:
            now = time.monotonic()
            self._looks[lease] = [now + pause for pause in LOOK_AGAIN]

    def _on_exit(self, lease: Lease) -> None:
        """Note that the holder's process ended: the lease lives on as long as a copy does."""
        self._loop.remove(lease.exit_fd)
        self.look_after(lease)
        if lease.watch is not None:
            self._orphaned(lease)


def _exit_fd(pid: int) -> int:
    """Return a pidfd of `pid`; -1 if there is none.

    The process may have ended, may not be known (0), or may be in another pid namespace.
    """
    try:
        return os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        return -1
