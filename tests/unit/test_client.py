"""The user side of the socket, against a broker that says whatever the test has it say."""

from __future__ import annotations

import errno
import math
import os
import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st

from ttybroker import client, wire
from ttybroker.client import Client, connect
from ttybroker.errors import (
    BrokerError,
    BrokerUnavailable,
    DeviceGone,
    InvalidName,
    NoSuchPort,
    NotPermitted,
    PortBusy,
    ProtocolError,
    WaitTimeout,
)
from unit.helpers import nothing_leaked

HOLDER = wire.Holder(4242, "", os.getpid(), "picocom", 5.0)
HELD = f"uid 4242 with picocom (pid {os.getpid()})"


class FakeBroker:
    """The other end: `says` puts an answer there before the question, `asked` reads the
    question."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def says(self, reply: wire.Reply | bytes, *descriptors: int) -> None:
        data = reply if isinstance(reply, bytes) else wire.encode_reply(reply)
        socket.send_fds(self.end, [data], list(descriptors))

    def asked(self) -> wire.Request:
        return wire.decode_request(self.end.recv(65536))


@pytest.fixture
def both(no_leak: None) -> Iterator[tuple[Client, FakeBroker]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    with theirs, Client(ours) as asker:
        yield asker, FakeBroker(theirs)


@pytest.fixture
def asker(both: tuple[Client, FakeBroker]) -> Client:
    return both[0]


@pytest.fixture
def broker(both: tuple[Client, FakeBroker]) -> FakeBroker:
    return both[1]


@pytest.fixture
def null(no_leak: None) -> Iterator[int]:
    """A descriptor that the broker may pass on."""
    descriptor = os.open("/dev/null", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


ASKS: list[Callable[[Client], object]] = [
    lambda asker: asker.open("ttyS0"),
    lambda asker: asker.ports(),
    lambda asker: asker.revoke("ttyS0"),
    lambda asker: asker.check("ttyS0"),
    lambda asker: asker.connection(),
    lambda asker: asker.status(),
]
KINDS = ["open", "ports", "revoke", "check", "connect", "status"]
every_ask = pytest.mark.parametrize("ask", ASKS, ids=KINDS)


# the answers that are


def test_what_is_granted_is_the_callers_and_is_not_inherited(
    asker: Client, broker: FakeBroker, null: int
) -> None:
    broker.says(wire.Grant(), null)
    descriptor = asker.open("ttyS0", wait=1.5, pid=7)
    assert broker.asked() == wire.Open("ttyS0", 1500, 7, os.getpid())
    assert os.fstat(descriptor).st_rdev == os.fstat(null).st_rdev
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_list_in_parts_is_one_list(asker: Client, broker: FakeBroker) -> None:
    rows = [wire.PortInfo(f"ttyS{n}", f"/dev/ttyS{n}", "free", "r") for n in range(3)]
    broker.says(wire.Ports((rows[0], rows[1]), more=True))
    broker.says(wire.Ports((rows[2],)))
    assert asker.ports() == rows
    assert [broker.asked(), broker.asked()] == [wire.List(0), wire.List(2)]


def test_a_list_that_gets_no_further_is_a_broken_broker(asker: Client, broker: FakeBroker) -> None:
    broker.says(wire.Ports((), more=True))
    with pytest.raises(ProtocolError):
        asker.ports()


def test_a_second_descriptor_is_refused_and_none_stays(
    asker: Client, broker: FakeBroker, null: int
) -> None:
    for count in (2, 3, 100):
        before = len(os.listdir("/proc/self/fd"))
        broker.says(wire.Grant(), *[null] * count)
        with pytest.raises(ProtocolError):
            asker.open("ttyS0")
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_connection_that_is_no_socket_is_refused_and_not_kept(
    asker: Client, broker: FakeBroker, null: int
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    broker.says(wire.Grant(), null)
    with pytest.raises(ProtocolError):
        asker.connection()
    assert len(os.listdir("/proc/self/fd")) == before


def test_revoke_and_check_ask_and_answer(asker: Client, broker: FakeBroker) -> None:
    broker.says(wire.Done())
    asker.revoke("gps")
    assert broker.asked() == wire.Revoke("gps")
    verdict = wire.Verdict(True, True, "ttyS* (line 3)", "allowed")
    broker.says(verdict)
    assert asker.check("ttyS0", uid=5, groups=(1, 2)) == verdict
    assert broker.asked() == wire.Check("ttyS0", 5, (1, 2))


def test_who_says_how_the_broker_is_confined_is_the_kernels_word(
    asker: Client, broker: FakeBroker
) -> None:
    answered = threading.Thread(
        target=lambda: (broker.asked(), broker.says(wire.Running(6, False)))
    )
    answered.start()
    assert asker.status() == (os.getpid(), wire.Running(6, False))
    answered.join()
    broker.says(wire.Done())  # and nothing of it stays on the socket
    asker.revoke("ttyS0")


def test_a_further_connection_is_one(asker: Client, broker: FakeBroker) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        broker.says(wire.Grant(), ours.fileno())
        with asker.connection() as further:
            assert not os.get_inheritable(further.fileno())
            FakeBroker(theirs).says(wire.Done())
            further.revoke("gps")
    assert broker.asked() == wire.Connect()


# refusals


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EINVAL, InvalidName),
        (errno.ENOENT, NoSuchPort),
        (errno.EACCES, NotPermitted),
        (errno.EBUSY, PortBusy),
        (errno.ENODEV, DeviceGone),
        (errno.EIO, DeviceGone),
        (errno.ETIMEDOUT, WaitTimeout),
        (errno.ECONNREFUSED, BrokerUnavailable),
        (errno.EPROTO, ProtocolError),
        (errno.EDQUOT, BrokerError),
        (errno.ESRCH, BrokerError),
        (0, BrokerError),
    ],
)
@every_ask
def test_a_refusal_is_raised_by_its_cause_with_errno_message_and_holder(
    asker: Client,
    broker: FakeBroker,
    ask: Callable[[Client], object],
    number: int,
    kind: type[BrokerError],
) -> None:
    broker.says(wire.Refused(number, "no", HOLDER, "leave it"))
    with pytest.raises(BrokerError) as caught:
        ask(asker)
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, serial.SerialException)
    assert isinstance(error, OSError)
    assert (error.errno, error.holder) == (number, HOLDER)
    assert str(error).removeprefix("ttyS0: ") == f"no: held by {HELD}; leave it"


# a broker that is none


@pytest.mark.parametrize(
    "data",
    [
        b"\1", b"\1\x81\0", b"\1\x81\0\0x", b"\2\x81\0\0", b"\1\x81\1\0", b"\1\1\0\0", b"HTTP/1.1",
        b"\0" * 100, b"\1\x83\0\0\x10", wire.encode_reply(wire.Done()) + b"\0",
        b"\1\x84\0\0\0\xff\xff" + b"\0" * 65000, b"x" * 65536, b"x" * 65537, b"x" * 100_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("beside", [0, 1])
@every_ask
def test_an_answer_that_is_no_message_is_a_protocol_error_and_leaves_nothing(
    asker: Client,
    broker: FakeBroker,
    null: int,
    ask: Callable[[Client], object],
    data: bytes,
    beside: int,
) -> None:
    with nothing_leaked():
        broker.says(data, *[null] * beside)
        with pytest.raises(ProtocolError) as caught:
            ask(asker)
        assert caught.value.errno == errno.EPROTO


def test_the_largest_answer_is_read_and_one_cut_by_the_kernel_is_not(
    asker: Client, broker: FakeBroker
) -> None:
    verdict = wire.Verdict(True, True, "r" * 60_000, "m" * (wire.MAX_REPLY - 60_010))
    whole = wire.encode_reply(verdict)
    assert len(whole) == wire.MAX_REPLY
    broker.says(whole)
    assert asker.check("ttyS0") == verdict
    broker.says(whole + b"x")
    with pytest.raises(ProtocolError, match="too large"):
        asker.check("ttyS0")


WRONG: list[wire.Reply] = [
    wire.Grant(), wire.Done(), wire.Ports(()), wire.Verdict(True, True, "", ""),
]  # fmt: skip
RIGHT = {0: wire.Grant, 1: wire.Ports, 2: wire.Done, 3: wire.Verdict, 4: wire.Grant,
         5: wire.Running}  # fmt: skip


@pytest.mark.parametrize(
    ("number", "reply"),
    [(n, r) for n in range(6) for r in WRONG if not isinstance(r, RIGHT[n]) or n in (0, 4)],
)
@pytest.mark.parametrize("beside", [0, 1])
def test_an_answer_to_another_question_is_a_protocol_error_and_leaves_nothing(
    asker: Client, broker: FakeBroker, null: int, number: int, reply: wire.Reply, beside: int
) -> None:
    if isinstance(reply, wire.Grant) and isinstance(reply, RIGHT[number]) and beside:
        beside = 0  # a grant with nothing beside it is what is wrong here
    with nothing_leaked():
        broker.says(reply, *[null] * beside)
        with pytest.raises(ProtocolError, match="; is it ttybrokerd that listens there\\? see: "):
            ASKS[number](asker)


def test_a_refusal_with_a_descriptor_beside_it_leaves_nothing(
    asker: Client, broker: FakeBroker, null: int
) -> None:
    for ask in ASKS:
        with nothing_leaked():
            broker.says(wire.Refused(errno.EBUSY, "busy"), null)
            with pytest.raises((PortBusy, ProtocolError)):
                ask(asker)


@every_ask
def test_a_broker_that_went_away_is_unavailable(
    asker: Client, broker: FakeBroker, ask: Callable[[Client], object]
) -> None:
    broker.end.close()
    with pytest.raises(BrokerUnavailable, match="see: systemctl status ttybroker") as caught:
        ask(asker)
    assert caught.value.errno == errno.ECONNREFUSED


def test_the_last_word_of_a_broker_that_cut_us_off_is_heard(
    asker: Client, broker: FakeBroker
) -> None:
    broker.says(wire.Refused(errno.EPROTO, "cut off: it sent descriptors along"))
    broker.end.close()
    with pytest.raises(ProtocolError, match="cut off: it sent descriptors along"):
        asker.open("ttyS0")


def test_the_last_word_is_heard_after_a_reset_too(asker: Client, broker: FakeBroker) -> None:
    """A broker that closes with our request unread resets the connection: unix(7)."""
    asker.ask_open("ttyS0")
    broker.says(wire.Refused(errno.EDQUOT, "too many clients"))
    broker.end.close()
    with pytest.raises(BrokerError, match="too many clients"):
        asker.take_descriptor()


def test_a_socket_that_fails_is_a_broker_unavailable(asker: Client) -> None:
    asker.close()
    for ask in ASKS:
        with pytest.raises(BrokerUnavailable, match="Bad file descriptor"):
            ask(asker)
    with pytest.raises(BrokerUnavailable, match="Bad file descriptor"):
        asker.take_descriptor()


def test_an_end_in_the_midst_of_a_list_is_told(asker: Client, broker: FakeBroker) -> None:
    broker.says(wire.Ports((wire.PortInfo("gps", "/dev/x", "free", "r"),), more=True))
    broker.end.close()
    with pytest.raises(BrokerUnavailable):
        asker.ports()


# what is asked


@pytest.mark.parametrize("name", ["", "/dev/ttyS0", "ttyS0\n", "a" * 65, "ttyS\u0660", "x" * 10**6])
@pytest.mark.parametrize("ask", [Client.open, Client.revoke, Client.check])
def test_a_name_that_is_none_is_refused_here_and_shown_short(
    asker: Client, broker: FakeBroker, ask: Callable[[Client, str], object], name: str
) -> None:
    with pytest.raises(InvalidName) as caught:
        ask(asker, name)
    assert caught.value.errno == errno.EINVAL
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    broker.end.setblocking(False)
    with pytest.raises(BlockingIOError):
        broker.end.recv(1)


@pytest.mark.parametrize(
    ("wait", "milliseconds"),
    [
        (None, 0), (0, 0), (0.0, 0), (-0.0, 0), (0.0001, 1), (1e-300, 1), (0.001, 1), (0.0011, 2),
        (1, 1000), (1.5, 1500), (10.0, 10_000), (4294967.294, 0xFFFFFFFE), (4294968, 0xFFFFFFFE),
        (1e300, 0xFFFFFFFE), (math.inf, 0xFFFFFFFE), (10**400, 0xFFFFFFFE),
    ],
)  # fmt: skip
def test_a_wait_is_rounded_up_to_milliseconds_and_never_to_none(
    asker: Client, broker: FakeBroker, wait: float | None, milliseconds: int
) -> None:
    asker.ask_open("ttyS0", wait=wait)
    assert broker.asked() == wire.Open("ttyS0", milliseconds, 0, os.getpid())


@given(st.floats(0, exclude_min=True))
@settings(deadline=None)
def test_who_waits_at_all_waits_at_least_as_long_as_it_said(wait: float) -> None:
    rounded = client._milliseconds(wait)
    assert 1 <= rounded <= 0xFFFFFFFE
    assert rounded == 0xFFFFFFFE or wait * 1000 <= rounded < wait * 1000 + 1.001


@pytest.mark.parametrize("wait", [-1, -0.001, -math.inf, math.nan])
def test_a_wait_that_is_no_time_is_a_value_error(asker: Client, wait: float) -> None:
    with pytest.raises(ValueError, match="wait must be a number of seconds"):
        asker.open("ttyS0", wait=wait)


@pytest.mark.parametrize(
    ("name", "wait", "told"),
    [
        (b"ttyS0", None, "a port is meant by its name"),
        (pathlib.Path("ttyS0"), None, "a port is meant by its name"),
        (None, None, "a port is meant by its name"),
        (5, None, "a port is meant by its name"),
        ("ttyS0", "1", "wait must be a number of seconds"),
        ("ttyS0", b"1", "wait must be a number of seconds"),
        ("ttyS0", "", "wait must be a number of seconds"),
        ("ttyS0", [1], "wait must be a number of seconds"),
    ],
)
def test_what_is_of_another_type_is_a_type_error_that_says_so(
    asker: Client, name: Any, wait: Any, told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        asker.open(name, wait=wait)
    with pytest.raises(TypeError, match="a label must be a string, not b'x'"):
        connect(label=b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize("wait", [Decimal("1.5"), Fraction(3, 2), 1.5])
def test_a_wait_may_be_any_number(asker: Client, broker: FakeBroker, wait: Any) -> None:
    broker.says(wire.Refused(errno.ETIMEDOUT, "timed out"))
    with pytest.raises(WaitTimeout):
        asker.open("ttyS0", wait=wait)
    request = broker.asked()
    assert isinstance(request, wire.Open) and request.wait == 1500


# where the broker is


@pytest.fixture
def listener(short: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(short)
        sock.listen()
        yield sock


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A path for a socket (108 bytes at most), and nothing in the environment."""
    monkeypatch.delenv(client.VARIABLE, raising=False)
    monkeypatch.setattr(client, "_pair", None)
    return str(tmp_path_factory.mktemp("s") / "s")


def test_the_path_given_comes_before_the_environments(
    listener: socket.socket, short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(client.VARIABLE, "/nowhere")
    with connect(short) as found:
        assert not os.get_inheritable(found.fileno())
    connect(pathlib.Path(short)).close()
    monkeypatch.setenv(client.VARIABLE, short)
    connect().close()


def test_without_a_broker_the_path_and_the_next_step_are_named(short: str) -> None:
    with nothing_leaked(), pytest.raises(BrokerUnavailable) as caught:
        connect(short)
    assert caught.value.errno == errno.ECONNREFUSED
    assert str(caught.value) == (
        f"no broker at {short}: No such file or directory; "
        "is ttybrokerd running? see: systemctl status ttybroker.socket"
    )


def test_a_socket_that_one_may_not_connect_to_is_told_so(
    short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(socket.socket):
        def connect(self, _: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    kept_out = SimpleNamespace(**{**vars(client.socket), "socket": Closed})
    monkeypatch.setattr(client, "socket", kept_out)
    with pytest.raises(BrokerUnavailable) as caught:
        connect(short)
    assert str(caught.value) == (
        f"no broker at {short}: Permission denied; "
        f"its mode or that of a directory keeps you out; see: namei -l {short}"
    )


def test_a_process_that_may_make_no_sockets_is_told_so(
    short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a unit with RestrictAddressFamilies=."""

    def refused(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    without = SimpleNamespace(**{**vars(client.socket), "socket": refused})
    monkeypatch.setattr(client, "socket", without)
    with pytest.raises(BrokerUnavailable, match="may this process make sockets") as caught:
        client._dial(short)
    assert str(caught.value).startswith(f"no broker at {short}: Address family not supported")


def test_a_closed_socket_to_the_broker_is_a_broker_unavailable() -> None:
    closed = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    closed.close()
    with pytest.raises(BrokerUnavailable, match="Bad file descriptor; make another connection"):
        connect(closed)


def test_a_path_too_long_for_a_socket_is_no_broker() -> None:
    with nothing_leaked(), pytest.raises(BrokerUnavailable):
        connect("/" + "x" * 200)


def test_a_connected_socket_stays_the_callers(asker: Client, broker: FakeBroker) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        with connect(ours) as found:
            FakeBroker(theirs).says(wire.Done())
            found.revoke("gps")
        FakeBroker(theirs).says(wire.Done())
        with connect(ours) as again:
            again.revoke("gps")


def test_the_pair_of_a_forked_backend_is_not_its_childrens(
    asker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_pair", asker)
    monkeypatch.setattr(client, "_pair_pid", os.getppid())
    with pytest.raises(BrokerUnavailable, match="not to its forked child"):
        connect()


def test_without_a_backend_there_is_no_connection_for_a_child(short: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"no backend of init_backend\(\)"):
        client.connection_for_child()


def test_a_setuid_program_says_its_effective_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client._credentials() == []
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    ((level, kind, raw),) = client._credentials()
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    assert struct.unpack("iII", raw) == (os.getpid(), os.getuid() + 1, os.getegid())


def test_threads_get_each_their_own_connection_to_a_forked_backend(
    asker: Client, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_pair", asker)
    monkeypatch.setattr(client, "_pair_pid", os.getpid())
    found: list[Client] = []
    threads = [threading.Thread(target=lambda: found.append(connect())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert broker.asked() == wire.Connect()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            broker.says(wire.Grant(), ours.fileno())
    for thread in threads:
        thread.join()
    assert len({one.fileno() for one in found}) == 4
    for one in found:
        one.close()
