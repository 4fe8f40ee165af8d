"""Which commit a figure is of."""

from __future__ import annotations

import subprocess
from pathlib import Path

GIT = ("git", "-c", "safe.directory=*", "-C", str(Path(__file__).parents[2]))


def this_commit() -> str:
    """Return the commit of the working tree, short, with a "+" if files in it differ.

    Those in docs/ do not count: figures of the same commit are written there.
    """
    changed = _said("status", "--porcelain", "--untracked-files=no", ":!docs")
    return _said("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def _said(*words: str) -> str:
    return subprocess.check_output([*GIT, *words], text=True).strip()
