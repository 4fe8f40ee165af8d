"""Whom a port is kept from after it was taken back from him: `ttybroker revoke --hold`.

The holds are in memory alone. A broker that is started again knows of none.
"""

from __future__ import annotations

import errno
import time

from ttybrokerd.root.refusal import Refusal

LONGEST = 86400.0  # seconds
MOST = 1024


class Holds:
    """The holds that are not over, by device number and user."""

    def __init__(self) -> None:
        self._all: dict[tuple[int, int], float] = {}  # until when, by time.monotonic()

    def check_new(self, seconds: float) -> None:
        """Raise Refusal EDQUOT if there cannot be one more hold, of so many seconds."""
        if seconds > LONGEST:
            what = f"a port is kept from a user for {LONGEST:.0f} s at most"
            raise Refusal(errno.EDQUOT, what)
        now = time.monotonic()
        self._all = {key: until for key, until in self._all.items() if until > now}
        if len(self._all) >= MOST:  # guard: bounded-holds
            what = f"{MOST} ports are kept from users already"
            raise Refusal(errno.EDQUOT, what, advice="revoke it without --hold, or try later")

    def add(self, device: int, uid: int, seconds: float) -> None:
        """Keep the device from this user for so many seconds from now on."""
        self._all[device, uid] = time.monotonic() + seconds

    def left(self, device: int, uid: int) -> float:
        """Return for how many seconds the device is still kept from this user.

        Below 0: it is not.
        """
        return self._all.get((device, uid), 0.0) - time.monotonic()

    def check(self, device: int, uid: int) -> None:
        """Raise Refusal EBUSY if the device is kept from this user now."""
        if (left := self.left(device, uid)) > 0:  # guard: kept-off
            what = f"busy: it was taken back, and is kept from you for another {int(left) + 1} s"
            raise Refusal(errno.EBUSY, f"{what}, also if you wait", advice="ask again then")
