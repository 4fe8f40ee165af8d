"""The protocol's bytes.

All branches of the module, without a socket:
    pytest tests/unit/test_wire.py --cov=ttybroker.wire --cov-branch --cov-fail-under=100
"""

from __future__ import annotations

import errno
import math
import re
import string
import struct

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ttybroker import wire
from ttybroker.wire import (
    Check,
    Connect,
    Done,
    Grant,
    Holder,
    List,
    Malformed,
    Open,
    Port,
    Ports,
    Refused,
    Revoke,
    Running,
    Status,
    Verdict,
    Waiting,
)

GRAMMAR = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
uids = st.none() | st.integers(0, 0xFFFFFFFE)
pids = st.none() | st.integers(1, 0xFFFFFFFF)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.from_regex(GRAMMAR, fullmatch=True)
any_names = names | st.binary(max_size=80).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
moments = st.none() | st.floats(0, 2.0**37, exclude_min=True, exclude_max=True)
holders = st.builds(Holder, uids, text, pids, text, moments, text)
ports = st.builds(Port, text, text, text, text, u16, st.none() | holders)

requests = st.one_of(
    st.builds(Open, any_names, u32, u32),
    st.builds(List, st.integers(0, 2**32 - 1)),
    st.builds(Revoke, any_names),
    st.builds(Check, any_names, uids, st.lists(u32, max_size=wire.MAX_GROUPS).map(tuple)),
    st.just(Connect()),
    st.just(Status()),
)
replies = st.one_of(
    st.just(Grant()),
    st.just(Done()),
    st.builds(Refused, u16, text, st.none() | holders),
    st.builds(Ports, st.lists(ports, max_size=4).map(tuple), st.booleans()),
    st.builds(Verdict, st.booleans(), st.booleans(), text, text),
    st.builds(Running, st.integers(0, 255), st.booleans()),
    st.builds(Waiting, text),
)


def mutated(data: bytes, draw: st.DataObject) -> bytes:
    at = draw.draw(st.integers(0, 8 * len(data) - 1), label="bit")
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


# what goes in comes out


@given(requests)
@settings(deadline=None)
def test_every_request_comes_back_as_it_was(request: wire.Request) -> None:
    assert wire.decode_request(wire.encode_request(request)) == request


@given(replies)
@settings(deadline=None)
def test_every_reply_comes_back_as_it_was(reply: wire.Reply) -> None:
    assert wire.decode_reply(wire.encode_reply(reply)) == reply


@pytest.mark.parametrize(
    ("request_", "data"),
    [
        (Open("ttyS0"), b"\1\1\0\0" + b"\0\0\0\0" + b"\0\0\0\0" + b"ttyS0"),
        (Open("gps", 10_000, 1234), b"\1\1\0\0" + b"\x10\x27\0\0" + b"\xd2\4\0\0" + b"gps"),
        (List(), b"\1\2\0\0" + b"\0\0\0\0"),
        (List(300), b"\1\2\0\0" + b"\x2c\1\0\0"),
        (Revoke("ttyS0"), b"\1\3\0\0ttyS0"),
        (Check("ttyS0"), b"\1\4\0\0" + b"\xff\xff\xff\xff" + b"\0\0" + b"ttyS0"),
        (Check("a", 1, (20, 5)), b"\1\4\0\0\1\0\0\0\2\0" + b"\x14\0\0\0\5\0\0\0" + b"a"),
        (Connect(), b"\1\5\0\0"),
        (Status(), b"\1\6\0\0"),
    ],
)
def test_requests_have_the_bytes_that_the_protocol_says(
    request_: wire.Request, data: bytes
) -> None:
    assert wire.encode_request(request_) == data
    assert wire.decode_request(data) == request_


NOBODY = b"\1" + b"\xff\xff\xff\xff" + b"\0\0\0\0" + bytes(8)


@pytest.mark.parametrize(
    ("reply", "data"),
    [
        (Grant(), b"\1\x81\0\0"),
        (Done(), b"\1\x82\0\0"),
        (Refused(errno.EACCES, "no"), b"\1\x83\0\0" + b"\x0d\0" + b"\0" + b"\2\0no"),
        (
            Refused(errno.EBUSY, "", Holder(7, "bob", 9, "cu", 2.0, "lease")),
            b"\1\x83\0\0" + b"\x10\0" + b"\1\7\0\0\0\x09\0\0\0" + struct.pack("<d", 2)
            + b"\3\0bob" + b"\2\0cu" + b"\5\0lease" + b"\0\0",
        ),
        (Ports(()), b"\1\x84\0\0" + b"\0\0\0"),
        (
            Ports((Port("a", "/d", "busy", "r", 3, Holder(how="")),), more=True),
            b"\1\x84\0\0" + b"\1\1\0" + b"\1\0a\2\0/d\4\0busy\1\0r" + b"\3\0" + NOBODY + bytes(6),
        ),
        (Running(6, False), b"\1\x86\0\0\6\0"),
        (Waiting("soon"), b"\1\x87\0\0\4\0soon"),
        (Verdict(True, False, "r", "é"), b"\1\x85\0\0" + b"\1\0" + b"\1\0r" + b"\2\0\xc3\xa9"),
    ],
)  # fmt: skip
def test_replies_have_the_bytes_that_the_protocol_says(reply: wire.Reply, data: bytes) -> None:
    assert wire.encode_reply(reply) == data
    assert wire.decode_reply(data) == reply


# what is not a message is Malformed, and nothing else happens


@given(replies, st.data())
@settings(deadline=None)
def test_no_reply_cut_short_is_a_reply(reply: wire.Reply, data: st.DataObject) -> None:
    whole = wire.encode_reply(reply)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Malformed):
        wire.decode_reply(whole[:end])


@given(replies, st.binary(min_size=1, max_size=70_000))
@settings(deadline=None, max_examples=50)
def test_no_reply_with_anything_after_it_is_a_reply(reply: wire.Reply, more: bytes) -> None:
    with pytest.raises(Malformed):
        wire.decode_reply(wire.encode_reply(reply) + more)


@given(requests, st.data())
@settings(deadline=None)
def test_no_request_cut_short_within_its_fixed_part_is_a_request(
    request: wire.Request, data: st.DataObject
) -> None:
    whole = wire.encode_request(request)
    name = wire._bytes(getattr(request, "name", ""))
    end = data.draw(st.integers(0, len(whole) - len(name) - 1))
    with pytest.raises(Malformed):
        wire.decode_request(whole[:end])


@given(st.builds(Open, any_names, u32, u32) | st.builds(Revoke, any_names), st.binary(max_size=80))
@settings(deadline=None)
def test_bytes_after_a_name_are_part_of_the_name_and_of_nothing_else(
    request: Open | Revoke, more: bytes
) -> None:
    longer = wire.decode_request(wire.encode_request(request) + more)
    assert isinstance(longer, Open | Revoke)
    assert wire._bytes(longer.name) == wire._bytes(request.name) + more


@pytest.mark.parametrize("request_", [List(), Connect(), Status()])
@given(more=st.binary(min_size=1, max_size=80))
@settings(deadline=None, max_examples=30)
def test_nothing_may_follow_a_request_without_a_name(request_: wire.Request, more: bytes) -> None:
    with pytest.raises(Malformed, match="message too long"):
        wire.decode_request(wire.encode_request(request_) + more)


@given(requests, st.data())
@settings(deadline=None)
def test_a_flipped_bit_makes_another_request_or_is_malformed(
    request: wire.Request, data: st.DataObject
) -> None:
    flipped = mutated(wire.encode_request(request), data)
    try:
        other = wire.decode_request(flipped)
    except Malformed:
        return
    assert other != request
    assert wire.encode_request(other) == flipped


@given(replies, st.data())
@settings(deadline=None)
def test_a_flipped_bit_makes_another_reply_or_is_malformed(
    reply: wire.Reply, data: st.DataObject
) -> None:
    flipped = mutated(wire.encode_reply(reply), data)
    try:
        other = wire.decode_reply(flipped)
    except Malformed:
        return
    assert wire.decode_reply(wire.encode_reply(other)) == other


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_arbitrary_bytes_are_a_request_in_its_one_form_or_malformed(data: bytes) -> None:
    for raw in (data, b"\1" + data[:1] + b"\0\0" + data[1:]):
        try:
            assert wire.encode_request(wire.decode_request(raw)) == raw
        except Malformed:
            continue


@given(st.sampled_from([wire.GRANT, wire.DONE, wire.REFUSED, wire.PORTS, wire.VERDICT]),
       st.binary(max_size=200))  # fmt: skip
@settings(deadline=None)
def test_arbitrary_bytes_are_a_reply_or_malformed(kind: int, data: bytes) -> None:
    for raw in (data, bytes([1, kind, 0, 0]) + data):
        try:
            reply = wire.decode_reply(raw)
        except Malformed:
            continue
        assert wire.decode_reply(wire.encode_reply(reply)) == reply


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "message too short"),
        (b"\1\2\0", "message too short"),
        (b"\0\2\0\0", "protocol version 0, not 1"),
        (b"\2\2\0\0", "protocol version 2, not 1"),
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
    ],
)
def test_a_bad_request_is_named_for_what_is_wrong_with_it(data: bytes, why: str) -> None:
    with pytest.raises(Malformed) as caught:
        wire.decode_request(data)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "message too short"),
        (b"\1\1\0\0", "unknown kind of reply: 1"),
        (b"\1\xff\0\0", "unknown kind of reply: 255"),
        (b"\1\x81\0\0\0", "message too long"),
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
        wire.decode_reply(data)
    assert str(caught.value) == why


@pytest.mark.parametrize("since", [math.nan, math.inf, -math.inf, -1.0, 2.0**37, 1e300])
def test_no_moment_that_no_calendar_has_crosses_the_wire(since: float) -> None:
    """A lock file's date is whatever its owner set; people's clocks must not break on it."""
    odd = wire.encode_reply(Refused(1, "", Holder(since=since)))
    told = wire.decode_reply(odd)
    assert isinstance(told, Refused) and told.holder is not None
    assert told.holder.since is None
    forged = odd[:15] + struct.pack("<d", since) + odd[23:]
    with pytest.raises(Malformed, match="a moment out of range"):
        wire.decode_reply(forged)


# sizes


def test_a_request_of_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    fixed = len(wire.encode_request(Open("")))
    largest = wire.encode_request(Open("x" * (wire.MAX_REQUEST - fixed)))
    assert isinstance(wire.decode_request(largest), Open)
    with pytest.raises(Malformed, match="message too long"):
        wire.decode_request(largest + b"x")


def test_the_largest_check_fits_into_a_request() -> None:
    whole = wire.encode_request(Check("x" * wire.MAX_NAME, 1, (0xFFFFFFFF,) * wire.MAX_GROUPS))
    assert len(whole) <= wire.MAX_REQUEST
    wire.decode_request(whole)


def test_the_longest_wait_fits_and_is_not_the_last_number() -> None:
    assert abs(wire.MAX_WAIT * 1000 - 0xFFFFFFFE) < 0.01
    assert wire.decode_request(wire.encode_request(Open("a", 0xFFFFFFFE))) == Open("a", 0xFFFFFFFE)


@given(st.text(min_size=1, max_size=3).map(lambda part: part * 30_000))
@settings(deadline=None, max_examples=20)
def test_a_text_too_long_is_cut_and_still_a_text(long: str) -> None:
    told = wire.decode_reply(wire.encode_reply(Refused(1, long)))
    assert isinstance(told, Refused)
    clean = long.encode("utf-8", "replace").decode()
    assert clean.startswith(told.message)
    assert len(told.message.encode()) in range(0xFFFF - 3, 0x10000) or told.message == clean


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


@given(requests | replies | holders | ports, requests | replies | holders | ports)
@settings(deadline=None)
def test_values_are_equal_by_kind_and_fields_and_hash_alike(one: object, other: object) -> None:
    same = type(one) is type(other) and repr(one) == repr(other)
    assert (one == other) == same
    if one == other:
        assert hash(one) == hash(other)


def test_values_show_their_fields() -> None:
    assert repr(Open("a", 2, 3)) == "Open('a', 3, 2)"
    assert Open("a") != "a"


@pytest.mark.parametrize(
    ("holder", "shown"),
    [
        (Holder(1000, "ann", 42, "picocom", 1.0), "ann (uid 1000) with picocom (pid 42)"),
        (Holder(1000, "", 42), "uid 1000 (pid 42)"),
        (Holder(), "somebody"),
        (Holder(pid=7, program="cu", how="lock file"), "somebody with cu (pid 7), by lock file"),
        (Holder(0, "root", how="flock"), "root (uid 0), by flock"),
    ],
)
def test_a_holder_reads_as_a_person_would_say_it(holder: Holder, shown: str) -> None:
    assert str(holder) == shown


@given(st.lists(ports, max_size=5))
@settings(deadline=None)
def test_the_size_of_a_port_is_what_it_adds_to_a_message(rows: list[Port]) -> None:
    empty = len(wire.encode_reply(Ports(())))
    whole = len(wire.encode_reply(Ports(tuple(rows))))
    assert whole - empty == sum(map(wire.size_of, rows))
