"""Whether the time of a file and that of a process may be compared."""

from __future__ import annotations

import os
import time


class Clock:
    """Since when the clock of files (CLOCK_REALTIME) has run on as it does now. A board without a
    battery sets it after boot, and what was written before has a time that means nothing now."""

    BOOT = "/dev/pts"  # mounted once, early; its root's ctime is the clock of then: fs/devpts
    EARLY = 30.0  # seconds of uptime within which it is mounted
    JITTER = 2.0  # seconds

    def __init__(self) -> None:
        self._offset = self.offset()
        self._since = 0.0 if self._as_at_boot() else time.time()

    def offset(self) -> float:
        """What the clock said at boot, if it was never set since; seconds of the epoch."""
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def steady_since(self) -> float:
        """A time of this clock from which on it was not set, as far as is known; 0: from boot."""
        offset = self.offset()
        if abs(offset - self._offset) > self.JITTER:
            self._offset, self._since = offset, time.time()
        return self._since

    def _as_at_boot(self) -> bool:
        """One that was set forward by up to EARLY + JITTER may pass: LATER of locks.py is more."""
        try:
            mounted = os.stat(self.BOOT).st_ctime
        except OSError:
            return False
        return -self.JITTER <= mounted - self._offset <= self.EARLY
