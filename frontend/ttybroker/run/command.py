"""`ttybroker run` and the user half of `ttyrun`: the command line, and its errors.

    [-q | --quiet] [--via auto|notify|pty] [--wait SECONDS] [--hold] [--yield] [--for TEXT]
    [--fd N PORT]... [--stdio PORT] [PORT...] -- PROGRAM [ARGUMENT...]

It is parsed by hand, because argparse would take a quarter of the start-up time.
"""

from __future__ import annotations

import errno
import gc
import os

from ttybroker.asking import MAX_WAIT, valid_label
from ttybroker.run.job import DEFAULT_PATH, REFUSED, Failure, LaunchJob, is_program
from ttybroker.say import printable, say, speak_as
from ttybroker.wire import MAX_LABEL, valid_name

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ttybroker.client import Broker
    from ttybroker.run.broker import BrokerClient, Connect

USAGE = (
    "[-q | --quiet] [--via auto|notify|pty] [--wait SECONDS] [--hold] [--yield] [--for TEXT] "
    "[--fd N PORT]... [--stdio PORT] [PORT...] -- PROGRAM [ARGUMENT...]"
)
BAD_USAGE = 2
_WITH_VALUE = ("--via", "--wait", "--for", "--fd", "--stdio")
_OPTIONS = (*_WITH_VALUE, "--hold", "--yield", "--quiet", "--help", "--version")


NOBODY_ASKS = "no daemon listens, and no other program can ask the broker of this run"


class Usage(Exception):
    """A mistake in the command line, and what to write instead.

    hint: whether the line is enough; else the whole usage is shown. instead: the corrected command
    line after our name, "" if `line` is enough.
    """

    def __init__(self, line: str, *, hint: bool = True, instead: str = "") -> None:
        super().__init__(line)
        self.hint = hint
        self.instead = instead


HELP = """\
usage: {command} {usage}

Run a program that opens a port itself, as /dev/ttyS0 or by a link. It gets the broker's
descriptor. Without a PORT this applies to all ports that the policy allows.

  --wait SECONDS  wait for a port that is busy or absent; one line shows who has it
  -q, --quiet     do not show that line
  --hold          keep the named ports from the start of the run to its end
  --yield         lend the port to your other programs when they ask, and take it again later;
                  the program does not notice, because it gets a pty, as with --via pty
  --for TEXT      say for whom or what you use the port; others see it beside your name
  --fd N PORT     start the program with the port open as descriptor N
  --stdio PORT    start the program with the port as its standard input and output
  --via WAY       how opens are answered: auto, the default, chooses what works best; with
                  notify, strace and gdb can be used inside; pty copies every byte
  -h, --help      show this help and exit
  -V, --version   show the version and exit

Examples: {command} -- picocom -b 115200 /dev/ttyS0
          {command} --wait 60 --stdio ttyS0 -- sz firmware.bin
"""


class Request:
    """The parsed command line."""

    def __init__(self) -> None:
        self.via = "auto"
        self.wait: float | None = None
        self.hold = False
        self.yields = False
        self.quiet = False
        self.label = ""
        self.direct: list[tuple[tuple[int, ...], str]] = []
        self.ports: list[str] = []
        self.program: list[str] = []


def main(
    argv: list[str],
    broker: Broker = None,
    *,
    env: Mapping[str, str] | None = None,
    before_exec: Callable[[], None] | None = None,
    connect: Connect | None = None,
    command: str = "ttybroker run",
) -> int:
    """Run the program of `argv`, which does not have our own name.

    Returns an exit status only if the program could not start, or where a launcher has to wait for
    it.

    broker: as for `ttybroker.client.connect`; connect: used instead of that. env: the program's, or
    None for ours. before_exec: called last in the process that becomes the program. command: what
    the user typed, which begins our messages.
    """

    gc.disable()  # what is loaded now stays: to look through it again and again costs 2 ms
    from ttybroker.run.choose import launch

    speak_as(command.partition(" ")[0])
    try:
        if text := _asked_for(argv, command):
            return _print(text)
        request = parse(argv)
        if request.yields and connect is None and _nobody_can_ask():
            say(f"--yield lends nothing here: {NOBODY_ASKS}")
            request.yields = False
        connect = connect or _connect_later(broker, request.label)
        return launch(_job(request, connect, env, before_exec), via=request.via)
    except Usage as error:
        if error.instead:
            say(f"{error}; write: {command} {error.instead}")
        else:
            say(error if error.hint else f"{error}; usage: {command} {USAGE}")
        return BAD_USAGE
    except Failure as error:
        say(error)
        return error.status
    except OSError as error:  # no process or descriptor to be had
        what = f"{error.strerror}; try again later"
        if error.errno == errno.EMFILE:
            what = f"only {os.sysconf('SC_OPEN_MAX')} open files are allowed (ulimit -n)"
        say(f"nothing was started: {what}")
        return REFUSED


def _connect_later(broker: Broker, label: str) -> Connect:
    """Return what connects to the broker, and loads what that takes only then."""

    def connect() -> BrokerClient:
        from ttybroker import lean

        lean.without_pyserial = True
        from ttybroker import client

        client.tell_why = say
        return client.connect(broker, label=label)

    return connect


def _job(
    request: Request,
    connect: Connect,
    env: Mapping[str, str] | None,
    before_exec: Callable[[], None] | None,
) -> LaunchJob:
    """Return what to launch. Raises Failure where there is no /proc, which every way needs."""
    if not os.path.exists("/proc/self/fd"):
        what = "/proc is not mounted here; have it mounted (mount -t proc proc /proc)"
        raise Failure(f"nothing was started: {what}")
    return LaunchJob(
        request.program,
        connect,
        ports=request.ports,
        direct=request.direct,
        hold=request.hold,
        wait=request.wait,
        yields=request.yields,
        quiet=request.quiet,
        env=env,
        before_exec=before_exec,
    )


def parse(argv: list[str]) -> Request:
    """Read the command line; raises Usage."""
    request = Request()
    if "--" not in argv:
        raise _no_dashes(argv)
    end = argv.index("--")
    words, request.program = argv[:end], argv[end + 1 :]
    if not request.program:
        raise Usage("no program after --", hint=False)
    words.reverse()
    while words:
        word = words.pop()
        if word.startswith("-"):
            _option(request, word, words)
        else:
            request.ports.append(_port(word))
    _check_twice(request)
    if request.hold and not (request.ports or request.direct):
        raise Usage("--hold: name the ports that it keeps, --hold ttyS0 for example")
    if request.yields:
        _check_yield(request)
    return request


def _check_yield(request: Request) -> None:
    if request.hold:
        raise Usage("--yield gives a port to others, --hold keeps it from them: leave one out")
    if request.direct:
        raise Usage("--yield lends what the program opens itself: leave --fd and --stdio out")
    if request.via == "notify":
        raise Usage("--yield needs a pty: leave --via notify out")


def _nobody_can_ask() -> bool:
    """Return whether the broker is this run's own."""
    from ttybroker import lean

    lean.without_pyserial = True
    from ttybroker.client import has_backend

    return has_backend()


def _asked_for(argv: list[str], command: str) -> str:
    """Return the help or the version, if the command line asks for it; "" if not."""
    ours = argv[: argv.index("--")] if "--" in argv else argv
    if "--help" in ours or ours[:1] == ["-h"]:
        return HELP.format(command=command, usage=USAGE)
    if argv[:1] in (["--version"], ["-V"]):
        from ttybroker.version import VERSION

        return f"{command.partition(' ')[0]} {VERSION}\n"
    return ""


def _print(text: str) -> int:
    """Write it to standard output; return the exit status."""
    try:
        os.write(1, text.encode())
    except BrokenPipeError:  # the reader has seen enough
        return REFUSED
    except OSError as error:
        say(f"standard output: {error.strerror}")
        return REFUSED
    return 0


def _no_dashes(argv: list[str]) -> Usage:
    """Return the error for a missing "--", and what to write instead.

    The first word that is an installed program is taken for the program.
    """
    path = os.environ.get("PATH", DEFAULT_PATH)
    for at, word in enumerate(argv):
        is_value = at > 0 and argv[at - 1] in _WITH_VALUE
        if word.startswith(("-", "/dev/")) or is_value:
            continue
        if is_program(word, path):
            return Usage(
                "no -- before the program", instead=" ".join([*argv[:at], "--", *argv[at:]])
            )
    return Usage("no -- before the program", hint=False)


def _option(request: Request, word: str, words: list[str]) -> None:
    option, equals, value = word.partition("=")
    if word == "--hold":
        request.hold = True
        return
    if word == "--yield":
        request.yields = True
        return
    if word in ("-q", "--quiet"):
        request.quiet = True
        return
    if equals:
        if option in _OPTIONS and option not in _WITH_VALUE:
            raise Usage(f"{option}: takes no value")
        words.append(value)
    if option == "--via":
        request.via = _value(option, words)
        if request.via not in ("auto", "notify", "pty"):
            raise Usage(f"--via {request.via}: must be auto, notify or pty")
    elif option == "--wait":
        request.wait = _seconds(_value(option, words))
    elif option == "--for":
        request.label = _label(_value(option, words))
    elif option == "--fd":
        number = _number(_value(option, words))
        request.direct.append(((number,), _port(_value(f"--fd {number}", words, "a port"))))
    elif option == "--stdio":
        request.direct.append(((0, 1), _port(_value(option, words))))
    else:
        from ttybroker.names import did_you_mean

        near = did_you_mean(option, _OPTIONS)
        raise Usage(f"{option}: no such option{near}", hint=bool(near))


def _value(option: str, words: list[str], what: str = "a value") -> str:
    if not words:
        raise Usage(f"{option} needs {what}", hint=False)
    return words.pop()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise Usage(f"--wait {text}: must be a number of seconds, 0 to {MAX_WAIT:.0f}")
    return seconds


def _label(text: str) -> str:
    if not valid_label(text):
        raise Usage(f"--for {printable(text)}: must be at most {MAX_LABEL} printable characters")
    return text


def _number(text: str) -> int:
    highest = os.sysconf("SC_OPEN_MAX") - 1
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= highest):
        raise Usage(f"--fd {text}: must be a descriptor's number, 0 to {highest}")
    return int(text)


def _port(word: str) -> str:
    if valid_name(word):
        return word
    from ttybroker.names import not_a_name

    raise Usage(not_a_name(word))


def _check_twice(request: Request) -> None:
    # A port of --fd may be named again: its opens are answered in any case.
    for names in ([name for _, name in request.direct], request.ports):
        for name in names:
            if names.count(name) > 1:
                raise Usage(f"{name}: named twice; name each port once")
    numbers = [number for group, _ in request.direct for number in group]
    for number in numbers:
        if numbers.count(number) > 1:
            raise Usage(f"descriptor {number}: wanted for two ports; give each its own")
