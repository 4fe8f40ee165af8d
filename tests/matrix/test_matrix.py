"""The matrix: real programs, unchanged, by users without rights, under both launchers."""

from __future__ import annotations

import pytest

from matrix import table
from matrix.acts import Act
from matrix.programs import Program
from matrix.stage import Stage
from matrix.table import ALL, Found
from matrix.terminal import Terminal

pytestmark = pytest.mark.root


def test_program_works_and_leaves_nothing(
    stage: Stage,
    terminal: Terminal,
    line: list[str],
    launcher: str,
    program: Program,
    found: Found,
) -> None:
    found[program.name, launcher] = table.FAILS
    program.act(Act(stage, terminal, line), program)
    stage.demand_free()
    found[program.name, launcher] = table.WORKS


def test_the_page_says_what_was_found(found: Found, pytestconfig: pytest.Config) -> None:
    """Of what has run: of everything, unless only a part was asked for (-k)."""
    complete = [
        program
        for program in ALL
        if all((program.name, launcher) in found for launcher in table.LAUNCHERS)
    ]
    if pytestconfig.getoption("--write-matrix", default=False):
        assert len(complete) == len(ALL), "the whole matrix must run to be written"
        table.write(found)
    assert not table.differences(found, complete), "make matrix"
