"""A serial.Serial that lends its port when somebody else asks for it, and takes it back."""

from __future__ import annotations

import errno
import os
import select
import weakref
from _thread import RLock, get_ident

import serial

from ttybroker import client, wire
from ttybroker.errors import PortLent
from ttybroker.loan import Loan, flags, hung_up, readable
from ttybroker.port import BrokeredSerial

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class OpenInParent(serial.PortNotOpenError):
    """The port is open in the process from which this one was forked."""

    def __init__(self, port: str | None, parent: int) -> None:
        what = f"{port}: open in process {parent}, which lends it; open it again after a fork"
        serial.SerialException.__init__(self, what)


_OPEN: weakref.WeakSet[YieldingSerial] = weakref.WeakSet()  # those of this process


def _leave_to_parent() -> None:
    """Close the ports in a process that was just forked.

    Only one process can hear the broker. A copy of the port elsewhere would keep it from being
    lent, and a copy of the connection would keep the claim on it when the parent has ended.
    """
    for port in list(_OPEN):
        port.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)


class YieldingSerial(BrokeredSerial):
    """BrokeredSerial on a port that other programs may borrow.

    Each call first checks, in its own thread, whether somebody asks for the port. Then
    `on_lent(port)` or `on_back(port)` is called. While the port is lent, `lent` is its present
    holder, reads time out, writes raise PortLent, and settings and lines are applied later. The
    descriptor keeps its number. A program that waits for it with select(2) or poll(2) also wakes up
    when the port is lent and when it is back. In a forked child the port is closed, and each call
    raises OpenInParent.
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
        self._loan: Loan | None = None  # close() asks, even where a setting is refused here
        self.on_lent = on_lent
        self.on_back = on_back
        self._flags = flags(yields)
        self._lock = RLock()
        self._looking = False
        self._parent = 0  # the process that has the port, if this one was forked from it
        self._teller = 0  # the thread that calls on_lent or on_back
        # Wake the threads that read: while one waits for the port, it keeps the port open. Each has
        # its own, for what one thread has read wakes no other.
        self._wakes: list[int] = []
        self._idle: list[int] = []  # those of them that no thread has now
        # What the descriptor is while the port is lent, and the connection that this listens to.
        self._stand_in: select.epoll | None = None
        self._listened: client.Client | None = None
        self._calls: list[Callable[[YieldingSerial], object] | None] = []
        super().__init__(port, *positional, **settings)

    def open(self) -> None:
        """Do as BrokeredSerial.open()."""
        name = self._name_to_open()
        self._parent = 0
        connection = client.connect(self.broker, label=self.label)
        try:
            descriptor = connection.open(name, wait=self.wait, flags=self._flags)
            self.has(descriptor, connection, name)
        except BaseException:
            connection.close()
            raise

    def has(self, descriptor: int, connection: client.Client, name: str) -> None:
        """Continue with the port, which came through this connection."""
        self._wakes, self._idle, self._calls = [], [], []
        self._loan = Loan(connection, lambda: client.connect(self.broker, label=self.label), name,
                          self._flags, self._lend, self._take, self._warn)  # fmt: skip
        try:
            self.adopt(descriptor)  # if it is lent already, that is heard first
        except BaseException:
            self.close()
            raise
        self._process = os.getpid()
        _OPEN.add(self)

    def _reserve(self) -> None:
        """Make also what is needed while it is lent, when no descriptor may be free."""
        super()._reserve()
        self._idle.append(self._new_wake())
        self._stand_in = select.epoll()

    @staticmethod
    def _warn(line: str) -> None:
        """Tell that the lease ends soon, as whatever else keeps one from a port."""
        client.tell_why(line)

    def close(self) -> None:
        """Give the port back. If it is lent, give up the claim on it."""
        super().close()
        if self._loan is not None:
            _OPEN.discard(self)
            self._loan.close()
            self._loan = None
            for wake in self._wakes:
                os.close(wake)
            if self._stand_in is not None:
                self._stand_in.close()
                self._stand_in = self._listened = None

    def leave_to_parent(self) -> None:
        """Close it in a forked child, in which a thread of the parent may have the lock."""
        self._parent, self._lock = self._process, RLock()
        YieldingSerial.close(self)

    def _must_be_ours(self) -> None:
        if self._parent:
            raise OpenInParent(self._port, self._parent)

    @property
    def lent(self) -> wire.Holder | None:
        """Return who has the port now, while it is lent; None if it is not.

        After the first borrower the next one may have it. To know that, the broker is asked, once a
        second at most.
        """
        if self._teller == get_ident():  # in on_lent and on_back it is as they are told
            return None if self._loan is None else self._loan.lent
        self._is_lent()
        return None if self._loan is None else self._loan.borrower()

    def read(self, size: int = 1, /) -> bytes:
        """Do as serial.Serial.read(). While the port is lent, no data arrives."""
        loan = self._loan
        if loan is None or not self.is_open:
            self._must_be_ours()
            return super().read(size)
        idle = self._idle
        try:
            wake = idle.pop()
        except IndexError:
            try:
                wake = self._new_wake()
            except OSError as error:
                raise client.explained(error, str(self._port)) from None
        try:
            return self._read_or_wake(size, loan, wake)
        finally:
            idle.append(wake)

    def _new_wake(self) -> int:
        wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wakes.append(wake)
        return wake

    def _wake_all(self) -> None:
        for wake in self._wakes:
            os.eventfd_write(wake, 1)

    def _read_or_wake(self, size: int, loan: Loan, wake: int) -> bytes:
        timeout = serial.serialutil.Timeout(self._timeout)
        data = bytearray()
        while len(data) < size:
            lent = self._is_lent()
            if not self.is_open:  # on_lent or on_back closed it
                raise serial.PortNotOpenError
            watched, due = loan.wait_for()
            left = timeout.time_left()
            waits = [seconds for seconds in (due, left) if seconds is not None]
            port = [] if lent else [self.fd]
            wanted = [self.pipe_abort_read_r, wake, *watched, *port]
            ready, _, _ = select.select(wanted, [], [], min(waits, default=None))
            if self.pipe_abort_read_r in ready:
                try:
                    os.read(self.pipe_abort_read_r, 1000)
                    break
                except BlockingIOError:
                    pass  # it was for another thread, as in pyserial
            if wake in ready:
                os.eventfd_read(wake)
            elif not lent and ready == port:
                data += self._read_now(size - len(data), wake)
            if timeout.expired():
                break
        return bytes(data)

    def _read_now(self, size: int, wake: int) -> bytes:
        try:
            data = os.read(self.fd, size)
        except BlockingIOError:
            return b""
        except OSError as error:
            if readable(wake):  # lent meanwhile
                return b""
            raise serial.SerialException(f"read failed: {error}") from None
        if not data:
            what = "device reports readiness to read but returned no data (it is hung up)"
            raise serial.SerialException(what)
        return data

    def write(self, data: Any, /) -> int | None:
        """Do as serial.Serial.write(). Raises PortLent while the port is lent."""
        self._must_be_here()
        try:
            return super().write(data)
        except serial.SerialException:
            self._must_be_here()  # lent meanwhile
            raise

    def send_break(self, duration: float = 0.25) -> None:
        """Do as serial.Serial.send_break(). Raises PortLent while the port is lent."""
        self._must_be_here()
        super().send_break(duration)

    def _must_be_here(self) -> None:
        holder = self._loan.borrower() if self._is_lent() and self._loan is not None else None
        if holder is not None:
            what = f"{self._port}: lent; it comes back by itself"
            raise PortLent(errno.EBUSY, what, holder)

    def _is_lent(self) -> bool:
        """Return whether the port is lent, after a look at the broker's messages."""
        loan = self._loan
        if loan is None:
            self._must_be_ours()
            return False
        while True:  # each change is told before the next: several may have come meanwhile
            with self._lock:
                if self._looking:  # from _take
                    return loan.lent is not None
                self._looking = True
                try:
                    more = loan.look()
                    if loan.lent is not None:
                        self._listen_by_stand_in(loan)  # the broker may be another one by now
                finally:
                    self._looking = False
                calls: list[Callable[[YieldingSerial], object] | None] = []
                if self.is_open:  # what is heard before that is told afterwards
                    calls, self._calls = self._calls, calls
            for call in calls:
                self._tell(call)
            if not more:
                return loan.lent is not None

    def _tell(self, call: Callable[[YieldingSerial], object] | None) -> None:
        if call is None:
            return
        before, self._teller = self._teller, get_ident()
        try:
            call(self)
        finally:
            self._teller = before

    def _lend(self, _holder: wire.Holder) -> None:
        """Let go of the port.

        From now on its number stands for messages of the broker. A program can wait for them, but
        neither read nor write them: epoll(7).
        """
        if self._stand_in is None:
            try:
                self._stand_in = select.epoll()
            except OSError as error:
                raise client.explained(error, str(self._port)) from None
        assert self._loan is not None
        self._listen_by_stand_in(self._loan)
        os.dup2(self._stand_in.fileno(), self.fd, inheritable=False)
        self._wake_all()
        self._calls.append(self.on_lent)

    def _listen_by_stand_in(self, loan: Loan) -> None:
        """Have it become readable with the broker's next message.

        A connection that is closed leaves it by itself: epoll(7).
        """
        connection = loan.connection
        if connection is None or connection is self._listened or self._stand_in is None:
            return
        self._stand_in.register(connection, select.EPOLLIN)
        self._listened = connection

    def _renew_stand_in(self) -> None:
        """Make another one for the next loan: whoever has the old one in an epoll loses it so."""
        if self._stand_in is not None:
            self._stand_in.close()
        self._stand_in = self._listened = None
        try:
            self._stand_in = select.epoll()
        except OSError:
            pass  # another thread was faster: then it is made when the port is lent

    def _take(self, descriptor: int) -> None:
        """Take the port back, and apply the settings that it should have."""
        os.dup2(descriptor, self.fd, inheritable=False)
        os.close(descriptor)
        self._renew_stand_in()
        self._wake_all()
        self._calls.append(self.on_back)
        if not hung_up(self.fd):  # else the next news says so
            self._reconfigure_port(force_update=True)
            self._set_lines()


def _later(name: str) -> Any:
    """Return a method that does nothing while the port is lent."""
    usual = getattr(BrokeredSerial, name)

    def method(self: YieldingSerial, *arguments: object, **named: object) -> object:
        return None if self._is_lent() else usual(self, *arguments, **named)

    return method


def _or(name: str, instead: object) -> Any:
    """Return a property that has another value while the port is lent."""
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
