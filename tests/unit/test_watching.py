"""The lines of a list that is watched: what is new in each second."""

from __future__ import annotations

from types import SimpleNamespace

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
