"""Some memory is kept aside. Where there is no more, what is under way goes on with that.

What is new is refused until there is memory again. So a MemoryError in the middle of something is
rare: what is new takes less than was there before.
"""

from __future__ import annotations

KEPT = 512 * 1024  # bytes, never touched: they cost address space alone
ROOM = 128 * 1024  # bytes, more than any one request or turn of the loop takes


class Memory:
    """What is kept aside."""

    def __init__(self) -> None:
        self._kept: bytes | None = bytes(KEPT)

    def room(self) -> bool:
        """Return whether there is memory for something new.

        If there is none, what was kept is given to what is under way.
        """
        try:
            if self._kept is None:
                self._kept = bytes(KEPT)
            bytes(ROOM)
        except MemoryError:
            self._kept = None
            return False
        return True
