"""The matrix: real programs, unchanged, by users without rights, under both launchers."""

from __future__ import annotations

import pytest

from matrix.acts import Act
from matrix.programs import PROGRAMS, Program
from matrix.stage import Stage
from matrix.terminal import Terminal

pytestmark = pytest.mark.root


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_program_works_and_leaves_nothing(
    stage: Stage, terminal: Terminal, line: list[str], program: Program
) -> None:
    program.act(Act(stage, terminal, line), program)
    stage.demand_free()
