"""A lease's record: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import os
import termios
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttybrokerd.root.record import MAX_RECORD, NCCS, NoRecord, Record, decode, encode

U32 = st.integers(0, 2**32 - 1)
TIME = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,63}", fullmatch=True)
CHARACTERS = st.binary(min_size=NCCS, max_size=NCCS)
SETTINGS = st.tuples(st.lists(U32, min_size=6, max_size=6), CHARACTERS).map(
    lambda parts: [*parts[0], [bytes([value]) for value in parts[1]]]
)
RECORDS = st.builds(
    Record,
    rdev=st.integers(0, 2**64 - 1),
    pty=st.booleans(),
    console=st.booleans(),
    locked=st.booleans(),
    uid=U32,
    pid=U32,
    since=TIME,
    expires=st.none() | TIME,
    settings=SETTINGS,
    name=NAME,
    path=TEXT.map(lambda text: f"/{text}"),
    lock_name=NAME,
    rule=TEXT,
    user=TEXT,
    program=TEXT,
)
SETTINGS_OF_ONE = [0, 1, 2, 3, 4, 5, [b"\3"] * NCCS]
ONE = Record(1, False, False, True, 1000, 7, 1.5, None, SETTINGS_OF_ONE, "ttyS0", "/dev/ttyS0",
             "ttyS0", "ttyS* (line 3)", "ann", "picocom")  # fmt: skip


@given(RECORDS)
def test_what_goes_in_comes_out(record: Record) -> None:
    assert decode(encode(record)) == record


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_none(data: bytes) -> None:
    with pytest.raises(NoRecord):
        decode(data)


@given(RECORDS, st.data())
def test_a_damaged_record_is_another_or_none(record: Record, draw: st.DataObject) -> None:
    data = bytearray(encode(record))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    try:
        found = decode(bytes(data[: draw.draw(st.integers(0, len(data)))]))
    except NoRecord:
        return
    assert decode(encode(found)) == found


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../../etc"}, {"name": ""}, {"path": "dev/ttyS0"}, {"lock_name": "a/b"},
        {"lock_name": ""}, {"lock_name": "x" * 65}, {"lock_name": "ttyS\u0660"}, {"rule": "a\0b"},
        {"since": float("nan")}, {"expires": float("inf")}, {"rdev": -1}, {"uid": 2**32},
        {"path": "/" + "x" * MAX_RECORD}, {"program": "\ud800"}, {"settings": [0] * 7},
        {"settings": [0, 1, 2, 3, 4, 5, [b"\0"] * 19]},
    ],
)  # fmt: skip
def test_what_is_no_lease_is_no_record(wrong: dict[str, object]) -> None:
    with pytest.raises(NoRecord):
        encode(ONE._replace(**wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_no_record(version: int) -> None:
    data = bytearray(encode(ONE))
    data[15] = version
    with pytest.raises(NoRecord, match="version"):
        decode(bytes(data))


def test_a_terminals_settings_go_back_as_they_were_found() -> None:
    """Without ICANON two of the control characters are numbers: termios.tcgetattr()."""
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        found = termios.tcgetattr(slave)
        found[6][termios.VMIN], found[6][termios.VTIME] = 7, 3
        termios.tcsetattr(slave, termios.TCSANOW, found)
        back = decode(encode(ONE._replace(settings=found))).settings
        tty.setcbreak(slave)
        termios.tcsetattr(slave, termios.TCSANOW, back)
        assert termios.tcgetattr(slave) == found
    finally:
        os.close(master)
        os.close(slave)
