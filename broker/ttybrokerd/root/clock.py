"""Whether the time of a file and that of a process may be compared."""

from __future__ import annotations

import os
import time


class Clock:
    """Since when the clock of files (CLOCK_REALTIME) has gone on without being set.

    A board without a battery sets it after boot. A time that was written before then means nothing.
    """

    BOOT = "/dev/pts"  # mounted once, early; the ctime of its root is of then: fs/devpts
    EARLY = 30.0  # seconds of uptime within which it is mounted
    JITTER = 2.0  # seconds

    def __init__(self) -> None:
        self._offset = self.offset()
        self._since = 0.0 if self._as_at_boot() else time.time()

    def offset(self) -> float:
        """Return what the clock said at boot, if it was never set since: seconds of the epoch."""
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def steady_since(self) -> float:
        """Return a time of this clock after which it was not set, as far as is known.

        It is in seconds of the epoch. 0: the clock was not set since boot.
        """
        offset = self.offset()
        if abs(offset - self._offset) > self.JITTER:
            self._offset, self._since = offset, time.time()
        return self._since

    def _as_at_boot(self) -> bool:
        """Return whether the clock has not been set since boot.

        One that was set forward by up to EARLY + JITTER may pass. LATER of locks.py is more than
        that.
        """
        try:
            mounted = os.stat(self.BOOT).st_ctime
        except OSError:
            return False
        return -self.JITTER <= mounted - self._offset <= self.EARLY
