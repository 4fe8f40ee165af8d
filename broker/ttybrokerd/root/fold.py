"""Refusals, cut-offs and joins in the log: a user's first few in a second, and a count of the rest.

A client can be refused ten thousand times a second. If a unit writes too much, the journal drops
records, whoever they are about: journald.conf(5), RateLimitBurst=. So the record of a grant could
be lost.
"""

from __future__ import annotations

import time

from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.log import NOTICE, Log

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = 10  # records of one user in a second
SECOND = 1.0
USERS = 256  # who have a count each; the records of all others are counted together
OTHERS = -1


class _Count:
    """Counts one user's records since `begin`: those that were written, and those only counted."""

    __slots__ = ("begin", "counted", "written")

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self.written = self.counted = 0


class Fold:
    """Writes records of refusals, cut-offs and joins, or counts them."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._users: dict[int, _Count] = {}  # the earliest first

    def __call__(self, event: str, level: int, uid: int | None, **fields: object) -> None:
        """Write this record of the user `uid` (None: it is not known), or count it."""
        now = self._clock()
        self._write_counts(now - SECOND)
        key = OTHERS if uid is None else uid
        if key not in self._users and len(self._users) >= USERS:  # guard: folded-users-are-bounded
            key = OTHERS
        count = self._users.get(key)
        if count is None:
            count = self._users[key] = _Count(now)
        if count.written >= LINES:  # guard: fold-refusals
            count.counted += 1
            return
        count.written += 1
        self._log(event, level, uid=uid, **fields)

    def tick(self) -> float | None:
        """Write the counts that are due; return the seconds until the next is, if there is one."""
        now = self._clock()
        self._write_counts(now - SECOND)
        for count in self._users.values():
            return max(0.0, count.begin + SECOND - now)
        return None

    def end(self) -> None:
        """Write all counts: the daemon ends."""
        self._write_counts(self._clock())

    def _write_counts(self, until: float) -> None:
        """Write and forget the counts that began at that time or earlier."""
        for uid, count in list(self._users.items()):
            if count.begin > until:
                return
            del self._users[uid]
            if count.counted:
                who = None if uid == OTHERS else uid
                reason = f"and {count.counted:,} more refusals, cut-offs and joins"
                self._log("folded", NOTICE, uid=who, count=count.counted, reason=reason)
