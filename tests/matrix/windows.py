"""A program with a window, on an X server that shows it to nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from matrix.acts import Act
from matrix.stage import Stage
from support.waiting import TIMEOUT, read_until

if TYPE_CHECKING:
    from matrix.programs import Program

_TYPE_AGAIN = 1.0  # seconds until what a window did not take yet is typed again
# ECMA-48, 8.3.35: a terminal is asked how it is, and is well.
ASKED, ANSWERED = b"\x1b[5n", b"\x1b[0n"


def converse(act: Act, program: Program) -> None:
    """Text is typed into its window; the terminal in it answers the far end; SIGTERM ends it."""
    with display(act.stage) as environment:
        process = act.stage.start(*act.command(program), env=environment)
        write_until_heard(act.stage, program.ready, environment)
        act.look_at_lock(program, process.pid)
        act.stage.say(b"world" + ASKED)
        act.stage.hear(ANSWERED)
        process.terminate()
        assert -process.wait(TIMEOUT) == program.status - 128


@contextmanager
def display(stage: Stage) -> Iterator[dict[str, str]]:
    """An X server of the stage's own; the environment that its programs need."""
    # It keeps its socket in /tmp: the machine's stays as it is.
    words = ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp"]
    assert stage.run(*words, uid=0).status == 0
    told, tell = os.pipe()
    command = ["Xvfb", "-displayfd", str(tell), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    server = stage.start(*command, pass_fds=[tell])
    os.close(tell)
    number = read_until(told, b"\n").decode().strip()
    os.close(told)
    # Neither a message bus nor what else a desktop has is there, or to be started.
    alone = {"NO_AT_BRIDGE": "1", "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
    try:
        yield {"DISPLAY": f":{number}", "GSETTINGS_BACKEND": "memory", **alone}
    finally:
        server.terminate()
        server.wait(TIMEOUT)


def write_until_heard(stage: Stage, name: str, environment: dict[str, str]) -> None:
    """Type into the window of this class until the far end hears it."""
    end = time.monotonic() + TIMEOUT
    find = ["search", "--sync", "--onlyvisible", "--class", name]
    while True:
        done = stage.run("xdotool", *find, "windowfocus", "type", "hello", env=environment)
        assert done.status == 0, done
        if stage.heard_yet(b"hello", _TYPE_AGAIN):
            return
        assert time.monotonic() < end, "hello does not arrive"
