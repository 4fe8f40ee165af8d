"""One line to the user, under the name of the command that was typed."""

from __future__ import annotations

import os
import sys

_command = "ttybroker"


def say(line: object) -> None:
    """A line on stderr, whole; nothing when stderr is gone."""
    show(f"{_command}: {printable(str(line))}\n")


def show(text: str) -> None:
    """Text on stderr as it is, but ? for what this locale cannot write; nothing when stderr is
    gone."""
    try:
        os.write(2, text.encode(sys.getfilesystemencoding(), "replace"))
    except OSError:
        pass


def printable(text: str) -> str:
    """Return the text with nothing in it that a terminal would obey: others chose it."""
    return "".join(c if c.isprintable() else "?" for c in text)


def speak_as(command: str) -> None:
    """From now on lines begin with this name, in this process and its children."""
    global _command
    _command = command
