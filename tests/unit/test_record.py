"""A lease's record: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import os
import struct
import termios
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import old_record
from support.damage import damaged
from ttybroker.wire import NO_SESSION
from ttybrokerd.root import settings
from ttybrokerd.root.record import (
    MAGIC_1,
    MAX_RECORD,
    MOST_CLAIMS,
    NoRecord,
    Record,
    decode,
    encode,
)

U32 = st.integers(0, 2**32 - 1)
TIME = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,63}", fullmatch=True)
CHARACTERS = st.binary(min_size=32, max_size=32)
TERMIOS = st.tuples(st.lists(U32, min_size=6, max_size=6), CHARACTERS).map(
    lambda parts: [*parts[0], [bytes([value]) for value in parts[1]]]
)
PACKED = st.binary(min_size=52, max_size=52).map(
    lambda data: b"\7" + data[:16] + b"\0" + data[16:51] + bytes(12) + b"\1" * 32
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
    settings=PACKED,
    name=NAME,
    path=TEXT.map(lambda text: f"/{text}"),
    lock_name=NAME,
    rule=TEXT,
    program=TEXT,
    label=TEXT,
    session=st.binary(min_size=16, max_size=16),
    yield_user=st.booleans(),
    yield_all=st.booleans(),
    active=st.booleans(),
    claims=st.lists(st.tuples(U32, st.binary(min_size=16, max_size=16)), max_size=8).map(tuple),
)
OLD_RECORDS = st.builds(
    old_record.Record,
    rdev=st.integers(0, 2**64 - 1),
    pty=st.booleans(),
    console=st.booleans(),
    locked=st.booleans(),
    uid=U32,
    pid=U32,
    since=TIME,
    expires=st.none() | TIME,
    settings=TERMIOS,
    name=NAME,
    path=TEXT.map(lambda text: f"/{text}"),
    lock_name=NAME,
    rule=TEXT,
    user=TEXT,
    program=TEXT,
)
SETTINGS = settings.NONE.pack()
ONE = Record(1, 1000, 7, 1.5, None, SETTINGS, "ttyS0", "/dev/ttyS0", "ttyS0", "ttyS* (line 3)",
             "picocom", "night test", bytes(range(16)), locked=True, yield_user=True)  # fmt: skip


def but(**wrong: object) -> Record:
    """ONE, with other fields."""
    return Record(**{**vars(ONE), **wrong})  # type: ignore[arg-type]


@given(RECORDS)
def test_what_goes_in_comes_out(record: Record) -> None:
    assert decode(encode(record)) == record


def test_a_record_has_the_bytes_that_the_protocol_says() -> None:
    assert encode(ONE) == (
        b"ttybroker lease\x02" + struct.pack("<QBIIdd", 1, 4 | 16, 1000, 7, 1.5, 0)
        + bytes(range(16)) + len(SETTINGS).to_bytes(2, "little") + SETTINGS
        + b"ttyS0\0/dev/ttyS0\0ttyS0\0ttyS* (line 3)\0picocom\0night test\0"
    )  # fmt: skip
    assert encode(but(active=True))[24] == 4 | 16 | 64


def test_claims_are_one_more_text_where_there_are_any() -> None:
    claims = ((1000, bytes(range(16))), (0, b"\xff" * 16))
    text = b"000003e8000102030405060708090a0b0c0d0e0f 00000000" + b"f" * 32 + b"\0"
    assert encode(but(claims=claims)) == encode(ONE) + text
    assert decode(encode(ONE) + text).claims == claims
    assert len(decode(encode(but(claims=claims * 20))).claims) == MOST_CLAIMS


@pytest.mark.parametrize("text", [b"\0", b"00\0", b"zz\0", b"0" * 40 + b" \0", b"0" * 42 + b"\0",
                                  b" ".join([b"0" * 40] * 33) + b"\0"])  # fmt: skip
def test_what_are_no_claims_make_no_record(text: bytes) -> None:
    with pytest.raises(NoRecord):
        decode(encode(ONE) + text)


@given(OLD_RECORDS)
def test_a_record_of_version_1_is_read_as_what_it_was(old: old_record.Record) -> None:
    now = decode(old_record.encode(old))
    assert now.session == NO_SESSION
    iflag, oflag, _, lflag, *_, characters = old.settings
    found = struct.unpack("2I4xIx19s8x", settings.unpack(now.settings).termios)
    assert found == (iflag, oflag, lflag, b"".join(characters[:19]))  # type: ignore[arg-type]
    same = {name: value for name, value in old._asdict().items()
            if name not in ("settings", "user")}  # fmt: skip
    assert {name: getattr(now, name) for name in same} == same
    assert (now.label, now.yield_user, now.yield_all) == ("", False, False)
    assert decode(encode(now)) == now


@given(st.sampled_from([b"", b"ttybroker lease\x01", b"ttybroker lease\x02"]),
       st.binary(max_size=300))  # fmt: skip
def test_any_bytes_are_a_record_or_none(magic: bytes, data: bytes) -> None:
    try:
        found = decode(magic + data)
    except NoRecord:
        return
    assert decode(encode(found)) == found


@given(RECORDS.map(encode) | OLD_RECORDS.map(old_record.encode), st.data())
def test_a_damaged_record_is_another_or_none(whole: bytes, draw: st.DataObject) -> None:
    try:
        found = decode(damaged(whole, draw))
    except NoRecord:
        return
    assert decode(encode(found)) == found


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../../etc"}, {"name": ""}, {"path": "dev/ttyS0"}, {"lock_name": "a/b"},
        {"lock_name": ""}, {"lock_name": "x" * 65}, {"lock_name": "ttyS\u0660"}, {"rule": "a\0b"},
        {"since": float("nan")}, {"expires": float("inf")}, {"rdev": -1}, {"uid": 2**32},
        {"path": "/" + "x" * MAX_RECORD}, {"program": "\ud800"}, {"settings": SETTINGS[:-1]},
        {"settings": b""}, {"settings": SETTINGS + b"\0"}, {"settings": b"\xff" * 97},
        {"session": b"1"}, {"label": "a\0b"}, {"claims": ((1000, b"1"),)},
    ],
)  # fmt: skip
def test_what_is_no_lease_is_no_record(wrong: dict[str, object]) -> None:
    with pytest.raises(NoRecord):
        encode(but(**wrong))


@pytest.mark.parametrize("whole", [encode(ONE), MAGIC_1 + bytes(200)])
def test_a_record_cut_short_is_none(whole: bytes) -> None:
    for size in range(len(whole)):
        with pytest.raises(NoRecord):
            decode(whole[:size])


@pytest.mark.parametrize("version", [0, 3, 255])
def test_another_version_is_no_record(version: int) -> None:
    data = bytearray(encode(ONE))
    data[15] = version
    with pytest.raises(NoRecord, match="version"):
        decode(bytes(data))


def test_a_ports_settings_go_back_as_they_were_found() -> None:
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        found = termios.tcgetattr(slave)
        found[6][termios.VMIN], found[6][termios.VTIME] = 7, 3
        termios.tcsetattr(slave, termios.TCSANOW, found)
        kept = decode(encode(but(settings=settings.read(slave).pack())))
        tty.setcbreak(slave)
        assert settings.put_back(slave, settings.unpack(kept.settings)) == []
        assert termios.tcgetattr(slave) == found
    finally:
        os.close(master)
        os.close(slave)


B9600, B115200, BOTHER = 13, 0x1002, 0x1000


@pytest.mark.parametrize(
    ("ispeed", "ospeed", "means"),
    [
        (B9600, B9600, (B9600, 9600, 9600)),
        (B115200, B115200, (B115200, 115200, 115200)),
        (9600, 9600, (B9600, 9600, 9600)),  # glibc 2.42
        (250000, 250000, (BOTHER, 250000, 250000)),  # glibc 2.42
        (B9600, B115200, (B115200 | B9600 << 16, 9600, 115200)),
        (BOTHER, BOTHER, (B9600, 9600, 9600)),  # it could not say more
    ],
)
def test_a_speed_of_version_1_means_what_it_meant(
    ispeed: int, ospeed: int, means: tuple[int, int, int]
) -> None:
    cflag = termios.CS7 | termios.PARENB | termios.CREAD
    characters: list[bytes | int] = [bytes([value]) for value in range(32)]
    was = [1, 2, cflag | ospeed & 0x100F, 4, ispeed, ospeed, characters]
    old = old_record.Record(1, False, False, True, 1000, 7, 1.5, None, was, "ttyS0", "/dev/ttyS0",
                            "ttyS0", "rule", "nobody", "picocom")  # fmt: skip
    now = settings.unpack(decode(old_record.encode(old)).settings).termios
    bits, *speeds = means
    assert now == struct.pack("4Ix19s2I", 1, 2, cflag | bits, 4, bytes(range(19)), *speeds)
