"""What a run says: a table for people, JSON for programs, and a part of a page in docs/.

performance.md has a part for all topics and one for `peers`, scale.md one for `scale`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from pathlib import Path

from bench import figures
from bench.figures import Row
from support.page import Part

PARTS = {
    (): Part("performance.md", "bench"),
    ("peers",): Part("performance.md", "bench peers"),
    ("scale",): Part("scale.md", "bench scale"),
}


def show(rows: list[Row], commits: dict[str, str], *, as_json: bool) -> int:
    """Print the table on standard output and what is missed on standard error; the exit status."""
    if as_json:
        told = [{**row._asdict(), "verdict": row.verdict} for row in rows]
        print(json.dumps({"commits": commits, "rows": told}, indent=1))
    else:
        print(", ".join(f"{name}: {commit}" for name, commit in commits.items()))
        print(figures.table(rows))
    complaints = figures.missed(rows)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def write(rows: list[Row], commits: dict[str, str], topics: list[str]) -> None:
    """Put the table into the page that has a part for these topics; else say which there are."""
    part = PARTS.get(tuple(topics))
    if part is None:
        known = " and ".join("all topics" if not key else key[0] for key in PARTS)
        print(f"bench: not written: docs/ has parts for {known} alone", file=sys.stderr)
        return
    new, *old = commits.values()
    beside = f" beside {old[0]}" if old else ""
    part.write(f"Commit {new}{beside}. {_machine()}\n\n```text\n{figures.table(rows)}\n```\n")


def _machine() -> str:
    """What it ran on, in a sentence."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processors = len(os.sched_getaffinity(0))
    release = re.match(r"\d+\.\d+", platform.release())
    return (
        f"{processors} processors ({model[1] if model else platform.machine()}), Linux "
        f"{release[0] if release else platform.release()}, Python {platform.python_version()}."
    )
