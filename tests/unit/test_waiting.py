"""The line of a wait, and when the broker tells what it shows."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ttybroker import waiting, wire
from ttybroker.waiting import WaitingLine
from ttybroker.wire import Holder, PortInfo
from ttybrokerd.root import progress
from ttybrokerd.root.connection import Connection, OpenRequest
from ttybrokerd.root.loop import Loop
from ttybrokerd.root.paced import REST
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.progress import PACE, Progress
from ttybrokerd.root.table import Table

ALICE = 1001


class Shown:
    """What lines show, where standard error is a terminal of 100 columns; and the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text = ""
        self.clock = 100.0
        monkeypatch.setattr(waiting, "_screen", waiting.allocate_lock())
        monkeypatch.setattr(waiting, "_told", {})
        monkeypatch.setattr(waiting, "show", self._show)
        monkeypatch.setattr(waiting, "say", self._show)
        monkeypatch.setattr(waiting.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(os, "isatty", lambda _: True)
        monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((100, 24)))
        monkeypatch.setenv("TERM", "xterm")

    def _show(self, text: str) -> None:
        self.text += text

    def last(self) -> str:
        """What stands there now."""
        text, self.text = self.text.rpartition("\r\x1b[K")[2], ""
        return text


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    return Shown(monkeypatch)


OUTSIDER = Holder(1000, "al", 1, "gpsd", how="flock")


@pytest.mark.parametrize(
    ("news", "text"),
    [
        (wire.Waiting("", wire.BUSY, 0, 9_900, OUTSIDER), ", 9 s left: al has it with gpsd (pid 1"),
        (wire.Waiting("", wire.BUSY, 2, 0, OUTSIDER), ", 0 s left, 2 in front: al has it with gps"),
        (wire.Waiting("", wire.BUSY, 0, 500), ", 0 s left: it is being reset after its last lease"),
        (wire.Waiting("", wire.ABSENT, 0, 5_000), ", 5 s left: for it to be plugged in"),
    ],
)
def test_what_the_line_says(shown: Shown, news: wire.Waiting, text: str) -> None:
    line = WaitingLine("ttyS0", False, 10)
    line.hear(news)
    assert shown.last().startswith(f"ttybroker: ttyS0: waiting{text}")
    line.erase()
    assert shown.last() == ""


@pytest.mark.parametrize(
    ("reason", "end"),
    [(wire.ASKED, "by flock, and was asked to lend it"), (wire.LENT_OUT, "by flock, borrowed")],
)
def test_a_hand_over_is_said(shown: Shown, reason: int, end: str) -> None:
    line = WaitingLine("ttyS0", False, None)
    line.hear(wire.Waiting("", reason, 0, 0, OUTSIDER))
    assert shown.last().endswith(end)
    line.erase()


def test_it_is_drawn_again_when_it_says_something_else_and_cut_at_the_edge(shown: Shown) -> None:
    line = WaitingLine("t" * 90, False, 10)
    for _ in range(5):
        line.draw()
    assert shown.text.count("\x1b[K") == 1
    assert len(shown.last()) == 99
    line = WaitingLine("ttyS0", False, 10)
    line.draw()
    assert shown.text == ""  # another one is shown


@pytest.mark.parametrize(
    ("label", "shown_of_it"), [("漢" * 40, 28), ("e\u0301" * 80, 114)], ids=["wide", "marks"]
)
def test_no_wide_character_makes_it_wrap(shown: Shown, label: str, shown_of_it: int) -> None:
    """What wraps is not erased."""
    line = WaitingLine("ttyS0", False, None)
    holder = Holder(1000, "al", how="flock", label=label)
    line.hear(wire.Waiting("", wire.BUSY, 0, 0, holder))
    start = "ttybroker: ttyS0: waiting: al has it for '"
    assert len(start) == 42
    assert shown.last() == f"{start}{label[:shown_of_it]}"
    line.erase()


def test_behind_the_prompt_of_a_shell_nothing_is_drawn_or_erased(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = WaitingLine("ttyS0", False, 10, 4711)
    line.draw()
    before = shown.text
    monkeypatch.setattr(waiting, "_in_background", lambda pid: pid == 4711)
    shown.clock += 1
    line.draw()
    line.erase()
    assert shown.text == before


BUSY = wire.Waiting("", wire.BUSY, 0, 9_900, OUTSIDER)


@pytest.fixture(params=["a file", "dumb"])
def written(shown: Shown, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Shown:
    """Where nothing can be drawn."""
    if request.param == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    else:
        monkeypatch.setattr(os, "isatty", lambda _: False)
    return shown


def test_where_no_line_can_be_drawn_it_is_written_once(written: Shown) -> None:
    line = WaitingLine("ttyS0", False, 10)
    line.hear(BUSY)
    assert written.text == ""  # it may be over at once
    for _ in range(3):
        line.draw()
        written.clock += 100
        line.hear(wire.Waiting("", wire.BUSY, 0, 500))  # somebody else is next, too
    line.erase()
    assert written.text == "ttyS0: waiting, 9 s left: al has it with gpsd (pid 1), by flock"


def test_it_is_written_again_when_it_is_known_who_has_it(written: Shown) -> None:
    line = WaitingLine("ttyS0", False, 10)
    line.draw()
    assert written.last() == "ttyS0: waiting, 10 s left"
    line.hear(BUSY)
    line.draw()
    assert written.last() == "ttyS0: waiting, 9 s left: al has it with gpsd (pid 1), by flock"


def test_a_wait_that_a_signal_made_begin_again_is_not_told_again(written: Shown) -> None:
    for news, pause, told in (
        (BUSY, 50, True),
        (BUSY, 50, False),
        (BUSY, 70, False),
        (BUSY, 0, True),
        (wire.Waiting("", wire.ABSENT), 0, True),
    ):
        line = WaitingLine("ttyS0", False, 10)
        line.hear(news)
        line.draw()
        assert bool(written.last()) is told
        line.erase()
        written.clock += pause


def test_quiet_waits_are_not_told(written: Shown) -> None:
    line = WaitingLine("ttyS0", True, 10)
    line.hear(BUSY)
    line.draw()
    assert written.text == ""


def test_a_slow_device_is_said_in_a_line_of_its_own(shown: Shown) -> None:
    line = WaitingLine("ttyS0", False, 10)
    line.draw()
    line.hear(wire.Waiting("ttyS0: the device is slow", wire.SLOW))
    assert shown.last() == "ttyS0: the device is slow"


@pytest.mark.parametrize(("state", "named"), [("busy", True), ("opening", False)])
def test_the_line_of_a_wait_never_names_whoever_waits(
    shown: Shown, state: str, named: bool
) -> None:
    """While an older broker tries a port again, its list names whoever asked for it."""
    port = PortInfo("ttyS0", "/dev/ttyS0", state, "", holder=Holder(1000, "alice", 4711, "cat"))
    line = WaitingLine("ttyS0", False, 10)
    line.draw(lambda: [port])
    assert ("alice" in shown.last()) is named
    line.erase()


class Client:
    """A connection, and what it was told: place and reason."""

    version = 2
    gone = False
    program = ""
    sessions: tuple[()] = ()

    def __init__(self) -> None:
        self.identity = SimpleNamespace(uid=ALICE, pid=1)
        self.told: list[tuple[int, int]] = []
        self.reads = True
        self.then: Callable[[], object] = lambda: None

    def has_room(self) -> bool:
        return True

    def answer(self, reply: wire.Waiting, *, patient: bool = False) -> bool:
        assert patient
        if self.reads:
            self.told.append((reply.reason, reply.place))
        self.then()
        return self.reads


class Place:
    """A table whose port 7 somebody has, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 100.0
        self.looks = 0.0  # seconds that a look takes
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=self._now))
        self.table = Table()
        self.progress = Progress(self.table)
        holder = self.request(Client(), wait=0)
        self.table.ask(7, holder)
        self.table.opened(7, self.clock)

    def _now(self) -> float:
        self.clock += self.looks
        return self.clock

    def request(self, client: Client, wait: float = 50) -> OpenRequest:
        one: Any = client
        return OpenRequest(one, Holder(ALICE, "", 1), "ttyS0", wait)

    def waits(self, *, told: bool = True) -> tuple[Client, OpenRequest]:
        client = Client()
        request = self.request(client)
        self.table.ask(7, request)
        if told:
            self.progress.add(request)
        return client, request

    def after(self, seconds: float) -> float | None:
        self.clock += seconds
        return self.progress.tick()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


def test_changes_are_told_at_a_pace_and_the_last_one_always(place: Place) -> None:
    others = [place.waits(told=False)[1] for _ in range(5)]
    client, _ = place.waits()
    assert place.after(0) is None and client.told == [(wire.BUSY, 5)]
    for number, other in enumerate(others, 1):
        place.table.withdraw(7, other)
        assert place.after(0.01) == pytest.approx(PACE - 0.01 * number)
    assert client.told == [(wire.BUSY, 5)]
    assert place.after(PACE) is None
    assert client.told == [(wire.BUSY, 5), (wire.BUSY, 0)]


def test_where_nothing_changes_nothing_is_told_and_no_time_is_set(place: Place) -> None:
    client, _ = place.waits()
    place.after(0)
    other = place.waits(told=False)[1]  # behind it
    assert place.after(1) is None and client.told == [(wire.BUSY, 0)]
    place.table.withdraw(7, other)
    assert place.after(1) is None and client.told == [(wire.BUSY, 0)]


def test_who_waits_no_more_is_forgotten(place: Place) -> None:
    client, request = place.waits()
    place.after(0)
    place.table.withdraw(7, request)
    place.after(1)
    place.waits(told=False)
    assert place.after(0.01) is None and len(client.told) == 1


def test_who_does_not_read_is_told_at_the_next_change(place: Place) -> None:
    client, _ = place.waits()
    client.reads = False
    place.after(0)
    client.reads = True
    assert place.after(1) is None
    place.waits(told=False)
    place.after(1)
    assert client.told == [(wire.BUSY, 0)]


def test_who_moves_up_because_another_is_found_gone_is_told(place: Place) -> None:
    """That it is gone is seen when it is told something, and nothing else tells of it later."""
    first, request = place.waits()
    client, _ = place.waits()
    first.reads = False
    first.then = lambda: place.table.withdraw(7, request)
    left = place.after(0)
    assert client.told == [(wire.BUSY, 1)]
    assert left == pytest.approx(PACE)
    place.after(PACE)
    assert client.told == [(wire.BUSY, 1), (wire.BUSY, 0)]


def test_what_is_not_read_leaves_room_for_the_grant(place: Place) -> None:
    """However often it changes: a client that is stopped has its port when it goes on."""
    ended: list[str] = []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = Connection(ours, Identity(ALICE, ALICE, frozenset(), 0), False, Loop(),
                        lambda _, why: ended.append(why))  # fmt: skip
    client.version = 2
    for _ in range(2000):
        other = place.waits(told=False)[1]
        one: Any = client
        request = place.request(one)
        place.table.ask(7, request)
        place.progress.add(request)
        place.after(PACE)
        for ask in (other, request):
            place.table.withdraw(7, ask)
    assert client.answer(wire.Grant(), theirs.fileno()) and not ended
    for sock in (ours, theirs):
        sock.close()


def test_most_of_the_time_is_left_to_others(place: Place) -> None:
    place.waits()
    place.looks = 1.0
    place.after(0)
    place.looks = 0.0
    place.waits()
    left = place.after(0.2)
    assert left is not None and left > REST - 1
