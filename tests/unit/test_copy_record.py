"""The record of a dead copy: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.damage import damaged
from ttybrokerd.root import settings
from ttybrokerd.root.copy_record import HEAD, KIND, MAGIC, CopyRecord, decode, encode
from ttybrokerd.root.record import NoRecord
from unit.test_record import NAME, PACKED, TEXT, TIME, U32

U64 = st.integers(0, 2**64 - 1)
OWED = st.tuples(st.just(b""), st.just(False)) | st.tuples(PACKED, st.booleans())
RECORDS = st.builds(
    lambda owed, **fields: CopyRecord(settings=owed[0], exclusive=owed[1], **fields),
    OWED,
    rdev=U64,
    node=st.tuples(U64, U64),
    uid=U32,
    pid=U32,
    since=TIME,
    name=NAME,
    program=TEXT,
    label=TEXT,
)
SETTINGS = settings.NONE.pack()
ONE = CopyRecord(1, (2, 3), 1000, 7, 1.5, "gps", "picocom", "night test", SETTINGS, exclusive=True)


@given(RECORDS)
def test_what_goes_in_comes_out(record: CopyRecord) -> None:
    assert decode(encode(record)) == record


def test_a_record_has_the_bytes_that_the_protocol_says() -> None:
    assert encode(ONE) == (
        b"ttybroker copy \x01" + struct.pack("<QQQBIId", 1, 2, 3, 1, 1000, 7, 1.5)
        + len(SETTINGS).to_bytes(2, "little") + SETTINGS + b"gps\0picocom\0night test\0"
    )  # fmt: skip


@given(st.sampled_from([b"", KIND, MAGIC]), st.binary(max_size=300))
def test_any_bytes_are_a_record_or_none(magic: bytes, data: bytes) -> None:
    try:
        found = decode(magic + data)
    except NoRecord:
        return
    assert decode(encode(found)) == found


@given(RECORDS.map(encode), st.data())
def test_a_damaged_record_is_another_or_none(whole: bytes, draw: st.DataObject) -> None:
    try:
        found = decode(damaged(whole, draw))
    except NoRecord:
        return
    assert decode(encode(found)) == found


@pytest.mark.parametrize(
    "wrong",
    [
        {"rdev": -1},
        {"node": (1,)},
        {"uid": 2**32},
        {"since": float("nan")},
        {"name": "no/name"},
        {"program": "\0"},
        {"label": "\ud800"},
        {"label": "x" * 4096},
        {"settings": b""},  # and yet exclusive
        {"settings": SETTINGS[:-1]},
    ],
)
def test_what_no_copy_has_makes_no_record(wrong: dict[str, object]) -> None:
    with pytest.raises(NoRecord):
        encode(ONE.replace(**wrong))


def test_a_flag_that_nobody_knows_makes_no_record() -> None:
    data = bytearray(encode(ONE))
    data[HEAD.size - 19] = 2
    with pytest.raises(NoRecord):
        decode(bytes(data))
