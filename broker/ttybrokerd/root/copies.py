"""Dead copies: descriptors of holders that were hung up, which they may keep for ever."""

from __future__ import annotations

import select

from ttybroker.wire import Holder
from ttybrokerd.root import linux


class DeadCopies:
    """All that are known, each with its device, its user, the holder that it was leased to, and the
    epoll set that lists it."""

    def __init__(self) -> None:
        self._all: list[tuple[int, int, Holder, select.epoll]] = []

    def add(self, device: int, uid: int, holder: Holder, watcher: select.epoll) -> None:
        """Remember one more, until it is closed."""
        self._all.append((device, uid, holder, watcher))

    def of(self, uid: int) -> int:
        """Return how many this user still keeps open."""
        self._forget()
        return sum(owner == uid for _, owner, _, _ in self._all)

    def users(self, device: int) -> frozenset[int]:
        """Return which users still keep a copy of this one."""
        self._forget()
        return frozenset(uid for one, uid, _, _ in self._all if one == device)

    def holders(self) -> dict[int, tuple[Holder, ...]]:
        """Return by device to whom the copies of it that are still open were leased."""
        self._forget()
        found: dict[int, tuple[Holder, ...]] = {}
        for device, _, holder, _ in self._all:
            found[device] = (*found.get(device, ()), holder)
        return found

    def _forget(self) -> None:
        """Forget those that are closed."""
        for copy in list(self._all):
            if not linux.still_open(copy[3]):
                copy[3].close()
                self._all.remove(copy)
