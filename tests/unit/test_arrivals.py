"""Requests that wait for an absent device: when it is looked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttybrokerd.root import arrivals
from ttybrokerd.root.arrivals import AHEAD, Arrivals
from ttybrokerd.root.connection import OpenRequest
from ttybrokerd.root.loop import Loop
from ttybrokerd.root.paced import REST
from ttybrokerd.root.refusal import Absent

LOOK = 0.5  # seconds that one takes
PAUSE = REST * LOOK - AHEAD  # seconds after one, if no rest was owed before


class Place:
    """Requests for `late` in a directory, and the clock."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = directory / "late"
        self.clock = 100.0
        self.missing: list[OpenRequest] = []
        self.table = SimpleNamespace(
            missing=lambda: list(self.missing), misses=0, found=self._found
        )
        self.look_takes = LOOK
        self.looks = 0
        self.again: float | None = None
        self.granted: list[Any] = []
        self.after_a_look: Callable[[], object] = lambda: None
        monkeypatch.setattr(arrivals, "time", SimpleNamespace(monotonic=lambda: self.clock))
        self.loop, here = Loop(), {str(directory)}
        devices: Any = SimpleNamespace(directories=lambda _target: here)
        ruling = SimpleNamespace(look=self._look)
        judge: Any = SimpleNamespace(
            judge_waiting=lambda _request: None, of=lambda _identity: ruling
        )
        leases: Any = SimpleNamespace(
            table=self.table, ask=lambda one, _seen: self.granted.append(one)
        )
        self.refused: list[int] = []  # the errno of each
        answers: Any = SimpleNamespace(
            refuse=lambda _client, _name, no, _rule: self.refused.append(no.number)
        )
        self.arrivals = Arrivals(self.loop, devices, judge, leases, answers)

    def _look(self, *_: object) -> object:
        self.looks += 1
        self.clock += self.look_takes
        there = self.name.exists()
        self.after_a_look()
        if not there or self.again:
            absent = Absent(2, "no such port")
            absent.again = self.again
            raise absent
        return object()

    def _grant(self, request: OpenRequest, _seen: object) -> None:
        self.granted.append(request)

    def _found(self, request: OpenRequest, _now: float) -> None:
        self.missing.remove(request)

    def wait(self) -> float | None:
        """One more waits; return when the next look is due."""
        request = OpenRequest.__new__(OpenRequest)
        request.client = SimpleNamespace(identity=None, look_up_groups=lambda: None)  # type: ignore[assignment]
        request.target, request.rule = SimpleNamespace(), ""  # type: ignore[assignment]
        request.name = "late"
        self.missing.append(request)
        self.table.misses += 1
        return self.look()

    def after(self, seconds: float) -> float | None:
        self.clock += seconds
        self.loop.turn(0)
        return self.look()

    def look(self) -> float | None:
        """As many turns as one look takes; return when the next look is due."""
        while True:
            left = self.arrivals.tick()
            if not self.arrivals._left:
                return left
            assert left == 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path, monkeypatch)
    yield made
    assert not made.refused
    made.arrivals.close()
    made.loop.close()


def test_looks_leave_the_most_of_the_time_to_others(place: Place) -> None:
    """Whoever asks for what is not there, in a loop, has a look begun each time."""
    place.wait()
    place.after(REST * LOOK)  # for the new watch
    assert place.looks == 2
    assert place.wait() == pytest.approx(PAUSE)
    assert place.after(PAUSE / 2) == pytest.approx(PAUSE / 2)
    assert place.looks == 2
    assert place.after(PAUSE / 2) is None
    assert place.looks == 4  # at both requests


def test_a_look_for_many_leaves_each_turn_to_others_and_looks_for_nobody_who_left(
    place: Place,
) -> None:
    place.wait()
    place.after(REST * LOOK)  # for the new watch
    for _ in range(3):
        place.wait()
    place.after(PAUSE)
    looks = place.looks
    place.clock += 10 * REST * LOOK
    place.arrivals.look_soon()
    for number in range(1, 3):
        assert place.arrivals.tick() == 0
        assert place.looks == looks + number
    gone = place.missing[2]
    place.missing.remove(gone)
    assert place.arrivals.tick() != 0
    assert place.looks == looks + 3


def test_names_that_come_one_after_another_are_looked_for_at_once(place: Place) -> None:
    """A device has its node, then udev's links, within a moment: short looks owe their rest."""
    place.look_takes = 0.01
    place.wait()
    for looks in range(2, 7):
        place.arrivals.look_soon()
        place.after(0.0)
        assert place.looks == looks


def test_no_more_rest_is_owed_than_the_bound(place: Place) -> None:
    place.look_takes = 0.01
    place.wait()
    began, looks = place.clock, place.looks
    for _ in range(100):
        place.arrivals.look_soon()
        place.after(place.arrivals.tick() or 0.0)
    spent = (place.looks - looks) * place.look_takes
    assert (1 + REST) * spent <= place.clock - began + AHEAD
    assert place.looks - looks > 50


def test_a_device_that_comes_while_it_is_looked_for_is_found(place: Place) -> None:
    """Its name was not there at the look, and it was when the directory began to be watched."""
    place.after_a_look = place.name.touch
    assert place.wait() == pytest.approx(PAUSE)
    assert not place.granted
    assert place.after(REST * LOOK) is None
    assert len(place.granted) == 1 and not place.missing


def test_a_directory_that_goes_while_it_is_looked_for_is_looked_for_again(place: Place) -> None:
    above, place.after_a_look = place.name.parent, lambda: os.rename(above, f"{above}.old")
    assert place.wait() == pytest.approx(PAUSE)


def test_nothing_is_looked_for_without_news(place: Place) -> None:
    place.wait()
    place.after(REST * LOOK)
    assert place.after(3600) is None and place.looks == 2
    place.name.touch()
    assert place.after(1) is None and len(place.granted) == 1


def test_what_udev_never_names_is_looked_for_again_though_no_name_comes(place: Place) -> None:
    place.name.touch()
    place.again = 5.0
    place.wait()
    place.after(REST * LOOK)  # for the new watch
    looks = place.looks
    left = place.after(1)
    assert left is not None and 0 < left <= 5 and place.looks == looks
    left = place.after(left)
    assert left == pytest.approx(5.0) and place.looks == looks + 1
    place.again = None
    assert place.after(left) is None and len(place.granted) == 1


def test_a_look_that_fails_is_a_refusal_and_the_others_are_looked_for(place: Place) -> None:
    """An error would end the loop, and the broker with it."""
    place.wait()
    place.wait()
    failures = iter([errno.EMFILE])

    def fail_once() -> None:
        for number in failures:
            raise OSError(number, os.strerror(number))

    place.after_a_look = fail_once
    place.name.touch()
    place.after(REST * 4 * LOOK)
    assert len(place.granted) == 1 and place.refused.pop() == errno.EMFILE


def test_nobody_waits_for_a_name_of_which_nothing_would_tell(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_watch(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(arrivals.linux, "watch_arrivals", no_watch)
    assert place.wait() is None
    assert not place.missing and place.refused.pop() == errno.ENOSPC
