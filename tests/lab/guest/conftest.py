"""Fixtures of the guest's tests: the broker as this flavour runs it, and the adapters."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import figures
from adapters import Adapters
from lines import PAIR, far
from service import BareService, Service, SystemdService, flavour
from support.processes import PR_SET_CHILD_SUBREAPER, prctl
from usbip import Chip

collect_ignore = ["test_labgrid.py"]  # it runs if it is named: ../__main__.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--races", type=int, default=25, help="how many of each kind")


@pytest.fixture
def races(pytestconfig: pytest.Config) -> int:
    """Return how often a holder goes on setting while it is revoked."""
    return int(pytestconfig.getoption("--races"))


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """Return the running broker, with the lab's policy."""
    made = SystemdService() if flavour() == "systemd" else BareService()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def broker(service: Service) -> Iterator[Service]:
    """Return the running broker, for one test. Fail if a lease or a lock of that test is left."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    service.begin()
    try:
        yield service
    finally:
        service.end()
        prctl(PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture(scope="session")
def _adapters() -> Iterator[Adapters]:
    made = Adapters()
    yield made
    made.close()


@pytest.fixture
def adapters(_adapters: Adapters) -> Iterator[Adapters]:
    """Return the USB adapters to plug; all are unplugged at the end."""
    try:
        yield _adapters
    finally:
        _adapters.unplug_all()


@pytest.fixture
def chip() -> Iterator[Chip]:
    """An FTDI adapter that is plugged in, and for which the test answers."""
    made = Chip()
    try:
        yield made
    finally:
        made.pull()


@pytest.fixture(params=["16550A", "FTDI"])
def wire(request: pytest.FixtureRequest, adapters: Adapters) -> Iterator[tuple[str, str, int]]:
    """Return the kind of wire, the port, and the other end of its wire."""
    near, other = PAIR if request.param == "16550A" else (adapters.plug(0), "ttyS3")
    end = far(other)
    try:
        yield request.param, near, end
    finally:
        os.close(end)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the measurements."""
    rows = figures.report()
    if rows:
        terminalreporter.section("measured")
        for row in rows:
            terminalreporter.write_line(row)
