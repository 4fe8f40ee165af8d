"""The table of `ttybroker list`: for a terminal of any width, and for a file."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import stat
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ttybroker import listing
from ttybroker.width import columns, cut
from ttybroker.wire import Holder, PortInfo

DEVICE = "/dev/no-such-device"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


NOW = 1_800_000_000.0  # seconds of the epoch: a suite may run for longer than "2 min" is true


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "time", SimpleNamespace(time=lambda: NOW))


def holder(program: str = "picocom", seconds: float = 120) -> Holder:
    return Holder(1000, "alice", 4711, program, NOW - seconds, "lease")


PORTS = [
    PortInfo("ttyS0", DEVICE, "busy", "", 2, holder()),
    PortInfo("a-name-of-some-length", DEVICE, "free", ""),
    PortInfo("gps", DEVICE, "refused", ""),
]
PLAIN = f"""\
PORT                   STATE            HOLDER                SINCE  DEVICE               DESCRIPTION
ttyS0                  busy, 2 waiting  alice picocom (4711)  2 min  {DEVICE}
a-name-of-some-length  free                                          {DEVICE}
gps                    refused                                       {DEVICE}
"""  # noqa: E501


@pytest.fixture
def in_file(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def show(ports: list[PortInfo], encoding: str = "utf-8") -> str:
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", out)
        listing.show(ports)
        out.seek(0)
        return out.read()

    return show


@pytest.fixture
def on_screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[PortInfo], int], list[str]]:
    """Show them on a terminal of so many columns; the lines that came, with their colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def show(ports: list[PortInfo], columns: int) -> list[str]:
        screen, keyboard = pty.openpty()
        with os.fdopen(screen, "rb", 0) as far, os.fdopen(keyboard, "w") as near:
            fcntl.ioctl(near, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            monkeypatch.setattr(sys, "stdout", near)
            listing.show(ports)
            print("end", file=near, flush=True)
            seen = b""
            while not seen.endswith(b"end\r\n"):
                seen += far.read(4096)
        return seen.decode().split("\r\n")[:-2]

    return show


def test_a_file_gets_all_of_it_without_colour(in_file: Callable[..., str]) -> None:
    assert in_file(PORTS) == PLAIN


@pytest.mark.parametrize(
    ("device", "what"),
    [("/dev/null", "not a serial port"), ("/dev/tty", "not a serial port"),
     ("/etc", "not a serial port"), (DEVICE, ""), ("usb=ffff:ffff", "")],
)  # fmt: skip
@pytest.mark.parametrize("state", ["refused", "gone"])
def test_an_alias_that_leads_to_something_else_is_told_so(
    state: str, device: str, what: str
) -> None:
    """An earlier broker calls it gone."""
    assert listing.describe(PortInfo("gps", device, state, "")) == what


def test_the_active_console_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = SimpleNamespace(st_mode=stat.S_IFCHR, st_rdev=os.makedev(4, 64))
    looks = {"stat": lambda _: node, "readlink": lambda _: "../../devices/ttyS0"}
    same = {"major": os.major, "minor": os.minor, "path": os.path}
    monkeypatch.setattr(listing, "os", SimpleNamespace(**looks, **same))
    monkeypatch.setattr(listing, "_CONSOLES", str(tmp_path / "active"))
    for active, what in (("tty0 ttyS0", "the active console"), ("tty0 ttyS1", "")):
        (tmp_path / "active").write_text(f"{active}\n")
        assert listing._why_not("/dev/ttyS0") == what


def test_a_wide_terminal_gets_the_same_in_colour(
    on_screen: Callable[[list[PortInfo], int], list[str]],
) -> None:
    lines = on_screen(PORTS, 200)
    assert [ESCAPE.sub("", line) for line in lines] == PLAIN.splitlines()
    busy, free, refused = (re.findall(ESCAPE, line)[2] for line in lines[1:])
    assert len({busy, free, refused}) == 3


@pytest.mark.parametrize("columns", [80, 40, 10, 1])
def test_no_line_is_longer_than_the_terminal(
    columns: int, on_screen: Callable[[list[PortInfo], int], list[str]]
) -> None:
    for line, whole in zip(on_screen(PORTS, columns), PLAIN.splitlines(), strict=True):
        assert ESCAPE.sub("", line) == (
            whole if len(whole) <= columns else whole[: columns - 1] + "…"
        )


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_is_not_forced_on_anybody(
    variable: str,
    value: str,
    on_screen: Callable[[list[PortInfo], int], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    assert on_screen(PORTS, 200) == PLAIN.splitlines()


@pytest.mark.parametrize("height", [None, 0, 4, 3, 2, 1])
def test_what_does_not_fit_a_screen_is_counted(
    height: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """0: the terminal does not say how many lines it has."""
    listing.show(PORTS, height=height)
    lines, whole = capsys.readouterr().out.splitlines(), PLAIN.splitlines()
    if height in (None, 0, 4):
        assert lines == whole
    else:
        assert height is not None and len(lines) == height and lines[:-1] == whole[: height - 1]
        assert lines[-1].startswith(f"{4 - height + 1} more lines; ")


def test_a_holder_cannot_speak_to_the_terminal(in_file: Callable[..., str]) -> None:
    """A program names itself, prctl(2) PR_SET_NAME."""
    rogue = PortInfo("ttyS0", DEVICE, "busy", "", 0, holder("\x1b[2J\r\n\x9b\u202e"))
    lines = in_file([rogue]).splitlines()
    assert len(lines) == 2
    assert "alice ?[2J???? (4711)" in lines[1]


WIDE = [
    ("漢字", 4, ["", "漢", "漢", "漢字"]),
    ("a\uff42🔧c", 6, ["a", "a", "a\uff42", "a\uff42", "a\uff42🔧", "a\uff42🔧c"]),
    ("e\u0301é", 2, ["e\u0301", "e\u0301é"]),
    ("字\u302a", 2, ["", "字\u302a"]),  # a mark that is wide by UAX #11
]


@pytest.mark.parametrize(("text", "takes", "cuts"), WIDE)
def test_a_wide_character_takes_two_columns_and_a_mark_none(
    text: str, takes: int, cuts: list[str]
) -> None:
    assert columns(text) == takes
    assert [cut(text, room) for room in range(1, takes + 1)] == cuts


@pytest.mark.parametrize(("text", "takes", "cuts"), WIDE)
def test_wide_characters_move_no_column_and_no_edge(
    text: str, takes: int, cuts: list[str], on_screen: Callable[[list[PortInfo], int], list[str]]
) -> None:
    ports = [PORTS[0].replace(holder=holder(program)) for program in (text, "x" * takes)]
    wide, plain = on_screen(ports, 200)[1:]
    assert wide == plain.replace("x" * takes, text)
    before = ESCAPE.sub("", wide).index(text)
    for room, shown in enumerate(cuts, before + 2):
        assert ESCAPE.sub("", on_screen(ports, room)[1])[before:] == f"{shown}…"


def test_what_the_locale_cannot_say_is_no_error(in_file: Callable[..., str]) -> None:
    assert "Gerät" in in_file([PortInfo("ttyS0", DEVICE, "busy", "", 0, holder("Gerät"))])
    assert "Ger?t" in in_file([PortInfo("ttyS0", DEVICE, "busy", "", 0, holder("Gerät"))], "ascii")


def test_a_port_that_was_found_exclusive_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    found = Holder(how="exclusive", since=NOW - 130)
    listing.show([PortInfo("ttyS0", "/dev/ttyS0", "exclusive", "r", 0, found)])
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split("  ")[0] == "ttyS0"
    assert "exclusive  unknown: the last open found it exclusive  2 min" in row
