"""The command line of `ttybroker term`: tio's words, and miniterm's.

It is a table that is read by hand: argparse would take a third of the time until the port is there.
"""

from __future__ import annotations

import os

from ttybroker.asking import MAX_WAIT, valid_label
from ttybroker.wire import MAX_LABEL

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

_USAGE = """\
usage: ttybroker term [OPTION...] PORT [BPS]

A terminal on a port: pyserial's miniterm, with tio's options.
Ctrl+] ends it, Ctrl+T Ctrl+H shows its keys.
"""
_END = """
Profiles are in ~/.config/ttybroker/term.toml. The table [ttyS0] is for that port, and
[profile.NAME] for --profile NAME. Their keys are the long options, such as baud = 115200. The
command line wins.
If standard input is not a terminal, it is sent, and what is received is printed. That ends when
the input has ended and the line is quiet.
"""
_PARITIES = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}
_FILTERS = ("default", "direct", "nocontrol", "printable", "colorize", "debug")  # miniterm's
_HELP_AT = 28  # column


class Usage(Exception):
    """A mistake in the command line or in a profile."""


class Options:
    """The user's wishes; see the table below.

    port: None if none was named. log: "" if the name is to be made up. reconnect: None if the user
    did not say. alike: tables of the profile that may be meant for the port, which has none.
    """

    def __init__(self) -> None:
        self.port: str | None = None
        self.baud = 115200
        self.databits = 8
        self.parity = "N"
        self.stopbits = 1
        self.flow = "none"
        self.rts: int | None = None
        self.dtr: int | None = None
        self.wait: float | None = None
        self.yields = "user"
        self.take = False
        self.label = ""
        self.reconnect: bool | None = None
        self.linger = 1.0
        self.send: str | None = None
        self.profile: str | None = None
        self.alike: list[str] = []
        self.log: str | None = None
        self.timestamps = "none"
        self.hex = False
        self.eol = "crlf"
        self.echo = False
        self.filter: list[str] = []
        self.encoding = "UTF-8"
        self.raw = False
        self.quiet = False
        self.exit_char = 0x1D
        self.menu_char = 0x14


class Option:
    """One option: how it is written, what it needs, and what it means.

    read: makes the value from a text; raises ValueError that says what is right. None: a switch,
    which --no-NAME takes back. short: a letter. also: other spellings, and what they set.
    """

    __slots__ = ("also", "help", "name", "read", "short", "value")

    def __init__(
        self,
        name: str,
        help: str,
        value: str = "",
        read: Callable[[str], object] | None = None,
        short: str = "",
        also: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.help = help
        self.value = value
        self.read = read
        self.short = short
        self.also = also

    @property
    def field(self) -> str:
        """Return its attribute of Options."""
        words = {"yield": "yields", "for": "label"}  # where Python has the word itself
        return words.get(self.name, self.name.replace("-", "_"))

    def spelled(self) -> str:
        """Return all its spellings, as the help shows them."""
        short = f"-{self.short}, " if self.short else ""
        names = [f"--{name}" for name in (self.name, *self.also)]
        if self.read is None:
            names.append(f"--no-{self.name}")
        return f"  {short}{', '.join(names)} {self.value}".rstrip()


def _baud(text: str) -> int:
    if not 0 < (speed := _whole(text)) < 1 << 31:
        raise ValueError("must be a number of bits a second, such as 115200")
    return speed


def _whole(text: str) -> int:
    """Return the number that these digits are; -1 if there are others, or more than ten."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1


def _parity(text: str) -> str:
    letter = _PARITIES.get(text.lower(), text.upper())
    if letter not in _PARITIES.values():
        raise ValueError("must be odd, even, none, mark or space")
    return letter


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be {', '.join(words[:-1])} or {words[-1]}")
        return text.lower()

    return read


def _number_of(*numbers: int) -> Callable[[str], int]:
    return lambda text: int(_one_of(*map(str, numbers))(text))


def codec(text: str) -> str:
    """Return the name of an encoding that can read any bytes, cut off anywhere.

    Raises ValueError if there is no such encoding, or if it cannot read some bytes.
    """
    try:
        (bytes(range(256)) + b"\\u\x1b").decode(text, "surrogateescape")
    except LookupError:
        raise ValueError("no such encoding of text") from None
    except UnicodeError:
        raise ValueError("must be one in which any byte may come, such as latin-1") from None
    return text


def _character(text: str) -> int:
    number = _whole(text)
    if not 0 <= number < 0x110000 or 0xD800 <= number < 0xE000:  # those are halves of characters
        raise ValueError("must be the number of a character")
    return number


def _label(text: str) -> str:
    if not valid_label(text):
        raise ValueError(f"must be at most {MAX_LABEL} printable characters")
    return text


def _file(text: str) -> str:
    if "\0" in text:
        raise ValueError("must be the name of a file")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ValueError("must be a number of seconds")
    return value


def _wait(text: str) -> float:
    """Return the seconds, or as many as the broker can count."""
    return min(_seconds(text), MAX_WAIT)


GROUPS: tuple[tuple[str, tuple[Option, ...]], ...] = (
    ("the line", (
        Option("baud", "speed (115200); may also follow PORT", "BPS", _baud, "b", ("baudrate",)),
        Option("databits", "data bits (8)", "5|6|7|8", _number_of(5, 6, 7, 8), "d"),
        Option("parity", "parity (none)", "odd|even|none|mark|space", _parity, "p"),
        Option("stopbits", "stop bits (1)", "1|2", _number_of(1, 2), "s"),
        Option("flow", "flow control (none); --rtscts is hard, --xonxoff soft", "hard|soft|none",
               _one_of("hard", "soft", "none"), "f"),
        Option("rts", "RTS at the start", "0|1", _number_of(0, 1)),
        Option("dtr", "DTR at the start", "0|1", _number_of(0, 1)),
    )),
    ("the port", (
        Option("wait", "queue for a port that is busy or absent", "SECONDS", _wait),
        Option("yield", "lend the port to your other programs, to everybody's, or not (user)",
               "user|all|no", _one_of("user", "all", "no")),
        Option("take", "borrow the port of a program that yields it"),
        Option("for", "say for whom or what you use the port; others see it", "TEXT", _label),
        Option("reconnect", "come back after an unplug or a revoke (on a terminal)"),
        Option("linger", "without a terminal: end this long after the last byte (1)", "SECONDS",
               _seconds),
        Option("send", "send FILE by ZMODEM first; needs sz, of lrzsz", "FILE", str),
        Option("profile", "use [profile.NAME] of term.toml", "NAME", str),
    )),
    ("what is shown", (
        Option("log", "append what is received to FILE; make up a name if none is given",
               "[FILE]", _file),
        Option("timestamps", "begin lines with the time, or the time since the last (none)",
               "iso|delta|none", _one_of("iso", "delta", "none")),
        Option("hex", "show bytes as hexadecimal numbers"),
        Option("eol", "what Enter sends (crlf)", "cr|lf|crlf", _one_of("cr", "lf", "crlf")),
        Option("echo", "show what is typed", short="e"),
        Option("filter", f"one of {', '.join(_FILTERS)}", "NAME", _one_of(*_FILTERS)),
        Option("encoding", "encoding of the text on the line (UTF-8)", "CODEC", codec),
        Option("raw", "no encoding and no filter"),
        Option("quiet", "print only errors", short="q"),
    )),
    ("keys", (
        Option("exit-char", "the character that ends the terminal (29, Ctrl+])", "NUMBER",
               _character),
        Option("menu-char", "the character that opens the menu (20, Ctrl+T)", "NUMBER", _character),
    )),
)  # fmt: skip

_ALL = [option for _, options in GROUPS for option in options]
_BY_NAME = {name: option for option in _ALL for name in (option.name, *option.also)}
_BY_LETTER = {option.short: option for option in _ALL if option.short}
_TIOS = {"l": "log", "n": "no-reconnect", "t": "timestamps iso", "x": "hex"}  # letters of tio
_SHORTHANDS = {"rtscts": "hard", "xonxoff": "soft"}  # of --flow
KEYS = frozenset(option.name for option in _ALL) - {"profile", "send"}  # of a profile


def help_text() -> str:
    """Return the whole help."""
    lines = [_USAGE, "options:", "  -h, --help".ljust(_HELP_AT) + "show this help and exit"]
    for title, options in GROUPS:
        lines += ["", f"{title}:"]
        for option in options:
            spelled = option.spelled()
            if len(spelled) > _HELP_AT - 2:
                lines.append(spelled)
                spelled = ""
            lines.append(f"{spelled:{_HELP_AT}}{option.help}")
    return "\n".join(lines) + "\n" + _END


def parse(arguments: list[str]) -> Options | None:
    """Read the command line, and the profile that belongs to it; None if it asks for help.

    Raises Usage; OSError if the profile cannot be read.
    """
    from ttybroker.term import profile

    options = Options()
    if _read(options, arguments):
        return None
    found, alike = profile.settings(options.port, options.profile)
    if found:
        port = options.port
        options = Options()
        for where, key, value in found:
            _set_from_profile(options, where, key, value)
        if port is not None:
            options.port = port
        _read(options, arguments)
    options.alike = alike
    if options.menu_char == options.exit_char:
        raise Usage("--exit-char and --menu-char must differ")
    return options


def _set_from_profile(options: Options, where: str, key: str, value: object) -> None:
    if key == "port":
        options.port = str(value)
        return
    option = _BY_NAME[key]
    if option.read is None or (key == "log" and isinstance(value, bool)):
        if not isinstance(value, bool):
            raise Usage(f"{where}: {key}: must be true or false")
        setattr(options, option.field, value if key != "log" else "" if value else None)
        return
    for one in value if isinstance(value, list) and key == "filter" else [value]:
        if isinstance(one, bool) or not isinstance(one, int | float | str):
            raise Usage(f"{where}: {key}: must be a number or a text")
        _set(options, option, str(one), f"{where}: {key}")


def _set(options: Options, option: Option, text: str, where: str) -> None:
    assert option.read is not None
    try:
        value = option.read(text)
    except ValueError as error:
        raise Usage(f"{where}: {text!r}: {error}") from None
    if option.name == "filter":
        options.filter = [*options.filter, str(value)]
    else:
        setattr(options, option.field, value)


def _read(options: Options, arguments: list[str]) -> bool:
    """Fill in what the words say; return whether one asks for help. Raises Usage."""
    words, plain = list(reversed(arguments)), list[str]()
    if any(word in ("-h", "--help") for word in arguments):
        return True
    options.filter = options.filter if not any("--filter" in word for word in arguments) else []
    profiles_log, options.log = options.log, None
    while words:
        word = words.pop()
        if word == "--":
            plain += reversed(words)
            break
        if word.startswith("--"):
            _long(options, word[2:], words)
        elif word.startswith("-") and len(word) > 1:
            _short(options, word[1:], words)
        else:
            plain.append(word)
    if options.log and _is_port(options.log, plain, options.profile):
        plain.insert(0, options.log)
        options.log = ""
    elif options.log is None:
        options.log = profiles_log
    if plain:
        options.port = plain.pop(0)
    if plain:
        _set(options, _BY_NAME["baud"], plain.pop(0), "the second word")
    if plain:
        raise Usage(f"too many words: {' '.join(plain)}")
    return False


def _is_port(log: str, plain: list[str], name: str | None) -> bool:
    """Whether the word behind --log is the port, as in "--log ttyS0", and not a file's name.

    plain: the words that are no options. name: of the profile, which may name the port.
    """
    from ttybroker.term import profile

    no_port = not plain or plain[0].isdigit()
    return no_port and not set("/.") & set(log) and profile.port_of(name) is None


def _long(options: Options, name: str, words: list[str]) -> None:
    name, equals, value = name.partition("=")
    option = _BY_NAME.get(name)
    switch = _BY_NAME.get(name.removeprefix("no-"))
    if equals and option is not None and option.read is not None:
        _set(options, option, value, f"--{name}")
    elif equals:
        raise Usage(f"--{name}: takes no value" if name in _SHORTHANDS or switch else
                    _unknown(name))  # fmt: skip
    elif name in _SHORTHANDS:
        options.flow = _SHORTHANDS[name]
    elif switch is not None and switch.read is None:
        setattr(options, switch.field, not name.startswith("no-"))
    elif name == "log":
        options.log = words.pop() if words and not words[-1].startswith("-") else ""
    elif option is None:
        raise Usage(_unknown(name))
    else:
        _set(options, option, _value(f"--{name}", option, words), f"--{name}")


def _short(options: Options, letters: str, words: list[str]) -> None:
    """Read letters.

    Several switches may stand together. The rest behind another letter is its value.
    """
    while letters:
        letter, letters = letters[0], letters[1:]
        option = _BY_LETTER.get(letter)
        if option is None:
            ours = f"; did you mean --{_TIOS[letter]}?" if letter in _TIOS else ""
            raise Usage(f"-{letter}: no such option{ours}")
        if option.read is None:
            setattr(options, option.field, True)
            continue
        value = letters or _value(f"-{letter}", option, words)
        _set(options, option, value, f"-{letter}")
        return


def _value(spelled: str, option: Option, words: list[str]) -> str:
    if not words:
        raise Usage(f"{spelled}: needs a value: {option.value}")
    return words.pop()


def _unknown(name: str) -> str:
    from ttybroker.names import did_you_mean

    return f"--{name}: no such option{did_you_mean(name, [*_BY_NAME, *_SHORTHANDS], '--')}"


def made_up(port: str) -> str:
    """Return a name for the log of this port: "ttyS0_2026-11-28T22-57-01.log"."""
    import time

    name = f"{port}_{time.strftime('%Y-%m-%dT%H-%M-%S')}.log"
    try:
        return os.path.abspath(name)
    except FileNotFoundError:  # our directory was removed; the open says so, of this name
        return name
