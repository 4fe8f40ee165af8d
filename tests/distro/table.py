"""The table in docs/releases.md: what each step came to, when it last ran."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "releases.md"
HEAD = "| release | Python | step | result | commit |\n|---|---|---|---|---|\n"


class Found(NamedTuple):
    """A row."""

    release: str
    python: str
    step: str
    result: str
    commit: str


def put(page: str, found: Found) -> str:
    """The page with this row in the place of the one with its release, Python and step; its rows in
    order."""
    before, head, after = page.partition(HEAD)
    if not head:
        raise ValueError(f"no table in the page: it begins with {HEAD.splitlines()[0]}")
    lines, rest = [], after.splitlines(keepends=True)
    while rest and rest[0].startswith("|"):
        lines.append(rest.pop(0))
    rows = {row[:3]: row for row in map(_row, lines)}
    rows[found[:3]] = found
    table = "".join(f"| {' | '.join(rows[key])} |\n" for key in sorted(rows))
    return before + head + table + "".join(rest)


def _row(line: str) -> Found:
    return Found(*(cell.strip() for cell in line.strip().strip("|").split("|")))


def write(found: Found) -> None:
    """Put it into the page."""
    PAGE.write_text(put(PAGE.read_text(), found))
