"""The state of a leased port's line, in words: speed, frame, flow control, lines, errors.

The broker sends the kernel's numbers: docs/protocol.md, "facts".
"""

from __future__ import annotations

import termios

from ttybroker import wire

_CRTSCTS, _CMSPAR = 0x80000000, 0x40000000  # asm-generic/termbits-common.h
_BITS = {termios.CS5: 5, termios.CS6: 6, termios.CS7: 7, termios.CS8: 8}
_LINES = {
    "rts": termios.TIOCM_RTS,
    "dtr": termios.TIOCM_DTR,
    "cts": termios.TIOCM_CTS,
    "dsr": termios.TIOCM_DSR,
    "cd": termios.TIOCM_CAR,
    "ri": termios.TIOCM_RNG,
}
_ERRORS = {
    "frame": wire.FRAME,
    "parity": wire.PARITY,
    "overrun": wire.OVERRUN,
    "break": wire.BREAK,
    "buffer overrun": wire.BUFFER_OVERRUN,
}
_WRAP = 1 << 32  # of a counter

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    Facts = dict[int, int]  # by number


class Line:
    """A port's line at one look.

    `before` has the facts of an earlier look, if there was one. `since` is the seconds from then
    on.
    """

    def __init__(self, facts: Facts, before: Facts | None = None, since: float = 0) -> None:
        self._facts = {fact: value for fact, value in facts.items() if fact != wire.KEPT}
        self._before = before
        self._since = since

    def words(self) -> str:
        """Return all that is known, in one line for people; "" if nothing is."""
        parts = []
        if wire.SPEED in self._facts:
            parts.append(f"{self._facts[wire.SPEED]} {self.frame()}, {self.flow()}")
        if (lines := self.lines()) is not None:
            on = [name.upper() for name, is_on in lines.items() if is_on]
            parts.append(f"on: {' '.join(on) or 'no line'}")
        if (rates := self.rates()) is not None:
            parts.append(f"in {rates[0]:.0f} B/s, out {rates[1]:.0f} B/s")
        if (errors := self.errors()) is not None:
            seen = [self._error(name, count) for name, count in errors.items() if count]
            parts.append(f"errors: {', '.join(seen) or 'none'}")
        return "; ".join(parts)

    def record(self) -> dict[str, object] | None:
        """Return the same for programs; an unknown value is null."""
        if not self._facts:
            return None
        rates = self.rates()
        known = wire.SPEED in self._facts
        return {
            "speed": self._facts.get(wire.SPEED),
            "frame": self.frame() if known else None,
            "flow": self.flow() if known else None,
            "lines": self.lines(),
            "received": self._facts.get(wire.RECEIVED),
            "sent": self._facts.get(wire.SENT),
            "received_per_second": None if rates is None else round(rates[0], 1),
            "sent_per_second": None if rates is None else round(rates[1], 1),
            "errors": self.errors(),
        }

    def frame(self) -> str:
        """Return data bits, parity and stop bits, as in "8N1"."""
        cflag = self._facts.get(wire.CFLAG, 0)
        parity = "N"
        if cflag & termios.PARENB:
            sticks, odd = bool(cflag & _CMSPAR), bool(cflag & termios.PARODD)
            parity = ("EO", "SM")[sticks][odd]
        stop = 2 if cflag & termios.CSTOPB else 1
        return f"{_BITS[cflag & termios.CSIZE]}{parity}{stop}"

    def flow(self) -> str:
        """Return the flow control, in the words of tio."""
        hard = self._facts.get(wire.CFLAG, 0) & _CRTSCTS
        soft = self._facts.get(wire.IFLAG, 0) & (termios.IXON | termios.IXOFF)
        words = [word for word, is_on in (("hard", hard), ("soft", soft)) if is_on]
        return f"{' and '.join(words) or 'no'} flow control"

    def lines(self) -> dict[str, bool] | None:
        """Return the modem lines that are on."""
        bits = self._facts.get(wire.LINES)
        return None if bits is None else {name: bool(bits & bit) for name, bit in _LINES.items()}

    def rates(self) -> tuple[float, float] | None:
        """Return bytes received and sent a second since the earlier look."""
        received, sent = self._new(wire.RECEIVED), self._new(wire.SENT)
        if received is None or sent is None or self._since <= 0:
            return None
        return received / self._since, sent / self._since

    def errors(self) -> dict[str, int] | None:
        """Return the number of each kind that the driver has counted since it started."""
        if not all(fact in self._facts for fact in _ERRORS.values()):
            return None
        return {name: self._facts[fact] for name, fact in _ERRORS.items()}

    def _error(self, name: str, count: int) -> str:
        new = self._new(_ERRORS[name])
        return f"{count} {name}{f' ({new} new)' if new else ''}"

    def _new(self, fact: int) -> int | None:
        """Return how many were added since the earlier look."""
        if self._before is None or fact not in self._facts or fact not in self._before:
            return None
        return (self._facts[fact] - self._before[fact]) % _WRAP
