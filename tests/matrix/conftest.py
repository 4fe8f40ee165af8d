"""Fixtures: an installation for all tests, and for each a stage with a daemon or without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from matrix.stage import Installation, Stage
from matrix.table import LAUNCHERS, Found
from matrix.terminal import Terminal
from real.conftest import rig
from real.support import Rig

__all__ = ["rig"]
HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-matrix", action="store_true", help="write what tests/matrix finds into README.md"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: a set-user-ID file, mounts"))


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
def terminal(stage: Stage) -> Iterator[Terminal]:
    made = Terminal(stage)
    try:
        yield made
    finally:
        made.close()
