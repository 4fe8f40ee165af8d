"""What was measured, for the end of the output: that a test passes says nothing of how well."""

from __future__ import annotations

_noted: dict[str, list[float]] = {}


def note(what: str, value: float) -> float:
    """Remember it, by what it is; returns it."""
    _noted.setdefault(what, []).append(value)
    return value


def report() -> list[str]:
    """A line for each: the median, and the worst of several."""
    rows = []
    for what, values in _noted.items():
        ordered = sorted(values)
        more = f", worst {ordered[-1]:.1f} of {len(ordered)}" if len(ordered) > 1 else ""
        rows.append(f"{ordered[len(ordered) // 2]:8.1f}  {what}{more}")
    return rows
