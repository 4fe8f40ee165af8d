"""Threads for what may block."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from ttybrokerd.root import workers as limits
from ttybrokerd.root.workers import IDLE, Workers

TASKS = "/proc/self/task"
LONG = 30  # seconds, for what must come at once


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    assert made.busy == 0, "a job of the test is still under way"
    made.close()


def until(workers: Workers, done: Callable[[], bool]) -> None:
    """Turn as the loop does until `done`."""
    while not done():
        ready, _, _ = select.select([workers.fileno()], [], [], LONG)
        assert ready, "nobody woke the loop"
        workers.finish()


def test_a_job_runs_beside_the_loop_and_its_result_comes_back_to_it(workers: Workers) -> None:
    threads: list[int] = []
    workers.submit(
        threading.get_ident, lambda there: threads.extend([there, threading.get_ident()])
    )
    assert workers.busy == 1
    until(workers, lambda: len(threads) == 2)
    assert threads[0] != threads[1] == threading.get_ident()
    assert workers.busy == 0


def test_results_come_in_the_order_in_which_the_jobs_ended(workers: Workers) -> None:
    gates = [threading.Event() for _ in range(4)]
    order: list[int] = []

    def job(number: int) -> int:
        assert gates[number].wait(LONG)
        return number

    for number in range(4):
        workers.submit(lambda number=number: job(number), order.append)  # type: ignore[misc]
    for position, number in enumerate((2, 0, 3, 1), 1):
        gates[number].set()
        until(workers, lambda: len(order) == position)  # noqa: B023
    assert order == [2, 0, 3, 1]


def test_results_that_lie_ready_together_come_in_order_too(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = [threading.Event() for _ in range(4)]
    count = iter(ready)
    wake = workers.wake

    def noted() -> None:
        wake()
        next(count).set()

    monkeypatch.setattr(workers, "wake", noted)
    order: list[int] = []

    def job(number: int) -> int:
        assert number == 0 or ready[number - 1].wait(LONG)
        return number

    for number in range(4):
        workers.submit(lambda number=number: job(number), order.append)  # type: ignore[misc]
    assert ready[3].wait(LONG)
    workers.finish()
    assert order == [0, 1, 2, 3]


def test_one_stuck_job_delays_no_other(workers: Workers) -> None:
    gate = threading.Event()
    order: list[str] = []
    workers.submit(lambda: gate.wait(LONG), lambda _: order.append("stuck"))
    for _ in range(20):
        workers.submit(lambda: None, lambda _: order.append("quick"))
    until(workers, lambda: len(order) == 20)
    assert order == ["quick"] * 20
    gate.set()
    until(workers, lambda: len(order) == 21)
    assert order[-1] == "stuck"


def test_many_stuck_jobs_delay_no_other(workers: Workers) -> None:
    gate = threading.Event()
    order: list[str] = []
    for _ in range(30):
        workers.submit(lambda: gate.wait(LONG), lambda _: order.append("stuck"))
    workers.submit(lambda: None, lambda _: order.append("quick"))
    until(workers, lambda: order == ["quick"])
    gate.set()
    until(workers, lambda: len(order) == 31)


def test_after_a_rush_most_of_its_threads_end(workers: Workers) -> None:
    before, gate, done = set(os.listdir(TASKS)), threading.Event(), []
    for _ in range(3 * IDLE):
        workers.submit(partial(gate.wait, LONG), done.append)
    assert len(set(os.listdir(TASKS)) - before) == 3 * IDLE
    gate.set()
    until(workers, lambda: len(done) == 3 * IDLE)
    end = time.monotonic() + LONG
    while len(set(os.listdir(TASKS)) - before) > IDLE and time.monotonic() < end:
        time.sleep(0.01)
    assert len(set(os.listdir(TASKS)) - before) == IDLE
    workers.submit(lambda: None, done.append)  # by one that is left
    until(workers, lambda: done[-1] is None)
    assert len(set(os.listdir(TASKS)) - before) == IDLE


def test_idle_threads_are_used_again(workers: Workers) -> None:
    before = len(os.listdir("/proc/self/task"))
    for _ in range(50):
        done: list[None] = []
        workers.submit(lambda: None, done.append)
        until(workers, lambda: len(done) == 1)  # noqa: B023
    assert len(os.listdir("/proc/self/task")) == before + 1


def test_what_a_result_submits_runs_too(workers: Workers) -> None:
    order: list[int] = []

    def again(number: int) -> None:
        order.append(number)
        if number < 5:
            workers.submit(lambda: number + 1, again)

    workers.submit(lambda: 0, again)
    until(workers, lambda: len(order) == 6)
    assert order == [0, 1, 2, 3, 4, 5]


def test_a_wake_makes_the_loop_turn_once_and_needs_no_job(workers: Workers) -> None:
    workers.wake()
    workers.wake()
    assert select.select([workers.fileno()], [], [], 0)[0]
    workers.finish()
    assert not select.select([workers.fileno()], [], [], 0)[0]
    workers.finish()


def test_what_a_job_raises_is_raised_in_the_loop_and_not_lost(workers: Workers) -> None:
    def job() -> None:
        raise OSError("out of everything")

    workers.submit(job, lambda _: None)
    with pytest.raises(OSError, match="out of everything"):
        until(workers, lambda: False)
    workers.busy = 0  # what raises ends the process; here the fixture lives on


def test_there_are_never_more_threads_than_the_bound_and_every_job_runs(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST", 4)
    before, gate, done = len(os.listdir(TASKS)), threading.Event(), []
    for number in range(30):
        workers.submit(partial(gate.wait, LONG), lambda _, number=number: done.append(number))  # type: ignore[misc]
    assert len(os.listdir(TASKS)) - before == 4
    gate.set()
    until(workers, lambda: len(done) == 30)
    assert sorted(done) == list(range(30))


def test_a_job_waits_for_a_thread_that_is_there_when_no_other_can_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, gate, order = [], threading.Event(), list[str]()
    workers = Workers(lambda: said.append("short"))
    workers.submit(partial(gate.wait, LONG), lambda _: order.append("first"))
    with monkeypatch.context() as patch:
        patch.setattr("_thread.start_new_thread", no_thread)
        for _ in range(3):
            workers.submit(lambda: None, lambda _: order.append("later"))
        gate.set()
        until(workers, lambda: len(order) == 4)
    assert order == ["first", "later", "later", "later"]
    assert said == ["short"]
    workers.close()


def test_where_there_is_no_thread_at_all_the_loop_is_to_try_again_and_the_job_runs_then(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    assert workers.retry is None
    with monkeypatch.context() as patch:
        patch.setattr("_thread.start_new_thread", no_thread)
        workers.submit(lambda: 1, done.append)
        assert workers.retry is not None
    workers.submit(lambda: 2, done.append)
    assert workers.retry is None
    until(workers, lambda: len(done) == 2)
    assert done == [1, 2]


def test_a_thread_that_never_begins_is_none_and_the_job_waits_for_another(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is where there is no memory for its first call: nothing tells of that."""
    done: list[int] = []
    gate = threading.Event()
    workers.submit(partial(gate.wait, LONG), lambda _: done.append(0))
    with monkeypatch.context() as patch:
        patch.setattr(limits, "BIRTH", 0.01)
        patch.setattr("_thread.start_new_thread", lambda *_: None)
        workers.submit(lambda: 1, done.append)
        assert workers.retry is not None  # though a thread is there, which is busy
        time.sleep(2 * limits.BIRTH)
    workers.submit(lambda: 2, done.append)
    until(workers, lambda: len(done) == 2)
    assert done == [1, 2]
    gate.set()
    until(workers, lambda: len(done) == 3)


def without_memory(tries: list[int]) -> int:
    """Fail three times, as where there is no memory, and then not."""
    tries.append(len(tries))
    if len(tries) <= 3:
        raise MemoryError
    return len(tries)


@pytest.mark.parametrize("way", ["submit", "soon"])
def test_a_job_that_finds_no_memory_is_run_again_until_there_is_some(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(limits, "SHORT", 0.01)
    monkeypatch.setattr(limits.signal, "setitimer", lambda *_: None)  # nobody stands by here
    done: list[int] = []
    getattr(workers, way)(partial(without_memory, []), done.append)
    workers.run_soon()
    until(workers, lambda: done != [])
    assert done == [4]


@pytest.mark.parametrize("where", ["get", "wake"])
def test_a_worker_that_finds_no_memory_between_two_jobs_goes_on(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(limits, "SHORT", 0.01)
    jobs, tries = workers._jobs, list[int]()

    def fail_first(call: Callable[[], Any]) -> Callable[[], Any]:
        def fails() -> Any:
            without_memory(tries)
            return call()

        return fails

    if where == "get":
        monkeypatch.setattr(
            workers, "_jobs", SimpleNamespace(put=jobs.put, get=fail_first(jobs.get))
        )
    else:
        monkeypatch.setattr(workers, "wake", fail_first(workers.wake))
    done: list[int] = []
    workers.submit(lambda: 1, done.append)
    until(workers, lambda: done != [])
    workers.submit(lambda: 2, done.append)
    until(workers, lambda: len(done) > 1)
    assert done == [1, 2] and len(tries) > 3


def test_what_is_left_to_do_is_done_though_one_of_it_finds_no_memory(workers: Workers) -> None:
    done: list[int] = []
    gate = threading.Event()

    def fails(_: object) -> None:
        raise MemoryError

    workers.submit(lambda: 1, fails)
    workers.submit(lambda: gate.wait(LONG), lambda _: done.append(2))
    gate.set()
    while workers.busy:
        with contextlib.suppress(MemoryError):
            until(workers, lambda: not workers.busy)
    assert done == [2]


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")
