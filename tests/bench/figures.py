"""Timing side by side, and rows of figures with their limits.

Machines are noisy. So only what ran in turn in the same run is compared, pair by pair, and what
is quoted is the median of the pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

MICROSECONDS = 1e6


class Row(NamedTuple):
    """One figure of the table.

    limit: None where the figure is for information. at_least: the limit is a lower one. old: the
    same figure of the old build, where it is one of a single build. spread: the quartiles of the
    rounds that `value` is the median of.
    """

    what: str
    value: float
    limit: float | None = None
    at_least: bool = False
    unit: str = ""
    old: float | None = None
    spread: tuple[float, float] | None = None

    @property
    def ok(self) -> bool:
        """Whether the limit holds. A figure that is not a number holds none."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """What the table says of it."""
        if self.limit is None:
            return ""
        return "ok" if self.ok else "missed"

    def show(self, value: float) -> str:
        """Format a value of this row."""
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
        return f"{text} {self.unit}".rstrip()

    def bound(self) -> str:
        """Format the limit: "at most 0.60"."""
        if self.limit is None:
            return ""
        return f"{'at least' if self.at_least else 'at most'} {self.show(self.limit)}"


def median(values: list[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def interleave(rounds: int, jobs: dict[str, Callable[[], float | None]]) -> dict[str, list[float]]:
    """Run all jobs once in each round, in an order that turns round with every round.

    Returns the seconds of each job in each round. A job that returns a number measured itself.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name in list(jobs) if number % 2 else reversed(list(jobs)):
            before = time.perf_counter()
            own = jobs[name]()
            times[name].append(time.perf_counter() - before if own is None else own)
    return times


def ratio(
    what: str, one: list[float], other: list[float], limit: float | None, **more: object
) -> Row:
    """Make a row of the median of the ratios one/other, pair by pair."""
    pairs = [a / b for a, b in zip(one, other, strict=True)]
    return middle(what, pairs, limit, **more)


def middle(what: str, values: list[float], limit: float | None, **more: object) -> Row:
    """Make a row of the median of these values."""
    spread = (percentile(values, 0.25), percentile(values, 0.75))
    return Row(what, median(values), limit, spread=spread, **more)  # type: ignore[arg-type]


def table(rows: list[Row]) -> str:
    """Format the rows in columns: what, value, quartiles, old build, limit, verdict."""
    cells = [("", "measured", "half of the rounds", "old build", "limit", "")]
    for row in rows:
        spread = "" if row.spread is None else f"{row.spread[0]:.2f} to {row.spread[1]:.2f}"
        old = "" if row.old is None else row.show(row.old)
        cells.append((row.what, row.show(row.value), spread, old, row.bound(), row.verdict))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def missed(rows: list[Row]) -> list[str]:
    """Say which limits do not hold, one sentence a row."""
    return [
        # With digits enough to see that it is one.
        f"missed: {row.what}: {row.value:,.6g} {row.unit}".rstrip() + f", limit {row.bound()}"
        for row in rows
        if not row.ok
    ]
