"""What the tracer and the supervisor keep for themselves."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from ttybroker.run import notify, supervise
from ttybroker.run.trace import Tracer
from unit.helpers import dead_pid


def test_of_a_thread_that_was_killed_while_its_path_was_followed_nothing_is_kept() -> None:
    """Its number is used again, and then the register of another thread would be changed."""
    supervisor: Any = SimpleNamespace(finder=None, complaints=None, hidden=None, leased=None)
    tracer = Tracer(supervisor, 1)
    arch = notify.MACHINES["x86_64"][1][0].audit
    tracer._decide(dead_pid(), True, arch, notify.OPENAT)
    assert tracer._marked == {}


def test_several_threads_complain_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread answers opens. One that succeeded must not fail for the complaint of another."""
    monkeypatch.setattr(supervise, "say", lambda _: None)
    complaints, failures = supervise.Complaints(), []

    def answer(thread: int) -> None:
        try:
            for number in range(3000):
                complaints.say(f"{thread} {number % 7}", number % 9, "")
                complaints.forget(f"{thread} {number % 5}")
        except RuntimeError as error:
            failures.append(error)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=answer, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert failures == []
