"""A port in a program's event loop: opened without blocking it, lent, and back in it."""

from __future__ import annotations

import asyncio
import contextlib
import os

import serial

from ttybroker import client
from ttybroker.errors import BrokerError
from ttybroker.lending import YieldingSerial
from ttybroker.port import BrokeredSerial

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from typing import Any

    from ttybroker.wire import Holder


MOST_HELD = 65536  # bytes that are written while the port is lent
_PAUSE = 0.01  # seconds until the port may take more


def make(*, yields: bool | str = False, **settings: Any) -> BrokeredSerial:
    """Return a port that is not open yet, for `lease`."""
    return LoopSerial(None, yields=yields, **settings) if yields else BrokeredSerial(**settings)


async def lease(ready: BrokeredSerial, name: str) -> None:
    """Open such a port. Raises what aio.open_tty does."""
    if isinstance(ready, LoopSerial):
        await ready.lease(name)
        return
    ready.port = name
    with client.connect(ready.broker, label=ready.label) as connection:
        ready.adopt(await ask(connection, name, ready.wait))


async def ask(connection: client.Client, port: str, wait: float | None, wanted: int = 0) -> int:
    """Do as Client.open(), without blocking the loop. wanted: flags of ttybroker.wire."""
    loop = asyncio.get_running_loop()
    budget = client.RetryBudget(wait)
    while True:
        connection.ask_open(port, wait=wait, flags=wanted)
        try:
            descriptor = None
            while descriptor is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(connection.time_left()):
                        await _readable(loop, connection.fileno())
                descriptor = connection.take_answer()  # which raises when the time is up
            return descriptor
        except client.BrokenOff:  # the daemon is being started again
            for pause in connection.come_back(budget):
                await asyncio.sleep(pause)
            wait = budget.left()


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    """Wait until there is something to read."""
    answered = loop.create_future()
    loop.add_reader(descriptor, _set, answered)
    try:
        await answered
    finally:
        loop.remove_reader(descriptor)


def _set(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


class LoopSerial(YieldingSerial):
    """A port on which the loop hears the broker, whether or not anybody calls its methods.

    The port's descriptor keeps its number when it is lent and comes back. But epoll(7) knows open
    file descriptions, so the loop would not notice that the number means another one. So whatever
    the loop waits for is registered again.
    """

    _heard: client.Client | None = None
    _number = -1  # the descriptor of that
    _timer: asyncio.TimerHandle | None = None
    _ended = -1  # a pipe whose other end is closed
    _write_timeout: float | None  # pyserial's own, which its stubs leave out

    def __init__(self, *positional: Any, **settings: Any) -> None:
        self._held = bytearray()
        super().__init__(*positional, **settings)

    async def lease(self, name: str) -> None:
        """Do as open(), without blocking it. Raises NotImplementedError if it has no selector."""
        self._loop = asyncio.get_running_loop()
        if not hasattr(self._loop, "_selector"):
            raise NotImplementedError("yields: needs one of asyncio's own loops")
        self.port = name
        connection = client.connect(self.broker, label=self.label)
        try:
            self.has(await ask(connection, name, self.wait, self._flags), connection, name)
        except BaseException:
            connection.close()
            raise
        try:
            self._listen()
            self._is_lent()
        except BaseException:
            self.close()
            raise

    def _reserve(self) -> None:
        super()._reserve()
        self._ended, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # epoll(7) takes no /dev/null
        os.close(writer)

    def lent_now(self) -> bool:
        """Return whether the port is lent. Raises BrokerError if it does not come back."""
        return self._is_lent()

    def _listen(self) -> None:
        loan = self._loan
        connection, due = (None, None) if loan is None else (loan.connection, loan.wait_for()[1])
        if connection is not self._heard:
            if self._heard is not None:
                self._loop.remove_reader(self._number)
            if connection is not None:
                self._number = connection.fileno()
                self._loop.add_reader(self._number, self._news)
            self._heard = connection
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_later(due, self._news)

    def _news(self) -> None:
        try:
            self._is_lent()
        except BrokerError:  # it does not come back: the reader is told
            os.dup2(self._ended, self.fd, inheritable=False)
            self._register_anew()

    def _is_lent(self) -> bool:
        try:
            return super()._is_lent()
        finally:
            if self._heard is not None or self._timer is not None:
                self._listen()

    def _lend(self, holder: Holder) -> None:
        super()._lend(holder)
        self._register_anew()

    def _take(self, descriptor: int) -> None:
        super()._take(descriptor)
        self._register_anew()
        self._loop.call_soon(self._write_held)

    def _register_anew(self) -> None:
        selector: Any = self._loop._selector  # type: ignore[attr-defined]
        known = selector.get_map().get(self.fd)
        if known is not None:
            selector.unregister(self.fd)
            selector.register(self.fd, known.events, known.data)

    def write(self, data: Any, /) -> int | None:
        """Do as YieldingSerial.write(), but keep the data while the port is lent.

        Raises PortLent beyond MOST_HELD bytes.
        """
        if not self._is_lent() and not self._held:
            if self._write_timeout == 0 and self.is_open:
                return self._write_now(bytes(data))
            return super().write(data)
        if len(self._held) + len(data) > MOST_HELD:
            self._must_be_here()
            return 0  # it is on its way out: later
        self._held += data
        return len(data)

    def _write_held(self) -> None:
        """Write the data that was kept, as fast as the port takes it."""
        if self._held and self.is_open and not self._is_lent():
            del self._held[: self._write_now(bytes(self._held))]
            if self._held:
                self._loop.call_later(_PAUSE, self._write_held)

    def _write_now(self, data: bytes) -> int:
        """Write what the port takes at once. If it is full, pyserial 3.5 tries without end."""
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._must_be_here()  # lent meanwhile
            raise serial.SerialException(f"write failed: {error}") from None

    def flush(self) -> None:
        """Do as YieldingSerial.flush(), but nothing if the port does not come back.

        pyserial-asyncio flushes before it tells its protocol why the connection is lost.
        """
        with contextlib.suppress(BrokerError):
            super().flush()

    def close(self) -> None:
        """As YieldingSerial.close()."""
        if self._heard is not None:
            self._loop.remove_reader(self._number)
            self._heard = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().close()
        self._close_ended()

    def leave_to_parent(self) -> None:
        """As YieldingSerial.leave_to_parent(), and without the loop, which is the parent's."""
        super().leave_to_parent()
        self._close_ended()

    def _close_ended(self) -> None:
        if self._ended >= 0:
            os.close(self._ended)
            self._ended = -1
