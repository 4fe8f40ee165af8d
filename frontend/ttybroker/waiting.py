"""One line while a port is waited for: who has it, since when, how long to wait.

On a terminal it is drawn again when it says something else. Elsewhere, as in a service's log, it is
written once.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from ttybroker import wire
from ttybroker.say import say, show

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

LOOK = 1.0  # seconds between looks at the holder, where the broker does not tell who it is
_AGAIN = 60.0  # seconds until a new wait of this process is told in the same words as the last one
_ERASE = "\r\x1b[K"  # ECMA-48 EL: erase in line
_screen = allocate_lock()  # of several waits one is shown
_told: dict[str, tuple[str, float]] = {}  # port -> what was written last, and when it was true


class WaitingLine:
    """That line. Only one thread may use it.

    quiet: do not show it. It is not shown either while the shell has `pid`, the process that waits
    (0: this one), in the background. wait: seconds, None: without an end. `hear` is the `tell` of
    `Client.ask_open`.
    """

    def __init__(self, name: str, quiet: bool, wait: float | None, pid: int = 0) -> None:
        self._name = name
        self._pid = pid
        self._shown = not quiet
        self._drawable = os.isatty(2) and os.environ.get("TERM") != "dumb"
        self._written = 0  # 1: that it waits; 2: for whom, too
        self._end = None if wait is None else time.monotonic() + wait
        self._news: wire.Waiting | None = None
        self._whose = ""  # who has it, in words
        self._look_at = 0.0
        self._drawn = ""

    def hear(self, news: wire.Waiting) -> None:
        """Show this news from now on. If it is about the device, print it as a line of its own."""
        if news.reason in (0, wire.SLOW):
            self.erase()
            say(news.message)
            return
        self._news = news
        self._know(news.holder)
        if self._end is not None:
            self._end = time.monotonic() + news.left / 1000
        if self._drawable:
            self.draw()

    def draw(self, ports: Callable[[], list[wire.PortInfo]] | None = None) -> None:
        """Show what is known by now.

        ports: returns a list of ports; it is called now and then if an older broker sends no news.
        It may raise OSError.
        """
        if not self._shown or _in_background(self._pid):
            return
        if self._news is None and ports is not None and time.monotonic() >= self._look_at:
            self._look(ports)
        if not self._drawable:
            self._write()
            return
        if not self._drawn and not _screen.acquire(blocking=False):
            return
        from ttybroker.width import cut  # here, for most ports are there at once

        try:
            room = os.get_terminal_size(2).columns or 80
        except OSError:
            room = 80
        line = cut(f"ttybroker: {self._name}: {self._text()}", room - 1)
        if line != self._drawn:
            show(f"{_ERASE}{line}")
        self._drawn = line

    def _write(self) -> None:
        """Write the line once, and once more if who has the port was not known before.

        A signal may make a program wait anew many times in a second. That is not told again.
        """
        known = 2 if self._news or self._whose else 1
        if known <= self._written:
            return
        self._written = known
        told, now = (self._whom(), time.monotonic())
        before, then = _told.get(self._name, ("", -_AGAIN))
        _told[self._name] = told, now
        if told != before or now - then >= _AGAIN:
            say(f"{self._name}: {self._text()}")

    def erase(self) -> None:
        """Empty the line."""
        if self._drawn:
            if not _in_background(self._pid):
                show(_ERASE)
            self._drawn = ""
            _screen.release()

    def _look(self, ports: Callable[[], list[wire.PortInfo]]) -> None:
        self._look_at = time.monotonic() + LOOK
        try:
            port = next((port for port in ports() if port.name == self._name), None)
        except OSError:
            return
        # while a port is being opened, the list names the process that asked, which may be us
        if port is not None and port.holder is not None and port.state != "opening":
            self._know(port.holder)

    def _know(self, holder: wire.Holder | None) -> None:
        from ttybroker.holding import holding  # here, for most ports are there at once

        self._whose = "" if holder is None or not self._shown else holding(holder)

    def _text(self) -> str:
        """Return the text behind the name; its end may be cut off."""
        news = self._news or wire.Waiting("")
        text = "waiting"
        if self._end is not None:
            text += f", {max(0, int(self._end - time.monotonic()))} s left"
        if news.place:
            text += f", {news.place} in front"
        return text + self._whom()

    def _whom(self) -> str:
        """Return the part of the text that says who or what is waited for, "" if not known."""
        if self._news and self._news.reason == wire.ABSENT:
            return ": for it to be plugged in"
        if not self._whose:
            return ": it is being reset after its last lease" if self._news else ""
        does = {wire.ASKED: ", and was asked to lend it", wire.LENT_OUT: ", borrowed"}
        return f": {self._whose}{does.get(self._news.reason, '') if self._news else ''}"


def _in_background(pid: int) -> bool:
    """Whether the shell on our standard error has this process as a job in the background."""
    try:
        with open(f"/proc/{pid or 'self'}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
        here = os.fstat(2).st_rdev
    except OSError:
        return False
    group, _, terminal, foreground = words[2:6]  # pgrp, session, tty_nr, tpgid: proc_pid_stat(5)
    return 0 != int(terminal) == here and foreground != group
