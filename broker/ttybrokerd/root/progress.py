"""Requests that are told why they wait, each time that it changes, ten times a second at most.

Only those that ask for it (PROGRESS) are told. The table tells of a slow device (`Tell`).
"""

from __future__ import annotations

import time

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.ask import Ask
from ttybrokerd.root.connection import OpenRequest
from ttybrokerd.root.paced import REST
from ttybrokerd.root.row import Row, State
from ttybrokerd.root.table import NOWHERE, Table

if TYPE_CHECKING:
    Told = tuple[int, int, wire.Holder | None]  # reason, place, holder

PACE = 0.1  # seconds between two looks at all that wait
WORDS = {
    wire.BUSY: "busy",
    wire.ABSENT: "absent",
    wire.ASKED: "its holder was asked to lend it",
    wire.LENT_OUT: "lent",
}


class Progress:
    """The requests that ask to be told why they wait, and what each was told last."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._told: dict[Ask, Told | None] = {}
        self._seen = -1  # the changes of the table at the last look
        self._due = 0.0

    def add(self, request: OpenRequest) -> None:
        """Tell this request why it waits, as long as it is in a queue."""
        self._told[request] = None
        self._seen = -1

    def tick(self) -> float | None:
        """Tell what has changed; return the seconds until the next look, None if none is due."""
        if not self._told or self._seen == self._table.changes:
            return None
        now = time.monotonic()
        if now < self._due:  # guard: paced-progress
            return self._due - now
        self._seen = self._table.changes
        waiting: dict[Ask, Told | None] = {}
        for key, row in list(self._table.ports.items()):
            for place, ask in enumerate(list(row.queue)):  # a client that is gone leaves it
                if ask in self._told and not ask.claim:
                    waiting[ask] = self._tell(ask, _why(key, row), 0 if key == NOWHERE else place)
            if row.state is State.OPENING and row.current in self._told:
                waiting[row.current] = self._told[row.current]
        self._told = waiting
        end = time.monotonic()
        self._due = end + max(PACE, REST * (end - now))
        # guard: a-client-that-went-meanwhile
        return None if self._seen == self._table.changes else self._due - end

    def _tell(self, ask: Ask, why: tuple[int, wire.Holder | None], place: int) -> Told | None:
        """Tell a request why it waits, if that is new; return what it was told last.

        A client that does not read misses it.
        """
        assert isinstance(ask, OpenRequest)
        reason, holder = why
        if (reason, place, holder) == self._told[ask]:
            return self._told[ask]
        left = min(round(1000 * max(0.0, ask.deadline - time.monotonic())), 0xFFFFFFFF)
        waiting = wire.Waiting(WORDS[reason], reason, place, left, holder)
        if not ask.client.has_room():  # guard: room-for-the-grant
            return None
        if not ask.client.answer(waiting, patient=True):
            return None
        # A copy, because the holder is given its `since` later.
        return reason, place, None if holder is None else holder.replace()


def _why(key: int, row: Row) -> tuple[int, wire.Holder | None]:
    """Return why the queue of this port waits (BUSY and so on), and for whom."""
    if key == NOWHERE:
        return wire.ABSENT, None
    if row.grace is not None:
        return wire.ASKED, row.holder()
    return (wire.LENT_OUT if row.lender() is not None else wire.BUSY), row.holder()
