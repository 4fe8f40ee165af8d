"""The command line of `ttybroker term`: tio's words, and miniterm's."""

from __future__ import annotations

import argparse
import os

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from typing import NoReturn

_PARITIES = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}
_EPILOG = """\
A profile in ~/.config/ttybroker/term.toml has the long options as keys, such as baud = 115200:
the table [ttyS0] holds for that port, [profile.NAME] for --profile NAME. The command line wins.
Without a terminal on standard input, what is read there is sent, and what comes is printed
until the input has ended and the line is quiet.
"""


class Usage(Exception):
    """What is wrong with the command line or with a profile."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage(message)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line, and the profile that belongs to it.

    Exits after --help. Raises Usage; OSError if there is a profile that cannot be read.
    """
    from ttybroker.term import profile

    parser = _parser()
    typed = _parse(parser, arguments)
    first = profile.words(typed.port, typed.profile, _keys(parser))
    if not first:
        return typed
    try:
        _parse(parser, first)  # on its own, for its own mistakes
    except Usage as error:
        raise Usage(f"{profile.path()}: {error}") from None
    return _parse(parser, [*first, *arguments])


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    options = parser.parse_intermixed_args(arguments)
    words = options.words
    if options.log and (not words or words[0].isdigit()) and "/" not in options.log:
        words.insert(0, options.log)  # "--log ttyS0": the name of a port, not that of a file
        options.log = ""
    options.port = words.pop(0) if words else options.port_of_profile
    if words:
        options.baud = _speed(parser, words.pop(0))
    if words:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    if options.menu_char == options.exit_char:
        parser.error("--exit-char and --menu-char: they are the same")
    return options


def _speed(parser: argparse.ArgumentParser, text: str) -> int:
    try:
        return _baud(text)
    except argparse.ArgumentTypeError as error:
        parser.error(f"{text!r}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ttybroker term",
        usage="%(prog)s [OPTION...] PORT [BAUD]",
        description="A terminal on a port: pyserial's miniterm, with tio's options. "
        "Ctrl+] ends it, Ctrl+T Ctrl+H shows its keys.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--port", dest="port_of_profile", help=argparse.SUPPRESS)
    line = parser.add_argument_group("the line")
    line.add_argument(
        "-b",
        "--baud",
        "--baudrate",
        metavar="BPS",
        type=_baud,
        default=115200,
        help="speed; also as a second word (115200)",
    )
    line.add_argument(
        "-d", "--databits", type=int, choices=(5, 6, 7, 8), default=8, help="data bits (8)"
    )
    line.add_argument(
        "-p",
        "--parity",
        metavar="odd|even|none|mark|space",
        type=_parity,
        default="N",
        help="parity (none)",
    )
    line.add_argument("-s", "--stopbits", type=int, choices=(1, 2), default=1, help="stop bits (1)")
    line.add_argument(
        "-f", "--flow", choices=("hard", "soft", "none"), default="none", help="flow control (none)"
    )
    line.add_argument(
        "--rtscts", dest="flow", action="store_const", const="hard", help="as --flow hard"
    )
    line.add_argument(
        "--xonxoff", dest="flow", action="store_const", const="soft", help="as --flow soft"
    )
    line.add_argument("--rts", type=int, choices=(0, 1), help="RTS at the start")
    line.add_argument("--dtr", type=int, choices=(0, 1), help="DTR at the start")
    port = parser.add_argument_group("the port")
    port.add_argument("--wait", metavar="SECONDS", type=_seconds, help="queue for a busy port")
    port.add_argument(
        "--reconnect",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="come back after unplugging and after a revoke (default: on a terminal)",
    )
    port.add_argument(
        "--linger",
        metavar="SECONDS",
        type=_seconds,
        default=1.0,
        help="without a terminal: leave when the input has ended and nothing came for so long (1)",
    )
    port.add_argument("--profile", metavar="NAME", help="use [profile.NAME] of term.toml")
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--log",
        metavar="FILE",
        nargs="?",
        const="",
        help="append what comes to FILE; without FILE a name is made up",
    )
    shown.add_argument(
        "--timestamps",
        choices=("iso", "delta", "none"),
        default="none",
        help="begin each line with the time, or the time since the last (none)",
    )
    shown.add_argument(
        "--hex",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="show bytes as hexadecimal numbers",
    )
    shown.add_argument(
        "--eol", metavar="cr|lf|crlf", type=_eol, default="crlf", help="what Enter sends (crlf)"
    )
    shown.add_argument(
        "-e",
        "--echo",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="show what is typed",
    )
    shown.add_argument(
        "--filter",
        metavar="NAME",
        action="append",
        type=_filter,
        help="of miniterm: default, direct, nocontrol, printable, colorize, debug",
    )
    shown.add_argument(
        "--encoding",
        metavar="CODEC",
        type=_codec,
        default="UTF-8",
        help="of the text on the line (UTF-8)",
    )
    shown.add_argument(
        "--raw",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="no encoding and no filter",
    )
    shown.add_argument(
        "-q", "--quiet", action=argparse.BooleanOptionalAction, default=False, help="only errors"
    )
    keys = parser.add_argument_group("keys")
    keys.add_argument(
        "--exit-char",
        metavar="NUMBER",
        type=_character,
        default=0x1D,
        help="the character that ends it (29, Ctrl+])",
    )
    keys.add_argument(
        "--menu-char",
        metavar="NUMBER",
        type=_character,
        default=0x14,
        help="the character of the menu (20, Ctrl+T)",
    )
    return parser


def _keys(parser: argparse.ArgumentParser) -> frozenset[str]:
    """What a profile may have: the long options, without their other spellings."""
    flags = (action.option_strings for action in parser._actions)
    names = {flag[2:] for group in flags for flag in group if flag.startswith("--")}
    no_keys = {"help", "profile", "rtscts", "xonxoff", "baudrate"}
    return frozenset(name for name in names - no_keys if not name.startswith("no-"))


def _baud(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:12]) < 1 << 31):
        raise argparse.ArgumentTypeError("it is a number of bits a second, 115200 for example")
    return int(text)


def _parity(text: str) -> str:
    letter = _PARITIES.get(text.lower(), text.upper())
    if letter not in _PARITIES.values():
        raise argparse.ArgumentTypeError(f"{text}: it is odd, even, none, mark or space")
    return letter


def _eol(text: str) -> str:
    if text.lower() not in ("cr", "lf", "crlf"):
        raise argparse.ArgumentTypeError(f"{text}: it is cr, lf or crlf")
    return text.lower()


def _codec(text: str) -> str:
    import codecs

    try:
        codecs.lookup(text)
    except LookupError:
        raise argparse.ArgumentTypeError(f"{text}: no such encoding") from None
    return text


def _filter(text: str) -> str:
    from serial.tools.miniterm import TRANSFORMATIONS

    if text not in TRANSFORMATIONS:
        known = ", ".join(sorted(TRANSFORMATIONS))
        raise argparse.ArgumentTypeError(f"{text}: no such filter; there are {known}")
    return text


def _character(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) < 0x110000):
        raise argparse.ArgumentTypeError(f"{text}: it is the number of a character")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"invalid: {text}: it is a number of seconds")
    return value


def made_up(port: str) -> str:
    """Return a name for the log of this port: "ttyS0_2026-11-28T22-57-01.log"."""
    import time

    return os.path.abspath(f"{port}_{time.strftime('%Y-%m-%dT%H-%M-%S')}.log")
