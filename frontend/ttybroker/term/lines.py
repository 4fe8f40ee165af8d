"""Input from the line, as it is shown and logged: with times, in hexadecimal, or as it is."""

from __future__ import annotations

import time

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable


def iso() -> Callable[[], bytes]:
    """Return a function that makes stamps like "[2026-11-28T22:57:01.123+01:00] ", ISO 8601.

    /etc/localtime is read here, and not again.
    """
    time.tzset()

    def stamp() -> bytes:
        now = time.time()
        parts = time.localtime(now)
        zone = time.strftime("%z", parts)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", parts)
        return f"[{text}.{int(now % 1 * 1000):03d}{zone[:3]}:{zone[3:]}] ".encode()

    return stamp


def delta() -> Callable[[], bytes]:
    """Return a function that makes stamps like "[+ 0.123] ": seconds since the last one."""
    last = time.monotonic()

    def stamp() -> bytes:
        nonlocal last
        now = time.monotonic()
        passed, last = now - last, now
        return f"[+{passed:9.3f}] ".encode()

    return stamp


STAMPS: dict[str, Callable[[], Callable[[], bytes]]] = {"iso": iso, "delta": delta}


class Lines:
    """Put a stamp in front of each line, and write bytes as numbers, if the user wants that.

    stamps: a key of STAMPS, or "none". A line ends with 0x0a, in hexadecimal as well.
    """

    def __init__(self, stamps: str, in_hex: bool) -> None:
        self._stamp = STAMPS[stamps]() if stamps in STAMPS else None
        self._hex = in_hex
        self._begun = False  # whether the last line is not over

    def feed(self, data: bytes) -> bytes:
        """Return what to show for the next bytes."""
        if self._stamp is None and not self._hex:
            return data
        shown = bytearray()
        for line in _split(data):
            if not self._begun and self._stamp is not None:
                shown += self._stamp()
            over = line.endswith(b"\n")
            self._begun = not over
            if self._hex:
                shown += line.hex(" ").encode() + (b"\r\n" if over else b" ")
            else:
                shown += line
        return bytes(shown)


def _split(data: bytes) -> list[bytes]:
    """Split at 0x0a alone: splitlines() splits at a carriage return, too."""
    *whole, rest = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])
