"""Lists that stay open: when they are answered, and with what."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttybroker import wire
from ttybrokerd.root import linux, watches
from ttybrokerd.root.paced import REST
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.report import Listed
from ttybrokerd.root.watches import LINES, PACE, PER_UID, RENEW, SETTLE, Watches

ALICE, BOB = 1001, 1002


class Client:
    """A connection, and what it was sent."""

    version = 2
    gone = False

    def __init__(self, uid: int = ALICE) -> None:
        self.identity = SimpleNamespace(uid=uid)
        self.sent: list[wire.Ports] = []
        self.reads = True
        self.room = 1000  # messages that it takes without reading

    def answer(self, reply: wire.Ports, *, patient: bool = False) -> bool:
        assert patient
        if self.reads and self.room:
            self.room -= 1
            self.sent.append(reply)
            return True
        return False


class Leases:
    """A table with one port, number 7."""

    def __init__(self) -> None:
        self.table = SimpleNamespace(changes=0)
        self.holder: wire.Holder | None = None
        self.on_names: dict[str, Callable[[], None]] = {}
        self.deaf = ""
        self.lines_looked_at = 0

    def now(self, holder: int | None) -> None:
        """Somebody has it, or nobody."""
        self.holder = None if holder is None else wire.Holder(holder)
        self.table.changes += 1

    def keys(self) -> frozenset[int]:
        return frozenset() if self.holder is None else frozenset({7})

    def fill_in(self, rows: list[Listed]) -> None:
        for row in rows:
            if self.holder is not None and row.rdev == 7:
                row.port.state, row.port.holder = "busy", self.holder

    def say_kept(self, rows: list[Listed], uid: int) -> None:
        pass

    def fill_in_facts(self, rows: list[Listed], uid: int, everything: bool, then: Any) -> None:
        self.lines_looked_at += 1
        for row in rows:
            mine = self.holder is not None and (everything or self.holder.uid == uid)
            row.port.facts = ((wire.SPEED, 9600),) if mine else ()
        then()

    def names(self, directory: str, handler: Callable[[], None]) -> None:
        if directory == self.deaf:
            raise OSError(errno.ENOSPC, "no watch is left")
        self.on_names[directory] = handler

    def forget_names(self, directory: str) -> None:
        del self.on_names[directory]


class Place:
    """Watches, their clock, and the looks that were begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 100.0
        monkeypatch.setattr(watches, "time", SimpleNamespace(monotonic=lambda: self.clock))
        self.leases, self.judge = Leases(), SimpleNamespace(version=1)
        self.begun: list[Any] = []
        facts: Any = SimpleNamespace(fill_in=self.leases.fill_in_facts)
        place: Any = self.leases
        self.watches = Watches(place, self.judge, facts, place, self._places, self._renew)  # type: ignore[arg-type]

    def _places(self) -> list[str]:
        return ["/dev", "/run/udev/data"]

    def _renew(self, client: Any, _: wire.List) -> None:
        self.begun.append(client)

    def begin(self, client: Client, flags: int = wire.WATCH, everything: bool = False) -> None:
        """Watch, and be told of the port for the first time."""
        self.watches.begin(client, wire.List(0, flags))  # type: ignore[arg-type]
        self.watches.tick()
        self.renewed(client, everything=everything)
        self.watches.tick()

    def renewed(
        self, client: Client, *, judged: int = 1, everything: bool = False, others: int = 0
    ) -> None:
        assert self.begun.pop() is client
        rows = [Listed(7, wire.PortInfo("ttyS0", "/dev/ttyS0", "free", "r"))]
        gone = wire.PortInfo("x", "/" * 1000, "gone", "r")
        rows += [Listed(None, gone.replace(name=f"x{n}")) for n in range(others)]
        self.watches.renewed(client, rows, everything, judged)  # type: ignore[arg-type]

    def after(self, seconds: float) -> float | None:
        self.clock += seconds
        return self.watches.tick()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


def states(client: Client) -> list[str]:
    return [port.state for reply in client.sent for port in reply.ports]


def test_changes_are_told_at_a_pace_and_the_last_one_always(place: Place) -> None:
    client = Client()
    place.begin(client)
    for number in range(5):
        place.leases.now(None if number % 2 else ALICE)
        left = place.after(0.01)
        assert left == pytest.approx(PACE - 0.01 * (number + 1))
    assert states(client) == ["free"]
    place.after(PACE)
    assert states(client) == ["free", "busy"]
    assert place.after(PACE) is not None
    assert len(client.sent) == 2  # nothing new


def test_one_of_many_lists_is_answered_in_a_turn_if_that_takes_its_time_and_each_has_its_turn(
    place: Place,
) -> None:
    told: list[int] = []

    class Slow(Client):
        def answer(self, reply: wire.Ports, *, patient: bool = False) -> bool:
            told.append(self.identity.uid)
            place.clock += PACE / 2  # so the first is due again before the last had its turn
            return True

    for uid in range(5):
        place.clock += 99
        place.begin(Slow(uid))
    told.clear()
    for number in range(10):
        place.clock += 99
        place.leases.now(number)
        left = place.after(0)
        assert left == pytest.approx(REST * PACE / 2)  # others have four times as long
        assert place.after(left / 2) == pytest.approx(left / 2)
        assert len(told) == number + 1
    assert told == 2 * [0, 1, 2, 3, 4]


def test_all_ports_are_looked_at_again_now_and_then_and_soon_after_a_change_of_nodes(
    place: Place,
) -> None:
    client = Client()
    place.begin(client)
    left = place.after(0)
    assert left == pytest.approx(RENEW)
    place.after(RENEW)
    place.after(RENEW)  # one look at a time
    place.renewed(client)
    place.leases.on_names["/dev"]()
    place.after(SETTLE / 2)
    assert place.begun == []
    place.after(SETTLE)
    place.renewed(client)
    assert len(client.sent) == 1  # it says the same
    place.watches.lost(client)  # type: ignore[arg-type]
    assert not place.leases.on_names and place.after(99) is None


def test_after_a_change_of_nodes_while_it_looks_it_looks_again(place: Place) -> None:
    client = Client()
    place.begin(client)
    place.after(RENEW)
    place.leases.on_names["/dev"]()
    place.after(SETTLE)  # one look at a time
    place.renewed(client)
    assert place.after(0) is None
    assert place.begun == [client]


def test_when_udev_has_noted_a_device_all_ports_are_looked_at_again(place: Place) -> None:
    """Its links may have come long after its node."""
    client = Client()
    place.begin(client)
    place.leases.on_names["/run/udev/data"]()
    place.after(SETTLE)
    assert place.begun == [client]


def test_where_a_directory_cannot_be_heard_none_is_and_the_list_is_refused(place: Place) -> None:
    place.leases.deaf = "/run/udev/data"
    with pytest.raises(OSError):
        place.watches.begin(Client(), wire.List(0, wire.WATCH))  # type: ignore[arg-type]
    assert not place.leases.on_names


def test_by_another_policy_nothing_is_told_before_all_is_looked_at_again(place: Place) -> None:
    client = Client()
    place.begin(client)
    place.judge.version = 2
    place.leases.now(BOB)
    assert place.after(PACE) is None  # until the look is done there is nothing to do
    assert len(client.sent) == 1
    place.renewed(client, judged=2)
    place.after(0)
    assert states(client) == ["free", "busy"]


def test_who_does_not_read_gets_the_last_state_when_it_does(place: Place) -> None:
    client = Client()
    place.begin(client)
    client.reads = False
    place.leases.now(ALICE)
    place.after(PACE)
    place.leases.now(BOB)
    place.after(PACE)
    client.reads = True
    place.after(PACE)
    assert len(client.sent) == 2 and client.sent[-1].ports[0].holder == wire.Holder(BOB)


def whole(client: Client) -> list[list[wire.PortInfo]]:
    """The answers that have all their messages."""
    answers, ports = [], list[wire.PortInfo]()
    for part in client.sent:
        ports = [*ports, *part.ports]
        if not part.more:
            answers.append(ports)
            ports = []
    return answers


def test_a_long_answer_goes_on_when_its_client_reads_and_then_comes_the_latest(
    place: Place,
) -> None:
    client = Client()
    client.room = 2
    place.watches.begin(client, wire.List(0, wire.WATCH))  # type: ignore[arg-type]
    place.watches.tick()
    place.renewed(client, others=200)  # of 1 kB, in messages of 64 kB
    place.watches.tick()
    assert len(client.sent) == 2 and client.sent[-1].more
    place.leases.now(BOB)
    place.after(PACE)
    assert len(client.sent) == 2
    client.room = 1000
    for _ in range(3):
        place.after(PACE)
    first, second = whole(client)
    assert len(first) == len(second) == 201
    assert (first[0].state, second[0].state) == ("free", "busy")


def test_a_long_answer_by_another_policy_is_not_gone_on_with(place: Place) -> None:
    client = Client()
    client.room = 1
    place.watches.begin(client, wire.List(0, wire.WATCH))  # type: ignore[arg-type]
    place.watches.tick()
    place.renewed(client, others=200)
    place.watches.tick()
    place.judge.version = 2
    client.room = 1000
    place.after(PACE)
    assert len(client.sent) == 1
    place.renewed(client, judged=2)  # the others are denied now
    for _ in range(2):
        place.after(PACE)
    cut, after = whole(client)
    assert len(cut) == len(client.sent[0].ports) and [port.name for port in after] == ["ttyS0"]


def test_a_line_is_not_told_to_who_had_the_port_before(place: Place) -> None:
    client, admin = Client(), Client(BOB)
    place.leases.now(ALICE)
    place.begin(client, wire.WATCH | wire.DETAILS)
    place.begin(admin, wire.WATCH | wire.DETAILS, everything=True)
    assert client.sent[-1].ports[0].facts and admin.sent[-1].ports[0].facts
    place.leases.now(BOB)
    place.after(PACE)
    assert client.sent[-1].ports[0].holder == wire.Holder(BOB)
    assert not client.sent[-1].ports[0].facts and admin.sent[-1].ports[0].facts


def test_lines_are_looked_at_once_a_second(place: Place) -> None:
    place.begin(Client(), wire.WATCH | wire.DETAILS)
    assert place.after(0) == pytest.approx(LINES)
    for _ in range(3):
        place.after(LINES / 2)
    assert place.leases.lines_looked_at == 2


def test_a_user_has_so_many(place: Place) -> None:
    for _ in range(PER_UID):
        place.begin(Client())
    with pytest.raises(Refusal, match="end some first"):
        place.begin(Client())
    place.begin(Client(BOB))


def test_a_directory_tells_of_its_names(tmp_path: Path) -> None:
    inotify = linux.inotify()
    watch = linux.watch_names(inotify, str(tmp_path))
    node = tmp_path / "ttyUSB0"
    for step in (node.touch, lambda: node.chmod(0o600), lambda: node.rename(tmp_path / "x"),
                 (tmp_path / "x").unlink):  # fmt: skip
        step()
        assert linux.read_watches(inotify) == ({watch}, False)
        assert linux.read_watches(inotify) == (set(), False)
    with pytest.raises(FileNotFoundError):
        linux.watch_names(inotify, str(tmp_path / "none"))
    os.close(inotify)
