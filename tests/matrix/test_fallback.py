"""A program that nobody may look into gets a pty instead of its port, and is told what it loses."""

from __future__ import annotations

import os
import shutil

import pytest

from matrix.stage import NODE, Stage
from matrix.terminal import Terminal

pytestmark = pytest.mark.root


def test_an_unreadable_program_works_through_a_pty_and_says_what_is_lost(
    stage: Stage, terminal: Terminal, line: list[str], launcher: str
) -> None:
    program = stage.home / "picocom"
    shutil.copyfile("/usr/bin/picocom", program)
    os.chmod(program, 0o711)
    terminal.run(*line, str(program), "-q", "-b", "115200", NODE)
    terminal.write_until_heard("hello")
    said = "".join(terminal.screen().split())  # lines may be wrapped at a space
    for words in (
        f"{launcher.split()[0]}: copying through a pty ({program} is not readable",
        "bytes and speeds pass; parity, 7-bit characters",
    ):
        assert "".join(words.split()) in said
    assert stage.lock_pid() == terminal.pane_pid
    stage.say(b"world\r\n")
    terminal.see("world")
    terminal.type("C-a", "C-x")
    assert terminal.status() == 0
    stage.demand_free()
