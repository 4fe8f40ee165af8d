"""One line to the user, under the name of the command that was typed."""

from __future__ import annotations

import os
import sys

_command = "ttybroker"


def say(line: object) -> None:
    """Write a whole line to stderr; do nothing if stderr is gone."""
    show(f"{_command}: {printable(str(line))}\n")


def show(text: str) -> None:
    """Write text to stderr, ? for what the locale cannot write; do nothing if stderr is gone."""
    try:
        os.write(2, text.encode(sys.getfilesystemencoding(), "replace"))
    except OSError:
        pass


def printable(text: str) -> str:
    """Return the text masked, so that a terminal obeys nothing in it: others chose the text."""
    return "".join(c if c.isprintable() else "?" for c in text)


def speak_as(command: str) -> None:
    """Begin lines with this name from now on, in this process and its children."""
    global _command
    _command = command


def not_loaded(error: ImportError) -> str:
    """Return what the root side lacks here, and what to do."""
    if isinstance(error, ModuleNotFoundError):  # pip's user side has the code, not what it needs
        why = f"{error.name} is missing"
    else:
        why = f"{error.name or 'a module'} cannot be loaded: {error}"
    return f"{why}; install the Debian package ttybroker, or in a clone: pip install '.[broker]'"
