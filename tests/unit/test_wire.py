"""The protocol's bytes.

`make test` demands that it takes all branches of both modules, without a socket.
"""

from __future__ import annotations

import errno
import math
import re
import string
import struct
from typing import TypeVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support import old_wire
from ttybroker import asking, wire
from ttybroker.wire import (
    Check,
    Connect,
    Done,
    Ending,
    Grant,
    Holder,
    Lent,
    List,
    Malformed,
    Open,
    PortInfo,
    Ports,
    Refused,
    Revoke,
    Running,
    Status,
    Verdict,
    Waiting,
)

T = TypeVar("T")
Sent = tuple[T, int]
GRAMMAR = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 0xFFFFFFFFFFFFFFFF)
uids = st.none() | st.integers(0, 0xFFFFFFFE)
pids = st.none() | st.integers(1, 0x7FFFFFFF)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=wire.MAX_LABEL)
sessions = st.binary(min_size=16, max_size=16)
names = st.from_regex(GRAMMAR, fullmatch=True)
any_names = names | st.binary(max_size=80).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
moments = st.none() | st.floats(0, 2.0**37, exclude_min=True, exclude_max=True)
moment = st.integers(0, 2**37 - 1)
fact = st.tuples(st.just(wire.KEPT), moment) | st.tuples(u8.filter(lambda n: n != wire.KEPT), u64)
facts = st.lists(fact, max_size=3).map(tuple)
states = st.from_regex(r"[a-z][a-z ]{0,20}", fullmatch=True)

# what version 1 has
HOLDERS_1 = st.builds(Holder, uids, text, pids, text, moments, text)
PORTS_1 = st.builds(PortInfo, text, text, states, text, u16, st.none() | HOLDERS_1)
CHECKS = st.builds(Check, any_names, uids, st.lists(u32, max_size=wire.MAX_GROUPS).map(tuple))
NAMED_1 = st.builds(Open, any_names, u32, u32) | st.builds(Revoke, any_names)
REQUESTS_1 = st.one_of(NAMED_1, CHECKS, st.builds(List, u32), st.just(Connect()), st.just(Status()))
VERDICTS = st.builds(Verdict, st.booleans(), st.booleans(), text, text)
REPLIES_1 = st.one_of(
    st.just(Grant()),
    st.just(Done()),
    st.builds(Refused, u16, text, st.none()),
    st.builds(Ports, st.lists(PORTS_1, max_size=4).map(tuple), st.booleans()),
    VERDICTS,
    st.builds(Running, u8, st.booleans()),
    st.builds(Waiting, text),
)

# what version 2 has
HOLDERS = st.builds(Holder, uids, st.just(""), pids, text, moments, text, labels)
SOMEBODY = st.none() | HOLDERS
PORTS = st.builds(PortInfo, text, text, states, text, u16, SOMEBODY, SOMEBODY,
                  st.lists(HOLDERS, max_size=2).map(tuple), facts)  # fmt: skip
NAMED = st.one_of(
    st.builds(Open, any_names, u32, u32, u32, u8, sessions, labels),
    st.builds(Revoke, any_names, u32),
)
LISTS = st.builds(List, u32, st.integers(0, 3), st.lists(text, max_size=wire.MAX_NAMES).map(tuple))
REQUESTS = st.one_of(NAMED, CHECKS, LISTS, st.just(Connect()), st.just(Status()))
REPLIES = st.one_of(
    st.builds(Grant, sessions, st.booleans()),
    st.builds(Done, u16),
    st.builds(Refused, u16, text, SOMEBODY, text),
    st.builds(Ports, st.lists(PORTS, max_size=4).map(tuple), st.booleans()),
    VERDICTS,
    st.builds(Running, u8, st.booleans(), text),
    st.builds(Waiting, text, u8, u16, u32, SOMEBODY),
    st.builds(Lent, u32, SOMEBODY),
    st.builds(Ending, u32, text),
)


def in_version(one: st.SearchStrategy[T], two: st.SearchStrategy[T]) -> st.SearchStrategy[Sent[T]]:
    """A value and the version to send it in."""
    return st.tuples(one, st.just(1)) | st.tuples(two, st.just(2))


requests = in_version(REQUESTS_1, REQUESTS)
replies = in_version(REPLIES_1, REPLIES)
named = in_version(NAMED_1, NAMED)
ports = in_version(PORTS_1, PORTS)


def mutated(data: bytes, draw: st.DataObject) -> bytes:
    at = draw.draw(st.integers(0, 8 * len(data) - 1), label="bit")
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


def again(reply: wire.Reply, version: int) -> wire.Reply:
    """The reply that was read, written and read once more. A refusal of version 1 has its holder
    in the text as well, and would get it there twice."""
    if version == 1 and isinstance(reply, Refused):
        kept, reply.holder = reply.holder, None
        told = asking.decode_reply(wire.encode_reply(reply, 1))
        assert isinstance(told, Refused)
        told.holder = reply.holder = kept
        return told
    return asking.decode_reply(wire.encode_reply(reply, version))


# what goes in comes out


@given(requests)
@settings(deadline=None)
def test_every_request_comes_back_as_it_was(sent: Sent[wire.Request]) -> None:
    assert wire.decode_request(asking.encode_request(*sent)) == sent[0]


@given(replies)
@settings(deadline=None)
def test_every_reply_comes_back_as_it_was(sent: Sent[wire.Reply]) -> None:
    assert asking.decode_reply(wire.encode_reply(*sent)) == sent[0]


SESSION = bytes(range(16))
NOBODY = b"\1" + b"\xff\xff\xff\xff" + b"\0\0\0\0" + bytes(8)
BOB = b"\1\7\0\0\0\x09\0\0\0" + struct.pack("<d", 2)
bob = Holder(7, "", 9, "cu", 2.0, "lease", "x")
BOB_2 = BOB + b"\2\0cu" + b"\5\0lease" + b"\1\0x"


@pytest.mark.parametrize(
    ("request_", "version", "data"),
    [
        (Open("ttyS0"), 1, b"\1\1\0\0" + b"\0\0\0\0" + b"\0\0\0\0" + b"ttyS0"),
        (Open("gps", 10_000, 1234), 1,
         b"\1\1\0\0" + b"\x10\x27\0\0" + b"\xd2\4\0\0" + b"gps"),
        (List(), 1, b"\1\2\0\0" + b"\0\0\0\0"),
        (List(300), 1, b"\1\2\0\0" + b"\x2c\1\0\0"),
        (Revoke("ttyS0"), 1, b"\1\3\0\0ttyS0"),
        (Check("ttyS0"), 1, b"\1\4\0\0" + b"\xff\xff\xff\xff" + b"\0\0" + b"ttyS0"),
        (Check("a", 1, (20, 5)), 1,
         b"\1\4\0\0\1\0\0\0\2\0" + b"\x14\0\0\0\5\0\0\0" + b"a"),
        (Connect(), 1, b"\1\5\0\0"),
        (Status(), 1, b"\1\6\0\0"),
        (Open("gps", 1, 2, 3, wire.WRITE | wire.PROGRESS, SESSION, "lab"), 2,
         b"\2\1\0\0" + b"\1\0\0\0\2\0\0\0\3\0\0\0\x82\0" + SESSION + b"\3\0lab" + b"gps"),
        (Open("gps"), 2, b"\2\1\0\0" + bytes(12) + bytes(2) + bytes(16) + bytes(2) + b"gps"),
        (List(300, wire.WATCH, ("a", "gps")), 2,
         b"\2\2\0\0" + b"\x2c\1\0\0\2\2" + b"\1\0a\3\0gps"),
        (Revoke("gps", 5), 2, b"\2\3\0\0" + b"\5\0\0\0" + b"gps"),
        (Check("a", 1, (20,)), 2, b"\2\4\0\0\1\0\0\0\1\0" + b"\x14\0\0\0" + b"a"),
        (Connect(), 2, b"\2\5\0\0"),
        (Status(), 2, b"\2\6\0\0"),
    ],
)  # fmt: skip
def test_requests_have_the_bytes_that_the_protocol_says(
    request_: wire.Request, version: int, data: bytes
) -> None:
    assert asking.encode_request(request_, version) == data
    assert wire.decode_request(data) == request_


@pytest.mark.parametrize(
    ("reply", "version", "data"),
    [
        (Grant(), 1, b"\1\x81\0\0"),
        (Done(), 1, b"\1\x82\0\0"),
        (Refused(errno.EACCES, "no"), 1, b"\1\x83\0\0" + b"\x0d\0" + b"\0" + b"\2\0no"),
        (Ports(()), 1, b"\1\x84\0\0" + b"\0\0\0"),
        (Ports((PortInfo("a", "/d", "busy", "r", 3, Holder(how="")),), more=True), 1,
         b"\1\x84\0\0" + b"\1\1\0" + b"\1\0a\2\0/d\4\0busy\1\0r" + b"\3\0" + NOBODY + bytes(6)),
        (Running(6, False), 1, b"\1\x86\0\0\6\0"),
        (Waiting("soon"), 1, b"\1\x87\0\0\4\0soon"),
        (Verdict(True, False, "r", "é"), 1,
         b"\1\x85\0\0" + b"\1\0" + b"\1\0r" + b"\2\0\xc3\xa9"),
        (Grant(SESSION, True), 2, b"\2\x81\0\0" + b"\1" + SESSION),
        (Done(3), 2, b"\2\x82\0\0\3\0"),
        (Refused(errno.EBUSY, "busy", bob, "wait"), 2,
         b"\2\x83\0\0" + b"\x10\0" + BOB_2 + b"\4\0busy" + b"\4\0wait"),
        (Ports((PortInfo("a", "/d", "busy", "r", 3, None, bob, (bob,), ((1, 9600),)),)), 2,
         b"\2\x84\0\0" + b"\0\1\0" + b"\1\0a\2\0/d\4\0busy\1\0r" + b"\3\0" + b"\0" + BOB_2
         + b"\1" + BOB_2 + b"\1\1\x80\x25" + bytes(6)),
        (Verdict(True, False, "r", "é"), 2,
         b"\2\x85\0\0" + b"\1\0" + b"\1\0r" + b"\2\0\xc3\xa9"),
        (Running(6, False, "1"), 2, b"\2\x86\0\0\6\0\1\0001"),
        (Waiting("soon", wire.BUSY, 2, 3, bob), 2,
         b"\2\x87\0\0" + b"\1\2\0\3\0\0\0" + BOB_2 + b"\4\0soon"),
        (Lent(1000, bob), 2, b"\2\x88\0\0" + b"\xe8\3\0\0" + BOB_2),
        (Ending(5000, "why"), 2, b"\2\x89\0\0" + b"\x88\x13\0\0" + b"\3\0why"),
    ],
)  # fmt: skip
def test_replies_have_the_bytes_that_the_protocol_says(
    reply: wire.Reply, version: int, data: bytes
) -> None:
    assert wire.encode_reply(reply, version) == data
    assert asking.decode_reply(data) == reply


# version 1 is what the programs of commit 7778755 speak


def old(value: object) -> object:
    """The same value, of the old program's class."""
    if isinstance(value, wire.Value):
        kind = getattr(old_wire, type(value).__name__.replace("PortInfo", "Port"))
        fields = {"message" if isinstance(value, Refused) and key == "cause" else key: old(field)
                  for key, field in vars(value).items()}  # fmt: skip
        return kind(**fields)
    return tuple(map(old, value)) if isinstance(value, tuple) else value


@given(REQUESTS_1)
@settings(deadline=None)
def test_a_request_of_version_1_is_what_the_old_daemon_reads_and_the_old_client_sends(
    request: wire.Request,
) -> None:
    data = asking.encode_request(request, 1)
    assert old_wire.decode_request(data) == old(request)
    assert old_wire.encode_request(old_wire.decode_request(data)) == data


@given(REPLIES_1)
@settings(deadline=None)
def test_a_reply_of_version_1_is_what_the_old_client_reads_and_the_old_daemon_sends(
    reply: wire.Reply,
) -> None:
    data = wire.encode_reply(reply, 1)
    assert old_wire.decode_reply(data) == old(reply)
    assert old_wire.encode_reply(old_wire.decode_reply(data)) == data


def test_what_version_1_has_no_field_for_is_left_out() -> None:
    full = Open("gps", 1, 2, 3, wire.WRITE, SESSION, "lab")
    assert asking.encode_request(full, 1) == asking.encode_request(Open("gps", 1, 2), 1)
    assert asking.encode_request(List(1, 3, ("a",)), 1) == asking.encode_request(List(1), 1)
    assert asking.encode_request(Revoke("a", 1), 1) == asking.encode_request(Revoke("a"), 1)
    assert wire.encode_reply(Grant(SESSION, True), 1) == wire.encode_reply(Grant(), 1)
    row = PortInfo("a", "/d", "free", "r", 1, None, bob, (bob,), ((1, 2),))
    plain = PortInfo("a", "/d", "free", "r", 1)
    assert wire.encode_reply(Ports((row,)), 1) == wire.encode_reply(Ports((plain,)), 1)


def test_a_text_of_version_1_says_all_of_a_refusal() -> None:
    ann = Holder(7, "ann", 9, "cu", 2.0)
    said = old_wire.decode_reply(wire.encode_reply(Refused(16, "busy", ann, "wait"), 1, "gps"))
    assert said == old_wire.Refused(
        16, "gps: busy: held by ann (uid 7) with cu (pid 9); wait", old(ann)
    )
    said = old_wire.decode_reply(wire.encode_reply(Waiting("slow", 2, 1, 5, ann), 1, "gps"))
    assert said == old_wire.Waiting("gps: slow")


# what is not a message is Malformed, and nothing else happens


@given(replies, st.data())
@settings(deadline=None)
def test_no_reply_cut_short_is_a_reply(sent: Sent[wire.Reply], data: st.DataObject) -> None:
    whole = wire.encode_reply(*sent)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Malformed):
        asking.decode_reply(whole[:end])


@given(replies, st.binary(min_size=1, max_size=70_000))
@settings(deadline=None, max_examples=50)
def test_no_reply_with_anything_after_it_is_a_reply(sent: Sent[wire.Reply], more: bytes) -> None:
    with pytest.raises(Malformed):
        asking.decode_reply(wire.encode_reply(*sent) + more)


@given(requests, st.data())
@settings(deadline=None)
def test_no_request_cut_short_within_its_fixed_part_is_a_request(
    sent: Sent[wire.Request], data: st.DataObject
) -> None:
    whole = asking.encode_request(*sent)
    name = wire.pack_name(getattr(sent[0], "name", ""))
    end = data.draw(st.integers(0, len(whole) - len(name) - 1))
    with pytest.raises(Malformed):
        wire.decode_request(whole[:end])


@given(named, st.binary(max_size=80))
@settings(deadline=None)
def test_bytes_after_a_name_are_part_of_the_name_and_of_nothing_else(
    sent: Sent[Open | Revoke], more: bytes
) -> None:
    longer = wire.decode_request(asking.encode_request(*sent) + more)
    assert isinstance(longer, Open | Revoke)
    assert wire.pack_name(longer.name) == wire.pack_name(sent[0].name) + more


@pytest.mark.parametrize("version", wire.VERSIONS)
@pytest.mark.parametrize("request_", [List(), Connect(), Status()])
@given(more=st.binary(min_size=1, max_size=80))
@settings(deadline=None, max_examples=30)
def test_nothing_may_follow_a_request_without_a_name(
    request_: wire.Request, version: int, more: bytes
) -> None:
    with pytest.raises(Malformed, match="message too long"):
        wire.decode_request(asking.encode_request(request_, version) + more)


@given(requests, st.data())
@settings(deadline=None)
def test_a_flipped_bit_makes_another_request_or_is_malformed(
    sent: Sent[wire.Request], data: st.DataObject
) -> None:
    flipped = mutated(asking.encode_request(*sent), data)
    try:
        other = wire.decode_request(flipped)
    except Malformed:
        return
    assert (other, flipped[0]) != sent
    assert asking.encode_request(other, flipped[0]) == flipped


@given(replies, st.data())
@settings(deadline=None)
def test_a_flipped_bit_makes_another_reply_or_is_malformed(
    sent: Sent[wire.Reply], data: st.DataObject
) -> None:
    flipped = mutated(wire.encode_reply(*sent), data)
    try:
        other = asking.decode_reply(flipped)
    except Malformed:
        return
    assert again(other, flipped[0]) == other


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_arbitrary_bytes_are_a_request_in_its_one_form_or_malformed(data: bytes) -> None:
    for raw in (data, *(bytes([n]) + data[:1] + b"\0\0" + data[1:] for n in wire.VERSIONS)):
        try:
            assert asking.encode_request(wire.decode_request(raw), raw[0]) == raw
        except Malformed:
            continue


@given(st.integers(wire.GRANT, wire.ENDING), st.binary(max_size=200))
@settings(deadline=None)
def test_arbitrary_bytes_are_a_reply_or_malformed(kind: int, data: bytes) -> None:
    for raw in (data, *(bytes([version, kind, 0, 0]) + data for version in wire.VERSIONS)):
        try:
            reply = asking.decode_reply(raw)
        except Malformed:
            continue
        assert again(reply, raw[0]) == reply


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "message too short"),
        (b"\1\2\0", "message too short"),
        (b"\0\2\0\0", "protocol version 0, not 1 or 2"),
        (b"\3\2\0\0", "protocol version 3, not 1 or 2"),
        (b"\1\2\1\0", "reserved bytes are not zero"),
        (b"\1\2\0\1", "reserved bytes are not zero"),
        (b"\1\0\0\0", "unknown kind of request: 0"),
        (b"\1\7\0\0", "unknown kind of request: 7"),
        (b"\1\x81\0\0", "unknown kind of request: 129"),
        (b"\1\1\0\0" + bytes(7), "message too short"),
        (b"\1\4\0\0" + bytes(5), "message too short"),
        (b"\1\4\0\0" + bytes(4) + b"\2\0" + bytes(7), "message too short"),
        (b"\1\4\0\0" + bytes(4) + b"\1\1" + bytes(4 * 257), "too many groups"),
        (b"\1\2\0\0\0\0\0\0x", "message too long"),
        (b"\1\2\0\0x", "message too short"),
        (b"\2\1\0\0" + bytes(31), "message too short"),
        (b"\2\1\0\0" + bytes(12) + b"\0\1" + bytes(18), "unknown flags"),
        (b"\2\1\0\0" + bytes(30) + b"\x51\0" + b"x" * 81, "label too long"),
        (b"\2\1\0\0" + bytes(30) + b"\1\0\xff", "text is not UTF-8"),
        (b"\2\2\0\0" + bytes(4) + b"\4\0", "unknown flags"),
        (b"\2\2\0\0" + bytes(4) + b"\0\x21" + bytes(66), "too many names"),
        (b"\2\2\0\0" + bytes(4) + b"\0\2" + bytes(2), "message too short"),
        (b"\2\2\0\0" + bytes(7), "message too long"),
        (b"\2\3\0\0" + bytes(3), "message too short"),
    ],
)
def test_a_bad_request_is_named_for_what_is_wrong_with_it(data: bytes, why: str) -> None:
    with pytest.raises(Malformed) as caught:
        wire.decode_request(data)
    assert str(caught.value) == why


# PORTS of version 2, with one row as far as its holder
ROW = b"\2\x84\0\0\0\1\0" + bytes(4) + b"\4\0free" + bytes(4)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "message too short"),
        (b"\1\1\0\0", "unknown kind of reply: 1"),
        (b"\1\xff\0\0", "unknown kind of reply: 255"),
        (b"\1\x81\0\0\0", "message too long"),
        (b"\1\x88\0\0" + bytes(5), "unknown kind of reply: 136"),
        (b"\1\x89\0\0" + bytes(6), "unknown kind of reply: 137"),
        (b"\2\x8a\0\0", "unknown kind of reply: 138"),
        (b"\2\x81\0\0\0" + bytes(15), "message too short"),
        (ROW + b"\0\0\1\0\0", "a copy that nobody keeps"),
        (ROW + b"\0\0\0\1" + struct.pack("<BQ", wire.KEPT, 2**37), "a moment out of range"),
        (ROW + b"\1" + struct.pack("<IId", 1000, 0x80000000, 0) + bytes(9), "a pid out of range"),
        (b"\2\x84\0\0\0\1\0" + bytes(14), "a port without a state"),
        (b"\1\x84\0\0\0\1\0" + bytes(4) + b"\2\0, " + bytes(5), "a port without a state"),
        (b"\1\x85\0\0\2\0\0\0\0\0", "a flag is 0 or 1"),
        (b"\1\x84\0\0\2\0\0", "a flag is 0 or 1"),
        (b"\1\x86\0\0\6\2", "a flag is 0 or 1"),
        (b"\1\x83\0\0\0\0\xff", "a flag is 0 or 1"),
        (b"\1\x84\0\0\0\1\0", "message too short"),
        (b"\1\x85\0\0\1\1\1\0\xff\0\0", "text is not UTF-8"),
        (b"\1\x85\0\0\1\1\3\0\xed\xa0\x80\0\0", "text is not UTF-8"),
    ],
)
def test_a_bad_reply_is_named_for_what_is_wrong_with_it(data: bytes, why: str) -> None:
    with pytest.raises(Malformed) as caught:
        asking.decode_reply(data)
    assert str(caught.value) == why


@pytest.mark.parametrize("since", [math.nan, math.inf, -math.inf, -1.0, 2.0**37, 1e300])
def test_no_moment_that_no_calendar_has_crosses_the_wire(since: float) -> None:
    """A lock file's date is whatever its owner set; people's clocks must not break on it."""
    odd = wire.encode_reply(Refused(1, "", Holder(since=since)), 1)
    told = asking.decode_reply(odd)
    assert isinstance(told, Refused) and told.holder is not None
    assert told.holder.since is None
    forged = odd[:15] + struct.pack("<d", since) + odd[23:]
    with pytest.raises(Malformed, match="a moment out of range"):
        asking.decode_reply(forged)


# sizes


def test_a_request_of_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    fixed = len(asking.encode_request(Open("")))
    largest = asking.encode_request(Open("x" * (wire.MAX_REQUEST - fixed)))
    assert isinstance(wire.decode_request(largest), Open)
    with pytest.raises(Malformed, match="message too long"):
        wire.decode_request(largest + b"x")


@pytest.mark.parametrize(
    "request_",
    [
        Check("x" * wire.MAX_NAME, 1, (0xFFFFFFFF,) * wire.MAX_GROUPS),
        List(0xFFFFFFFF, 3, ("x" * wire.MAX_NAME,) * wire.MAX_NAMES),
        Open("x" * wire.MAX_NAME, 1, 2, 3, 255, SESSION, "\U0001f600" * wire.MAX_LABEL),
    ],
)
def test_the_largest_request_of_each_kind_fits(request_: wire.Request) -> None:
    whole = asking.encode_request(request_)
    assert len(whole) <= wire.MAX_REQUEST
    assert wire.decode_request(whole) == request_


def test_of_more_copies_than_a_row_has_room_for_the_first_are_told() -> None:
    one = bob.replace(program="\\x1b" * 15, label="\U0001f600" * wire.MAX_LABEL)
    row = PortInfo("a" * wire.MAX_NAME, "/d" * 2048, "free", "r" * 4096, copies=(one,) * 300)
    data = wire.encode_reply(Ports((row,)))
    assert len(data) <= wire.MAX_REPLY
    told = asking.decode_reply(data)
    assert told == Ports((row.replace(copies=(one,) * wire.MAX_COPIES),))


def test_the_longest_wait_fits_and_is_not_the_last_number() -> None:
    assert abs(asking.MAX_WAIT * 1000 - 0xFFFFFFFE) < 0.01
    assert wire.decode_request(asking.encode_request(Open("a", 0xFFFFFFFE))) == Open(
        "a", 0xFFFFFFFE
    )


@given(st.text(min_size=1, max_size=3).map(lambda part: part * 30_000))
@settings(deadline=None, max_examples=20)
def test_a_text_too_long_is_cut_and_still_a_text(long: str) -> None:
    told = asking.decode_reply(wire.encode_reply(Refused(1, long)))
    assert isinstance(told, Refused)
    clean = long.encode("utf-8", "replace").decode()
    assert clean.startswith(told.cause)
    assert len(told.cause.encode()) in range(0xFFFF - 3, 0x10000) or told.cause == clean


# names


@given(names)
@settings(deadline=None)
def test_every_name_of_the_grammar_is_valid(name: str) -> None:
    assert wire.valid_name(name)


@given(
    st.text(max_size=70) | st.text(string.ascii_letters + string.digits + "_-. /\n", max_size=70)
)
@settings(deadline=None, max_examples=300)
def test_a_name_is_valid_exactly_if_the_grammar_says_so(name: str) -> None:
    assert wire.valid_name(name) == (GRAMMAR.fullmatch(name) is not None)


@given(names, st.characters(), st.data())
@settings(deadline=None)
def test_one_strange_character_anywhere_spoils_a_name(
    name: str, strange: str, data: st.DataObject
) -> None:
    assume(strange not in string.ascii_letters + string.digits + "_-")
    at = data.draw(st.integers(0, len(name)))
    assert not wire.valid_name(name[:at] + strange + name[at:])


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "ttyS0 ", " ttyS0", "ttyS0\n", "\nttyS0", "ttyS0\0", "\0", "tty\0S0", "ttyS0\t",
        "/", ".", "..", "/dev/ttyS0", "../ttyS0", "ttyS0/", "ttyS0/..", "ttyS0/../../etc/shadow",
        "ttyS0\\", "ttyS.0", "tty*", "tty?", "[t]tyS0", "tty~", "$HOME", "`id`", "ttyS0;id",
        "0ttyS", "_ttyS0", "-ttyS0", "-", "_", "9",
        "ttyS\u0660", "ttyS\u00b2", "ttyS\uff10", "\uff54tyS0", "ttyS0\u00e9", "\u0430tty",
        "ttyS0\u200b", "ttyS0\u2028", "ttyS0\x85", "ttyS0\x7f", "\udcffttyS0", "ttyS\udc80",
        "a" * 65, "a" * (1 << 20), "t" * 64 + "\n",
    ],
)  # fmt: skip
def test_nastiness_is_no_name(name: str) -> None:
    assert not wire.valid_name(name)


@pytest.mark.parametrize("name", ["ttyS0", "a", "Z", "a-", "a_", "a" * 64, "gps-roof_2", "ttyACM1"])
def test_plain_names_are_names(name: str) -> None:
    assert wire.valid_name(name)


# values

VALUES = REQUESTS | REPLIES | HOLDERS | PORTS


@given(VALUES, VALUES)
@settings(deadline=None)
def test_values_are_equal_by_kind_and_fields_and_hash_alike(one: object, other: object) -> None:
    same = type(one) is type(other) and repr(one) == repr(other)
    assert (one == other) == same
    if one == other:
        assert hash(one) == hash(other)


def test_values_show_their_fields() -> None:
    assert repr(Revoke("a", 2)) == "Revoke(name='a', hold=2)"
    assert Open("a") != "a"
    assert Revoke(name="a") == Revoke("a", 0) != Revoke("a", 1)


def test_a_value_with_another_field_is_another_value() -> None:
    one = Revoke("a", 1)
    assert one.replace(hold=2) == Revoke("a", 2)
    assert one == Revoke("a", 1)
    with pytest.raises(TypeError, match="Revoke has the fields"):
        one.replace(held=2)


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ((), {}),
        (("a", 1, 2), {}),
        (("a",), {"name": "b"}),
        (("a",), {"held": 1}),
        ((), {"hold": 1}),
    ],
)
def test_a_value_has_its_fields_and_no_others(
    values: tuple[object, ...], fields: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match="Revoke has the fields"):
        Revoke(*values, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        (Refused(2, "no such port"), "gps: no such port"),
        (Refused(2, "no such port", None, "see: ls"), "gps: no such port; see: ls"),
        (Refused(16, "busy", Holder(7)), "gps: busy: held by uid 7"),
        (Refused(16, "busy", Holder(7), "wait"), "gps: busy: held by uid 7; wait"),
    ],
)
def test_a_refusal_reads_as_name_cause_holder_and_advice(refused: Refused, line: str) -> None:
    assert refused.message("gps") == line
    assert refused.message() == line.removeprefix("gps: ")


@pytest.mark.parametrize(
    ("holder", "shown"),
    [
        (Holder(1000, "ann", 42, "picocom", 1.0), "ann (uid 1000) with picocom (pid 42)"),
        (Holder(1000, "", 42), "uid 1000 (pid 42)"),
        (Holder(), "somebody"),
        (Holder(pid=7, program="cu", how="lock file"), "somebody with cu (pid 7), by lock file"),
        (Holder(0, "root", how="flock"), "root (uid 0), by flock"),
        (Holder(how="exclusive"), "a program that set it exclusive"),
        (Holder(0, "root", label="night test"), "root (uid 0) for 'night test'"),
    ],
)
def test_a_holder_reads_as_a_person_would_say_it(holder: Holder, shown: str) -> None:
    assert str(holder) == shown


@given(st.lists(ports, max_size=5), st.sampled_from(wire.VERSIONS))
@settings(deadline=None)
def test_the_size_of_a_port_is_what_it_adds_to_a_message(
    rows: list[Sent[PortInfo]], version: int
) -> None:
    found = [row for row, _ in rows]
    empty = len(wire.encode_reply(Ports(()), version))
    whole = len(wire.encode_reply(Ports(tuple(found)), version))
    assert whole - empty == sum(wire.size_of(row, version) for row in found)


@pytest.mark.parametrize("label", ["", "place p1, alice@client", "Gerät", "x" * wire.MAX_LABEL])
def test_a_label_that_can_be_shown_is_one(label: str) -> None:
    assert asking.valid_label(label)


@pytest.mark.parametrize("label", ["x" * (wire.MAX_LABEL + 1), "a\0", "a\nb", "\x1b[2J", "\u202e"])
def test_a_label_that_cannot_be_shown_is_none(label: str) -> None:
    assert not asking.valid_label(label)


@pytest.mark.parametrize(
    ("left", "said"),
    [(4700, "gps: the lease ends in 5 s: max_lease"), (0, "gps: the lease ends now: max_lease")],
)
def test_the_end_of_a_lease_is_said_in_seconds(left: int, said: str) -> None:
    assert asking.warning("gps", Ending(left, "max_lease")) == said
