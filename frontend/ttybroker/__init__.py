"""ttybroker: lease a serial port from the broker by name, without any right to its node.

    from ttybroker import open_tty
    with open_tty("ttyS0", baudrate=115200, timeout=1) as port:
        port.write(b"hello")
"""

import serial

from ttybroker.errors import (
    BrokerError,
    BrokerUnavailable,
    DeviceGone,
    InvalidName,
    NoSuchPort,
    NotPermitted,
    PortBusy,
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
    "ProtocolError",
    "WaitTimeout",
    "open_fd",
    "open_tty",
]

# broker://NAME for serial.serial_for_url()
serial.protocol_handler_packages.append("ttybroker.urls")
