"""The tracer's own book-keeping."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ttybroker.run import notify
from ttybroker.run.trace import Tracer
from unit.helpers import dead_pid


def test_of_a_thread_that_was_killed_while_its_path_was_followed_nothing_is_kept() -> None:
    """Its number comes again, and the register of another thread would be changed."""
    supervisor: Any = SimpleNamespace(finder=None, complaints=None, hidden=None, leased=None)
    tracer = Tracer(supervisor, 1)
    arch = notify.MACHINES["x86_64"][1][0].audit
    tracer._decide(dead_pid(), True, arch, notify.OPENAT)
    assert tracer._marked == {}
