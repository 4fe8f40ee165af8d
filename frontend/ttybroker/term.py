"""`ttybroker term`: pyserial's miniterm on a brokered port, without a file system.

Whoever is at the other end of the line feeds this process bytes. It holds the only descriptor
that it needs, so it gives up the rest before it reads the first of them.
"""

from __future__ import annotations

import os
import sys

from serial.tools import miniterm

import ttybroker  # noqa: F401  (so that pyserial knows broker://)
from ttybroker import client, landlock
from ttybroker.say import say

# Codecs are loaded when somebody asks for them: Ctrl-T Ctrl-A.
_LEFT = {os.path.dirname(os.__file__): landlock.READ_FILE | landlock.READ_DIR}


class Terminal(miniterm.Miniterm):
    """miniterm, which gives up the file system once it holds its port and before it has a thread:
    what Landlock takes is taken from one thread and from those that it starts."""

    def start(self) -> None:
        """Begin to copy bytes. Raises OSError if the kernel has Landlock and refuses it."""
        landlock.restrict(_LEFT)
        super().start()


def main(port: str, wait: float | None, arguments: list[str]) -> None:
    """Run miniterm with `arguments` on `port`; wait: seconds to queue for it, None: do not."""
    query = "" if wait is None else f"?wait={wait}"
    sys.argv = ["ttybroker term", f"broker://{port}{query}", *arguments]
    client.tell_why = say
    miniterm.Miniterm = Terminal  # type: ignore[misc]
    miniterm.main()
