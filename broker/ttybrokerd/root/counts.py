"""How many of something each user has: requests that wait, leases."""

from __future__ import annotations


class Counts:
    """A number for each uid. A number of 0 takes no room, because uids come and go."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def of(self, uid: int) -> int:
        """Return how many this user has."""
        return self._counts.get(uid, 0)

    def up(self, uid: int) -> None:
        """Count one more for this user."""
        self._counts[uid] = self.of(uid) + 1

    def down(self, uid: int) -> None:
        """Count one less for this user."""
        self._counts[uid] -= 1
        if not self._counts[uid]:
            del self._counts[uid]
