"""miniterm without its threads: one loop copies both ways, and notices how it ends.

Whoever is at the other end of the line feeds this process bytes. So it gives up the file system by
`restrict` when it has all that it needs: landlock(7). To ask for the port again it connects to the
broker's socket by its path. From Landlock's ABI 9 on, other sockets with a path are given up, too.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import termios
import time

import serial
from serial.tools import miniterm

import ttybroker
from ttybroker import client, landlock, loan
from ttybroker.errors import (
    BrokerError,
    BrokerUnavailable,
    InvalidName,
    NotPermitted,
    ProtocolError,
    WaitTimeout,
)
from ttybroker.holding import holding
from ttybroker.say import say, show
from ttybroker.term import options
from ttybroker.term.acquire import acquire
from ttybroker.wire import KEEP

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.port import BrokeredSerial
    from ttybroker.term.console import Console
    from ttybroker.term.lines import Lines
    from ttybroker.term.log import Log
    from ttybroker.wire import Holder

# Modules and codecs are loaded when somebody asks for them, and names of users are shown.
_LEFT = {
    **{
        os.path.dirname(str(package.__file__)): landlock.READ_FILE | landlock.READ_DIR
        for package in (os, serial, ttybroker)
    },
    "/etc/passwd": landlock.READ_FILE,
    "/etc/nsswitch.conf": landlock.READ_FILE,
}
# Who answers for users that are not in /etc/passwd: nscd(8), nss-systemd(8), sssd(8).
_NAME_SERVICES = ("/run/nscd", "/run/systemd/userdb", "/var/lib/sss/pipes")
_KEYBOARD = 0
_PAUSE = 1.0  # seconds until it asks again for a port that somebody took back to use it
_LONGEST_PAUSE = 8.0  # seconds; it doubles after each refusal, because each is logged
_A_DAY = 86400.0  # seconds; a wait in the queue, which then begins again
_LONGEST_WAIT = 1e6  # seconds; poll(2) counts its milliseconds in an int
_MOST_TYPED = 1 << 20  # bytes that may wait while the port takes none


class Left(Exception):
    """The user has left, or the input has ended."""


class HungUp(Exception):
    """The port is no longer ours."""


class Terminal(miniterm.Miniterm):
    """miniterm's keys, menu and filters on a port that comes back."""

    serial: BrokeredSerial
    console: Console

    def __init__(
        self,
        port: BrokeredSerial,
        console: Console,
        wanted: options.Options,
        lines: Lines,
        log: Log | None,
    ) -> None:
        miniterm.Console = lambda: console  # type: ignore[assignment, misc]
        super().__init__(port, wanted.echo, wanted.eol, wanted.filter or ["default"])
        self.console = console
        self.raw = wanted.raw or not (console.is_terminal or os.isatty(1))
        self.exit_character = chr(wanted.exit_char)
        self.menu_character = chr(wanted.menu_char)
        self.set_rx_encoding(wanted.encoding)
        self.set_tx_encoding(wanted.encoding)
        self._lines = lines
        self._log = log
        self._quiet = wanted.quiet
        self._linger = wanted.linger
        self._reconnects = wanted.reconnect
        if self._reconnects is None:
            self._reconnects = console.is_terminal
        self._bytes_as_they_are = wanted.raw
        self._menu_active = False
        self._input_ended = False
        self._yields = wanted.yields
        self._loan: loan.Loan | None = None
        self._borrower: Holder | None = None  # of the lent port, as it was told
        self._last = time.monotonic()  # when something came or went
        self._unsent = bytearray()

    def set_rx_encoding(self, encoding: str, errors: str = "replace") -> None:
        """As miniterm's, which its menu calls too. Raises ValueError."""
        super().set_rx_encoding(options.codec(encoding), errors)

    @staticmethod
    def restrict(broker: str | None) -> None:
        """Give up the file system. Raises OSError if the kernel has Landlock and refuses it.

        `broker` is the path of its socket. Sockets beside it stay, because a broker that was
        started again may have made another one.
        """
        sockets = [path for path in _NAME_SERVICES if os.access(path, os.X_OK)]
        if broker is not None:
            sockets.append(os.path.dirname(os.path.realpath(broker)))
        rules = {**_LEFT, **dict.fromkeys(sockets, landlock.RESOLVE_UNIX)}
        landlock.enforce(landlock.ruleset(rules, sockets=True))

    def run(self) -> int:
        """Copy until the user leaves, and return the exit status. Raises OSError."""
        self.alive = True
        found, sys.stdin = sys.stdin, _Prompt(self)
        try:
            self.console.setup()
            self._greet()
            while True:
                try:
                    if not self.serial.is_open:
                        self._look()
                    while self.alive:
                        self._turn()
                    return 0
                except HungUp:
                    self._forget_port()
                    if not self._reconnects:
                        self.tell(self._why())
                        return 1
                    self._come_back()
        except Left:
            return 0
        finally:
            sys.stdin = found
            self.console.cleanup()
            if self.console.in_line and self.console.is_terminal:
                show("\n")

    def tell(self, line: str) -> None:
        """Print a line of its own."""
        if self.console.in_line:
            show("\r\n" if self.console.is_terminal else "")
            self.console.in_line = False
        say(line)

    def _greet(self) -> None:
        if self._quiet or not self.console.is_terminal:
            return
        port = self.serial
        to = {"user": "; your other programs may borrow it", "all": "; everybody may borrow it"}
        self.tell(f"{port.port} at {port.baudrate} {port.bytesize}{port.parity}{port.stopbits}"
                  f"{to.get(self._yields, '')}")  # fmt: skip
        quit_, menu = (miniterm.key_description(key)
                       for key in (self.exit_character, self.menu_character))  # fmt: skip
        self.tell(f"Quit: {quit_} | Menu: {menu} | Help: {menu} followed by Ctrl+H")

    # one turn of the loop

    def _turn(self) -> None:
        if self._wait(self._time_left()):
            if not self.serial.is_open:
                self._only_exit()
            elif self.console.is_terminal:
                self._take_keys()
            else:
                self._take_input()
        elif self._input_ended and not self._unsent and self._time_left() == 0:
            raise Left

    def _time_left(self) -> float | None:
        """Return the seconds of quiet until the end, None: until the user ends it."""
        if not self._input_ended or self._linger == float("inf") or not self.serial.is_open:
            return None
        return max(self._last + self._linger - time.monotonic(), 0.0)

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the next event, serve the port, and return whether there is input."""
        poll = select.poll()
        port = self.serial.fileno() if self.serial.is_open else -1
        if port >= 0:
            poll.register(port, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if not self._input_ended and (port >= 0 or self.console.is_terminal):
            poll.register(_KEYBOARD, select.POLLIN)
        broker, due = ([], None) if self._loan is None else self._loan.wait_for()
        for descriptor in broker:
            poll.register(descriptor, select.POLLIN)
        follow = loan.LOOK if self._borrower is not None else None
        times = [seconds for seconds in (timeout, due, follow) if seconds is not None]
        ready = dict(poll.poll(min([*times, _LONGEST_WAIT]) * 1000 + 1 if times else None))
        if port < 0 and _KEYBOARD in ready:
            return True  # first: what was typed while the port was lent is not for it
        if due is not None or any(descriptor in ready for descriptor in broker):
            self._look()  # the other events can wait, and this may change them
            return False
        self._follow()
        events = ready.get(port, 0)
        if events & ~select.POLLOUT:
            self._receive(events)
        if events & select.POLLOUT:
            self._send()
        return _KEYBOARD in ready and not self._input_ended

    def _receive(self, events: int) -> None:
        try:
            data = os.read(self.serial.fileno(), 4096)
        except BlockingIOError:
            return
        except OSError:  # EIO: hung up
            raise HungUp from None
        if not data:
            if events & (select.POLLHUP | select.POLLERR):
                raise HungUp
            return  # with VMIN 0 a read of nothing is no end: termios(3)
        self._last = time.monotonic()
        shown = self._lines.feed(data)
        if self._log is not None:
            self._log.write(shown)
        if self.raw:
            self.console.write_bytes(shown)
            return
        assert self.rx_decoder is not None
        text = self.rx_decoder.decode(shown)
        for transformation in self.rx_transformations:
            text = transformation.rx(text)
        self.console.write(text)

    def _take_keys(self) -> None:
        text = self.console.keys()
        if not text:
            raise OSError("the terminal is gone")
        plain = ""
        for key in text:
            if self._menu_active:
                self._menu_active = False
                self._menu(key)
            elif key in (self.menu_character, self.exit_character):
                self._queue(plain)
                plain = ""
                if key == self.exit_character:
                    raise Left
                self._menu_active = True
            else:
                plain += key
        self._queue(plain)

    def _take_input(self) -> None:
        """Take data that a program writes to us, in which no key has a meaning."""
        data = self.console.data()
        self._last = time.monotonic()
        if not data:
            self._input_ended = True
        elif self._bytes_as_they_are:
            self._unsent += data
            self._send()
        else:
            self._queue(data.decode(self.output_encoding, "surrogateescape"))
        while len(self._unsent) > 65536:  # it is not lost: the program waits
            self._wait_sent()

    def _wait_sent(self) -> None:
        ended, self._input_ended = self._input_ended, True
        try:
            self._wait(None)
        finally:
            self._input_ended = ended

    def _queue(self, text: str) -> None:
        """Queue what was typed. It is sent as soon as the port takes it."""
        if not text:
            return
        sent = text
        for transformation in self.tx_transformations:
            sent = transformation.tx(sent)
        self._unsent += self._encoded(sent)
        if len(self._unsent) > _MOST_TYPED and self.console.is_terminal:
            self._unsent.clear()
            self.tell(f"{self.serial.port}: takes no data; what was typed is thrown away")
        self._send()
        if self.echo:
            for transformation in self.tx_transformations:
                text = transformation.echo(text)
            self.console.write(text)

    def _encoded(self, text: str) -> bytes:
        try:
            assert self.tx_encoder is not None
            data = self.tx_encoder.encode(text)
        except UnicodeEncodeError:  # bytes that are no text, from a pipe
            data = text.encode(self.output_encoding, "surrogateescape")
        return data

    def _send(self) -> None:
        if not self._unsent:
            return
        try:
            sent = os.write(self.serial.fileno(), self._unsent)
        except BlockingIOError:
            return
        except OSError:
            raise HungUp from None
        del self._unsent[:sent]
        self._last = time.monotonic()

    def _menu(self, key: str) -> None:
        try:
            self.handle_menu_key(key)
        except (OSError, ValueError, termios.error) as error:  # a pty has no lines, for one
            if not self.serial.is_open:
                raise HungUp from None
            self.tell(line_of(str(self.serial.port), error))

    # the port is lent

    def has(self, broker: client.Client, *, yields: bool = True) -> None:
        """Continue with the port, which came through this connection.

        yields: whether the request offered to lend it.
        """
        wanted = loan.flags(self._yields)
        if not wanted:
            broker.close()
            return
        name = str(self.serial.port)
        self._loan = loan.Loan(
            broker, self._connect, name, wanted | KEEP, self._lend, self._take, self._notice
        )
        if not yields:
            self._loan.ask()

    def _look(self) -> None:
        """Handle the broker's messages. Raises HungUp if the port is not here, and not lent."""
        try:
            if self._loan is not None:
                self._loan.look()
        except (OSError, termios.error):  # it does not come back, or has just gone again
            raise HungUp from None
        if not self.serial.is_open and (self._loan is None or self._loan.lent is None):
            raise HungUp

    def _lend(self, holder: Holder) -> None:
        if self.console.is_terminal:
            self._unsent.clear()
        self.serial.close()
        self._tell_borrower(holder)

    def _tell_borrower(self, holder: Holder) -> None:
        self._borrower = holder
        key = miniterm.key_description(self.exit_character)
        ends = f"; {key} ends the terminal" if self.console.is_terminal else ""
        self._notice(f"{self.serial.port}: lent, and comes back by itself: {holding(holder)}{ends}")

    def _follow(self) -> None:
        """Say it when the next program has the lent port."""
        if self._borrower is None or self._loan is None:
            return
        now = self._loan.borrower()
        if now is not None and (now.uid, now.pid) != (self._borrower.uid, self._borrower.pid):
            self._tell_borrower(now)

    def _take(self, descriptor: int) -> None:
        if loan.hung_up(descriptor):  # the next news says why
            os.close(descriptor)
            return
        self._borrower = None
        self.serial.adopt(descriptor)
        self._last = time.monotonic()
        self._notice(f"{self.serial.port}: back, at {self.serial.baudrate}")

    def _connect(self) -> client.Client:
        return client.connect(label=self.serial.label)

    # the port goes, and comes back

    def _forget_port(self) -> None:
        if self._loan is not None:
            self._loan.close()
            self._loan = self._borrower = None
        self._unsent.clear()
        self._menu_active = False
        self.serial.close()

    def _why(self) -> str:
        """Return why the port hung up, as far as the broker can tell."""
        name = self.serial.port
        try:
            with client.connect() as broker:
                ports = broker.ports((str(name),))
        except BrokerError as error:
            return f"{name}: hung up; {error}"
        if not ports or ports[0].state == "gone":
            return f"{name}: unplugged"
        return f"{name}: taken back, or hung up"

    def _come_back(self) -> None:
        """Wait until the port is ours again. Raises Left; BrokerError for a denial."""
        name = str(self.serial.port)
        key = miniterm.key_description(self.exit_character)
        self._notice(f"{self._why()}; waiting for it, {key} ends that")
        said, pause = "", _PAUSE
        typed = self._only_exit if self.console.is_terminal else None
        while True:
            self._pause(pause)
            try:
                flags = loan.flags(self._yields) | KEEP
                descriptor, broker = acquire(
                    name,
                    _A_DAY,
                    quiet=self._quiet,
                    typed=typed,
                    endless=True,
                    flags=flags,
                    label=self.serial.label,
                )
                self._have(descriptor, broker)
                break
            except (NotPermitted, InvalidName, ProtocolError):
                raise
            except WaitTimeout:
                pass
            except (OSError, termios.error) as error:  # and each BrokerError: not there yet
                line = line_of(name, error)
                if _gist(line) != said:
                    said = _gist(line)
                    self._notice(line)
                if not isinstance(error, BrokerUnavailable):
                    pause = min(2 * pause, _LONGEST_PAUSE)
        self._last = time.monotonic()
        self._notice(f"{name}: back, at {self.serial.baudrate}")

    def _have(self, descriptor: int, broker: client.Client) -> None:
        try:
            self.serial.adopt(descriptor)
        except BaseException:
            broker.close()
            raise
        self.has(broker)

    def _notice(self, line: str) -> None:
        if not self._quiet:
            self.tell(line)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            keyboard = [_KEYBOARD] if self.console.is_terminal else []
            if select.select(keyboard, [], [], left)[0]:
                self._only_exit()

    def _only_exit(self) -> None:
        """Wait for a key while there is no port: only the exit key has a meaning."""
        text = self.console.keys()
        if not text:
            raise OSError("the terminal is gone")
        if self.exit_character in text:
            raise Left

    # what miniterm's menu calls

    def _start_reader(self) -> None:
        self._last = time.monotonic()

    def _stop_reader(self) -> None:
        pass

    def change_port(self) -> None:
        """Show the ports, ask for one and switch to it. On a failure say why, and stay."""
        here = self.serial.port
        with client.connect() as broker:
            ports = broker.ports()
        for port in ports:
            who = "this one" if port.name == here else port.holder and holding(port.holder)
            show(f"--- {port.name:20} {who or port.state}\n")
        show(f"--- Port (Enter: stay at {here}): ")
        with self.console:
            name = sys.stdin.readline().strip()
        if not name or name == here:
            return
        flags = loan.flags(self._yields) | KEEP
        try:
            descriptor, broker = acquire(
                name, None, quiet=True, flags=flags, label=self.serial.label
            )
        except BrokerError as error:
            from ttybroker.term.refusal import refusal

            self.tell(refusal(error, name))
            self.tell(f"stays at {here}")
            return
        self._forget_port()
        self.serial.port = None
        self.serial._port = self.serial.name = name  # its setter would open it
        self._have(descriptor, broker)
        self._greet()

    def get_help_text(self) -> str:
        """Return miniterm's text, under our name."""
        text: str = super().get_help_text()
        return text.replace("--- pySerial", "--- ttybroker term, by pySerial", 1)


class _Prompt:
    """Standard input for miniterm's questions. While it waits for a line, the port is served."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def readline(self) -> str:
        while not self._terminal._wait(None):
            pass
        data = self._terminal.console.data()
        if not data:
            raise OSError("the terminal is gone")
        return data.decode(errors="replace")


def _gist(line: str) -> str:
    """Return it without its numbers: a refusal that counts down is told once."""
    return "".join(char for char in line if not char.isdigit())


def line_of(port: str, error: BaseException) -> str:
    """Return an error in words, without its number, behind the port's name."""
    if isinstance(error, BrokerError):
        return str(error)
    what = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOTTY, errno.EINVAL):
        what = "the device has no such line or setting"
    elif isinstance(error, OSError) and error.strerror:
        what = error.strerror
    elif isinstance(error, termios.error) and len(error.args) == 2:
        what = str(error.args[1])
    return f"{port}: {what.removeprefix(f'{port}: ')}"
