"""Fixtures of the end-to-end tests; a folder's conftest.py imports them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.daemon import Daemon
from support.processes import PR_SET_CHILD_SUBREAPER, prctl
from support.rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Return a directory, ports and processes of the test's own. Fail if any of it is left.

    Meanwhile the test process adopts orphans, so that a process left behind is noticed.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    made = Rig()
    try:
        yield made
    finally:
        made.close()
        prctl(PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture
def daemon(rig: Rig) -> Daemon:
    """Start a daemon with the ports ttyS0 and ttyS1 for everybody; only root is its admin."""
    rig.port("ttyS0")
    rig.port("ttyS1")
    return rig.daemon()
