"""The order of those who wait, in bytes and in systemd's store, for the next broker.

A client whose broker has ended asks the next one by itself. Who does so within BACK seconds has the
place again that it had in the queue: it is the same process of the same user, which asks for the
same port. The policy and all limits decide anew. docs/protocol.md has the form of the record.

systemd gets a new record at most ten times a second. It gets none while nobody waits.
"""

from __future__ import annotations

import math
import os
import struct
import time

from ttybroker.wire import Holder
from ttybrokerd.root import TYPE_CHECKING, linux
from ttybrokerd.root.ask import Ask
from ttybrokerd.root.log import NOTICE, Log
from ttybrokerd.root.record import MAX_RECORD, NoRecord
from ttybrokerd.root.store import SEALS, Store
from ttybrokerd.root.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    # key of the port, uid, pid, start of the process, moment of the request, kind
    Place = tuple[int, int, int, float, float, int]

MAGIC = b"ttybroker order\x01"
HEAD = struct.Struct("<16sdH")  # magic, when it was written, how many places
PLACE = struct.Struct("<QIIddB")  # as in Place
MOST_PLACES = (MAX_RECORD - HEAD.size) // PLACE.size
WAITS, KEEPS, CLAIM = 0, 1, 2  # kinds: KEEPS asks nobody to yield; a CLAIM is in a lease's record
NAME = "order-"  # in the store; no lease's name is without a dot
BACK = 2.0  # seconds that a new broker keeps a place
PACE = 0.1  # seconds from a change until it is kept


def encode(written: float, places: list[Place]) -> bytes:
    """Return the record's bytes. `written` is in seconds of CLOCK_MONOTONIC."""
    head = HEAD.pack(MAGIC, written, len(places))
    return head + b"".join(PLACE.pack(*place) for place in places)


def decode(data: bytes) -> tuple[float, list[Place]]:
    """Return when the record was written, and its places. Raises NoRecord."""
    if not data.startswith(MAGIC):
        raise NoRecord("another version, or something else altogether")
    if len(data) < HEAD.size:
        raise NoRecord(f"{len(data)} bytes")
    _, written, count = HEAD.unpack_from(data)
    if count > MOST_PLACES or len(data) != HEAD.size + count * PLACE.size:
        raise NoRecord(f"{len(data)} bytes for {count} places")
    places = list(PLACE.iter_unpack(data[HEAD.size :]))
    for _, _, pid, began, asked, kind in places:
        if kind > CLAIM or (kind == CLAIM) != (pid == 0):
            raise NoRecord("a place that nobody can have")
        if not (math.isfinite(began) and math.isfinite(asked)):
            raise NoRecord("a time that cannot be")
    if not math.isfinite(written):
        raise NoRecord("a time that cannot be")
    return written, places


class Order:
    """Has systemd keep the order of those who wait, and puts it into the table of the next."""

    def __init__(self, store: Store, table: Table) -> None:
        self._store = store
        self._table = table
        self._places: list[Place] = []  # as they are kept
        self._name = ""  # under which they are; "": nothing is kept
        self._seen = 0  # the changes of the table that were looked at
        self._due: float | None = None  # when to look at further ones

    def take_back(self, passed: Iterable[tuple[int, str]], log: Log) -> list[tuple[int, str]]:
        """Take the order out of what systemd passed, and return the other descriptors.

        If there are several records, because a broker was killed between two messages to systemd,
        the newest counts.
        """
        others, newest = [], -math.inf
        for descriptor, name in passed:
            if not name.startswith(NAME) or "." in name:
                others.append((descriptor, name))
                continue
            try:
                written, places = _read(descriptor)
            except (NoRecord, OSError) as error:
                log("store-refused", NOTICE, name=name, reason=f"no order: {error}")
                self._store.forget(name)
                continue
            finally:
                os.close(descriptor)
            old = name
            if written > newest:
                newest, self._places, self._name, old = written, places, name, self._name
            self._store.forget(old)
        return others

    def expect_back(self) -> None:
        """Put the places into the table, for BACK seconds from now on. Leases are there already."""
        until = time.monotonic() + BACK
        ports: dict[int, list[Ask | None]] = {}
        for key, uid, pid, began, asked, kind in self._places:
            place = None
            if kind != CLAIM:
                place = Ask(uid, Holder(uid, "", pid), now=asked, wait=BACK)
                place.process, place.keep = (pid, began), kind == KEEPS
            ports.setdefault(key, []).append(place)
        for key, line in ports.items():
            if any(line):
                self._table.expect(key, line, until)

    def tick(self, now: float) -> float | None:
        """Keep what has changed, if that is due; return when it is, or None.

        Both times are in seconds of time.monotonic().
        """
        if self._seen == self._table.changes:
            return None
        if self._due is None:
            self._due = now + PACE
        if now >= self._due:  # guard: order-at-a-pace
            self.keep()
        return self._due

    def keep(self) -> None:
        """Have systemd keep the order as it is now, if it is another than before."""
        self._seen, self._due = self._table.changes, None
        places = [_place(key, ask) for key, ask in self._table.places()
                  if ask.claim or ask.process[0]][:MOST_PLACES]  # fmt: skip
        if places == self._places:
            return
        old, self._name, self._places = self._name, "", places
        if places:
            name = f"{NAME}{time.monotonic_ns():x}"
            self._name = self._store.keep_data(name, encode(time.monotonic(), places))
        self._store.forget(old)  # guard: forget-the-old-order


def _place(key: int, ask: Ask) -> Place:
    if ask.claim:
        return key, ask.uid, 0, 0.0, 0.0, CLAIM
    pid, began = ask.process
    return key, ask.uid, pid, began, ask.asked, KEEPS if ask.keep else WAITS


def _read(descriptor: int) -> tuple[float, list[Place]]:
    """Return what the record in this memfd says. Raises NoRecord or OSError."""
    if linux.seals(descriptor) & SEALS != SEALS:  # guard: kept-order-is-sealed
        raise NoRecord("it is not sealed")
    return decode(os.pread(descriptor, MAX_RECORD + 1, 0))
