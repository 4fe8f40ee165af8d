"""`make bench`: what this commit costs, beside an older one, and whether the limits hold.

    python -m bench [--old COMMIT] [--json] [--write] [TOPIC...]

With --old that commit is built as well, and both run in turn. Without it there are only the rows
that need no second build. A topic is a module here; none is all of them but "peers", which needs
programs of others. --write puts the table into docs/ (report.py says where).

Exit status: 0 all limits hold, 1 one is missed (standard error says which), 2 usage, or nothing
could be measured.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
from typing import NoReturn

from bench import report
from bench.build import Bench, CannotBuild
from bench.figures import Row

TOPICS = ("lines", "start", "opens", "rules", "reload", "launch", "crowd", "watch", "memory",
          "commands", "traffic", "terminal", "lend", "scale")  # fmt: skip
ON_DEMAND = ("peers",)


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, return the exit status."""
    options = _parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)  # so that everything is cleaned up
    try:
        with Bench(options.old) as bench:
            _warn_if_busy()
            rows = _measure(bench, options.topics or list(TOPICS))
            commits = {name: build.commit for name, build in bench.builds.items()}
    except (CannotBuild, RuntimeError) as error:  # the second: a build that does not work
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if options.write:
        report.write(rows, commits, options.topics)
    return report.show(rows, commits, as_json=options.json)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="What this commit costs.")
    parser.add_argument("--old", metavar="COMMIT", help="measure this commit beside it")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--write", action="store_true", help="put the table into docs/")
    # Not choices=: with nargs="*" it refuses an empty list.
    parser.add_argument("topics", metavar="TOPIC", nargs="*", help=", ".join(TOPICS + ON_DEMAND))
    options = parser.parse_args(argv)
    for topic in options.topics:
        if topic not in TOPICS + ON_DEMAND:
            parser.error(f"{topic}: no topic; there are {', '.join(TOPICS + ON_DEMAND)}")
    return options


def _measure(bench: Bench, topics: list[str]) -> list[Row]:
    rows: list[Row] = []
    for topic in topics:
        began = time.monotonic()
        rows += importlib.import_module(f"bench.{topic}").rows(bench)
        print(f"{topic}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


def _warn_if_busy() -> None:
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > processors / 2:
        what = f"load {load:.1f} on {processors} processors: the machine has other work"
        print(f"bench: {what}; ratios scatter, and p95 shows its work", file=sys.stderr)


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
