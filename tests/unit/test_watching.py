"""The lines of a list that is watched: what is new in each second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ttybroker import watching, wire
from ttybroker.watching import Lines


def ports(received: int | None) -> list[wire.PortInfo]:
    """ttyS0 with so many bytes received in all, None for a port that somebody else has."""
    facts = () if received is None else ((wire.RECEIVED, received), (wire.SENT, 0))
    return [wire.PortInfo("ttyS0", "/dev/ttyS0", "busy", "r", facts=facts)]


def test_bytes_a_second_are_of_the_last_second_and_zero_when_nothing_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    lines, told = Lines(), []
    for moment, received in ((0, 100), (1, 300), (1.2, 320), (2, 320), (3, 320), (4, 330)):
        clock[0] = moment
        rates = lines.of(ports(received))["ttyS0"].rates()
        told.append(None if rates is None else rates[0])
    # a look soon after another changes nothing: that would be the rate of a moment
    assert told == [None, 200, 200, 20, 0, 10]
    assert lines.of(ports(None)) == {}
    assert lines.of(ports(5))["ttyS0"].rates() is None  # another lease: nothing to compare with
    assert lines.of([]) == {}


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "table"])
def test_what_is_no_screen_is_told_once_when_bytes_stop(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the last rate would seem to last. The broker has no news of a line at rest."""
    clock = [0.0]
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1)
    moving, resting = ports(100), ports(300)

    def watch(*_: object, **asked: object) -> Iterator[list[wire.PortInfo]]:
        assert asked["details"] and asked["again"] == 1.0
        for found in (moving, resting, resting, resting, resting):
            yield found
            clock[0] += 1

    broker: Any = SimpleNamespace(watch=watch, shares_pids=lambda: False)
    watching.watch(broker, (), details=False, as_json=as_json)
    lines = capsys.readouterr().out.splitlines()
    if as_json:
        told = [json.loads(line)[0]["line"]["received_per_second"] for line in lines]
        assert told == [None, 200, 0]
    else:
        told = [line.strip() for line in lines if " B/s" in line]
        assert told == ["in 200 B/s, out 0 B/s", "in 0 B/s, out 0 B/s"]
