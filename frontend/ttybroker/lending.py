"""A port that yields: it is lent when somebody else asks for it, and comes back by itself."""

from __future__ import annotations

import errno
import os
import select
import time
from _thread import RLock

import serial

from ttybroker import client, wire
from ttybroker.errors import BrokerError, BrokerUnavailable, PortLent
from ttybroker.port import BrokeredSerial

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_PAUSE = 0.5  # seconds until a port that is away, or a broker that is, is asked for again
# A board that is flashed may come back as another device; a broker may be started again.
_AWAY = (errno.ENOENT, errno.ENODEV, errno.EIO, errno.EDQUOT, errno.ETIMEDOUT, errno.ESTALE)


class Loan:
    """The connection through which a session has a port and yields.

    `lent` is who has the port meanwhile. `look` calls `lend`, which has to let go of the port, and
    `take`, which gets its new descriptor.
    """

    def __init__(
        self,
        connection: client.Client,
        broker: client.Broker,
        name: str,
        flags: int,
        lend: Callable[[wire.Holder], None],
        take: Callable[[int], None],
    ) -> None:
        self.lent: wire.Holder | None = None
        self._connection: client.Client | None = connection
        self._broker, self._name, self._flags = broker, name, flags
        self._session = connection.session
        self._again_at: float | None = None  # when to ask again
        self._lend, self._take = lend, take
        self._lost: BrokerError | None = None

    def close(self) -> None:
        """Yield no more, and claim nothing."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._again_at = None

    def ask(self) -> None:
        """Ask for one more descriptor, or for the port, at the next look."""
        self._again_at = time.monotonic()

    def wait_for(self) -> tuple[list[int], float | None]:
        """Return what to wait for until `look` has something to do: descriptors that can be read,
        and for how many seconds at most, None: without an end."""
        left = None if self._again_at is None else max(self._again_at - time.monotonic(), 0.0)
        return ([] if self._connection is None else [self._connection.fileno()]), left

    def look(self) -> None:
        """Do what the broker says, without waiting. Raises BrokerError when the port is lent and
        does not come back."""
        while True:
            if self._lost is not None:
                raise self._lost
            if self._again_at is not None and self._again_at <= time.monotonic():
                self._ask_again()
            if self._connection is None or not _readable(self._connection.fileno()):
                return
            try:
                self._hear(self._connection.news())
            except client.BrokenOff:
                self.close()
                self._again_at = time.monotonic()
            except BrokerError as error:
                self._refused(error)

    def _hear(self, news: wire.Lent | int | None) -> None:
        if isinstance(news, wire.Lent):
            self.lent = news.holder or wire.Holder()
            self._lend(self.lent)
        elif news is not None:
            assert self._connection is not None
            self._session = self._connection.session
            if self.lent is None and self._connection.joined:  # it was here all the time
                os.close(news)
                return
            self.lent = None
            self._take(news)

    def _ask_again(self) -> None:
        """Ask for the port, or for one more descriptor of it: docs/protocol.md, "Hand-over"."""
        self._again_at = None
        wait = None if self.lent is None else wire.MAX_WAIT
        try:
            if self._connection is None:
                self._connection = client.connect(self._broker)
            self._connection.ask_open(
                self._name, wait=wait, flags=self._flags, session=self._session
            )
        except BrokerUnavailable:
            self.close()
            self._again_at = time.monotonic() + _PAUSE

    def _refused(self, error: BrokerError) -> None:
        """The port does not come back, or not yet. One that is here is so without yielding."""
        if self.lent is None:
            self.close()
        elif error.errno in _AWAY:
            pause = 0.0 if error.errno == errno.ESTALE else _PAUSE
            self._again_at = time.monotonic() + pause
            self._session = wire.NO_SESSION
        else:
            self.close()
            self._lost = error


class YieldingSerial(BrokeredSerial):
    """BrokeredSerial on a port that other programs may borrow.

    Each call looks first whether somebody asks for the port, in its thread; then `on_lent(port)` or
    `on_back(port)` is called. While the port is lent `lent` is who has it, reads time out, writes
    raise PortLent, and settings and lines are kept for later. The descriptor keeps its number; who
    waits for it with select(2) or poll(2) wakes up when there is something to look at.
    """

    # pyserial's own, which its stubs leave out
    fd: int
    pipe_abort_read_r: int
    _timeout: float  # or None, which Timeout takes
    if TYPE_CHECKING:
        _reconfigure_port: Callable[..., None]

    def __init__(
        self,
        port: str | None = None,
        *positional: object,
        yields: bool | str = True,
        on_lent: Callable[[YieldingSerial], object] | None = None,
        on_back: Callable[[YieldingSerial], object] | None = None,
        **settings: Any,
    ) -> None:
        self.on_lent = on_lent
        self.on_back = on_back
        self._flags = flags(yields)
        self._loan: Loan | None = None
        self._lock = RLock()
        self._looking = False
        # Wakes a thread that reads: as long as it waits for the port, it keeps it open.
        self._wake = -1
        self._calls: list[Callable[[YieldingSerial], object] | None] = []
        super().__init__(port, *positional, **settings)

    def open(self) -> None:
        """As BrokeredSerial.open()."""
        name = self._name_to_open()
        connection = client.connect(self.broker)
        try:
            self.adopt(connection.open(name, wait=self.wait, flags=self._flags))
        except BaseException:
            connection.close()
            raise
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loan = Loan(connection, self.broker, name, self._flags, self._lend, self._take)

    def close(self) -> None:
        """Give the port back, or up if it is lent."""
        super().close()
        if self._loan is not None:
            self._loan.close()
            self._loan = None
            os.close(self._wake)

    @property
    def lent(self) -> wire.Holder | None:
        """Who has the port meanwhile, None: it is here."""
        return self._loan.lent if self._is_lent() and self._loan is not None else None

    def read(self, size: int = 1, /) -> bytes:
        """As serial.Serial.read(). While the port is lent nothing comes."""
        loan = self._loan
        if loan is None or not self.is_open:
            return super().read(size)
        timeout = serial.serialutil.Timeout(self._timeout)
        data = bytearray()
        while len(data) < size:
            lent = self._is_lent()
            watched, due = loan.wait_for()
            left = timeout.time_left()
            waits = [seconds for seconds in (due, left) if seconds is not None]
            port = [] if lent else [self.fd]
            wanted = [self.pipe_abort_read_r, self._wake, *watched, *port]
            ready, _, _ = select.select(wanted, [], [], min(waits, default=None))
            if self.pipe_abort_read_r in ready:
                os.read(self.pipe_abort_read_r, 1000)
                break
            if self._wake in ready:
                os.eventfd_read(self._wake)
            elif not lent and ready == port:
                data += self._read_now(size - len(data))
            if timeout.expired():
                break
        return bytes(data)

    def _read_now(self, size: int) -> bytes:
        try:
            data = os.read(self.fd, size)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise serial.SerialException(f"read failed: {error}") from None
        if not data:
            what = "device reports readiness to read but returned no data (it is hung up)"
            raise serial.SerialException(what)
        return data

    def write(self, data: Any, /) -> int | None:
        """As serial.Serial.write(). Raises PortLent while the port is lent."""
        self._must_be_here()
        try:
            return super().write(data)
        except serial.SerialException:
            self._must_be_here()  # lent meanwhile
            raise

    def send_break(self, duration: float = 0.25) -> None:
        """As serial.Serial.send_break(). Raises PortLent while the port is lent."""
        self._must_be_here()
        super().send_break(duration)

    def _must_be_here(self) -> None:
        holder = self.lent
        if holder is not None:
            what = f"{self._port}: lent; it comes back by itself"
            raise PortLent(errno.EBUSY, what, holder)

    def _is_lent(self) -> bool:
        """Whether the port is lent, after a look at what the broker says."""
        loan = self._loan
        if loan is None:
            return False
        with self._lock:
            if self._looking:  # from _take
                return loan.lent is not None
            self._looking = True
            try:
                loan.look()
            finally:
                self._looking = False
            calls, self._calls = self._calls, []
        for call in calls:
            if call is not None:
                call(self)
        return loan.lent is not None

    def _lend(self, _holder: wire.Holder) -> None:
        """Let go of the port. Its number stands for news of the broker from now on, which can be
        waited for, but neither read nor written: epoll(7)."""
        assert self._loan is not None
        with select.epoll() as stand_in:
            for descriptor in self._loan.wait_for()[0]:
                stand_in.register(descriptor, select.EPOLLIN)
            os.dup2(stand_in.fileno(), self.fd, inheritable=False)
        os.eventfd_write(self._wake, 1)
        self._calls.append(self.on_lent)

    def _take(self, descriptor: int) -> None:
        """Have the port again, set as it is meant to be."""
        os.dup2(descriptor, self.fd, inheritable=False)
        os.close(descriptor)
        os.eventfd_write(self._wake, 1)
        self._calls.append(self.on_back)
        if not hung_up(self.fd):  # else the next news says so
            self._reconfigure_port(force_update=True)
            self._set_lines()


def flags(yields: bool | str | None) -> int:
    """Return the flag of `ttybroker.wire` for "user" (or True), "all", or "" (or False).

    Raises ValueError.
    """
    known = {True: "user", False: "", None: "", "no": ""}
    word = known.get(yields, yields)
    if word not in ("user", "all", ""):
        raise ValueError(f'yields is "user" or "all", not {yields!r}')
    return {"user": wire.YIELD_USER, "all": wire.YIELD_ALL}.get(str(word), 0)


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def hung_up(descriptor: int) -> bool:
    """Whether this descriptor is that of a port which was hung up."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def _later(name: str) -> Any:
    """A method that does nothing while the port is lent."""
    usual = getattr(BrokeredSerial, name)

    def method(self: YieldingSerial, *arguments: object, **named: object) -> object:
        return None if self._is_lent() else usual(self, *arguments, **named)

    return method


def _or(name: str, instead: object) -> Any:
    """A property that has another value while the port is lent."""
    usual = getattr(BrokeredSerial, name)
    return property(lambda self: instead if self._is_lent() else usual.fget(self))


for _name in ("_reconfigure_port", "_update_break_state", "_update_rts_state", "_update_dtr_state",
              "reset_input_buffer", "_reset_input_buffer", "reset_output_buffer", "flush",
              "set_input_flow_control", "set_output_flow_control"):  # fmt: skip
    setattr(YieldingSerial, _name, _later(_name))
for _name in ("cts", "dsr", "ri", "cd"):
    setattr(YieldingSerial, _name, _or(_name, False))
for _name in ("in_waiting", "out_waiting"):
    setattr(YieldingSerial, _name, _or(_name, 0))
