"""What holds for every test: those marked `root` are for root, and say so to others."""

from __future__ import annotations

import os
import signal

import pytest

collect_ignore = ["lab"]  # `make lab` runs those, in its guest


def pytest_configure() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup(1) every program would ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: processes with other uids"))
