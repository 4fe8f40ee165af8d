"""`ttybroker.client` for a process of ours, without what it costs most to load.

pyserial is loaded for one class, SerialException, which nobody catches in these processes: an
OSError stands in. `socket` is loaded for what `_socket` has; the rest of it is enums for its
constants. Together that is 6 of the 10 ms that a supervisor needs until it has its broker.
"""

from __future__ import annotations

import sys

from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.client import Broker, Client


def stand_in() -> None:
    """Let others stand in for pyserial and `socket`, unless they are loaded already. For
    processes in which no code of a user runs."""
    if "serial" not in sys.modules:
        serial = type(sys)("serial")
        serial.SerialException = OSError  # type: ignore[attr-defined]
        sys.modules["serial"] = serial
    if "socket" not in sys.modules:
        import _socket

        sys.modules["socket"] = _socket


def connect(broker: Broker) -> Client:
    """As `ttybroker.client.connect`."""
    stand_in()
    from ttybroker import client

    client.tell_why = say
    return client.connect(broker)
