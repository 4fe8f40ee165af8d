"""A daemon that ends before it answers: the client asks the next one, and not for ever."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from support import old_wire
from ttybroker import aio, cli, client, wire
from ttybroker.client import COMES_BACK, TRIES, Client, connect
from ttybroker.errors import (
    BrokerError,
    BrokerUnavailable,
    PortBusy,
    ProtocolError,
    WaitTimeout,
)
from unit.helpers import nothing_leaked

Script = Callable[[socket.socket], None]  # what a daemon does with one connection
TTY = os.devnull  # what is granted here


class Daemons:
    """One daemon after another at the same path, each for one connection: `asked` is what they
    were asked."""

    def __init__(self, path: str, *scripts: Script) -> None:
        self.path = path
        self.asked: list[wire.Request] = []
        self.heard: list[bytes] = []  # the same, in bytes
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
                self.heard.append(connection.recv(65536))
                self.asked.append(wire.decode_request(self.heard[-1]))
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
    refused = says(wire.Refused(110, "ttyS0: timed out"))
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


# a daemon of version 1


class OldDaemon:
    """What a daemon of commit 7778755 does: it answers version 1 with `reply`, and ends a
    connection on which another version comes. `asked` is what it understood."""

    def __init__(self, path: str, reply: object = None) -> None:
        self.reply = reply or old_wire.Grant()
        self.asked: list[object] = []
        self.refused = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> OldDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    if not self._answer(connection, data):
                        break

    def _answer(self, connection: socket.socket, data: bytes) -> bool:
        try:
            request = old_wire.decode_request(data)
        except old_wire.Malformed as malformed:
            self.refused += 1
            refused = old_wire.Refused(errno.EPROTO, f"cut off: {malformed}")
            connection.send(old_wire.encode_reply(refused))
            return False
        self.asked.append(request)
        descriptor = os.open(TTY, os.O_RDWR)
        beside = [descriptor] if isinstance(self.reply, old_wire.Grant) else []
        socket.send_fds(connection, [old_wire.encode_reply(self.reply)], beside)
        os.close(descriptor)
        return True


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the caller is told beside its answers."""
    lines: list[str] = []
    monkeypatch.setattr(client, "tell_why", lines.append)
    return lines


@both_ways
def test_an_older_daemon_is_spoken_to_in_its_version_on_each_connection(
    path: str, ask: Ask, told: list[str]
) -> None:
    with OldDaemon(path) as daemon:
        for _ in range(3):
            os.close(ask(path, 10))
    assert daemon.refused == 3  # a newer daemon may have come meanwhile
    waits = [request.wait for request in daemon.asked]
    assert len(waits) == 3 and all(9000 < wait <= 10_000 for wait in waits)
    assert told == []


@pytest.mark.parametrize(
    ("ask", "reply", "answer"),
    [
        (Client.ports, old_wire.Ports((old_wire.Port("a", "/d", "free", "r"),)),
         [wire.PortInfo("a", "/d", "free", "r")]),
        (lambda asker: asker.check("a"), old_wire.Verdict(True, True, "r", "m"),
         wire.Verdict(True, True, "r", "m")),
        (lambda asker: asker.revoke("a"), old_wire.Done(), 0),
        (Client.status, old_wire.Running(7, False), (os.getpid(), wire.Running(7, False))),
    ],
)  # fmt: skip
def test_an_older_daemon_is_asked_anything_else_too(
    path: str, ask: Callable[[Client], object], reply: object, answer: object
) -> None:
    with OldDaemon(path, reply) as daemon, connect(path) as asker:
        assert ask(asker) == answer
    assert (daemon.refused, len(daemon.asked)) == (1, 1)


def test_an_older_daemon_lists_for_programs_without_lines(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTYBROKER_SOCKET", path)
    port = old_wire.Port("gps", "/dev/gps", "free", "r")
    with OldDaemon(path, old_wire.Ports((port,))):
        assert cli.main(["list", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["port"], row["line"]) == ("gps", None)
        assert cli.main(["list", "--json", "--details"]) == 1
        assert "an older one, without --details" in capsys.readouterr().err


def test_what_an_older_daemon_lacks_is_said_once(path: str, told: list[str]) -> None:
    flags = wire.YIELD_USER | wire.READ
    with OldDaemon(path), connect(path, label="night test") as asker:
        for _ in range(2):
            os.close(asker.open("gps", flags=flags, session=b"s" * 16))
        assert asker.session == wire.NO_SESSION
    what = "flags of open(2) and joining a session and labels and yielding"
    assert told == [f"gps: the broker at {path} is an older one, without {what}"]


def test_where_a_daemon_cannot_keep_a_user_off_nothing_is_taken_back(path: str) -> None:
    with OldDaemon(path, old_wire.Done()) as daemon, connect(path) as asker:
        for _ in range(2):
            with pytest.raises(BrokerError, match=r"not taken back: .* without --hold"):
                asker.revoke("gps", 5)
    assert daemon.asked == []


def test_an_older_daemons_refusal_is_said_in_its_own_words(path: str) -> None:
    holder = old_wire.Holder(4242, "ann", 7, "cu", 5.0)
    reply = old_wire.Refused(errno.EBUSY, "gps: busy: held by ann (uid 4242); wait", holder)
    with OldDaemon(path, reply), pytest.raises(PortBusy) as caught, connect(path) as asker:
        asker.open("gps")
    assert str(caught.value) == reply.message
    assert caught.value.holder == wire.Holder(4242, "ann", 7, "cu", 5.0)


def test_an_older_daemons_invalid_argument_is_a_drivers_and_not_the_callers(path: str) -> None:
    reply = old_wire.Refused(errno.EINVAL, "gps: cannot be opened: Invalid argument")
    with OldDaemon(path, reply), pytest.raises(BrokerError) as caught, connect(path) as asker:
        asker.open("gps")
    assert caught.type is BrokerError


def test_the_daemon_that_follows_an_older_one_is_asked_in_the_newest_version(path: str) -> None:
    def old(connection: socket.socket) -> None:
        refused = old_wire.Refused(errno.EPROTO, "cut off: protocol version 2, not 1")
        connection.send(old_wire.encode_reply(refused))

    def grants_old(connection: socket.socket) -> None:
        descriptor = os.open(TTY, os.O_RDWR)
        socket.send_fds(connection, [old_wire.encode_reply(old_wire.Grant())], [descriptor])
        os.close(descriptor)

    with Daemons(path, old, ends, grants, old, grants_old, grants) as daemons:
        os.close(open_sync(path))
        os.close(open_sync(path))
        os.close(open_sync(path))  # by another connection, which knows nothing of the last daemon
    versions = [data[0] for data in daemons.heard]
    assert versions == [2, 1, 2, 2, 1, 2]


def test_behind_a_socket_there_is_no_path_to_an_older_broker() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    refused = old_wire.Refused(errno.EPROTO, "cut off: protocol version 2, not 1")
    theirs.send(old_wire.encode_reply(refused))
    with theirs, Client(ours) as asker, pytest.raises(ProtocolError, match="by its path"):
        asker.open("ttyS0")


# a daemon that is stopped


@both_ways
def test_a_daemon_that_does_not_answer_is_given_its_time_and_no_more(
    path: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "DEVICE_LIMIT", 0.3)
    answered = threading.Event()
    with Daemons(path, lambda _: answered.wait(20)):
        before = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            ask(path, 0.4)
        assert 0.7 <= time.monotonic() - before < 5
        answered.set()
    assert str(caught.value) == (
        f"the broker at {path} does not answer; see: systemctl status ttybroker.service"
    )


@pytest.mark.parametrize(
    ("ask", "limit"),
    [(Client.ports, "ANSWER_LIMIT"), (Client.status, "ANSWER_LIMIT"),
     (lambda asker: asker.check("a"), "ANSWER_LIMIT"),
     (lambda asker: asker.revoke("a"), "DEVICE_LIMIT")],
)  # fmt: skip
def test_every_question_has_a_limit(
    path: str, ask: Callable[[Client], object], limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, limit, 0.2)
    answered = threading.Event()
    with Daemons(path, lambda _: answered.wait(20)), connect(path) as asker:
        with pytest.raises(BrokerUnavailable, match="does not answer; see: systemctl status"):
            ask(asker)
        answered.set()
        assert asker.fileno() == -1  # a late answer is none to the next question


def test_a_wait_that_was_told_its_reason_ends_all_the_same(
    path: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "DEVICE_LIMIT", 0.3)
    answered = threading.Event()

    def slow(connection: socket.socket) -> None:
        says(wire.Waiting("the device is slow", wire.SLOW))(connection)
        answered.wait(20)

    with Daemons(path, slow), pytest.raises(BrokerUnavailable, match="does not answer"):
        try:
            open_sync(path)
        finally:
            answered.set()
    assert told == ["ttyS0: the device is slow"]


def test_a_daemon_too_stopped_to_be_connected_to_is_given_up(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_LIMIT", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(0)
        with (
            connect(path),
            pytest.raises(BrokerUnavailable, match="does not answer; see: systemctl"),
        ):
            connect(path)


def test_the_broker_has_more_time_than_it_gives_a_device() -> None:
    from ttybrokerd.root.ask import OPEN_LIMIT

    assert OPEN_LIMIT < client.DEVICE_LIMIT <= OPEN_LIMIT + 10


# what comes over a socket is shown, and not obeyed

EVIL = "\x1b]0;pwned\x07 \u202e"
MEEK = "?]0;pwned? ?"


@pytest.mark.parametrize("write", [wire.encode_reply, lambda reply: wire.encode_reply(reply, 1)])
def test_nothing_that_a_broker_says_speaks_to_the_terminal(
    path: str, told: list[str], write: Callable[[wire.Reply], bytes]
) -> None:
    holder = wire.Holder(None, "", 7, EVIL, None, EVIL, EVIL)
    row = wire.PortInfo(EVIL, EVIL, f"busy {EVIL}", EVIL, 0, holder, holder, (holder,))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Client(ours) as asker:
        asker._version = write(wire.Done())[0]
        for reply in (wire.Waiting(EVIL, 0, 0, 0, holder), wire.Refused(16, EVIL, holder, EVIL)):
            theirs.send(write(reply))
        with pytest.raises(PortBusy) as caught:
            asker.open("gps")
        for reply in (wire.Ports((row,)), wire.Verdict(False, True, EVIL, EVIL)):
            theirs.send(write(reply))
        shown = [*told, str(caught.value), caught.value.strerror, repr(asker.ports()),
                 repr(vars(asker.check("gps")))]  # fmt: skip
    assert all(line.isprintable() and MEEK in line for line in shown)
    assert caught.value.holder is not None and caught.value.holder.program == MEEK
