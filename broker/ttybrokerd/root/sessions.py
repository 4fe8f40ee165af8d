"""Sessions: several opens that share one lease of a port.

A session is 16 random bytes. Its client is told them at the first grant. Whoever names them later,
on a connection of the same user, may open a port again that the session holds. A session ends when
its last connection and its last lease have ended. Its number is kept with the lease, so that it
outlives a restart of the broker.
"""

from __future__ import annotations

import errno
import os

from ttybroker.wire import NO_SESSION
from ttybrokerd.root.refusal import Refusal

SIZE = len(NO_SESSION)
PER_CONNECTION = 64  # sessions that one can name; its own are bounded by its user's leases


class Session:
    """One session: whose it is, and how many connections and leases it has."""

    __slots__ = ("connections", "leases", "number", "uid")

    def __init__(self, number: bytes, uid: int) -> None:
        self.number = number
        self.uid = uid
        self.connections = 0
        self.leases = 0


class Sessions:
    """All sessions, by their numbers."""

    def __init__(self) -> None:
        self._all: dict[bytes, Session] = {}

    def unused(self, among: list[Session], uid: int) -> Session:
        """Return one of a connection's sessions that has no port, or a new one.

        So a connection has at most one session more than ports.
        """
        for session in among:
            if not session.leases:  # guard: sessions-are-used-again
                return session
        session = Session(os.urandom(SIZE), uid)
        self._all[session.number] = session
        return session

    def find(self, number: bytes, uid: int) -> Session:
        """Return the session that a client names.

        Raises Refusal ESTALE if there is none, or if it is not this user's.
        """
        session = self._all.get(number)
        if session is None or session.uid != uid:  # guard: session-of-its-user
            what = "this session has ended, or belongs to another user"
            raise Refusal(errno.ESTALE, what, advice="ask for the port without it")
        return session

    def adopt(self, number: bytes, uid: int) -> Session | None:
        """Return the session of a lease that an earlier broker granted; None if it has none."""
        if number == NO_SESSION:
            return None
        return self._all.setdefault(number, Session(number, uid))

    def tidy(self, session: Session) -> None:
        """Forget the session if its last connection and its last lease have ended."""
        # guard: ended-session-is-forgotten
        if session.connections == session.leases == 0:
            self._all.pop(session.number, None)
