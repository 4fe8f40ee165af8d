"""The guest is what the other tests take it for."""

from __future__ import annotations

from pathlib import Path


def test_eight_uarts() -> None:
    lines = Path("/proc/tty/driver/serial").read_text().splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["uart:16550A"] * 8
