"""Dead copies: descriptors of holders that were hung up, which they may keep for ever."""

from __future__ import annotations

import select

from ttybrokerd.root import linux


class DeadCopies:
    """All that are known, each with its device, its user, and the epoll set that lists it."""

    def __init__(self) -> None:
        self._all: list[tuple[int, int, select.epoll]] = []

    def __len__(self) -> int:
        return len(self._all)

    def add(self, device: int, uid: int, watcher: select.epoll) -> None:
        """Remember one more, until it is closed."""
        self._all.append((device, uid, watcher))

    def of(self, uid: int) -> int:
        """Return how many this user still keeps open."""
        self._forget()
        return sum(owner == uid for _, owner, _ in self._all)

    def users(self) -> dict[int, frozenset[int]]:
        """Return by device which users still keep a copy of it."""
        self._forget()
        found: dict[int, frozenset[int]] = {}
        for device, uid, _ in self._all:
            found[device] = found.get(device, frozenset()) | {uid}
        return found

    def _forget(self) -> None:
        """Forget those that are closed."""
        for copy in list(self._all):
            if not linux.still_open(copy[2]):
                copy[2].close()
                self._all.remove(copy)
