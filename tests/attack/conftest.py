"""One knob for the scale of all attacks, and the count of what they did.

An attack asks `scale(quick, full)` how often; says by `progress` how far it is; and reports by
`count` what it did, for the table in docs/attacks.md (results.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from attack import results
from attack.results import Results
from launcher.conftest import bases, built, launcher, mine, own
from support.commit import this_commit
from support.fixtures import daemon, rig

__all__ = ["bases", "built", "daemon", "launcher", "mine", "own", "rig"]

LONGEST = 4 * 3600  # seconds for one attack at full scale
_results = Results()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="attack at full scale: make attack")
    parser.addoption(
        "--write-attacks", action="store_true", help="write what they did into docs/attacks.md"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--write-attacks", default=False):
        _results.commit = this_commit()  # now: who works on the tree meanwhile does not change it


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _full(config) and item.path.parent == results.HERE:
            item.add_marker(pytest.mark.timeout(LONGEST), append=False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path = Path(report.fspath)
    over = report.failed or (report.when == "call" and report.passed)
    if path.parent.name == "attack" and over:
        tests = _results.tests[path.name]  # one whose end fails has passed before
        tests[report.nodeid] = report.passed


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _full(config):
        terminalreporter.section("attacks, as in docs/attacks.md")
        terminalreporter.write(results.table(_results.rows()))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == 0 and session.config.getoption("--write-attacks", default=False):
        results.write(_results.rows())


def _full(config: pytest.Config) -> bool:
    return bool(config.getoption("--full", default=False))


@pytest.fixture
def scale(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """`scale(quick, full)` is how often: the first in `make test`, the second in `make attack`."""
    return lambda quick, full: full if _full(pytestconfig) else quick


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """`count("swaps", 100)`: that many more were done by this file."""

    def add(what: str, number: int) -> None:
        _results.counts[request.path.name][what] += number

    return add


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`measured("0.9 ms calm")`: what else the row of this file says."""
    return _results.measured[request.path.name].append


@pytest.fixture
def progress(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say how far a long attack is, past pytest's capture; silent in `make test`."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        if _full(request.config):
            with capture.global_and_fixture_disabled():
                print(f"\n{request.node.name}: {text}", end="", flush=True)

    return say
