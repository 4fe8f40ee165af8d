"""What is slow leaves most of the time to others.

It is read once for all who ask meanwhile.
"""

from __future__ import annotations

import _thread
import time

REST = 4.0  # times as long as a reading took: it has at most a fifth of one processor's time
TURN = 0.002  # seconds of a turn of the loop after which it is somebody else's


class Paced:
    """The base of something that is slow to read. Any thread may ask.

    After a reading, nothing is read for `rest` times as long as it took.
    """

    rest = REST

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._began = self._rested = -1.0  # seconds of the monotonic clock

    def refresh(self, *, fresh: bool = False) -> None:
        """Read, unless that was done a moment ago.

        With `fresh`, read unless another thread has begun to since this call, and wait until that
        is allowed.
        """
        asked = time.monotonic()
        with self._lock:
            now = time.monotonic()
            # guard: paced-reading
            if self._began >= asked or (now < self._rested and not fresh):
                return
            if now < self._rested:
                time.sleep(self._rested - now)
            began = time.monotonic()
            self.read()
            self._began, ended = began, time.monotonic()
            self._rested = ended + self.rest * (ended - began)

    def read(self) -> None:
        """Read it anew. What this raises, `refresh` raises."""
        raise NotImplementedError
