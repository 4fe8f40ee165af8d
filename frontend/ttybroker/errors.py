"""Refusals on the user side: one class for each cause, and `errno` is always set.

Every class is a `serial.SerialException` and so an OSError. Code that was written for pyserial
still works. Code that was written for the broker can tell the causes apart. Without pyserial, the
classes are only OSErrors.
"""

from __future__ import annotations

import errno

from ttybroker import lean
from ttybroker.wire import Refused

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from typing import Self

    from serial import SerialException

    from ttybroker.wire import Holder
elif lean.without_pyserial:
    SerialException = OSError
else:
    from serial import SerialException


class BrokerError(SerialException):
    """The broker refused, or could not be reached.

    `errno` is an errno(3) number. `str()` and `message` name the port, the cause and the next step.
    `strerror` is the line of the broker, which has no user's name.
    """

    def __init__(self, number: int, message: str, holder: Holder | None = None) -> None:
        super().__init__(number, message)
        self._holder = holder
        self._refused: Refused | None = None
        self._port = ""
        self._path: str | None = None
        self._meant: str | None = None

    @classmethod
    def of(cls, refused: Refused, port: str, path: str | None = None) -> Self:
        """Make the error for the broker's answer to a request about this port, "" for none.

        path: of the broker's socket, if it is known.
        """
        error = cls(refused.errno, refused.message(port), refused.holder)
        error._refused, error._port, error._path = refused, port, path
        return error

    @property
    def holder(self) -> Holder | None:
        """Return who has the port, as far as that is known and the caller may know it.

        The user's name is looked up at each read, which may take as long as getpwuid(3).
        """
        from ttybroker.users import named  # here, for most programs never ask

        return None if self._holder is None else named(self._holder)

    @property
    def message(self) -> str:
        """Return the port, the cause, the holder and the next step, for people.

        If the holder's process has ended, the broker is asked for the device, and /proc is searched
        for who has a copy. If no rule is about the port, the broker is asked for similar names.
        """
        told = self._refused
        holder = None if told is None else self.holder
        if told is None or holder is None:
            return f"{self.strerror}{self.meant}"
        kept = self.left_behind
        cause, named = (f"{told.cause}: {kept}", None) if kept else (told.cause, holder)
        return Refused(told.errno, cause, named, told.advice).message(self._port)

    @property
    def meant(self) -> str:
        """Return "; did you mean NAME?" if no rule is about the port, and "" otherwise.

        It is "" too if the user may use no port with a similar name.
        """
        if self._meant is None:
            self._meant = ""
            unknown = self.errno in (errno.ENOENT, errno.EACCES) and self._port
            if unknown and self._path is not None:
                from ttybroker.names import meant

                self._meant = meant(self._port, self._path)
        return self._meant

    @property
    def left_behind(self) -> str:
        """Return who has the port, for people, if the holder's process has ended; "" if not."""
        from ttybroker.holding import left_behind  # here, for most programs never ask

        return "" if self._holder is None else left_behind(self._holder, self._port, self._path)

    @property
    def advice(self) -> str:
        """Return what the broker says to do next, for people; "" if it says nothing."""
        return "" if self._refused is None else self._refused.advice

    def __str__(self) -> str:
        return self.message


class InvalidName(BrokerError):
    """EINVAL: the name is not `[A-Za-z][A-Za-z0-9_-]{0,63}`."""


class NoSuchPort(BrokerError):
    """ENOENT: no such port, or what has that name is not a serial port."""


class NotPermitted(BrokerError):
    """EACCES: the policy does not let this caller do this."""


class PortBusy(BrokerError):
    """EBUSY: somebody has the port; `holder` says who, as far as that is known."""


GONE = "taken back, or hung up, before it could be used; try again"


class DeviceGone(BrokerError):
    """ENODEV or EIO: the device vanished or does not answer; taken back before it was used."""


class WaitTimeout(BrokerError):
    """ETIMEDOUT: still busy after `wait` seconds, `holder` as in PortBusy; or still absent."""


class PortLent(BrokerError):
    """EBUSY: the port is lent, and comes back by itself; `holder` says to whom."""


class BrokerUnavailable(BrokerError):
    """ECONNREFUSED: there is no broker, or it went away."""


class ProtocolError(BrokerError):
    """EPROTO: the peer does not speak the broker's protocol."""


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
