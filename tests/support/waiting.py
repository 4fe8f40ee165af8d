"""Wait for events, never for time to pass.

A test waits for a word of a child, a line of the log, a file that appears or disappears, or the end
of a process. TIMEOUT only limits that wait.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from pathlib import Path

TIMEOUT = float(os.environ.get("TEST_TIMEOUT", "15"))  # seconds; an emulated machine is slow
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200  # sys/inotify.h
_libc = ctypes.CDLL(None, use_errno=True)


def wait_readable(descriptor: int, what: str, timeout: float = TIMEOUT) -> None:
    """Wait until there is something to read, or the end of it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(timeout * 1000):
        raise AssertionError(f"waited {timeout} s for {what}")


def wait_spoken(master: int, what: str, timeout: float = TIMEOUT) -> None:
    """Wait until a program has written to the pty behind this master.

    The master is hung up while nobody has the pty open. That is no end, for somebody may open it.
    """
    poll = select.poll()
    poll.register(master, select.POLLIN)
    end = time.monotonic() + timeout
    while not any(events & select.POLLIN for _, events in poll.poll(100)):
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(0.001)


def read_until(descriptor: int, text: bytes, timeout: float = TIMEOUT) -> bytes:
    """Read until the text has this in it, and return all. timeout: seconds for each part."""
    seen = b""
    while text not in seen:
        wait_readable(descriptor, f"{text!r}, got {seen!r}", timeout)
        seen += os.read(descriptor, 4096)
    return seen


class Watch:
    """News about the files in a directory, from the moment this is made: inotify(7)."""

    def __init__(self, directory: Path | str) -> None:
        self._fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        mask = IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM
        if _libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) < 0:
            raise OSError(ctypes.get_errno(), f"inotify_add_watch {directory}")
        self._events: list[tuple[str, int]] = []

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def wait(self, name: str, mask: int, timeout: float = TIMEOUT) -> float:
        """Wait for the next such event of the file `name`, and return the time of it."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if event[0] == name and event[1] & mask:
                    return time.monotonic()
            wait_readable(self._fd, f"event {mask:#x} of {name}", timeout)
            self._read()

    def gone(self, name: str, timeout: float = TIMEOUT) -> float:
        """Wait until the file is deleted, and return the time of that."""
        return self.wait(name, IN_DELETE, timeout)

    def _read(self) -> None:
        data, at = os.read(self._fd, 65536), 0
        while at < len(data):
            _watch, mask, _cookie, size = struct.unpack_from("iIII", data, at)
            name = data[at + 16 : at + 16 + size].rstrip(b"\0").decode()
            self._events.append((name, mask))
            at += 16 + size
