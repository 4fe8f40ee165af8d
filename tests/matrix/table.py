"""The table of docs/programs.md, made of what the tests found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from matrix.extras import EXTRAS
from matrix.programs import PROGRAMS, ROWS, Program

PAGE = Path(__file__).parents[2] / "docs" / "programs.md"
BEGIN, END = "<!-- matrix -->\n", "<!-- end of matrix -->\n"
LAUNCHERS = ("ttybroker run", "ttyrun")
ALL = PROGRAMS + EXTRAS
WORKS, FAILS = "works", "fails"
_HEAD = ("program", "version", "lock it takes itself", "`ttybroker run`", "`ttyrun`", "remarks")

Found = dict[tuple[str, str], str]  # (program's name, launcher) -> WORKS or FAILS


def row(program: Program, found: Found) -> list[str]:
    """One program's cells."""
    outcomes = [found.get((program.name, launcher), FAILS) for launcher in LAUNCHERS]
    return [program.name, program.version(), program.lock, *outcomes, program.remarks]


def table(found: Found) -> str:
    """The whole table, in Markdown."""
    rows = [list(_HEAD), ["---"] * len(_HEAD), *(row(program, found) for program in ALL)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


def write(found: Found) -> None:
    """Put it between the two marks of the page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + table(found) + "\n" + END + after)


def committed() -> dict[str, list[str]]:
    """The rows of the page by program."""
    text = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return {cells[0]: cells for cells in rows}


def differences(found: Found, programs: Iterable[Program] = ALL) -> list[str]:
    """Where the page says something else than was found. Versions may differ, and with them the
    lock: they are those of the machine that wrote it."""
    rows = committed()
    problems = [f"{name}: not a program of the matrix" for name in rows if name not in _names()]
    for program in programs:
        is_so, said = row(program, found), rows.get(program.name)
        if said is None or said != [*is_so[:1], said[1], _lock(program, said[1]), *is_so[3:]]:
            problems.append(f"{program.name}: the page has {said}, found {is_so}")
    return problems


def _lock(program: Program, version: str) -> str:
    """What that version of it takes."""
    row = next(row for row in ROWS + EXTRAS if row.name == program.name)
    return row.at(version).lock


def _names() -> set[str]:
    return {program.name for program in ALL}
