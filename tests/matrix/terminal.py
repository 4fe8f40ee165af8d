"""A person at a terminal: a tmux server of the test's own, on the stage, with one pane.

Nothing sleeps to let something happen: what is waited for is asked for again, until a deadline.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from matrix.namespace import NAMED
from matrix.stage import AGAIN, Stage, ended
from support.waiting import TIMEOUT

_TYPE_AGAIN = 0.3  # seconds until what a program did not take yet is typed again


class Terminal:
    """80 columns, 24 lines. `run` starts a program in it; `close` hangs up."""

    def __init__(self, stage: Stage, uid: int = NAMED) -> None:
        self.stage, self.uid = stage, uid
        self._socket = str(stage.home / "tmux")
        self.server = 0
        self.pane_pid = 0

    def tmux(self, *words: str, check: bool = True) -> str:
        """One tmux command; what it prints."""
        command = ["tmux", "-u", "-f", "/dev/null", "-S", self._socket, *words]
        done = self.stage.run(*command, uid=self.uid)
        assert not check or done.status == 0, (words, done)
        return done.out.rstrip("\n")

    def run(self, *words: str, env: dict[str, str] | None = None) -> None:
        """Start the program; its end leaves the pane, with its exit status."""
        more = [word for name, value in (env or {}).items() for word in ("-e", f"{name}={value}")]
        show = ["display", "-p", "#{pid} #{pane_pid}"]
        options = ["set", "-g", "remain-on-exit", "on", ";", "set", "-g", "status", "off"]
        # One command line, so that the option is there before the program can end.
        command = ["start-server", ";", *options, ";", "new-session", "-d", "-x", "80", "-y", "24"]
        pids = self.tmux(*command, *more, "--", *words, ";", *show)
        self.server, self.pane_pid = map(int, pids.split())

    def again(self, *words: str) -> None:
        """Start another program in the pane, whose own has ended."""
        self.tmux("respawn-pane", "--", *words)

    def type(self, *keys: str) -> None:
        """Keys by tmux's names: C-a, Enter, Escape."""
        self.tmux("send-keys", *keys)

    def write(self, text: str) -> None:
        """Text, as it is."""
        self.tmux("send-keys", "-l", text)

    def screen(self) -> str:
        """What is to be seen."""
        return self.tmux("capture-pane", "-p", check=False)

    def printed(self) -> str:
        """What is to be seen, and what has scrolled away."""
        return self.tmux("capture-pane", "-p", "-S", "-", check=False)

    def until(self, what: str, true: Callable[[], object], timeout: float = TIMEOUT) -> None:
        """Ask until it is so."""
        end = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < end, (
                f"waited {timeout} s for {what}; screen:\n{self.screen()}"
            )
            time.sleep(AGAIN)

    def see(self, text: str) -> None:
        """Wait until this text is on the screen."""
        self.until(repr(text), lambda: text in self.screen())

    def write_until_heard(self, text: str) -> None:
        """Type until the far end hears it: programs throw away what comes before they are up."""
        end = time.monotonic() + TIMEOUT
        while True:
            self.write(text)
            self.type("Enter")
            if self.stage.heard_yet(text.encode(), _TYPE_AGAIN):
                return
            assert time.monotonic() < end, f"{text!r} does not arrive; screen:\n{self.screen()}"

    def status(self, *keys: str) -> int:
        """Wait for the program's end; its exit status, 128 + n after signal n.

        keys: those that end it, typed again and again. picocom throws away what comes while it
        takes the terminal back from a program of its own.
        """
        found: list[str] = []
        due = time.monotonic()

        def known() -> bool:
            nonlocal due
            if keys and time.monotonic() >= due:
                due = time.monotonic() + _TYPE_AGAIN
                self.tmux("send-keys", *keys, check=False)  # it may have ended
            show = "#{pane_dead_status} #{pane_dead_signal} #{pane_dead}"
            found[:] = self.tmux("display", "-p", show).split(" ")
            if found == ["", "", "1"]:  # tmux 3.3a loses a SIGCHLD now and then
                os.kill(self.server, signal.SIGCHLD)
            return any(found[:2])

        self.until("the program's end", known)
        return int(found[0]) if found[0] else 128 + int(found[1])

    def close(self) -> None:
        """End the server, and so hang up on whatever runs in it."""
        if self.server:
            self.tmux("kill-server", check=False)
            assert ended(self.server), "the tmux server does not end"
            with suppress(ChildProcessError):
                os.waitpid(self.server, 0)
            self.server = 0
        with suppress(FileNotFoundError, subprocess.SubprocessError):
            os.unlink(self._socket)
