"""One request for a port, as the table keeps it."""

from __future__ import annotations

import os

from ttybroker.wire import YIELD_ALL, Holder
from ttybrokerd.root import TYPE_CHECKING

if TYPE_CHECKING:
    from ttybrokerd.root.sessions import Session
    from ttybrokerd.root.settings import Settings

OPEN_LIMIT = 40.0  # seconds; a UART's close blocks every open for 30 (closing_wait), then some
SLOW = 1.0  # seconds after which a client is told that it waits because its device is slow
NEVER = float("inf")


class Ask:
    """One request for a port. Times are in seconds of the caller's clock.

    `patient`: it asked to wait for a busy port. `deadline`: when it gives up waiting for other
    holders. `opens_by`: when it gives up on a device that does not open. `tell`: when to tell it,
    once, that the device is slow.

    `yields` is YIELD_USER, YIELD_ALL or 0. `keep`: it asks nobody to yield. `claim`: it has lent
    the port and waits to have it back. `ends`: when its time is over; all leases that it has by its
    claim count from the first. `hung`: how often in a row it was hung up because it did not let go.
    `absent`: its client is gone, or has not come back to this broker yet. If it is absent when its
    turn comes, its claim is void. `active`: its lease lasts only while its user sits at the
    machine. `listens`: while it has the port, it is told when its time is nearly over. `left`: the
    settings that its session left on the port, until the port is opened. `mode`: how to open the
    port, as in open(2). `process`: pid and start of its client's process, which has its place again
    after a restart of the broker; pid 0 if it is not known. `expected`: it is only such a place,
    whose client has not come back yet.
    """

    __slots__ = ("absent", "active", "asked", "claim", "deadline", "ends", "expected", "holder",
                 "hung", "keep", "left", "listens", "max_lease", "mode", "opens_by", "patient",
                 "process", "session", "tell", "uid", "withdrawn", "yields")  # fmt: skip

    def __init__(self, uid: int, holder: Holder, *, now: float, wait: float) -> None:
        self.uid = uid
        self.holder = holder
        self.session: Session | None = None
        self.asked = now
        self.patient = wait > 0
        self.deadline = now + (wait if wait > 0 else OPEN_LIMIT)
        self.opens_by = now + wait + OPEN_LIMIT
        self.tell: float | None = now + SLOW
        self.max_lease: float | None = None
        self.withdrawn = False
        self.yields = 0
        self.keep = False
        self.claim = False
        self.ends = NEVER
        self.hung = 0
        self.absent = False
        self.active = False
        self.listens = False
        self.left: Settings | None = None
        self.mode = os.O_RDWR
        self.process = 0, 0.0
        self.expected = False

    def yields_to(self, other: Ask) -> bool:
        """Return whether it lends its port to this request."""
        if other.keep or other.claim:  # guard: no-ping-pong
            return False
        return self.lends_to(other.uid)

    def lends_to(self, uid: int) -> bool:
        """Return whether it lends its port to programs of this user."""
        if self.uid == uid:
            return self.yields != 0
        return self.yields & YIELD_ALL != 0  # guard: yields-to-its-user
