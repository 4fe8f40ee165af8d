"""The command line, the profiles and the lines of `ttybroker term`, without a port."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial

from ttybroker.errors import BrokerError
from ttybroker.term import lines
from ttybroker.term.options import GROUPS, Options, Usage, help_text, parse
from ttybroker.term.terminal import line_of


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the profiles are; there are none yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "ttybroker").mkdir()
    return tmp_path / "ttybroker" / "term.toml"


def read(*words: str) -> Options:
    options = parse(list(words))
    assert options is not None
    return options


def typed(line: str) -> Options:
    return read(*line.split())


def test_tios_words_and_miniterms_mean_the_same() -> None:
    tio = typed("-b 9600 -d 7 -p even -s 2 -f hard -e ttyS0")
    mini = typed("ttyS0 9600 --databits 7 --parity E --stopbits 2 --rtscts --echo")
    assert vars(tio) == vars(mini)
    line = (tio.port, tio.baud, tio.databits, tio.parity, tio.stopbits, tio.flow, tio.echo)
    assert line == ("ttyS0", 9600, 7, "E", 2, "hard", True)
    assert typed("--xonxoff ttyS0").flow == typed("-fsoft ttyS0").flow == "soft"
    assert typed("ttyS0 --eol LF 9600").baud == 9600


@pytest.mark.parametrize(
    ("words", "log"),
    [
        ("--log ttyS0", ""),
        ("--log ttyS0 9600", ""),
        ("ttyS0 9600 --log", ""),
        ("--log=out.txt ttyS0 9600", "out.txt"),
        ("--log ./ttyS1 ttyS0 9600", "./ttyS1"),
        ("ttyS0 --log ttyS1.log 9600", "ttyS1.log"),
        ("ttyS0", None),
    ],
)
def test_a_log_may_go_without_a_name(words: str, log: str | None) -> None:
    options = typed(words)
    assert (options.port, options.log) == ("ttyS0", log)
    assert options.baud == (9600 if "9600" in words else 115200)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("ttyS0 fast", "'fast': must be a number of bits a second"),
        ("ttyS0 -b 0", "-b: '0': must be a number of bits a second"),
        ("ttyS0 9600 8N1", "too many words: 8N1"),
        ("ttyS0 -p both", "-p: 'both': must be odd, even, none, mark or space"),
        ("ttyS0 --eol nl", "--eol: 'nl': must be cr, lf or crlf"),
        ("ttyS0 --encoding nope", "'nope': no such encoding"),
        ("ttyS0 --encoding hex", "'hex': no such encoding of text"),
        ("ttyS0 --encoding undefined", "'undefined': must be one in which any byte may come"),
        ("ttyS0 --encoding utf-16", "'utf-16': must be one in which any byte may come"),
        ("ttyS0 --encoding utf-16-le", "'utf-16-le': must be one in which any byte may come"),
        ("ttyS0 --encoding iso2022-jp", "'iso2022-jp': must be one in which any byte may come"),
        ("ttyS0 --filter nope", "'nope': must be default, direct, nocontrol, "),
        ("ttyS0 --wait nan", "'nan': must be a number of seconds"),
        ("ttyS0 --exit-char 20", "--exit-char and --menu-char"),
        ("ttyS0 --exit-char 1114112", "must be the number of a character"),
        ("ttyS0 --exit-char 55296", "must be the number of a character"),
        ("ttyS0 --bauds 5", "--bauds: no such option; did you mean --baud?"),
        ("ttyS0 -x", "-x: no such option; did you mean --hex?"),
        ("ttyS0 -y", "-y: no such option"),
        ("-- --hex ttyS0", "the second word: 'ttyS0': must be a number"),
        ("ttyS0 --no-log", "--no-log: no such option"),
        ("ttyS0 --hex=yes", "--hex: takes no value"),
        ("ttyS0 --rtscts=1", "--rtscts: takes no value"),
        ("ttyS0 -b", "-b: needs a value: BPS"),
        ("ttyS0 --profile x", "--profile x: there is no "),
    ],
)
def test_a_wrong_command_line_is_told_with_what_is_right(words: str, what: str) -> None:
    with pytest.raises(Usage, match=re.escape(what)):
        typed(words)


@pytest.mark.parametrize("name", ["UTF-8", "latin1", "cp437", "shift_jis", "ascii", "koi8-r"])
def test_an_encoding_of_a_line_is_one(name: str) -> None:
    assert typed(f"ttyS0 --encoding {name}").encoding == name


def test_letters_of_switches_may_stand_together() -> None:
    options = typed("-eqb9600 ttyS0")
    assert (options.echo, options.quiet, options.baud) == (True, True, 9600)


def test_help_lists_every_option_and_is_asked_for_anywhere() -> None:
    assert parse(["ttyS0", "-h"]) is parse(["--nope", "--help"]) is None
    shown = help_text()
    for _, options in GROUPS:
        for option in options:
            assert option.spelled() in shown and hasattr(Options(), option.field)
    assert max(map(len, shown.splitlines())) <= 100


def test_a_profile_stands_below_the_command_line_and_above_its_ports(profiles: Path) -> None:
    profiles.write_text("""
        [ttyS0]
        baud = 300
        parity = "odd"
        flow = "soft"
        reconnect = false
        [profile.lab]
        port = "ttyS0"
        baud = 19200
        hex = true
        log = true
        filter = ["printable", "direct"]
        wait = 2.5
    """)
    port = read("ttyS0")
    assert (port.baud, port.parity, port.reconnect, port.hex) == (300, "O", False, False)
    lab = typed("--profile lab --no-hex -p none")
    assert (lab.port, lab.baud, lab.parity, lab.flow) == ("ttyS0", 19200, "N", "soft")
    assert (lab.hex, lab.log, lab.wait, lab.filter) == (False, "", 2.5, ["printable", "direct"])
    assert read("ttyS1").baud == 115200
    assert typed("ttyS1 --profile lab").port == "ttyS1"


@pytest.mark.parametrize(
    ("words", "port", "log"),
    [
        ("--profile logs", None, "ttyS9"),  # the log of a profile is no port
        ("--profile logs ttyS1", "ttyS1", "ttyS9"),
        ("--profile logs --log", None, ""),
        ("--profile logs --log ttyS1", "ttyS1", ""),
        ("--profile logs --log ttyS1 9600", "ttyS1", ""),
        ("--profile gps", "gps", "ttyS9"),
        ("--profile gps --log mine", "gps", "mine"),  # the profile has named the port
        ("--log ttyS0", "ttyS0", ""),
        ("--log ttyS0 9600", "ttyS0", ""),
        ("ttyS0", "ttyS0", "ttyS9"),
    ],
)
def test_a_word_behind_log_is_the_port_only_where_none_is_named(
    words: str, port: str | None, log: str, profiles: Path
) -> None:
    profiles.write_text("""
        [ttyS0]
        log = "ttyS9"
        [profile.logs]
        log = "ttyS9"
        [profile.gps]
        port = "gps"
        log = "ttyS9"
    """)
    options = typed(words)
    assert (options.port, options.log) == (port, log)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[ttyS0]\nbuad = 300", "[ttyS0]: buad: unknown key; did you mean baud?"),
        ("[ttyS0]\nx = 1", "[ttyS0]: x: unknown key; known are baud, databits, dtr, echo,"),
        ("[ttyS1]\nbuad = 300", "[ttyS1]: buad: unknown key; did you mean baud?"),
        ("[profile.x]\nbuad = 300", "[profile.x]: buad: unknown key; did you mean baud?"),
        ('["/dev/ttyS0"]\nbaud = 1', "the table '/dev/ttyS0': not a port's name; write ttyS0"),
        ('[profile.x]\nport = "/dev/ttyS0"', "[profile.x]: port: '/dev/ttyS0': not a port's name"),
        ("[profile.x]\nport = true", "[profile.x]: port: 'True': not a port's name"),
        ("[profiles.lab]\nbaud = 300", "[profiles]: lab: unknown key"),
        ("[profil.lab]", "[profil]: lab: unknown key"),
        ("[profile]\nbaud = 300", "[profile.baud]: must be a table"),
        ("baud = 300", "baud: must stand below a table, such as [ttyS0] or [profile.NAME]"),
        ('[ttyS0]\nport = "x"', "[ttyS0]: port: unknown key"),
        ('[ttyS0]\nprofile = "x"', "[ttyS0]: profile: unknown key"),
        ("[ttyS0]\nbaud = true", "[ttyS0]: baud: must be a number or a text"),
        ("[ttyS0]\nbaud = 1.5", "[ttyS0]: baud: '1.5': must be a number of bits a second"),
        ('[ttyS0]\nhex = "yes"', "[ttyS0]: hex: must be true or false"),
        ('[ttyS0]\nlog = "\\u0000"', "[ttyS0]: log: '\\x00': must be the name of a file"),
        ("[ttyS0]\nbaud = {}", "[ttyS0]: baud: must be a number or a text"),
        ("[ttyS0]\nbaud = [300]", "[ttyS0]: baud: must be a number or a text"),
        ("[ttyS0]\nbaud = []", "[ttyS0]: baud: must be a number or a text"),
        ("[ttyS0]\nfilter = [['direct']]", "[ttyS0]: filter: must be a number or a text"),
        ("ttyS0 = 300", "ttyS0: must stand below a table"),
        ("[ttyS0", "Expected ']' at the end of a table declaration"),
    ],
)
def test_a_mistake_in_a_profile_is_one_error_with_the_file(
    text: str, what: str, profiles: Path
) -> None:
    profiles.write_text(text)
    with pytest.raises(Usage) as error:
        read("ttyS0")
    told = str(error.value)
    assert told.startswith(f"{profiles}: ") and what in told and "\n" not in told


def test_a_profile_that_is_not_there_is_an_error(profiles: Path) -> None:
    profiles.write_text("[profile.a]\nbaud = 300\n")
    with pytest.raises(Usage, match=re.escape("there is no table [profile.b]")):
        typed("ttyS0 --profile b")
    profiles.write_text("[profile.board]\nbaud = 300\n")
    with pytest.raises(Usage, match=re.escape("[profile.baord]; did you mean board?")):
        typed("ttyS0 --profile baord")


def test_lines_without_a_wish_are_the_bytes_as_they_are() -> None:
    data = bytes(range(256))
    assert lines.Lines("none", in_hex=False).feed(data) == data


def test_a_stamp_stands_once_in_front_of_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 10.25, 12.5])
    monkeypatch.setattr(lines, "time", SimpleNamespace(monotonic=lambda: next(now)))
    feed = lines.Lines("delta", in_hex=False).feed
    assert feed(b"on") == b"[+    0.250] on"
    assert feed(b"e\r\ntwo") == b"e\r\n[+    2.250] two"
    assert feed(b"\n") == b"\n"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another zone, which the C library would go on with: tzset(3)."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-5:30")
        yield
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
def test_a_stamp_is_a_time_with_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = lines.Lines("iso", in_hex=False).feed
    monkeypatch.setattr(lines.time, "time", lambda: 1_800_000_000.0625)
    assert feed(b"x\n") == b"[2027-01-15T13:30:00.062+05:30] x\n"


def test_numbers_end_their_line_where_the_text_did() -> None:
    feed = lines.Lines("none", in_hex=True).feed
    assert feed(b"\x00A\r\n\xff") == b"00 41 0d 0a\r\nff "
    assert feed(b"") == b""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (BrokerError(errno.EMFILE, "ttyS0: too many open files"), "ttyS0: too many open files"),
        (serial.SerialException(errno.EIO, "ttyS0: settings: broken"), "ttyS0: settings: broken"),
        (OSError(errno.EPROTO, os.strerror(errno.EPROTO)), "ttyS0: Protocol error"),
        (ValueError("no such speed"), "ttyS0: no such speed"),
    ],
)
def test_an_error_of_the_port_is_told_with_its_name_once(error: Exception, line: str) -> None:
    assert line_of("ttyS0", error) == line
