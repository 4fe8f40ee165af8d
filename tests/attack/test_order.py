"""Attacks on the queue: the daemon ended again and again, its order is kept with systemd's store.

All who wait ask again as fast as they can, and each time a newcomer tries to overtake them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from real.test_restart import row
from real.test_restart_order import (
    in_order,
    places,
    systemd,
    until,
    wait_in_line,
    when_granted,
)
from support.rig import Rig
from support.systemd import Systemd
from support.users import ALICE, NOBODY

__all__ = ["systemd"]

pytestmark = pytest.mark.root

Scale = Callable[[int, int], int]
Count = Callable[[str, int], None]
Say = Callable[[str], None]

NEWCOMER = ALICE + 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_order_is_the_same_after_every_restart(
    rig: Rig,
    systemd: Systemd,
    number: signal.Signals,
    scale: Scale,
    count: Count,
    progress: Say,
) -> None:
    restarts = scale(2, 50)
    systemd.start()
    for done in range(restarts):
        restart(rig, systemd, number, held=done % 2 == 0)
        progress(f"{done + 1} of {restarts} restarts")
    count("restarts with six in the queue", restarts)


def restart(rig: Rig, systemd: Systemd, number: signal.Signals, *, held: bool) -> None:
    """Restart the daemon while six wait. If not `held`, nobody has the port by then."""
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig)
    pids = [child.pid for child in line]
    until(lambda: places(systemd) == pids)
    rig.daemons[-1].process.send_signal(number)
    line.append(when_granted(rig, NEWCOMER))
    assert rig.daemons[-1].wait() == (-number if number == signal.SIGKILL else 0)
    if not held:
        holder.say()
        holder.result()
    systemd.start()
    if held:
        until(lambda: row(rig).waiting == len(line))
        holder.say()
    in_order(line)
