"""Attacks on endurance: a million leases by fifty clients that crash, never two holders of a port.

See soak.py; it prints what it counts. Quickly in `make test`, within half an hour in `make attack`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from attack.runs import Run

pytestmark = pytest.mark.root

HALF_AN_HOUR = 1800  # seconds


def test_a_million_leases_leave_what_there_was_and_never_two_holders(
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
    progress: Callable[[str], None],
) -> None:
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        progress(line)

    begin = time.monotonic()
    Run("attack.soak", scale(1500, 1_000_000)).finish(hear)
    assert time.monotonic() - begin < HALF_AN_HOUR
    total = next(line for line in reversed(lines) if "crashes" in line).split()
    count("leases", int(total[2]))
    count("crashes of clients", int(total[8]))
