"""Fixtures of the unit tests. Nothing here starts a broker."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.place import PLACE


@pytest.fixture
def safe_dir() -> Iterator[Path]:
    """A directory that only its owner can change; as root, on a path that only root can change."""
    where = PLACE if os.geteuid() == 0 else None
    base = Path(tempfile.mkdtemp(prefix="ttybroker-unit-", dir=where))
    try:
        yield base
    finally:
        shutil.rmtree(base)


@pytest.fixture
def no_leak() -> Iterator[None]:
    """The test leaves no descriptor behind."""
    from unit.helpers import nothing_leaked

    with nothing_leaked():
        yield
