"""A terminal that runs `ttybroker term`, or another of its commands."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from typing import Any

from support.command import TTYBROKER, environment
from support.rig import Rig
from support.waiting import TIMEOUT, wait_readable


class Screen:
    """`ttybroker term` as a person sees it, on a terminal of 100 columns.

    It ends, however the test ends. options: of subprocess.Popen.
    """

    def __init__(
        self,
        rig: Rig,
        *words: str,
        env: Mapping[str, str] | None = None,
        command: str = "term",
        **options: Any,
    ) -> None:
        self.seen = b""
        self.end, keyboard = pty.openpty()
        fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
        given = {"stdin": keyboard, "stdout": keyboard, "stderr": keyboard, **options}
        home = {"XDG_CONFIG_HOME": str(rig.base / "no-config"), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [*TTYBROKER, command, *words],
            env={**environment(rig, **home), **(env or {})},
            **given,
        )
        os.close(keyboard)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.end)

    def shows(self, what: bytes) -> None:
        """Wait until it has shown this."""
        while what not in self.seen:
            wait_readable(self.end, f"{what!r}, got {self.seen!r}")
            self.seen += os.read(self.end, 4096)

    def times(self, what: bytes, count: int) -> None:
        """Wait until it has shown this that many times."""
        while self.seen.count(what) < count:
            wait_readable(self.end, f"{what!r} {count} times, got {self.seen!r}")
            self.seen += os.read(self.end, 4096)

    def asks(self, what: bytes) -> None:
        """Wait until it reads a line.

        It has then thrown away what was typed earlier. No event tells of that, so this looks at the
        terminal's mode.
        """
        self.shows(what)
        end = time.monotonic() + TIMEOUT
        while not termios.tcgetattr(self.end)[3] & termios.ICANON:
            assert time.monotonic() < end, f"{what!r}, but no line is read"
            os.sched_yield()

    def type(self, keys: bytes) -> None:
        """Press these keys."""
        os.write(self.end, keys)

    def leave(self) -> int:
        """Type Ctrl+], and return the exit status."""
        self.type(b"\x1d")
        return self.ends()

    def ends(self) -> int:
        """Wait for its end, and return the exit status, or minus the signal.

        `seen` then has everything.
        """
        with contextlib.suppress(OSError):  # EIO: it has closed its side
            while data := os.read(self.end, 4096):
                self.seen += data
        return self.process.wait(TIMEOUT)
