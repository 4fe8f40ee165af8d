"""The table of docs/programs.md, made of what the tests found."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable

from matrix.extras import EXTRAS
from matrix.programs import PROGRAMS, ROWS, Program
from support.page import Part

PAGE = Part("programs.md", "matrix")
LAUNCHERS = ("ttybroker run", "ttyrun")
ALL = PROGRAMS + EXTRAS
WORKS, FAILS = "works", "fails"
RELEASE = platform.freedesktop_os_release().get("VERSION_CODENAME", "here")
_HEAD = ("program", "lock it takes itself", "remarks")  # and a column for each release

Found = dict[tuple[str, str], str]  # (program's name, launcher) -> WORKS or FAILS
Row = dict[str, str]  # column -> cell


def row(program: Program, found: Found) -> Row:
    """One program's cells, with that of this release."""
    texts = (program.name, _lock(program.name), program.remarks)
    cell = f"{program.version() or '?'} {_outcome(program, found)}"
    return {**dict(zip(_HEAD, texts, strict=True)), RELEASE: cell}


def _lock(name: str) -> str:
    """What it takes, version by version."""
    program = next(row for row in ROWS + EXTRAS if row.name == name)
    later = [f"{since.lock} from {since.version} on" for since in program.since if since.lock]
    return ", ".join([program.lock, *later])


def _outcome(program: Program, found: Found) -> str:
    failed = [name for name in LAUNCHERS if found.get((program.name, name)) != WORKS]
    return f"{FAILS} under {' and '.join(failed)}" if failed else WORKS


def table(found: Found) -> str:
    """The whole table, in Markdown. Cells of other releases stay as they are."""
    said = committed()
    columns = list(
        dict.fromkeys([*_HEAD, *(name for cells in said.values() for name in cells), RELEASE])
    )
    rows = [{**said.get(program.name, {}), **row(program, found)} for program in ALL]
    lines = [columns, ["---"] * len(columns)]
    lines += [[cells.get(column, "") for column in columns] for cells in rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def write(found: Found) -> None:
    """Put it between the two marks of the page."""
    PAGE.write(table(found))


def committed() -> dict[str, Row]:
    """The rows of the page by program."""
    lines = [line for line in PAGE.read().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {cells[0]: dict(zip(rows[0], cells, strict=True)) for cells in rows[2:]}


def differences(found: Found, programs: Iterable[Program] = ALL) -> list[str]:
    """Where the page says something else than was found. Versions may differ, and the page may not
    have this release: then all is to work."""
    rows = committed()
    problems = [f"{name}: not a program of the matrix" for name in rows if name not in _names()]
    for program in programs:
        is_so, said = row(program, found), rows.get(program.name, {})
        outcome = said.get(RELEASE, f"? {WORKS}").partition(" ")[2]
        same = all(said.get(column) == is_so[column] for column in _HEAD)
        if not same or outcome != _outcome(program, found):
            problems.append(f"{program.name}: the page has {said}, found {is_so}")
    return problems


def _names() -> set[str]:
    return {program.name for program in ALL}
