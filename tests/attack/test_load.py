"""Attacks on leases at work: the daemon killed again and again, five clients go on transferring.

Three ports are busy all the time: each was leased anew since the last kill. What is sent comes
back, no open fails, and at the end nothing is left.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from real.test_restart_load import restarted_under_load
from support.rig import Rig

pytestmark = pytest.mark.root


def test_nobody_loses_anything_by_kills_under_load(
    rig: Rig,
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
    progress: Callable[[str], None],
) -> None:
    kills = scale(2, 300)

    def say(done: int) -> None:
        if done % 50 == 0:
            progress(f"{done} of {kills} kills")

    restarted_under_load(rig, signal.SIGKILL, kills, say)
    count("kills under load", kills)
