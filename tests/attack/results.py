"""The table of attacks in docs/attacks.md, made of what full runs did.

A row is of one file and names the commit on which the file last ran at full scale. A try that
fails ends its test, so the tests that failed are the tries that failed.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

from support.page import Part

HERE = Path(__file__).parent
PAGE = Part("attacks.md", "attacks")
_HEAD = ("attacks on", "tests", "failed", "tries in the last full run", "commit")
GUARDS = "mutants.py"
_GUARDS_TITLE = "the tests themselves: each guard taken out of the code, one at a time"

Rows = dict[str, list[str]]  # by file name


class Results:
    """What a run has done, by file. `commit` is what it runs on, "" if nobody will write that."""

    def __init__(self) -> None:
        self.commit = ""
        self.tests: defaultdict[str, dict[str, bool]] = defaultdict(dict)  # whether each passed
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.measured: defaultdict[str, list[str]] = defaultdict(list)

    def rows(self) -> Rows:
        """A row for each file of which a test has run."""
        return {file: self._row(file) for file in files() if self.tests[file]}

    def _row(self, file: str) -> list[str]:
        counts = [f"{number:,} {what}" for what, number in self.counts[file].items()]
        passed = list(self.tests[file].values())
        tries = "; ".join([*counts, *self.measured[file]])
        tests, failed = f"{len(passed)} in `{file}`", str(passed.count(False))
        return [title(file), tests, failed, tries, self.commit]


def of_guards(number: int, commit: str) -> Rows:
    """The row that says: so many guards were taken away, and the tests of each failed."""
    tests = f"{number} in `{GUARDS}`"
    return {GUARDS: [_GUARDS_TITLE, tests, "0", f"{number:,} guards, each noticed", commit]}


def files() -> list[str]:
    """The files with attacks in them, and the one with the guards."""
    return sorted([GUARDS, *(path.name for path in HERE.glob("test_*.py") if title(path.name))])


def title(file: str) -> str:
    """What a file attacks: its docstring's first line, "Attacks on ...", without that; ""
    if it holds no attacks."""
    if file == GUARDS:
        return _GUARDS_TITLE
    text = ast.get_docstring(ast.parse((HERE / file).read_text())) or ""
    first, _, _ = text.partition("\n")
    return first.removeprefix("Attacks on ").rstrip(".") if first.startswith("Attacks on ") else ""


def table(rows: Rows) -> str:
    """The whole table, in Markdown."""
    lines = [list(_HEAD), ["---"] * len(_HEAD), *(rows[file] for file in sorted(rows))]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def committed() -> Rows:
    """The page's rows."""
    lines = [line for line in PAGE.read().splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {re.sub(r".*`(.*)`", r"\1", row[1]): row for row in cells}


def write(rows: Rows) -> None:
    """Put these rows into the page's table; those of files that did not run stay."""
    known = {file: row for file, row in committed().items() if file in files()}
    PAGE.write(table(known | rows))
