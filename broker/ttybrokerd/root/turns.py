"""Whose connection is looked at next: that of the user who lately took the least time of the loop.

It does not matter how many connections each user has.
"""

from __future__ import annotations

from ttybrokerd.root.connection import Connection

LATELY = 0.1  # seconds after which the time that was taken counts half
FORGOTTEN = 1e-5  # seconds that count no more


class Turns:
    """The connections with news."""

    def __init__(self) -> None:
        self._lines: dict[int, list[Connection]] = {}  # by user, next turn first
        self._taken: dict[int, float] = {}  # seconds of the loop's time lately, by user
        self._halved = 0.0  # when the times were last halved

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, client: Connection) -> None:
        """Note that this connection has news. It is looked at once, however often that is said."""
        if not client.in_line:
            # guard: turns-by-user
            uid = client.identity.uid
            self._lines.setdefault(uid, []).append(client)
            client.in_line = True

    def next(self) -> Connection | None:
        """Take the connection that is next; return None if none has news."""
        if not self._lines:
            return None
        # guard: least-taken-first
        uid = min(self._lines, key=lambda uid: self._taken.get(uid, 0.0))  # the first of equals
        line = self._lines.pop(uid)
        client = line.pop(0)
        if line:
            self._lines[uid] = line  # behind all other users
        client.in_line = False
        return client

    def took(self, uid: int, seconds: float, now: float) -> None:
        """Note that a look at a connection of this user took so many seconds of the processor.

        It ended `now`.
        """
        if now - self._halved >= LATELY:
            self._halved = now
            self._taken = {one: took / 2 for one, took in self._taken.items() if took > FORGOTTEN}
        self._taken[uid] = self._taken.get(uid, 0.0) + seconds
