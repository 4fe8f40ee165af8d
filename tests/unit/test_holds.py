"""Whom a port is kept from."""

from __future__ import annotations

import errno

import pytest

from ttybrokerd.root import holds
from ttybrokerd.root.holds import LONGEST, Holds
from ttybrokerd.root.refusal import Refusal

DEVICE, ALICE, BOB = 7, 1001, 1002


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: its only number."""
    clock = [50.0]
    monkeypatch.setattr(holds.time, "monotonic", lambda: clock[0])
    return clock


def test_a_hold_is_for_one_user_and_one_device_and_ends(now: list[float]) -> None:
    kept = Holds()
    kept.add(DEVICE, ALICE, 2.5)
    kept.check(DEVICE, BOB)
    kept.check(DEVICE + 1, ALICE)
    for left in (3, 2, 1):
        with pytest.raises(Refusal, match=f"for another {left} s, also if you wait") as refused:
            kept.check(DEVICE, ALICE)
        assert refused.value.number == errno.EBUSY
        now[0] += 0.9
    kept.check(DEVICE, ALICE)


def test_holds_are_bounded_in_time_and_number(now: list[float]) -> None:
    kept = Holds()
    with pytest.raises(Refusal, match="86400 s at most"):
        kept.check_new(LONGEST + 1)
    for number in range(holds.MOST):
        kept.check_new(LONGEST)
        kept.add(number, ALICE, LONGEST if number else 1)
    with pytest.raises(Refusal, match="kept from users already") as refused:
        kept.check_new(1)
    assert refused.value.number == errno.EDQUOT
    now[0] += 1  # the first is over
    kept.check_new(1)
