"""What happens to the loop when a device keeps its thread: in a process of its own, for leading
never returns."""

from __future__ import annotations

import _thread
import os
import select
import sys
import threading
import time
from collections.abc import Callable

from ttybrokerd.root.workers import SHORT, Workers

LONG = 30  # seconds, for what must come at once
USUAL = sys.getswitchinterval()


def play(scene: Callable[[Workers, Callable[[str], None]], Callable[[], None]]) -> list[str]:
    """What `scene` told, in order, in a child whose loop turns by what it returned."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        workers = Workers()

        def tell(word: str) -> None:
            os.write(write, f"{word}\n".encode())

        body = scene(workers, tell)

        def turn() -> None:
            workers.run_soon()
            body()
            again = workers.retry
            ready, _, _ = select.select([workers.fileno()], [], [], again or LONG)
            if not (ready or again):
                tell("nobody woke the loop")
                os._exit(1)
            workers.finish()

        try:
            workers.lead(turn)
        finally:
            os._exit(2)
    os.close(write)
    with open(read, encoding="ascii") as file:
        told = file.read().split()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return told


def test_a_job_that_computes_keeps_the_loop_waiting_less_than_the_interpreter_would_let_it() -> (
    None
):
    def scene(workers: Workers, tell: Callable[[str], None]) -> Callable[[], None]:
        over = False
        computing = threading.Event()

        def compute() -> None:
            computing.set()
            while not over:
                pass

        def calls() -> float:
            """Seconds of some system calls, each long enough for the job to get the interpreter."""
            began = time.monotonic()
            for _ in range(10):
                select.select([], [], [], 0.001)
            return time.monotonic() - began

        def turn() -> None:
            nonlocal over
            computing.wait(LONG)
            ours = sys.getswitchinterval()
            took = {ours: 0.0, USUAL: 0.0}
            for _ in range(5):
                for interval in took:
                    sys.setswitchinterval(interval)
                    took[interval] += calls()
            over = True
            tell("less" if took[ours] < took[USUAL] / 2 else f"{took}".replace(" ", ""))
            os._exit(0)

        workers.submit(compute, lambda _: None)
        return turn

    assert play(scene) == ["less"]


def test_a_quick_job_stays_in_the_thread_of_the_loop() -> None:
    def scene(workers: Workers, tell: Callable[[str], None]) -> Callable[[], None]:
        main = threading.get_ident()

        def done(there: int) -> None:
            tell("same" if there == main == threading.get_ident() else "other")
            os._exit(0)

        workers.soon(threading.get_ident, done)
        return lambda: None

    assert play(scene) == ["same"]


def test_another_thread_leads_while_a_job_is_stuck_and_gets_its_result() -> None:
    def scene(workers: Workers, tell: Callable[[str], None]) -> Callable[[], None]:
        gate = threading.Event()
        main = threading.get_ident()
        turns: list[int] = []

        def stuck_done(in_time: bool) -> None:
            tell("result" if in_time and threading.get_ident() != main else "wrong")
            os._exit(0)

        def turn() -> None:
            turns.append(threading.get_ident())
            if len(turns) == 1:
                tell("turn-of-main" if turns[0] == main else "turn-of-another")
                gate.set()

        workers.soon(lambda: gate.wait(LONG), stuck_done)
        return turn

    assert play(scene) == ["turn-of-another", "result"]


def test_jobs_behind_a_stuck_one_are_done_by_who_took_over_each_once() -> None:
    def scene(workers: Workers, tell: Callable[[str], None]) -> Callable[[], None]:
        gate = threading.Event()
        left = set(range(40))

        def quick_done(number: int) -> None:
            left.remove(number)  # KeyError if it came twice
            if not left:
                tell("all")
                gate.set()

        def stuck_done(_: bool) -> None:
            tell("stuck")
            os._exit(0)

        for number in range(20):
            workers.soon(lambda number=number: number, quick_done)  # type: ignore[misc]
        workers.soon(lambda: gate.wait(LONG), stuck_done)
        for number in range(20, 40):
            workers.soon(lambda number=number: number, quick_done)  # type: ignore[misc]
        return lambda: None

    assert play(scene) == ["all", "stuck"]


def test_ten_stuck_jobs_at_a_time_hold_up_nobody() -> None:
    def scene(workers: Workers, tell: Callable[[str], None]) -> Callable[[], None]:
        gate = threading.Event()
        ended: list[bool] = []

        def stuck_done(in_time: bool) -> None:
            ended.append(in_time)
            if len(ended) == 10:
                tell("ten" if all(ended) else "late")
                os._exit(0)

        def quick_done(_: None) -> None:
            tell("quick")
            gate.set()

        for _ in range(10):
            workers.soon(lambda: gate.wait(LONG), stuck_done)
        workers.soon(lambda: None, quick_done)
        return lambda: None

    assert play(scene) == ["quick", "ten"]


def test_without_a_thread_to_stand_by_a_stuck_job_does_not_keep_the_loop() -> None:
    """Threads are refused twice: when one is to stand by, and again in the next turn."""

    def scene(workers: Workers, tell: Callable[[str], None]) -> Callable[[], None]:
        gate = threading.Event()
        start, refusals = _thread.start_new_thread, iter((True, True))
        turns: list[int] = []

        def scarce(body: Callable[[], None], arguments: tuple[()]) -> int:
            if body != workers._work and next(refusals, False):
                raise RuntimeError("can't start new thread")
            return start(body, arguments)

        _thread.start_new_thread = scarce

        def done(in_time: bool) -> None:
            tell("result" if in_time else "the-loop-was-stuck")

        def turn() -> None:
            turns.append(threading.get_ident())
            if len(turns) == 1:
                workers.soon(lambda: gate.wait(LONG), done)
            elif not gate.is_set():
                tell("turns-on")
                gate.set()
            elif workers.retry is None:
                tell("guarded")
                os._exit(0)

        return turn

    assert SHORT < LONG
    assert play(scene) == ["turns-on", "result", "guarded"]
