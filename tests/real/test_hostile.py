"""Clients that keep no rule. After each the others are served in time and nothing is left over
(the rig's end demands that)."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import struct
from collections.abc import Callable

import pytest

from support.children import Chat, as_user
from support.daemon import Daemon
from support.processes import descriptors
from support.raw import LIST, connect, last_words, opening, others_are_served
from support.rig import Rig
from support.users import ALICE, BOB
from ttybroker import BrokerError, InvalidName, asking, client, open_fd, wire

pytestmark = pytest.mark.root

NAMES = {
    "empty": b"",
    "slash": b"/",
    "path": b"/dev/ttyS0",
    "dot": b".",
    "parent": b"..",
    "parent of a port": b"../ttyS0",
    "shadow": b"ttyS0/../../etc/shadow",
    "NUL": b"ttyS0\0",
    "NUL inside": b"tty\0S0",
    "newline": b"ttyS0\n",
    "trailing space": b"ttyS0 ",
    "leading space": b" ttyS0",
    "digits of another script": "ttyS\u0660".encode(),
    "letters of another script": "\uff54tyS0".encode(),
    "not UTF-8": b"ttyS0\xff\xfe",
    "65 letters": b"t" * 65,
    "as long as may be": b"t" * (wire.MAX_REQUEST - 12),
    "dash first": b"-ttyS0",
    "digit first": b"0",
    "percent": b"%s%n",
    "escape": b"\x1b[2Jttyp0",
    "field": b'ttyS0 uid=0 user="root"',
}


def cut_off(rig: Rig, daemon: Daemon, send: Callable[[socket.socket], object], why: str) -> None:
    """What `send` sends is the end of that client, with this reason, and of nobody else."""

    def run() -> list[wire.Reply]:
        sock = connect(rig)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(sock)
        return last_words(sock)

    replies = as_user(ALICE, (), run)
    assert replies, "no last word"
    last = replies[-1]
    assert isinstance(last, wire.Refused) and last.errno == errno.EPROTO
    assert why in last.cause
    assert why in daemon.record("cut-off", uid=ALICE).fields["reason"]
    others_are_served(rig)


@pytest.mark.parametrize("version", wire.VERSIONS)
@pytest.mark.parametrize("kind", [wire.OPEN, wire.REVOKE, wire.CHECK])
def test_every_name_that_is_none_is_refused_and_the_connection_lives_on(
    rig: Rig, daemon: Daemon, version: int, kind: int
) -> None:
    before = {
        wire.OPEN: bytes(8 if version == 1 else 32),
        wire.REVOKE: bytes(0 if version == 1 else 4),
        wire.CHECK: struct.pack("<IH", wire.NOBODY, 0),
    }[kind]

    def run() -> None:
        sock = connect(rig)
        for what, name in NAMES.items():
            sock.send((struct.pack("<BBH", version, kind, 0) + before + name)[: wire.MAX_REQUEST])
            reply = asking.decode_reply(sock.recv(65536))
            assert isinstance(reply, wire.Refused), what
            assert (reply.errno, reply.holder) == (errno.EINVAL, None), what
            assert "not a port's name" in reply.cause, what
        sock.send(LIST)
        assert isinstance(asking.decode_reply(sock.recv(65536)), wire.Ports)

    as_user(ALICE, (), run)
    others_are_served(rig)
    assert all(line.count("\n") == 0 and line.isprintable() for line in daemon.output().split("\n"))


def test_the_client_refuses_such_names_itself(rig: Rig, daemon: Daemon) -> None:
    for name in [*(raw.decode("utf-8", "surrogateescape") for raw in NAMES.values()), "a" * 10**6]:
        with pytest.raises(InvalidName) as caught:
            open_fd(name, broker=str(rig.socket))
        assert caught.value.errno == errno.EINVAL and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "too short"),
        (b"\x01", "too short"),
        (LIST[:3], "too short"),
        (opening(b"")[:11], "too short"),
        (LIST + b"\0", "too long"),
        (opening(b"t" * 4096), "too long"),
        (opening(b"t" * 150_000), "too long"),
        (b"\x03" + LIST[1:], "version"),
        (b"\x02\x63\0\0", "unknown kind"),
        (b"\x02\x02\0\0" + bytes(4) + b"\4\0", "unknown flags"),
        (b"\x00" + LIST[1:], "version"),
        (b"\x01\x63\0\0", "unknown kind"),
        (b"\x01\x81\0\0", "unknown kind"),
        (b"\x01\x02\x01\0", "not zero"),
        (struct.pack("<BBHIH", 1, wire.CHECK, 0, 0, 257) + bytes(4 * 257), "too many groups"),
        (struct.pack("<BBHIH", 1, wire.CHECK, 0, 0, 9) + b"ttyS0", "too short"),
    ],
)
def test_a_broken_message_is_the_end_of_its_sender(
    rig: Rig, daemon: Daemon, message: bytes, why: str
) -> None:
    cut_off(rig, daemon, lambda sock: sock.send(message), why)


def test_a_daemon_is_no_peer_to_connect_through(rig: Rig, daemon: Daemon) -> None:
    def run() -> None:
        sock = connect(rig)
        sock.send(asking.encode_request(wire.Connect()))
        reply = asking.decode_reply(sock.recv(65536))
        assert isinstance(reply, wire.Refused)

    as_user(ALICE, (), run)


def test_a_client_that_never_reads_is_cut_off_and_delays_nobody(rig: Rig, daemon: Daemon) -> None:
    def run(chat: Chat) -> None:
        sock = connect(rig)
        sock.settimeout(10)
        try:
            for _ in range(100_000):
                sock.send(LIST)
        except (BrokenPipeError, ConnectionResetError):
            chat.say("it hung up")
        except TimeoutError:
            chat.say("it neither reads nor hangs up")
        chat.hear()

    child = rig.child(ALICE, run)
    others_are_served(rig)
    assert child.hear() == "it hung up"
    assert "does not read" in daemon.record("cut-off", uid=ALICE).fields["reason"]
    others_are_served(rig)
    child.say()


@pytest.mark.parametrize("piled", [False, True])
def test_a_thousand_waits_are_bounded_and_cost_nobody_else_anything(
    rig: Rig, daemon: Daemon, piled: bool
) -> None:
    holder = rig.holder(ALICE)

    def pile(chat: Chat) -> None:
        """All on one connection: they lie in its own socket."""
        sock = connect(rig)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                sock.send(opening(b"ttyS0", wait=60_000))
        chat.say({})
        chat.hear()

    def spread(chat: Chat) -> None:
        """As many connections as it gets."""
        answers: dict[int, int] = {}
        socks = []
        for _ in range(250):
            socks.append(connect(rig))
            socks[-1].send(opening(b"ttyS0", wait=60_000))
            socks[-1].send(opening(b"ttyS0", wait=60_000))
        for sock in socks:
            sock.settimeout(0)
        refused = 0
        while refused < 200:
            for sock in socks:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    reply = asking.decode_reply(sock.recv(65536))
                    assert isinstance(reply, wire.Refused)
                    answers[reply.errno] = answers.get(reply.errno, 0) + 1
                    refused += 1
        chat.say(answers)
        chat.hear()

    child = rig.child(ALICE, pile if piled else spread)
    answers = child.hear()
    assert set(answers) <= {errno.EDQUOT}
    others_are_served(rig)
    waiting = rig.holder(BOB, wait=30)  # in the same queue, behind those
    child.kill()
    holder.say()
    waiting.hear()
    waiting.say()
    waiting.result()


def test_300_connections_of_one_user_are_bounded(rig: Rig, daemon: Daemon) -> None:
    def run(chat: Chat) -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        socks = [connect(rig) for _ in range(300)]
        refused = 0
        for sock in socks:
            try:
                sock.send(LIST)
            except BrokenPipeError:
                pass
            replies = asking.decode_reply(sock.recv(65536)) if sock else None
            refused += isinstance(replies, wire.Refused) and replies.errno == errno.EDQUOT
        with pytest.raises(BrokerError) as caught:
            open_fd("ttyS0", broker=str(rig.socket))
        assert caught.value.errno == errno.EDQUOT and str(ALICE) in str(caught.value)
        chat.say(refused)
        chat.hear()
        return refused

    child = rig.child(ALICE, run)
    refused = child.hear(30)
    assert 0 < refused < 300
    assert len(descriptors(daemon.pid)) < 300
    others_are_served(rig)
    child.say()
    child.result()
    as_user(ALICE, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket))))


def test_a_half_closed_connection_holds_nothing(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(BOB)

    def run(chat: Chat) -> None:
        for message in (b"", opening(b"ttyS0", wait=60_000)):
            sock = connect(rig)
            if message:
                sock.send(message)
            sock.shutdown(socket.SHUT_WR)
            chat.say("half closed")
            chat.hear()
            del sock

    child = rig.child(ALICE, run)
    for _ in range(2):
        child.hear()
        others_are_served(rig)
        child.say()
    child.result()
    holder.say()
    holder.result()
    others_are_served(rig, "ttyS0")


def test_who_connects_and_leaves_at_once_leaves_nothing(rig: Rig, daemon: Daemon) -> None:
    def run() -> None:
        for number in range(500):
            sock = connect(rig)
            if number % 2:
                sock.send(opening(b"ttyS0", wait=1000 * (number % 4)))
            sock.close()

    as_user(ALICE, (), run)
    others_are_served(rig)
    others_are_served(rig, "ttyS0")


def test_a_broker_with_few_descriptors_has_few_clients_and_keeps_some_for_ports(rig: Rig) -> None:
    """More than one user's share, where the limit is lower than all shares together."""
    rig.port("ttyS0")
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))"
    daemon = rig.daemon(hook=few)

    def crowd(chat: Chat) -> None:
        socks = []
        for _ in range(100):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(str(rig.socket))
            socks.append(sock)
        chat.say()
        chat.hear()

    first = client.connect(str(rig.socket))
    first.check("ttyS0")
    child = rig.child(ALICE, crowd)
    child.hear()
    with client.connect(str(rig.socket)) as behind_them:
        behind_them.check("ttyS0")
    sockets = [what for what in descriptors(daemon.pid).values() if what.startswith("socket:")]
    assert len(sockets) <= 64 + 2  # the listener, and the way to systemd
    os.close(first.open("ttyS0"))
    first.close()
    child.say()
    child.wait()


def test_a_wait_for_longer_than_the_kernel_counts_ends_nobody(rig: Rig) -> None:
    """epoll_wait(2) takes an int of milliseconds: 24 days. The protocol has 49."""
    rig.port("ttyS0")
    rig.daemon()
    holder = rig.holder(BOB)
    waits = rig.holder(ALICE, wait=asking.MAX_WAIT)
    with client.connect(str(rig.socket)) as connection:
        while not connection.ports()[0].waiting:
            pass
        connection.ports()
    holder.say()
    holder.result()
    waits.hear()
    waits.say()
    waits.result()
