"""What the tracer and the supervisor keep for themselves."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from run.conftest import LIMIT
from ttybroker.run import notify, supervise
from ttybroker.run.broker import line_of
from ttybroker.run.names import Names
from ttybroker.run.slow import SlowFinder
from ttybroker.run.trace import Tracer
from unit.helpers import dead_pid


def test_of_a_thread_that_was_killed_while_its_path_was_followed_nothing_is_kept() -> None:
    """Its number is used again, and then the register of another thread would be changed."""
    supervisor: Any = SimpleNamespace(finder=None, complaints=None, hidden=None, leased=None)
    tracer = Tracer(supervisor, 1)
    arch = notify.MACHINES["x86_64"][1][0].audit
    tracer._decide(dead_pid(), True, arch, notify.OPENAT)
    assert tracer._marked == {}


PATH = (-100, "x", os.O_RDWR, 0)  # as `Finder.find` takes it


def test_paths_are_followed_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracer does it itself. No answer comes later, when the process makes another call."""
    sent = []
    finder = SimpleNamespace(find=lambda *_: "ttyS7")
    supervisor: Any = SimpleNamespace(finder=finder, complaints=None, hidden=None, leased=None)
    tracer = Tracer(supervisor, 1)
    monkeypatch.setattr(tracer, "_decide", lambda *answer: sent.append(answer))
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    tracer._find_slowly(7, PATH, (1, notify.OPENAT))
    assert sent == [(7, True, 1, notify.OPENAT)]
    assert tracer._slow is not None and tracer._slow._asked.empty()


def test_the_threads_that_there_are_follow_one_path_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And when threads can be started again, a path that waits keeps no other from its own."""
    gates = {pid: threading.Event() for pid in (1, 2, 3)}
    slow = SlowFinder(lambda pid, *_: f"{gates[pid].wait(LIMIT)}")
    slow.find(1, PATH, (0, 0))
    with monkeypatch.context() as none_left:
        none_left.setattr(threading.Thread, "start", no_thread)
        slow.find(2, PATH, (0, 0))
    gates[1].set()
    assert [pid for pid, _, _ in found(slow)] == [1]
    slow.find(3, PATH, (0, 0))
    gates[3].set()
    assert [pid for pid, _, _ in found(slow)] == [3]
    gates[2].set()
    assert [pid for pid, _, _ in found(slow)] == [2]


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def found(slow: SlowFinder) -> list[tuple[int, str | None, tuple[int, int]]]:
    """What it finds next, within the limit."""
    end = time.monotonic() + LIMIT
    while not (answers := slow.found()) and time.monotonic() < end:
        time.sleep(0.001)
    return answers


def test_a_supervisor_without_a_thread_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "start_new_thread", no_thread)
    monkeypatch.setattr(supervise, "stack_size", lambda _: None)
    broker: Any = SimpleNamespace(ports=list)
    job: Any = SimpleNamespace(held=())
    listener, other = os.pipe()
    try:
        supervisor = supervise.Supervisor(listener, broker, Names((), ()), job)
        with pytest.raises(OSError, match="no supervisor: no thread can be started") as caught:
            supervisor.start()
        assert line_of(caught.value) == "no supervisor: no thread can be started; try again later"
    finally:
        os.close(listener)
        os.close(other)


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
