"""Fixtures: an installation for all tests, and for each a stage with a daemon or without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from matrix.namespace import PORT
from matrix.stage import Installation, Stage
from matrix.table import LAUNCHERS, Found
from matrix.terminal import Terminal
from support.fixtures import rig
from support.rig import Rig

__all__ = ["rig"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-matrix", action="store_true", help="write what is found into docs/programs.md"
    )


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
