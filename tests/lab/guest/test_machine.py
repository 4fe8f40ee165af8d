"""The guest is as the other tests expect it."""

from __future__ import annotations

from lines import UARTS, uarts


def test_the_uarts() -> None:
    assert [line.split()[1] for line in uarts()] == ["uart:16550A"] * UARTS
