"""The name by which the broker and ps(1) know this process."""

from __future__ import annotations

import os


def call_us(name: str) -> None:
    """Have the broker name what will have the port, and not the interpreter or what it was before.

    The kernel cuts it off after 15 bytes: proc_pid_comm(5).
    """
    try:
        with open("/proc/self/comm", "wb", 0) as file:
            file.write(os.fsencode(name))
    except OSError:  # it names us
        pass
