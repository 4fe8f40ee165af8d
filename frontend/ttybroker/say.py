"""One line to the user, under the name of the command that was typed."""

from __future__ import annotations

import os

_command = "ttybroker"


def say(line: object) -> None:
    """A line on stderr, whole; nothing when stderr is gone."""
    show(f"{_command}: {line}\n")


def show(text: str) -> None:
    """Text on stderr as it is; nothing when stderr is gone."""
    try:
        os.write(2, os.fsencode(text))
    except OSError:
        pass


def printable(text: str) -> str:
    """Return the text with nothing in it that a terminal would obey: others chose it."""
    return "".join(c if c.isprintable() else "?" for c in text)


def speak_as(command: str) -> None:
    """From now on lines begin with this name, in this process and its children."""
    global _command
    _command = command
