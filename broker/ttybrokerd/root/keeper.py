"""Which lease goes into systemd's store, and when.

systemd reads the messages of its services before it answers anybody else. Leases of one port in a
loop kept `systemctl` waiting for a minute (systemd 257, one slow processor). So only some go into
the store at once, before they are answered. Any further one waits until it has lasted a moment.
Dead copies go in at the same pace, behind all leases.
"""

from __future__ import annotations

import time

from ttybrokerd.root.copies import DeadCopy
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.store import Store

BURST = 16  # leases that go into the store at once
PACE = 0.1  # seconds after which one more may; systemd gets a second message when it ends
YOUNG = 0.1  # seconds that any other lease lasts before it goes into the store


class Keeper:
    """Has systemd keep leases and dead copies, at a pace."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._young: dict[Lease, tuple[float, float | None]] = {}  # when due, and `expires`
        self._dead: dict[DeadCopy, None] = {}  # those that wait, the first to come first
        self._credit, self._credited = float(BURST), 0.0  # how many may go at once, as of when

    def take(self, lease: Lease, expires: float | None) -> None:
        """Have a new lease kept, now or when it has lasted a moment.

        `expires`: when its time is over, in seconds of CLOCK_MONOTONIC; None: never.
        """
        now = time.monotonic()
        if self._may(now):  # guard: store-at-a-pace
            self._keep(lease, expires)
        else:
            self._young[lease] = now + YOUNG, expires

    def take_copy(self, copy: DeadCopy) -> None:
        """Have a dead copy kept as it is now, in place of what is kept of it: soon, or at once."""
        self._dead[copy] = None
        self.tick(time.monotonic())

    def drop_copy(self, copy: DeadCopy) -> None:
        """Keep a dead copy no more: it is closed."""
        self._dead.pop(copy, None)
        self._store.forget(copy.kept)  # guard: forget-the-kept-copy

    def drop(self, lease: Lease) -> None:
        """Do not keep a lease that ends while it waits."""
        self._young.pop(lease, None)

    def keep_all(self) -> None:
        """Have the leases and copies that wait kept, too: this daemon ends."""
        for lease, (_, expires) in list(self._young.items()):
            self._keep(lease, expires)
        for copy in list(self._dead):
            self._keep_copy(copy)

    def tick(self, now: float) -> float | None:
        """Keep the lease or copy whose time has come; return when the next one's does, or None.

        Both times are in seconds of time.monotonic().
        """
        for lease, (due, expires) in self._young.items():
            if due <= now and self._may(now):
                self._keep(lease, expires)
            break
        # guard: copies-behind-leases
        if not self._young and self._dead and self._may(now):
            self._keep_copy(next(iter(self._dead)))
        more = self._credited + max(0.0, 1 - self._credit) * PACE
        for due, _ in self._young.values():  # the first to come is the first that is due
            return max(due, more)
        return more if self._dead else None

    def _may(self, now: float) -> bool:
        """Return whether one more lease may go into the store now, and count it."""
        self._credit = min(BURST, self._credit + (now - self._credited) / PACE)
        self._credited = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _keep(self, lease: Lease, expires: float | None) -> None:
        self._young.pop(lease, None)
        lease.kept = self._store.keep(lease.record(expires), lease.pieces())

    def _keep_copy(self, copy: DeadCopy) -> None:
        """Keep it in place of what was kept of it.

        That is forgotten first: systemd keeps an open file once, and would drop the watcher with
        the old name.
        """
        del self._dead[copy]
        self._store.forget(copy.kept)
        copy.kept = self._store.keep(copy.record(), (copy.watcher.fileno(),))
