"""Dead copies: descriptors of holders that were hung up, which they may keep for ever.

To know whether one is still open takes a look into /proc, and each user may keep many. So what one
user keeps is looked at when that user asks. Others pay for few looks.
"""

from __future__ import annotations

import select

from ttybroker.wire import Holder
from ttybrokerd.root import linux

SOME = 4  # copies that are looked at whoever asks, by turns


class DeadCopies:
    """All dead copies that are known.

    Each has its device, its user, the holder that it was leased to, and the epoll set that lists
    it.
    """

    def __init__(self) -> None:
        self._all: list[tuple[int, int, Holder, select.epoll]] = []
        self._turn = 0  # at which copy the next turn begins

    def add(self, device: int, uid: int, holder: Holder, watcher: select.epoll) -> None:
        """Remember one more, until it is closed."""
        self._all.append((device, uid, holder, watcher))

    def of(self, uid: int) -> int:
        """Return how many copies this user still keeps open."""
        self.forget(uid)
        return sum(owner == uid for _, owner, _, _ in self._all)

    def forget(self, uid: int) -> None:
        """Forget this user's copies that are closed, and some of the others'."""
        turn = self._turn + SOME
        self._turn = turn if turn < len(self._all) else 0  # guard: each-copy-has-its-turn
        kept = []
        for at, copy in enumerate(self._all):
            # guard: few-looks-at-copies
            due = copy[1] == uid or 0 <= at - self._turn < SOME
            if due and not _is_open(copy[3]):
                copy[3].close()
            else:
                kept.append(copy)
        self._all = kept

    def users(self, device: int) -> frozenset[int]:
        """Return which users still keep a copy of this device."""
        found: set[int] = set()
        for number, uid, _, watcher in self._all:
            # guard: one-look-a-user
            if number == device and uid not in found and _is_open(watcher):
                found.add(uid)
        return frozenset(found)

    def holders(self) -> dict[int, tuple[Holder, ...]]:
        """Return by device number to whom its copies that are still open were leased.

        This looks at all copies, so it is for a worker.
        """
        found: dict[int, tuple[Holder, ...]] = {}
        for device, _, holder, watcher in self._all:
            if _is_open(watcher):
                found[device] = (*found.get(device, ()), holder)
        return found


def _is_open(watcher: select.epoll) -> bool:
    try:
        return linux.still_open(watcher)
    except ValueError:  # guard: copy-forgotten-meanwhile
        return False
