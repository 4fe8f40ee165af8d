"""Timing side by side, and tables of ratios. Machines are noisy: only what ran interleaved in
the same run is compared, and what is quoted is the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median(values: list[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def interleave(rounds: int, **jobs: Callable[[], float | None]) -> dict[str, list[float]]:
    """Seconds of each job in each round, all jobs in turn in every round. A job that returns
    a number has timed itself."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            before = time.perf_counter()
            own = job()
            times[name].append(time.perf_counter() - before if own is None else own)
    return times


def paired(times: dict[str, list[float]], one: str, other: str) -> float:
    """The median of the ratios one/other, pair by pair."""
    return median([a / b for a, b in zip(times[one], times[other], strict=True)])


def table(title: str, rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns under a title."""
    print(f"\n{title}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip())


def microseconds(seconds: float) -> str:
    """For a cell."""
    return f"{seconds * 1e6:.0f} µs"


def times_table(title: str, times: dict[str, list[float]], base: str) -> None:
    """Median, p99 and the ratio of the medians to that of `base`."""
    rows: list[tuple[str, ...]] = [("", "median", "p99", f"of {base}")]
    for name, values in times.items():
        ratio = f"{median(values) / median(times[base]):.2f}"
        p99 = microseconds(percentile(values, 0.99))
        rows.append((name, microseconds(median(values)), p99, ratio))
    table(title, rows)
