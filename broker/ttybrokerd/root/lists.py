"""Whose list is made next: few at once, one for each user, and users take turns.

A list reads much of /proc and /dev, in Python, and so takes the processor from the loop. Whoever
asks pays for it, not everybody else. A connection has one request at a time, so the connections
bound what waits here.
"""

from __future__ import annotations

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 2


class Lists:
    """The lists that are being made, and the clients that wait for one."""

    def __init__(self, begin: Callable[[Connection, wire.List], None]) -> None:
        """Make each list by `begin`. Whoever makes it calls `done` when it is made."""
        self._begin = begin
        self._making: set[int] = set()  # users
        # by user, next turn first
        self._waiting: dict[int, list[tuple[Connection, wire.List]]] = {}

    def ask(self, client: Connection, request: wire.List) -> None:
        """Make a list for this client, now or when it is its turn."""
        self._waiting.setdefault(client.identity.uid, []).append((client, request))
        self._next()

    def done(self, uid: int) -> None:
        """Note that the list of this user is made."""
        self._making.remove(uid)
        self._next()

    def withdraw(self, client: Connection) -> None:
        """Forget a client that is gone."""
        uid = client.identity.uid
        # guard: no-list-for-who-left
        left = [one for one in self._waiting.get(uid, ()) if one[0] is not client]
        if left:
            self._waiting[uid] = left
        else:
            self._waiting.pop(uid, None)

    def _next(self) -> None:
        while len(self._making) < AT_ONCE:  # guard: few-lists-at-once
            # guard: one-list-a-user
            free = [uid for uid in self._waiting if uid not in self._making]
            if not free:
                return
            line = self._waiting.pop(free[0])
            client, request = line.pop(0)
            if line:
                # guard: lists-by-turns
                self._waiting[free[0]] = line  # behind all others
            self._making.add(free[0])
            self._begin(client, request)
