"""Attacks on a port's settings: its holder goes on changing them while the lease is revoked.

On a pty, which has some of what a holder can change. tests/lab/guest/test_settings.py does the same
on a UART.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from real.test_settings import daemon, race, set_for_ever
from support.daemon import Daemon
from support.rig import Rig

__all__ = ["daemon"]
pytestmark = pytest.mark.root


def by_four(fd: int) -> None:
    """The same by four threads, of which each call is one of the kernel's own."""
    threads = [threading.Thread(target=set_for_ever, args=(fd,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("act", [set_for_ever, by_four])
def test_who_goes_on_setting_while_it_is_revoked_leaves_nothing(
    rig: Rig,
    daemon: Daemon,
    act: Callable[[int], None],
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
    progress: Callable[[str], None],
) -> None:
    races = scale(5, 500)
    for done in range(races):
        race(rig, daemon, act)
        if done % 100 == 99:
            progress(f"{done + 1} of {races} races")
    count("races of a holder that goes on setting against the revoke", races)
