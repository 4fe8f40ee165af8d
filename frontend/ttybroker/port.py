"""The port that people get: a true serial.Serial whose open() asks the broker."""

from __future__ import annotations

import errno
import os
import termios

import serial
import serial.urlhandler  # for broker://, also where site-packages cannot be read any more

from ttybroker import client
from ttybroker.errors import GONE, DeviceGone

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from typing import Any


class BrokeredSerial(serial.Serial):
    """serial.Serial over a leased descriptor.

    All of pyserial works. `open()`, the `port` setter and `with` ask the broker, and each makes a
    new lease. Input that was waiting at the open is kept.
    """

    # pyserial's own, which its stubs leave out
    _port: str | None
    _dsrdtr: bool
    _rtscts: bool
    _exclusive: bool | None
    is_open = False  # close() asks at the end of one whose settings were refused, too

    def __init__(
        self,
        port: str | None = None,
        *positional: object,
        broker: client.Broker = None,
        wait: float | None = None,
        label: str = "",
        **settings: object,
    ) -> None:
        self.broker = broker
        self.wait = wait
        self.label = label
        super().__init__(port, *positional, **settings)  # type: ignore[arg-type]

    def open(self) -> None:
        """Lease the port and apply the settings.

        Raises BrokerError; serial.SerialException if no name is set, the port is open, or the
        device refuses the settings; ValueError on settings that no device can have.
        """
        name = self._name_to_open()
        with client.connect(self.broker, label=self.label) as connection:
            self.adopt(connection.open(name, wait=self.wait))

    def _name_to_open(self) -> str:
        if self._port is None:
            raise serial.SerialException("Port must be configured before it can be used.")
        if self.is_open:
            raise serial.SerialException("Port is already open.")
        return self._port

    def adopt(self, descriptor: int) -> None:
        """Make `descriptor` this port's, as pyserial 3.5's own open() does after os.open().

        Input that is already waiting is kept, because it may be what the program came for. Raises
        DeviceGone if the port was hung up meanwhile: the program may have been stopped.
        """
        self.fd: int | None = descriptor
        self.pipe_abort_read_r = self.pipe_abort_read_w = None
        self.pipe_abort_write_r = self.pipe_abort_write_w = None
        try:
            try:
                self._reserve()
            except OSError as error:
                raise client.explained(error, str(self._port)) from None
            self._reconfigure_port(force_update=True)
            self._set_lines()
        except BaseException:
            from ttybroker.loan import hung_up  # here, for most programs never ask

            gone = hung_up(descriptor)
            self._discard()
            if gone:
                raise DeviceGone(errno.EIO, f"{self._port}: {GONE}") from None
            raise
        self.is_open = True

    def _reserve(self) -> None:
        """Make the descriptors that are needed besides the port's."""
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.pipe_abort_read_r, self.pipe_abort_read_w = os.pipe2(flags)
        self.pipe_abort_write_r, self.pipe_abort_write_w = os.pipe2(flags)

    def cancel_read(self) -> None:
        """Do as serial.Serial.cancel_read(), but nothing if so many wait that it is full."""
        try:
            super().cancel_read()
        except BlockingIOError:
            pass  # whoever reads is woken anyway

    def cancel_write(self) -> None:
        """As cancel_read()."""
        try:
            super().cancel_write()
        except BlockingIOError:
            pass

    def _reconfigure_port(self, force_update: bool = False) -> None:
        """Do as pyserial does, without its flock(2) for `exclusive`: the lease is the lock.

        A dead copy of an earlier holder may keep an flock for ever. And releasing the broker's
        flock would let an outsider in.

        It raises a SerialException for what the device refuses, and a ValueError for a number that
        no device can have, as pyserial does elsewhere.
        """
        exclusive, self._exclusive = self._exclusive, None
        try:
            super()._reconfigure_port(force_update)  # type: ignore[misc]
        except termios.error as error:
            number, what = error.args
            raise serial.SerialException(number, f"{self._port}: settings: {what}") from None
        except OverflowError:
            raise ValueError(f"{self._port}: no device has these settings") from None
        finally:
            self._exclusive = exclusive

    def __reduce_ex__(self, protocol: object) -> Any:
        """Refuse to copy or pickle an open port. Raises TypeError.

        A copy in this process would close the port for both. In another process, a copy would close
        a descriptor that is something else there.
        """
        if self.is_open:
            raise TypeError("an open port is not copied or pickled: open it by its name there")
        return super().__reduce_ex__(protocol)  # type: ignore[arg-type]

    def _set_lines(self) -> None:
        """Set the modem lines as they should be. Raises SerialException if the device refuses."""
        try:
            if not self._dsrdtr:
                self._update_dtr_state()  # type: ignore[attr-defined]
            if not self._rtscts:
                self._update_rts_state()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY):  # a pty has no lines
                what = f"{self._port}: modem lines: {error.strerror}"
                raise serial.SerialException(error.errno, what) from None

    def _discard(self) -> None:
        ends = (self.fd, self.pipe_abort_read_r, self.pipe_abort_read_w,
                self.pipe_abort_write_r, self.pipe_abort_write_w)  # fmt: skip
        self.fd = None
        for end in ends:
            if end is not None:
                os.close(end)


def open_tty(
    port: str,
    baudrate: int = 9600,
    *,
    broker: client.Broker = None,
    wait: float | None = None,
    yields: bool | str = False,
    label: str = "",
    **settings: object,
) -> BrokeredSerial:
    """Lease `port` (a name such as "ttyS0") and return it open, as a serial.Serial.

    wait: seconds to queue while somebody else has it, first come first served, or until its device
    is there; None: do not wait.
    yields: "user" (or True) lends the port to other programs of this user, "all" to everybody whom
    the policy admits. The port is then a lending.YieldingSerial, which also takes on_lent and
    on_back. broker, label: see ttybroker.client.connect. Everything else is pyserial's (timeout,
    parity, ...).

    Raises a BrokerError: InvalidName, NoSuchPort, NotPermitted, PortBusy, WaitTimeout, DeviceGone,
    BrokerUnavailable or ProtocolError. Raises TypeError or ValueError for a name, settings or a
    label that cannot be, and a serial.SerialException for settings that the device refuses.
    """
    client.checked(port)
    if yields:
        from ttybroker.lending import YieldingSerial  # here, for most programs do not

        given: dict[str, Any] = {"baudrate": baudrate, "yields": yields, **settings}
        return YieldingSerial(port, broker=broker, wait=wait, label=label, **given)
    return BrokeredSerial(
        port, broker=broker, wait=wait, label=label, baudrate=baudrate, **settings
    )


def open_fd(
    port: str, *, broker: client.Broker = None, wait: float | None = None, label: str = ""
) -> int:
    """Lease `port` and return its descriptor.

    That is a plain int, close-on-exec, non-blocking, and the caller's to close. The lease ends when
    the last copy of it is closed, wherever that is. Arguments and exceptions are those of open_tty.
    """
    from ttybroker.loan import alive

    with client.connect(broker, label=label) as connection:
        return alive(connection.open(port, wait=wait), port)
