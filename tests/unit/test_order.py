"""The order of those who wait, as a record: what goes in comes out, and nothing else is one."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.damage import damaged
from ttybroker.wire import Holder
from ttybrokerd.root.ask import Ask
from ttybrokerd.root.log import Log
from ttybrokerd.root.loop import Loop
from ttybrokerd.root.order import (
    CLAIM,
    HEAD,
    KEEPS,
    MOST_PLACES,
    PACE,
    PLACE,
    WAITS,
    Order,
    decode,
    encode,
)
from ttybrokerd.root.record import MAX_RECORD, NoRecord
from ttybrokerd.root.store import Store
from ttybrokerd.root.table import NOWHERE, Table

if TYPE_CHECKING:
    from ttybrokerd.root.order import Place

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TIME = st.floats(allow_nan=False, allow_infinity=False)
WAITING = st.tuples(U64, U32, st.integers(1, 2**32 - 1), TIME, TIME,
                    st.sampled_from([WAITS, KEEPS]))  # fmt: skip
CLAIMS = st.tuples(U64, U32, st.just(0), TIME, TIME, st.just(CLAIM))
PLACES = st.lists(WAITING | CLAIMS, max_size=MOST_PLACES)
ONE: Place = (0x440, 1000, 7, 1.5, 2.5, KEEPS)
OTHER: Place = (NOWHERE, 1001, 0, 0.0, 0.0, CLAIM)


@given(TIME, PLACES)
def test_what_goes_in_comes_out(written: float, places: list[Place]) -> None:
    data = encode(written, places)
    assert decode(data) == (written, places)
    assert len(data) <= MAX_RECORD


def test_a_record_has_the_bytes_that_the_protocol_says() -> None:
    assert encode(9.5, [ONE, OTHER]) == (
        b"ttybroker order\x01" + struct.pack("<dH", 9.5, 2)
        + struct.pack("<QIIddB", 0x440, 1000, 7, 1.5, 2.5, 1)
        + struct.pack("<QIIddB", 0, 1001, 0, 0.0, 0.0, 2)
    )  # fmt: skip
    assert MOST_PLACES == 123


@given(st.sampled_from([b"", b"ttybroker order\x01", b"ttybroker lease\x02"]),
       st.binary(max_size=300))  # fmt: skip
def test_any_bytes_are_a_record_or_none(magic: bytes, data: bytes) -> None:
    try:
        found = decode(magic + data)
    except NoRecord:
        return
    assert decode(encode(*found)) == found


@given(TIME, PLACES, st.data())
def test_a_damaged_record_is_another_or_none(
    written: float, places: list[Place], draw: st.DataObject
) -> None:
    try:
        found = decode(damaged(encode(written, places), draw))
    except NoRecord:
        return
    assert decode(encode(*found)) == found


def test_a_record_cut_short_or_too_long_is_none() -> None:
    whole = encode(9.5, [ONE, OTHER])
    for data in [*(whole[:size] for size in range(len(whole))), whole + b"\0"]:
        with pytest.raises(NoRecord):
            decode(data)


@pytest.mark.parametrize(
    "wrong",
    [
        (1, 2, 0, 0.0, 0.0, WAITS), (1, 2, 0, 0.0, 0.0, KEEPS), (1, 2, 3, 0.0, 0.0, CLAIM),
        (1, 2, 3, 0.0, 0.0, 3), (1, 2, 3, float("nan"), 0.0, WAITS),
        (1, 2, 3, 0.0, float("inf"), WAITS),
    ],
)  # fmt: skip
def test_a_place_that_nobody_can_have_makes_no_record(wrong: Place) -> None:
    with pytest.raises(NoRecord):
        decode(encode(9.5, [ONE, wrong]))


@pytest.mark.parametrize("data", [
    encode(float("nan"), [ONE]), encode(9.5, [ONE] * (MOST_PLACES + 1)),
    HEAD.pack(b"ttybroker order\x02", 9.5, 1) + PLACE.pack(*ONE),
])  # fmt: skip
def test_another_version_and_impossible_heads_are_no_record(data: bytes) -> None:
    with pytest.raises(NoRecord):
        decode(data)


def ask(uid: int, pid: int) -> Ask:
    made = Ask(uid, Holder(uid), now=1.0, wait=9.0)
    made.process = pid, 0.5
    return made


def test_of_very_many_the_first_of_each_queue_are_kept() -> None:
    """Nobody pushes others out by many requests of his own. Who has no pid here is not kept."""
    table = Table()
    for pid in range(1, 201):
        table.ask(0x440, ask(1000 + pid, pid))
    table.ask(0x441, ask(7, 0))
    for pid in range(201, 204):
        table.ask(0x441, ask(1000 + pid, pid))
    loop = Loop()
    order = Order(Store(loop, Log(), ""), table)
    assert order.tick(5.0) == 5.0 + PACE
    order.tick(5.0 + PACE)
    kept = order._places
    assert len(kept) == MOST_PLACES
    assert [pid for key, _, pid, *_ in kept if key == 0x441] == [201, 202, 203]
    first = MOST_PLACES - 3
    assert [pid for key, _, pid, *_ in kept if key == 0x440] == list(range(1, first + 1))
    os.close(loop.fileno())
