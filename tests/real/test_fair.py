"""Nobody slows another or keeps others out; nothing that a client does ends the root process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

import pytest

from support.children import Chat, as_user
from support.daemon import Daemon
from support.processes import descriptors
from support.raw import connect, opening, others_are_served, refusal
from support.rig import Rig
from support.users import ALICE, BOB, CAROL
from ttybroker import client, open_fd

pytestmark = pytest.mark.root

PLACES = "from ttybrokerd.root import clients; clients.CLIENTS, clients.RESERVE = {}, {}"


def connected(rig: Rig, daemon: Daemon) -> int:
    """How many connections the daemon has, when all that came until now are accepted or refused."""
    with client.connect(str(rig.socket)) as connection:
        connection.check("ttyS0")
        now = descriptors(daemon.pid)
        return sum("socket:" in what for n, what in now.items() if n not in daemon.baseline) - 1


def crowd(rig: Rig, uid: int, count: int, first: bytes = b"") -> None:
    """Another user keeps so many connections; on each it has sent `first` before it makes the next,
    or that one might take the place of this one."""

    def body(chat: Chat) -> None:
        socks = []
        for _ in range(count):
            socks.append(connect(rig))
            with contextlib.suppress(BrokenPipeError):  # refused already
                if first:
                    socks[-1].send(first)
        chat.say()
        chat.hear()

    rig.child(uid, body).hear()


def test_when_all_places_are_busy_others_are_refused_and_not_root(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon(hook=PLACES.format(24, 4))
    rig.holder(BOB)
    crowd(rig, ALICE, 19, opening("ttyS0", wait=60_000))
    crowd(rig, CAROL, 5, opening("ttyS0", wait=60_000))
    reason = daemon.record("refuse", uid=CAROL).fields["reason"]
    assert "connected already" in reason
    for _ in range(4):
        os.close(open_fd("ttyS1", broker=str(rig.socket), wait=5))
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")
        assert connection.ports()


def test_idle_connections_give_way_and_no_others(rig: Rig) -> None:
    """The one with a lease stays, and the one that waits."""
    rig.port("ttyS0")
    rig.port("ttyS1")
    rig.port("ttyS2")
    rig.daemon(hook=PLACES.format(24, 4))

    def keep(chat: Chat) -> None:
        idle, fresh, leasing = (client.connect(str(rig.socket)) for _ in range(3))
        with idle, fresh, leasing:
            idle.check("ttyS0")
            descriptor = leasing.open("ttyS0")
            waiting = connect(rig)
            waiting.send(opening("ttyS0", wait=60_000))
            crowd = [connect(rig) for _ in range(10)]
            chat.say()
            chat.hear()
            kept = leasing.take_socket()
            assert leasing.check("ttyS0").allowed
            assert leasing.take_socket() is kept  # if that had ended, it would be another
            os.close(descriptor)
            data, descriptors, _, _ = socket.recv_fds(waiting, 4096, 1)
            assert data
            assert descriptors
            for gone in (idle, fresh):  # it is asked again, on a new connection and as before
                ended = gone.take_socket()
                assert gone.check("ttyS0").allowed
                assert gone.take_socket() is not ended
                gone.ports(details=True)  # which version 1 has not
            del crowd

    keeper = rig.child(ALICE, keep)
    keeper.hear()
    crowd(rig, BOB, 10)
    others_are_served(rig, "ttyS1", uid=CAROL)
    crowd(rig, CAROL, 12)
    others_are_served(rig, "ttyS2", uid=BOB)
    keeper.say()
    keeper.result()


def test_users_that_no_rule_allows_anything_share_their_places(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{BOB}, {CAROL}]")
    strangers = "from ttybrokerd.root import clients; clients.STRANGERS = 6"
    daemon = rig.daemon(hook=strangers)
    others = range(60_110, 60_120)
    for uid in others:
        crowd(rig, uid, 3)
    assert connected(rig, daemon) <= 6
    others_are_served(rig, "ttyS0", uid=BOB)
    crowd(rig, CAROL, 30)
    assert 30 <= connected(rig, daemon) <= 6 + 30


def test_a_stranger_is_told_why_even_when_another_took_all_places(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{BOB}]")
    rig.daemon()

    def ask() -> str:
        with connect(rig) as sock:
            sock.send(opening("ttyS0"))
            return refusal(sock).message()

    crowd(rig, ALICE, 255)
    crowd(rig, 60_110, 10)
    assert "no rule" in as_user(CAROL, (), ask)


def test_leases_and_connections_of_others_leave_descriptors_for_root(rig: Rig) -> None:
    """A user leases ports until there are no descriptors for more, another connects."""
    names = [f"ttyS{number}" for number in range(24)]
    for name in names:
        rig.port(name)
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))"
    daemon = rig.daemon(hook=few)

    def take_all(chat: Chat) -> None:
        numbers = []
        with client.connect(str(rig.socket)) as connection:
            for name in names:
                try:
                    taken = connection.open(name)
                except client.BrokerError as error:
                    numbers.append(error.errno)
            chat.say(numbers)
            chat.hear()
            del taken

    taker = rig.child(ALICE, take_all)
    numbers = taker.hear()
    assert numbers
    assert set(numbers) == {errno.EMFILE}
    crowd(rig, BOB, 60)
    assert connected(rig, daemon) > 1
    with client.connect(str(rig.socket)) as connection:
        assert len(connection.ports()) == len(names)
        connection.revoke("ttyS0")
        os.close(connection.open("ttyS0", wait=5))
