"""How many of something each user has: requests that wait, leases."""

from __future__ import annotations


class Counts:
    """A number for each uid; one that has none takes no room, for uids come and go."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def of(self, uid: int) -> int:
        """How many this user has."""
        return self._counts.get(uid, 0)

    def up(self, uid: int) -> None:
        """One more."""
        self._counts[uid] = self.of(uid) + 1

    def down(self, uid: int) -> None:
        """One less."""
        self._counts[uid] -= 1
        if not self._counts[uid]:
            del self._counts[uid]
