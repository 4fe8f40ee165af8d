"""Programs with lock files of their own, where the lock directory is root's alone."""

from __future__ import annotations

import os

import pytest

from matrix.acts import Act
from matrix.programs import LCK, PROGRAMS, Program
from matrix.stage import Stage
from matrix.terminal import Terminal

pytestmark = pytest.mark.root
LOCKING = [program for program in PROGRAMS if program.lock == LCK]


@pytest.mark.parametrize("own", LOCKING, ids=lambda program: program.name)
def test_one_with_lock_files_of_its_own_works_where_it_can_make_none(
    stage: Stage, terminal: Terminal, line: list[str], own: Program
) -> None:
    os.chmod(stage.rig.locks, 0o755)
    command = own.lockless or own.command
    own.act(Act(stage, terminal, line), own._replace(command=command, lock="none"))
    stage.demand_free(2)
