"""Measurements, for the end of the output: a passed test does not say how fast it was."""

from __future__ import annotations

_noted: dict[str, list[float]] = {}


def note(what: str, value: float) -> float:
    """Keep a measurement under this name, and return it."""
    _noted.setdefault(what, []).append(value)
    return value


def report() -> list[str]:
    """Return a line for each: the median, and the worst of several."""
    rows = []
    for what, values in _noted.items():
        ordered = sorted(values)
        more = f", worst {ordered[-1]:.1f} of {len(ordered)}" if len(ordered) > 1 else ""
        rows.append(f"{ordered[len(ordered) // 2]:8.1f}  {what}{more}")
    return rows
