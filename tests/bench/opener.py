"""A person's program in Python: one open at a time, as standard input says.

    opener.py CODE KIND SOCKET

A line is a port's name (of kind "serial" a path); the answer is [when it was open, seconds that
took] on CLOCK_MONOTONIC. An empty line closes what is open, and is answered with when that was.
Kinds: "open_fd" and "open_tty" of the broker at SOCKET, "serial" of pyserial; "monitor" is an
"open_tty" that lends its port, and reads from it until the next line.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.append(sys.argv[1])

from ttybroker import client

KIND, PATH = sys.argv[2:4]
WAIT = 10.0  # seconds
READ = 0.1  # seconds; for so long a monitor does not look for the next line


def opens() -> Callable[[str], Any]:
    """Return what opens a port in the way of this KIND, and loads nothing else."""
    if KIND == "open_fd":
        connection = client.connect(PATH)
        return lambda name: connection.open(name, wait=WAIT)
    if KIND in ("open_tty", "monitor"):
        from ttybroker import open_tty

        lends = {"timeout": READ, "yields": "user"} if KIND == "monitor" else {}
        return lambda name: open_tty(name, broker=PATH, wait=WAIT, **lends)
    import serial

    return serial.Serial


def main() -> None:
    """Do what each line asks for."""
    open_port, held = opens(), []
    for line in iter(sys.stdin.readline, ""):
        if name := line.strip():
            before = time.monotonic()
            held.append(open_port(name))
            after = time.monotonic()
            told = [after, after - before]
        else:
            told = [time.monotonic()]
            for one in held:
                os.close(one) if isinstance(one, int) else one.close()
            held.clear()
        print(json.dumps(told), flush=True)
        while KIND == "monitor" and held and not select.select([sys.stdin], [], [], 0)[0]:
            held[0].read()


main()
