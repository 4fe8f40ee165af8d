"""What a refusal looks like on the user side: one class a cause, `errno` always set.

Every class is a `serial.SerialException` and so an OSError: code written for
pyserial keeps working, code written for the broker can tell the causes apart.
"""

from __future__ import annotations

import errno

from serial import SerialException

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.wire import Holder


class BrokerError(SerialException):
    """The broker, or the way to it, said no.

    `errno` is an errno(3) number; `str()` names the port, the cause and the next step.
    `holder` says who has the port, as far as is known and the caller may know it.
    """

    def __init__(self, number: int, message: str, holder: Holder | None = None) -> None:
        super().__init__(number, message)
        self.message = message
        self.holder = holder

    def __str__(self) -> str:
        return self.message


class InvalidName(BrokerError):
    """EINVAL: the name is not `[A-Za-z][A-Za-z0-9_-]{0,63}`."""


class NoSuchPort(BrokerError):
    """ENOENT: no such port, or what has that name is not a serial port."""


class NotPermitted(BrokerError):
    """EACCES: the policy does not let this caller do this."""


class PortBusy(BrokerError):
    """EBUSY: somebody has the port; `holder` says who, as far as is known."""


class DeviceGone(BrokerError):
    """ENODEV or EIO: the device vanished or does not answer."""


class WaitTimeout(BrokerError):
    """ETIMEDOUT: still busy after `wait` seconds; `holder` as in PortBusy."""


class BrokerUnavailable(BrokerError):
    """ECONNREFUSED: no broker there, or it went away."""


class ProtocolError(BrokerError):
    """EPROTO: what came over the socket is not the broker's protocol."""


BY_ERRNO: dict[int, type[BrokerError]] = {
    errno.EINVAL: InvalidName,
    errno.ENOENT: NoSuchPort,
    errno.EACCES: NotPermitted,
    errno.EBUSY: PortBusy,
    errno.ENODEV: DeviceGone,
    errno.EIO: DeviceGone,
    errno.ETIMEDOUT: WaitTimeout,
    errno.ECONNREFUSED: BrokerUnavailable,
    errno.EPROTO: ProtocolError,
}
