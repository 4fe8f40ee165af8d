"""Ptys as ports."""

from __future__ import annotations

import fcntl
import os
import tty

from support.waiting import TIMEOUT, wait_spoken

TIOCNXCL = 0x540D  # asm-generic/ioctls.h


class Pty:
    """A pty: `path` is the port, and this object is the device behind it.

    A `far` pty has a high number, so that no other program gets it as soon as the pty is unplugged.
    """

    def __init__(self, far: bool = False) -> None:
        below = [end for _ in range(32 if far else 0) for end in os.openpty()]
        self.master, slave = os.openpty()
        for end in below:
            os.close(end)
        self.path = os.ttyname(slave)
        self.number = os.fstat(slave).st_rdev
        tty.setraw(slave)
        os.close(slave)

    def write(self, data: bytes) -> None:
        """Send bytes to the holder of the port."""
        while data:
            data = data[os.write(self.master, data) :]

    def read(self, size: int, timeout: float = TIMEOUT) -> bytes:
        """Return exactly `size` bytes of what was written to the port."""
        data = b""
        while len(data) < size:
            wait_spoken(self.master, f"{size} bytes, got {len(data)}", timeout)
            data += os.read(self.master, size - len(data))
        return data

    def forget_exclusive(self) -> None:
        """Do what the last close of a real port does.

        A pty's TIOCEXCL lasts as long as the master is open.
        """
        slave = os.open(self.path, os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(slave, TIOCNXCL)
        os.close(slave)

    def close(self) -> None:
        """Unplug it."""
        if self.master >= 0:
            master, self.master = self.master, -1
            os.close(master)
