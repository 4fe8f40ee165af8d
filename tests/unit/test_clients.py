"""Connections: how many a turn of the loop accepts and serves, and what happens without means."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttybroker import asking, wire
from ttybrokerd.root import clients as limits
from ttybrokerd.root.answers import Answers
from ttybrokerd.root.clients import Clients
from ttybrokerd.root.loop import Loop
from ttybrokerd.root.peer import Identity

STATUS = asking.encode_request(wire.Status())


class Door:
    """Clients behind a socket, in this process; `served` are the requests, in order."""

    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        self.served: list[Any] = []
        self.said: list[str] = []
        self.room = True
        self.path = str(path)
        log: Any = lambda event, *_, **__: self.said.append(event)  # noqa: E731
        answers = Answers(log)
        self.clients = Clients(self.loop, answers, lambda client, _: self.served.append(client),
                               lambda _: None, lambda _: True, lambda: self.room)  # fmt: skip
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self.listener = socket.socket(socket.AF_UNIX, kind)
        self.listener.bind(self.path)
        self.listener.listen(128)
        self.clients.listen(self.listener)
        self.socks: list[socket.socket] = []

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.path)
        self.socks.append(sock)
        return sock

    def turn(self) -> None:
        """As server.py turns."""
        self.clients.tick()
        self.loop.turn(0)
        self.clients.serve()

    def close(self) -> None:
        for client in list(self.clients._all.values()):
            client.close()
        for sock in (*self.socks, self.listener):
            sock.close()
        self.loop.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "socket")
    yield made
    made.close()


def come_as(monkeypatch: pytest.MonkeyPatch, uids: Iterable[int]) -> None:
    """Let those who connect from now on be these users, in this order."""
    following = iter(uids)

    def next_one(_: socket.socket) -> Identity:
        uid = next(following)
        return Identity(uid, uid, frozenset((uid,)), 1)

    monkeypatch.setattr(limits.peer, "at_connect", next_one)


def test_a_turn_accepts_many_connections_and_not_all(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACCEPTS", 20)
    for _ in range(2 * limits.ACCEPTS):
        door.connect()
    door.turn()
    assert len(door.clients) == limits.ACCEPTS
    door.turn()
    assert len(door.clients) == 2 * limits.ACCEPTS


def test_without_memory_no_connection_is_accepted_and_each_request_is_refused(door: Door) -> None:
    sock = door.connect()
    door.turn()
    door.room = False
    late = door.connect()
    sock.send(STATUS)
    for _ in range(3):
        door.turn()
    assert (len(door.clients), door.served) == (1, [])
    assert sorted(door.said) == ["accept-failed", "refuse"]
    assert b"no memory is left" in sock.recv(4096)
    door.room = True
    late.send(STATUS)
    sock.send(STATUS)
    time.sleep(limits.PAUSE)
    for _ in range(3):
        door.turn()
    assert len(door.served) == 2


def test_a_request_that_finds_no_memory_is_the_end_of_its_connection_alone(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(door.clients, "_serve", fails)
        sock = door.connect()
        sock.send(STATUS)
        door.turn()
        door.turn()
    assert b"no memory is left" in sock.recv(4096)
    assert (len(door.clients), door.said) == (0, ["cut-off"])
    door.connect().send(STATUS)
    door.turn()
    door.turn()
    assert len(door.served) == 1


def test_news_that_were_lost_without_memory_are_heard_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each news is told once, so nobody tells of these again."""

    def fails(_: object) -> None:
        raise MemoryError

    asks, leaves = door.connect(), door.connect()
    door.turn()
    asks.send(STATUS)
    leaves.close()
    with monkeypatch.context() as patch:
        patch.setattr(door.clients._turns, "add", fails)
        with pytest.raises(MemoryError):
            door.loop.turn(0)
    door.turn()
    assert (len(door.clients), door.served) == (2, [])
    door.clients.listen_again()
    for _ in range(2):
        door.turn()
    assert (len(door.clients), len(door.served)) == (1, 1)


def test_a_turn_serves_a_bounded_number_of_requests(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURN", 60.0)  # the other bound, which a busy machine reaches first
    for _ in range(2 * limits.REQUESTS):
        door.connect().send(STATUS)
    for _ in range(10):
        door.loop.turn(0)  # accepted, and in line
    door.clients.serve()
    assert len(door.served) == limits.REQUESTS
    assert door.clients.eager
    door.clients.serve()
    assert len(door.served) == 2 * limits.REQUESTS
    assert not door.clients.eager


def test_a_request_behind_another_is_read_when_that_is_answered(door: Door) -> None:
    sock = door.connect()
    for _ in range(2):
        sock.send(STATUS)
    for _ in range(3):
        door.turn()
    assert len(door.served) == 1
    door.served[0].done()
    door.turn()
    assert len(door.served) == 2


def test_who_leaves_with_a_request_behind_another_is_gone_at_once(door: Door) -> None:
    sock = door.connect()
    for _ in range(2):
        sock.send(STATUS)
    for _ in range(3):
        door.turn()
    assert len(door.clients) == 1
    sock.close()
    door.turn()
    assert len(door.clients) == 0


def test_who_took_little_time_is_served_before_who_took_much(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    def serve(client: Any, _: wire.Request) -> None:
        clock[0] += 0.6 * limits.TURN
        door.served.append(client.identity.uid)

    come_as(monkeypatch, [1, 1, 1, 2])
    read = lambda: clock[0]  # noqa: E731
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=read, thread_time=read))
    monkeypatch.setattr(door.clients, "_serve", serve)
    monkeypatch.setattr(Identity, "sent", lambda *_: True)
    for _ in range(3):
        door.connect().send(STATUS)
    door.loop.turn(0)  # accepted
    door.turn()
    door.connect().send(STATUS)
    door.loop.turn(0)
    door.turn()
    assert door.served == [1, 1, 2, 1]


def test_while_others_had_the_processor_no_time_is_taken(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(passed=100.0, used=1.0)

    def serve(client: Any, _: wire.Request) -> None:
        uid = client.identity.uid
        clock.passed += limits.TURN if uid == 2 else 0.1 * limits.TURN
        clock.used += 0.1 * limits.TURN if uid == 2 else 0.2 * limits.TURN
        door.served.append(uid)

    come_as(monkeypatch, [1, 2, 1, 2])
    now = SimpleNamespace(monotonic=lambda: clock.passed, thread_time=lambda: clock.used)
    monkeypatch.setattr(limits, "time", now)
    monkeypatch.setattr(door.clients, "_serve", serve)
    monkeypatch.setattr(Identity, "sent", lambda *_: True)
    for _ in range(2):
        for _ in range(2):
            door.connect().send(STATUS)
        for _ in range(4):
            door.turn()
    assert door.served == [1, 2, 2, 1]


def test_a_turn_ends_after_a_request_that_took_its_time(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """News of others are heard between two turns."""
    clock = [100.0]

    def serve(client: Any, _: wire.Request) -> None:
        clock[0] += 0.6 * limits.TURN
        door.served.append(client)

    for _ in range(5):
        door.connect().send(STATUS)
    for _ in range(10):
        door.loop.turn(0)
    read = lambda: clock[0]  # noqa: E731
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=read, thread_time=read))
    monkeypatch.setattr(door.clients, "_serve", serve)
    for served in (2, 4, 5):
        door.clients.serve()
        assert len(door.served) == served


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_without_a_descriptor_it_pauses_and_accepts_again_later(
    door: Door, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    calls = []

    def accept(_: socket.socket) -> socket.socket:
        calls.append(number)
        raise OSError(number, os.strerror(number))

    door.connect()
    with monkeypatch.context() as patch:
        patch.setattr(limits.linux, "accept", accept)
        for _ in range(100):
            door.turn()
        assert calls == [number]
        assert door.said == ["accept-failed"]
        left = door.clients.tick()
        assert left is not None
        assert 0 < left <= limits.PAUSE
    time.sleep(left)
    door.turn()
    assert len(door.clients) == 1
    assert door.clients.tick() is None


def test_a_client_that_left_before_it_was_accepted_is_no_reason_to_stop(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, failures = limits.linux.accept, iter([errno.ECONNABORTED])

    def aborted_once(listener: socket.socket) -> socket.socket:
        for number in failures:
            raise OSError(number, os.strerror(number))
        return accept(listener)

    monkeypatch.setattr(limits.linux, "accept", aborted_once)
    door.connect()
    door.turn()
    assert len(door.clients) == 1


def test_a_client_that_left_before_it_was_accepted_is_not_looked_at(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(_: socket.socket) -> Identity:
        raise AssertionError("it was looked at")

    with monkeypatch.context() as patch:
        patch.setattr(limits.peer, "at_connect", looked)
        for _ in range(3):
            door.connect().close()
        door.turn()
    assert len(door.clients) == 0
    gone = door.connect()
    gone.send(STATUS)
    gone.close()
    empty = door.connect()
    empty.send(b"")
    for _ in range(3):
        door.turn()
    assert len(door.served) == 1  # what a client said before it left is heard
    assert b"cut off" in empty.recv(1000)


def test_a_connection_with_an_unread_request_does_not_give_way(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CLIENTS", 4)
    monkeypatch.setattr(limits, "RESERVE", 0)
    come_as(monkeypatch, repeat(1))
    asking = [door.connect() for _ in range(2)]
    for sock in asking:
        sock.send(STATUS)
    silent = [door.connect() for _ in range(4)]
    door.loop.turn(0)  # accepted, and nothing read
    told = [sock.recv(100) for sock in silent if ended(sock)]
    assert len(told) == 2
    assert not any(map(ended, asking))
    assert len(door.clients) == 4


def test_who_finds_all_places_busy_is_refused_without_a_search_for_each(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []
    search = door.clients._idle

    def counted(connections: list[Any], strangers: bool) -> list[Any]:
        searches.append(len(connections))
        return search(connections, strangers)

    monkeypatch.setattr(limits, "CLIENTS", 4)
    monkeypatch.setattr(limits, "RESERVE", 0)
    come_as(monkeypatch, repeat(1))
    monkeypatch.setattr(door.clients, "_idle", counted)
    busy = [door.connect() for _ in range(4)]
    door.turn()
    for client in door.clients._all.values():
        client.busy = True
    late = [door.connect() for _ in range(20)]
    door.turn()
    assert all(map(ended, late))
    assert searches == [4]
    door.clients._all[next(iter(door.clients._all))].done()
    time.sleep(limits.PAUSE)
    door.connect()
    door.turn()
    assert searches == [4, 4]
    assert sum(map(ended, busy)) == 1


def test_the_user_with_the_most_connections_gives_way_with_the_oldest(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CLIENTS", 5)
    monkeypatch.setattr(limits, "RESERVE", 0)
    monkeypatch.setattr(limits, "ROOM", 2)
    come_as(monkeypatch, [1, 2, 2, 2, 1, 3])
    socks = [door.connect() for _ in range(6)]
    door.turn()
    assert [ended(sock) for sock in socks] == [False, True, True, False, False, False]


def test_roots_connections_do_not_give_way(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENTS", 4)
    monkeypatch.setattr(limits, "RESERVE", 0)
    come_as(monkeypatch, [0, 0, 0, 1, 2])
    socks = [door.connect() for _ in range(5)]
    door.turn()
    assert [ended(sock) for sock in socks] == [False, False, False, True, False]


def test_a_frontend_has_so_many_further_connections_to_its_backend(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CLIENTS_PER_UID", 3)
    monkeypatch.setattr(Identity, "sent", lambda *_: True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.socks.append(theirs)
    door.clients.adopt(ours, Identity(1, 1, frozenset((1,)), 0))
    told = []
    for _ in range(3):
        theirs.send(asking.encode_request(wire.Connect()))
        for _ in range(2):
            door.turn()
        data, descriptors, _, _ = socket.recv_fds(theirs, 4096, 1)
        door.socks += [socket.socket(fileno=number) for number in descriptors]
        told.append(asking.decode_reply(data))
    refused = told.pop()
    assert all(isinstance(reply, wire.Grant) for reply in told)
    assert isinstance(refused, wire.Refused) and refused.errno == errno.EDQUOT


def test_a_connection_that_cannot_be_heard_any_more_ends_and_nothing_else_does(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    sock = door.connect()
    sock.send(STATUS)
    door.turn()
    with monkeypatch.context() as patch:
        patch.setattr(door.loop, "change", no_memory)
        door.turn()
    assert len(door.clients) == 0
    assert sock.recv(100) == b""
    door.connect().send(STATUS)
    for _ in range(3):
        door.turn()
    assert len(door.served) == 2


def ended(sock: socket.socket) -> bool:
    """Whether the broker has said something, which can only be that it ends."""
    return bool(select.select([sock], [], [], 0)[0])
