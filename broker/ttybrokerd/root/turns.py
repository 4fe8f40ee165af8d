"""Whose connection is looked at next: users take turns, however many connections each has."""

from __future__ import annotations

from ttybrokerd.root.connection import Connection


class Turns:
    """The connections with news."""

    def __init__(self) -> None:
        self._lines: dict[int, list[Connection]] = {}  # by user, next turn first

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, client: Connection) -> None:
        """This connection has news; it is looked at once, however often that is said."""
        if not client.in_line:
            client.in_line = True
            # guard: turns-by-user
            uid = client.identity.uid
            self._lines.setdefault(uid, []).append(client)

    def next(self) -> Connection | None:
        """Take the one that is next; None: no other has news."""
        for uid, line in self._lines.items():
            client = line.pop(0)
            del self._lines[uid]
            if line:
                self._lines[uid] = line  # behind all other users
            client.in_line = False
            return client
        return None
