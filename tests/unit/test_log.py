"""The log: what a client chose stays in its field, and writing never blocks."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ttybrokerd.root.log import MAX_VALUE, NOTICE, Log, escape, line

PART = re.compile(r'([a-z_]+)=("[^"]*"|[^" =]+)(?: |$)')
values = st.text() | st.text('x"\\\n\r\t =\0\x1b\x85\u2028\udcff', max_size=40) | st.integers()


def parsed(text: str) -> tuple[str, dict[str, str]]:
    """The record in a line, read as a program would."""
    event, _, rest = text.partition(" ")
    parts = PART.findall(rest)
    assert "".join(f"{key}={value} " for key, value in parts).rstrip(" ") == rest
    return event, {key: value.strip('"') for key, value in parts}


@given(values)
@example('a"b')
@example("\\x0a")
@settings(deadline=None, max_examples=300)
def test_a_value_is_printable_ascii_without_quotes_and_not_long(value: object) -> None:
    shown = escape(value)
    assert shown.isascii()
    assert shown.isprintable() or shown == ""
    assert '"' not in shown
    assert len(shown) <= MAX_VALUE


@given(st.text(max_size=20))
@example("\\x0a")
@example("\n")
@example("\U0001f600\u2028\xe9\udcff")
@settings(deadline=None, max_examples=300)
def test_a_value_can_be_read_back_so_no_two_look_alike(value: str) -> None:
    assert codecs.decode(escape(value), "unicode_escape") == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ttyS0", "ttyS0"),
        ("pico com", "pico com"),
        ("a\nb", "a\\x0ab"),
        ('say "x"', "say \\x22x\\x22"),
        ("\x1b[2J", "\\x1b[2J"),
        ("C:\\x0a", "C:\\x5cx0a"),
        ("\u00e9\u2028", "\\xe9\\u2028"),
        ("x" * 300, "x" * 256),
        ("\n" * 300, "\\x0a" * 64),
    ],
)
def test_what_is_not_plain_is_escaped(value: str, shown: str) -> None:
    assert escape(value) == shown


@given(st.dictionaries(st.sampled_from(["port", "user", "program", "reason", "uid"]), values))
@example({"port": 'x" uid="0', "user": "a uid=0\nrevoke uid=0"})
@settings(deadline=None, max_examples=300)
def test_no_value_forges_a_field_or_a_line(fields: dict[str, object]) -> None:
    text = line("grant", fields)
    assert len(text.splitlines()) == 1
    event, found = parsed(text)
    assert event == "grant"
    assert found == {key: escape(value) for key, value in fields.items()}


def test_a_record_reads_well() -> None:
    fields: dict[str, object] = {"port": "ttyS0", "uid": 1000, "program": "pico com", "rule": ""}
    assert line("grant", fields) == 'grant port=ttyS0 uid=1000 program="pico com" rule=""'


# to the journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(tmp_path / "journal"))
        yield sock


def datagrams(journal: socket.socket) -> list[dict[str, str]]:
    """All records that arrived, each by the journal's rules: KEY=value and a line end."""
    found = []
    while True:
        try:
            data = journal.recv(65536)
        except BlockingIOError:
            return found
        assert data.endswith(b"\n")
        rows = data.decode("ascii").removesuffix("\n").split("\n")
        record = dict(row.split("=", 1) for row in rows)
        assert len(record) == len(rows), "a field twice"
        found.append(record)


def test_a_record_goes_to_the_journal_in_its_own_protocol(
    journal: socket.socket, tmp_path: Path
) -> None:
    record = Log(str(tmp_path / "journal"), "unit")
    record("refuse", NOTICE, port="ttyS0", uid=7, rule=None, reason="a\nPRIORITY=0")
    record.close()
    assert datagrams(journal) == [
        {
            "MESSAGE": 'refuse port=ttyS0 uid=7 reason="a\\x0aPRIORITY=0"',
            "PRIORITY": "5",
            "SYSLOG_IDENTIFIER": "unit",
            "TTYBROKER_EVENT": "refuse",
            "TTYBROKER_PORT": "ttyS0",
            "TTYBROKER_UID": "7",
            "TTYBROKER_REASON": "a\\x0aPRIORITY=0",
        }
    ]


@given(values, values)
@settings(deadline=None, max_examples=100)
def test_no_value_forges_a_field_of_the_journal(one: object, other: object) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.setblocking(False)
        record = Log("/nowhere/at/all")
        record._journal = ours
        record("grant", port=one, user=other)
        (found,) = datagrams(theirs)
    assert set(found) == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "TTYBROKER_EVENT",
                          "TTYBROKER_PORT", "TTYBROKER_USER"}  # fmt: skip
    assert found["PRIORITY"] == "6"
    assert found["TTYBROKER_PORT"] == escape(one)


def test_a_full_journal_blocks_nobody_and_what_was_dropped_is_owned_up_to(
    journal: socket.socket, tmp_path: Path
) -> None:
    record = Log(str(tmp_path / "journal"))
    for _ in range(5000):
        record("grant")
    written = datagrams(journal)
    assert 0 < len(written) < 5000
    record("grant")
    record("grant")
    first, second = datagrams(journal)
    assert first["TTYBROKER_DROPPED_BEFORE"] == str(5000 - len(written))
    assert "TTYBROKER_DROPPED_BEFORE" not in second
    record.close()


def test_a_journal_that_went_away_disturbs_nobody(journal: socket.socket, tmp_path: Path) -> None:
    record = Log(str(tmp_path / "journal"))
    journal.close()
    record("grant")
    assert record._dropped == 1
    record.close()


# to standard error


class Standard:
    """A sys.__stderr__ on another descriptor."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        os.close(descriptor)


def on(number: int, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr(sys, "__stderr__", Standard(number))
    return Log("/nowhere/at/all", "unit")


@pytest.mark.usefixtures("no_leak")
def test_without_a_journal_a_record_is_a_line_on_standard_error(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = on(pipe[1], monkeypatch)
    record("grant", port="ttyS0", rule=None)
    record.close()
    assert os.read(pipe[0], 4096) == b"unit: grant port=ttyS0\n"


def test_a_full_pipe_blocks_nobody_and_what_was_dropped_is_owned_up_to(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    record = on(pipe[1], monkeypatch)
    for _ in range(1000):
        record("grant", port="x" * 100)
    lines = os.read(pipe[0], 65536).splitlines(keepends=True)
    assert set(lines) == {b"unit: grant port=" + b"x" * 100 + b"\n"}
    record("refuse")
    assert os.read(pipe[0], 4096) == b"unit: refuse dropped_before=%d\n" % (1000 - len(lines))
    record("refuse")
    assert os.read(pipe[0], 4096) == b"unit: refuse\n"
    record.close()


def test_the_pipe_of_whoever_started_us_stays_blocking_for_them(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = on(pipe[1], monkeypatch)
    (ours,) = record.descriptors
    assert ours != pipe[1]
    assert not os.get_blocking(ours)
    assert not os.get_inheritable(ours)
    assert os.get_blocking(pipe[1])
    record.close()


@pytest.mark.usefixtures("no_leak")
def test_standard_error_open_for_reading_alone_is_not_opened_for_writing(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = on(pipe[0], monkeypatch)
    assert record.descriptors == {pipe[0]}
    record("grant")
    assert record._dropped == 1
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)


def test_a_file_is_written_through_the_descriptor_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "log", "wb") as file:
        record = on(file.fileno(), monkeypatch)
        assert record.descriptors == {file.fileno()}
        record("grant")
    assert (tmp_path / "log").read_bytes() == b"unit: grant\n"


def test_a_closed_standard_error_disturbs_nobody(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = os.dup(pipe[1])
    os.close(closed)
    record = on(closed, monkeypatch)
    assert record.descriptors == {closed}
    record("grant")
    assert record._dropped == 1


def test_the_longest_record_is_written_whole_or_not_at_all() -> None:
    """A pipe takes PIPE_BUF bytes whole: pipe(7)."""
    names = ("port", "device", "uid", "user", "pid", "program", "rule", "reason", "by", "dropped")
    assert len(line("x" * 16, dict.fromkeys(names, "\U0001f600" * 500))) < 4096 - 32


def test_a_socket_as_standard_error_never_blocks_the_log() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        kept = os.dup(2)
        os.dup2(theirs.fileno(), 2)
        try:
            log = Log(journal="/nonexistent")
            for _ in range(5000):  # far more than its buffer; a blocking write would end it here
                log("grant", port="ttyS0")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        assert ours.recv(4096).startswith(b"ttybrokerd: grant port=ttyS0\n")


def test_a_quiet_log_is_syslogs_and_never_on_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(path)
        record = Log("/nowhere/at/all", "unit", quiet=True, syslog=path)
        record("grant", NOTICE, port="ttyS0")
        assert syslog.recv(4096) == b"<29>unit: grant port=ttyS0"
        record.close()
    record = Log("/nowhere/at/all", quiet=True, syslog="/nowhere/either")
    assert record.descriptors == set()
    record("grant", NOTICE, port="ttyS0")
    record.close()
    assert capfd.readouterr() == ("", "")
