"""What the line of a leased port is like. The broker asks its own descriptor.

No byte of the port passes through the broker. A device may take its time to answer, so a worker
asks it: one at a time for each device. A list is answered after PATIENCE with what has come by
then.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, linux
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.settings import TERMIOS2
from ttybrokerd.root.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybrokerd.root.leases import Leases
    from ttybrokerd.root.report import Listed

    Found = tuple[tuple[int, int], ...]  # as in wire.PortInfo.facts

PATIENCE = 0.5  # seconds
_ATTRIBUTES = struct.Struct("=4I20x2I")  # struct termios2, asm-generic/termbits.h
_COUNTERS = struct.Struct("=20i")  # struct serial_icounter_struct, linux/serial.h
_INT = struct.Struct("=i")


class Asked:
    """One list whose `rows` wait for facts of the leases in `left`; after that, call `then`."""

    def __init__(self, rows: list[Listed], left: set[Lease], then: Callable[[], None]) -> None:
        self.rows = rows
        self.left = left
        self.then = then
        self.until = time.monotonic() + PATIENCE
        self.found: dict[int | None, Found] = {}  # by device number


class Facts:
    """The looks that are under way, and who waits for them."""

    def __init__(self, workers: Workers, leases: Leases) -> None:
        self._workers = workers
        self._leases = leases
        self._looking: dict[int, Lease] = {}  # by device number
        self._asked: list[Asked] = []

    def fill_in(
        self, rows: list[Listed], uid: int, everything: bool, then: Callable[[], None]
    ) -> None:
        """Put the facts of their lines into the rows, and then call `then`.

        A row gets them if this user has its port, with `everything` in any case. A device has none
        if it does not answer in time, or if an earlier look still waits for it.
        """
        keys = {row.rdev for row in rows}
        held = [lease for lease in self._leases.held() if lease.key in keys]
        # guard: facts-are-for-holder-and-admins
        leases = [lease for lease in held if everything or lease.uid == uid]
        left = {one for one in leases if self._looking.get(one.key) is one or self._begin(one)}
        self._asked.append(Asked(rows, left, then))
        self._answer()

    def tick(self) -> float | None:
        """Answer who waited long enough; return the seconds until there may be more, or None."""
        now = time.monotonic()
        for asked in self._asked:
            if asked.until <= now:  # guard: stuck-line-keeps-no-list
                asked.left.clear()
        self._answer()
        return min((max(0.0, asked.until - now) for asked in self._asked), default=None)

    def _begin(self, lease: Lease) -> bool:
        if lease.key in self._looking:  # guard: one-look-a-device
            return False
        try:
            tty = os.dup(lease.own_fd)  # it is closed when the lease ends meanwhile
        except OSError:  # guard: no-descriptor-for-a-look
            return False
        self._looking[lease.key] = lease
        self._workers.submit(lambda: _read(tty), lambda found: self._looked(lease, found))
        return True

    def _looked(self, lease: Lease, found: Found) -> None:
        del self._looking[lease.key]
        for asked in self._asked:
            if lease in asked.left:
                asked.left.remove(lease)
                asked.found[lease.key] = found
        self._answer()

    def _answer(self) -> None:
        done = [asked for asked in self._asked if not asked.left]
        self._asked = [asked for asked in self._asked if asked.left]
        for asked in done:
            for row in asked.rows:
                row.port.facts = asked.found.get(row.rdev, ())
            asked.then()


def _read(tty: int) -> Found:
    """Return what the device tells, and close the descriptor. It may block: not for the loop."""
    try:
        return tuple(
            fact
            for number, size, facts in (
                (linux.TCGETS2, TERMIOS2, of_attributes),
                (termios.TIOCMGET, _INT.size, of_lines),
                (linux.TIOCGICOUNT, _COUNTERS.size, of_counters),
            )
            if (data := _told(tty, number, size)) is not None
            for fact in facts(data)
        )
    finally:
        os.close(tty)


def _told(tty: int, number: int, size: int) -> bytes | None:
    """Return what the device says, None if it has no such thing or does not say."""
    try:
        return fcntl.ioctl(tty, number, bytes(size))
    except OSError:
        return None


def of_attributes(data: bytes) -> Found:
    """Return the facts of a struct termios2."""
    iflag, _, cflag, _, _, speed = _ATTRIBUTES.unpack(data)
    return (wire.SPEED, speed), (wire.CFLAG, cflag), (wire.IFLAG, iflag)


def of_lines(data: bytes) -> Found:
    """Return the fact of what TIOCMGET gives."""
    return ((wire.LINES, _INT.unpack(data)[0] & 0xFFFFFFFF),)


def of_counters(data: bytes) -> Found:
    """Return the facts of a struct serial_icounter_struct.

    A counter that has wrapped around is negative there.
    """
    numbers = _COUNTERS.unpack(data)[4:11]  # behind those of the modem lines
    kinds = (wire.RECEIVED, wire.SENT, wire.FRAME, wire.OVERRUN, wire.PARITY, wire.BREAK,
             wire.BUFFER_OVERRUN)  # fmt: skip
    return tuple((kind, number & 0xFFFFFFFF) for kind, number in zip(kinds, numbers, strict=True))
