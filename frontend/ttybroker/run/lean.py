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


def connect(broker: Broker) -> Client:
    """As `ttybroker.client.connect`. Where pyserial or `socket` is loaded already, it is used."""
    if "serial" not in sys.modules:
        stand_in = type(sys)("serial")
        stand_in.SerialException = OSError  # type: ignore[attr-defined]
        sys.modules["serial"] = stand_in
    if "socket" not in sys.modules:
        import _socket

        sys.modules["socket"] = _socket
    from ttybroker import client

    client.tell_why = say
    return client.connect(broker)
