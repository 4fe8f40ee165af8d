"""The guest is what the other tests take it for."""

from __future__ import annotations

from lines import uarts


def test_eight_uarts() -> None:
    assert [line.split()[1] for line in uarts()] == ["uart:16550A"] * 8
