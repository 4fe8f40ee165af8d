"""A daemon that ends before it answers: the client asks the next one, and not for ever."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from ttybroker import aio, client, wire
from ttybroker.client import COMES_BACK, TRIES, Client, connect
from ttybroker.errors import BrokerUnavailable, WaitTimeout
from unit.helpers import nothing_leaked

Script = Callable[[socket.socket], None]  # what a daemon does with one connection
TTY = os.devnull  # what is granted here


class Daemons:
    """One daemon after another at the same path, each for one connection: `asked` is what they
    were asked."""

    def __init__(self, path: str, *scripts: Script) -> None:
        self.path = path
        self.asked: list[wire.Request] = []
        self._scripts = scripts
        self._listener = self._listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Daemons:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive(), "a daemon was never asked"
        self._listener.close()
        os.unlink(self.path)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.settimeout(15)
        listener.bind(self.path)
        listener.listen()
        return listener

    def _serve(self) -> None:
        for script in self._scripts:
            connection, _ = self._listener.accept()
            with connection:
                self.asked.append(wire.decode_request(connection.recv(65536)))
                script(connection)


def ends(_: socket.socket) -> None:
    """Killed before the answer."""


def resets(connection: socket.socket) -> None:
    """Killed with something unread, which is a reset: unix(7)."""
    assert connection.recv(1, socket.MSG_PEEK)


def says(reply: wire.Reply) -> Script:
    return lambda connection: socket.send_fds(connection, [wire.encode_reply(reply)], [])


def grants(connection: socket.socket) -> None:
    descriptor = os.open(TTY, os.O_RDWR)
    socket.send_fds(connection, [wire.encode_reply(wire.Grant())], [descriptor])
    os.close(descriptor)


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nothing_leaked():
        yield str(tmp_path_factory.mktemp("s") / "s")


def open_sync(path: str, wait: float | None = None) -> int:
    with connect(path) as connection:
        return connection.open("ttyS0", wait=wait)


def open_async(path: str, wait: float | None = None) -> int:
    return asyncio.run(aio.open_fd("ttyS0", broker=path, wait=wait))


both_ways = pytest.mark.parametrize("ask", [open_sync, open_async])
Ask = Callable[..., int]


@both_ways
@pytest.mark.parametrize("times", [1, TRIES - 1])
def test_a_request_that_broke_off_is_asked_of_the_next_daemon(
    path: str, ask: Ask, times: int
) -> None:
    with Daemons(path, *[ends] * times, grants) as daemons:
        os.close(ask(path))
    assert daemons.asked == [wire.Open("ttyS0", 0, 0, os.getpid())] * (times + 1)


@both_ways
def test_who_does_not_wait_asks_so_many_times_and_is_told(path: str, ask: Ask) -> None:
    with Daemons(path, *[ends] * TRIES) as daemons:
        with pytest.raises(BrokerUnavailable, match="went away") as caught:
            ask(path)
    assert len(daemons.asked) == TRIES
    assert caught.type is BrokerUnavailable


@both_ways
def test_who_waits_asks_for_what_is_left_of_its_wait(path: str, ask: Ask) -> None:
    pause: Script = lambda _: time.sleep(0.05)  # noqa: E731
    refused = says(wire.Refused(110, "ttyS0: waited in vain"))
    with Daemons(path, *[pause] * (TRIES + 2), refused) as daemons:
        with pytest.raises(WaitTimeout):
            ask(path, 10)
    waits = [request.wait for request in daemons.asked if isinstance(request, wire.Open)]
    assert len(waits) == TRIES + 3 and waits[0] == 10_000
    for earlier, later in pairwise(waits):
        assert 0 < later <= earlier - 50


@both_ways
def test_a_wait_that_is_over_is_over(path: str, ask: Ask) -> None:
    slow: Script = lambda _: time.sleep(0.2)  # noqa: E731
    with Daemons(path, slow), pytest.raises(BrokerUnavailable, match="went away"):
        ask(path, 0.1)


@both_ways
def test_a_daemon_without_systemd_is_away_for_a_moment(path: str, ask: Ask) -> None:
    """It listens at its own path, and removes that at its end."""
    granted: list[int] = []
    with Daemons(path, ends):
        asking = threading.Thread(target=lambda: granted.append(ask(path)))
        asking.start()
    with Daemons(path, grants):
        asking.join(20)
    assert len(granted) == 1
    os.close(granted[0])


@both_ways
def test_a_daemon_that_does_not_come_back_is_not_waited_for_long(
    path: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COMES_BACK <= 2
    monkeypatch.setattr(client, "COMES_BACK", 0.2)
    with Daemons(path, ends):
        before = time.monotonic()
        asking = threading.Thread(target=lambda: errors.append(caught(lambda: ask(path, 60))))
        errors: list[BrokerUnavailable] = []
        asking.start()
    asking.join(20)
    assert 0.1 < time.monotonic() - before < 5
    assert "is ttybrokerd running?" in str(errors[0])


def caught(ask: Callable[[], int]) -> BrokerUnavailable:
    with pytest.raises(BrokerUnavailable) as info:
        ask()
    return info.value


def test_where_no_daemon_ever_ran_nobody_waits_for_one(path: str) -> None:
    before = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="is ttybrokerd running"):
        open_sync(path, 60)
    assert time.monotonic() - before < 1


def test_a_connection_that_was_idle_while_the_daemon_was_started_again_is_made_anew(
    path: str,
) -> None:
    with Daemons(path, says(wire.Ports(())), grants):
        with connect(path) as connection:
            assert connection.ports() == []
            os.close(connection.open("ttyS0"))


def test_a_list_that_broke_off_begins_anew(path: str) -> None:
    one, two = (wire.PortInfo(name, "/dev/x", "free", "r") for name in ("one", "two"))

    def half(connection: socket.socket) -> None:
        says(wire.Ports((one,), more=True))(connection)
        connection.recv(65536)

    with Daemons(path, half, says(wire.Ports((two,)))) as daemons:
        with connect(path) as connection:
            assert connection.ports() == [two]
    assert daemons.asked == [wire.List(0), wire.List(0)]


def test_a_check_is_asked_again(path: str) -> None:
    verdict = wire.Verdict(True, True, "r", "allowed")
    with Daemons(path, ends, says(verdict)), connect(path) as connection:
        assert connection.check("ttyS0") == verdict


def test_a_revoke_is_not_asked_again_for_it_might_hit_the_next_holder(path: str) -> None:
    with Daemons(path, ends) as daemons, connect(path) as connection:
        with pytest.raises(BrokerUnavailable):
            connection.revoke("ttyS0")
    assert daemons.asked == [wire.Revoke("ttyS0")]


def test_a_reset_is_an_end_like_any_other(path: str) -> None:
    with Daemons(path, resets, grants), connect(path) as connection:
        connection.ask_open("ttyS0")  # the second of two: unread when the daemon ends
        os.close(connection.open("ttyS0"))


def test_a_pair_has_no_daemon_that_could_come_back() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Client(ours) as asker:
        threading.Thread(target=lambda: (theirs.recv(65536), theirs.close())).start()
        before = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            asker.open("ttyS0", wait=60)
        assert time.monotonic() - before < 1
