"""`ttybroker term`: a terminal on a brokered port, by pyserial's miniterm."""

from __future__ import annotations

import signal

from ttybroker.called import call_us
from ttybroker.say import say
from ttybroker.wire import valid_name

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.client import Client
    from ttybroker.port import BrokeredSerial
    from ttybroker.term.log import Log
    from ttybroker.term.options import Options
    from ttybroker.term.send import Sender

DONE, REFUSED, USAGE = 0, 1, 2
_ENDINGS: dict[int, str] = {
    signal.SIGHUP: "hung up",
    signal.SIGINT: "interrupted",
    signal.SIGQUIT: "quit",
    signal.SIGTERM: "ended",
}


class Ended(BaseException):
    """A signal ended the terminal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: list[str]) -> int:
    """Run the terminal.

    Exit status: 0 left by its user, 1 refused or ended otherwise, 2 usage. A signal ends the
    process as that signal.
    """
    name = ""
    try:
        _catch_signals()
        call_us("term")
        from ttybroker.term import options

        try:
            read = options.parse(arguments)
            if read is None:
                print(options.help_text(), end="")
                return DONE
            if read.port is None:
                raise options.Usage("which port? see: ttybroker list")
        except options.Usage as error:
            say(f"term: {error}; see ttybroker term --help")
            return USAGE
        if not valid_name(read.port):
            from ttybroker.names import not_a_name

            say(not_a_name(read.port))
            return USAGE
        name = read.port
        return _run(name, read)
    except Ended as end:
        from ttybroker.ending import end_by

        say(f"{name}: {_ENDINGS[end.number]}" if name else _ENDINGS[end.number])
        return end_by(end.number)
    except BrokenPipeError:
        say(f"{name}: nobody reads the output any more")
        return REFUSED


def _run(name: str, options: Options) -> int:
    sender = _sender(options.send)
    log = _open_log(name, options)
    try:
        return _have(name, options, sender, log)
    finally:
        if log is not None:
            log.close()


def _have(name: str, options: Options, sender: Sender | None, log: Log | None) -> int:
    """Wait for the port and use it. Return the exit status."""
    from ttybroker import client
    from ttybroker.errors import BrokerError
    from ttybroker.term.console import Console
    from ttybroker.term.lines import Lines
    from ttybroker.term.terminal import Terminal

    client.tell_why = say
    lines = Lines(options.timestamps, options.hex)
    port, console = _port(name, options), Console()
    broker = _lease(port, name, options, sends=sender is not None)
    if broker is None:
        return REFUSED
    try:
        if sender is not None and sender.send(port.fileno()) != 0:
            return REFUSED
        if options.alike and not options.quiet:
            from ttybroker.term.profile import in_vain

            if line := in_vain(options.alike, name):
                say(line)
        terminal = Terminal(port, console, options, lines, log)
        terminal.has(broker, yields=sender is None)
        if log is not None:
            log.begin()
            if not options.log and not options.quiet:
                say(f"logging to {log.path}")
        terminal.restrict(broker.path)
        return terminal.run()
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"{name}: {error.strerror or error}" if not isinstance(error, BrokerError) else error)
        return REFUSED
    finally:
        port.close()


def _port(name: str, options: Options) -> BrokeredSerial:
    """Return the port with its settings, not open yet."""
    from ttybroker.port import BrokeredSerial

    port = BrokeredSerial(
        None,
        options.baud,
        bytesize=options.databits,
        parity=options.parity,
        stopbits=options.stopbits,
        rtscts=options.flow == "hard",
        xonxoff=options.flow == "soft",
        label=options.label,
    )
    port.port = name
    if options.rts is not None:
        port.rts = bool(options.rts)
    if options.dtr is not None:
        port.dtr = bool(options.dtr)
    return port


def _lease(port: BrokeredSerial, name: str, options: Options, *, sends: bool) -> Client | None:
    """Wait for the port and set it up.

    Returns the connection through which it came, or None if it is refused, and says why. If the
    port is gone already, it is not open: the terminal waits for it, unless it `sends` a file first.
    """
    from ttybroker.errors import BrokerError, DeviceGone
    from ttybroker.loan import flags
    from ttybroker.term.acquire import acquire
    from ttybroker.term.terminal import line_of
    from ttybroker.wire import KEEP

    try:
        wanted = 0 if options.take else KEEP
        if not sends:  # while a file goes out nobody may borrow the port
            wanted |= flags(options.yields)
        descriptor, broker = acquire(
            name, options.wait, quiet=options.quiet, flags=wanted, label=options.label
        )
    except BrokerError as error:
        from ttybroker.term.refusal import refusal

        say(refusal(error, name, options.wait))
        return None
    try:
        port.adopt(descriptor)
    except DeviceGone as gone:
        if sends:
            say(gone)
            return None
    except (OSError, ValueError) as error:
        say(line_of(name, error))
        return None
    return broker


def _sender(path: str | None) -> Sender | None:
    if path is None:
        return None
    from ttybroker.term.send import Sender

    return Sender(path)


def _open_log(name: str, options: Options) -> Log | None:
    if options.log is None:
        return None
    from ttybroker.term.log import Log
    from ttybroker.term.options import made_up

    return Log(options.log or made_up(name))


def _catch_signals() -> None:
    for number in _ENDINGS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup(1) has it
            signal.signal(number, _end)


def _end(number: int, _frame: object) -> None:
    for other in _ENDINGS:  # what is put back now is put back whole
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)
