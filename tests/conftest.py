"""What holds for every test: those marked `root` are for root, and say so to others."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

collect_ignore = ["lab"]  # `make lab` runs those, in its guest


def pytest_configure() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup(1) every program would ignore it
    # A shell without job control has them ignored in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Without a shell's job control all workers are in one orphaned process group. If one test
        # has a stopped process in it while another test's ends whose parent is in another group,
        # the kernel hangs up the whole group: kernel/exit.c, kill_orphaned_pgrp().
        os.setpgid(0, 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: processes with other uids"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    needs = Path(sys.prefix, "test-needs")
    if terminalreporter.stats.get("failed") and needs.parent.name == ".venv" and not needs.exists():
        terminalreporter.write_line(
            "Programs that tests start may be missing: make .venv/test-needs"
        )
