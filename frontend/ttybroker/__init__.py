"""ttybroker: lease a serial port from the broker by name, without any right to its node.

    from ttybroker import open_tty
    with open_tty("ttyS0", baudrate=115200, timeout=1) as port:
        port.write(b"hello")

Names are loaded when they are used: the root side imports `ttybroker.wire` alone, and must not
get pyserial with it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing's own costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.errors import (
        BrokerError,
        BrokerUnavailable,
        DeviceGone,
        InvalidName,
        NoSuchPort,
        NotPermitted,
        PortBusy,
        PortLent,
        ProtocolError,
        WaitTimeout,
    )
    from ttybroker.port import BrokeredSerial, open_fd, open_tty
    from ttybroker.wire import Holder

__all__ = [
    "BrokerError",
    "BrokerUnavailable",
    "BrokeredSerial",
    "DeviceGone",
    "Holder",
    "InvalidName",
    "NoSuchPort",
    "NotPermitted",
    "PortBusy",
    "PortLent",
    "ProtocolError",
    "WaitTimeout",
    "open_fd",
    "open_tty",
]

if "ttybrokerd" not in sys.modules:  # the root side has no use for it; init_backend() loads it
    from ttybroker import urls  # noqa: F401


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it: PEP 562."""
    if name not in __all__:
        raise AttributeError(f"module 'ttybroker' has no attribute {name!r}")
    from ttybroker import errors, port, wire

    for module in (port, errors, wire):
        if hasattr(module, name):
            value: object = getattr(module, name)
            globals()[name] = value
            return value
    raise AttributeError(name)
