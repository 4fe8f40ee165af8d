"""Fixtures: an installation for all tests, and for each a stage with a daemon or without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from matrix import acts
from matrix.namespace import PORT
from matrix.programs import PROGRAMS, Program
from matrix.stage import Installation, Stage
from matrix.table import ALL, LAUNCHERS, Found
from matrix.terminal import Terminal
from support.fixtures import rig
from support.rig import Rig

__all__ = ["rig"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-matrix", action="store_true", help="write what is found into docs/programs.md"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All programs when the table is written, else those that `make test` installs. `locking` are
    those that lock the port by flock(2)."""
    programs = ALL if metafunc.config.getoption("--write-matrix", default=False) else PROGRAMS
    locking = [program for program in programs if program.lock == "flock" and alone(program)]
    for name, chosen in (("program", programs), ("locking", locking)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, chosen, ids=lambda program: program.name)


def alone(program: Program) -> bool:
    """Whether it is done with the port when it ends."""
    return program.act in (acts.converse, acts.dialog)


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    made = Installation()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def found() -> Found:
    """What the matrix's tests have found so far."""
    return {}


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest) -> str:
    """`ttybroker run`, with a daemon, or `ttyrun`, without one."""
    return str(request.param)


@pytest.fixture
def stage(rig: Rig, installation: Installation) -> Iterator[Stage]:
    made = Stage(rig, installation.base)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def line(stage: Stage, installation: Installation, launcher: str) -> list[str]:
    """How the command line begins; the daemon runs where it needs one."""
    if launcher == "ttybroker run":
        stage.rig.daemon(*stage.rig.arguments)
    return installation.launcher(launcher)


@pytest.fixture
def bare(line: list[str]) -> list[str]:
    """The launcher's own words, without a port and the --."""
    return [word for word in line if word not in (PORT, "--")]


@pytest.fixture
def terminal(stage: Stage) -> Iterator[Terminal]:
    made = Terminal(stage)
    try:
        yield made
    finally:
        made.close()
