"""QEMU's own protocol, one JSON object a line: docs/interop/qmp-spec.txt.

Both sides use it: the host saves the machine, and the guest plugs its own adapters
(guest/adapters.py).
"""

from __future__ import annotations

import json
import os
import select
from typing import Any


class QmpError(RuntimeError):
    """QEMU refused a command; the text is QEMU's."""


class Qmp:
    """A conversation on `descriptor`, from QEMU's greeting on."""

    def __init__(self, descriptor: int, timeout: float = 20.0) -> None:
        self._fd = descriptor
        self._timeout = timeout
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        self._read()  # the greeting
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> Any:
        """Run the command, and return its result. Raises QmpError."""
        line = json.dumps({"execute": name, "arguments": arguments}) + "\n"
        os.write(self._fd, line.encode())
        while True:
            message = self._read()
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise QmpError(f"{name}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait(self, event: str, **data: object) -> None:
        """Wait for the next such event with these data.

        Other events are kept, because devices that are unplugged together go in any order.
        """
        while True:
            for message in self._events:
                if message["event"] == event and data.items() <= message["data"].items():
                    self._events.remove(message)
                    return
            message = self._read()
            if "event" in message:
                self._events.append(message)

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            if not select.select([self._fd], [], [], self._timeout)[0]:
                raise TimeoutError(f"QEMU says nothing for {self._timeout} s")
            data = os.read(self._fd, 65536)
            if not data:
                raise EOFError("QEMU has ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message
