"""What may block, and how the loop gets on meanwhile.

A device can keep open() or close() for 30 seconds. Two ways to deal with that, for no thread may
ever wait for a device while clients wait for it:

`submit`: in a thread of its own, for what is likely to take its time: ending a lease, looking
through all ports, reading the policy again.

`soon`: in the loop's thread, between two turns. Opening a port is over in some microseconds as
a rule, and handing it to another thread and back would cost twice as much as doing it. The
exception is watched for: when the job takes longer than PATIENCE, a thread that stood by takes
the loop over, and the one that is stuck only hands in its result, whenever that is. The watch
is a timer signal which nothing but the standby's sigwait(2) receives; setting the timer is the
dearest part of it, so that is done once for all the jobs within its time.

Either way there is one leader at a time, and all state but the jobs' own is the leader's.
"""

from __future__ import annotations

import _thread  # not threading: to have it loaded costs every forked backend 0.4 MB
import os
import time
from _queue import SimpleQueue

from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.linux import signal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVar

    T = TypeVar("T")

PATIENCE = 0.005  # seconds
WAKES = 8  # tries
IDLE = 16  # threads that stay though nothing is to be done
STACK = 512 * 1024  # bytes; what is not touched costs nothing


class LeftBehind(BaseException):
    """This thread is not the leader any more: up and out, touching nothing."""


class Workers:
    """Runs jobs; `fileno()` becomes readable when `finish()` has something to do."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # None: end
        self._soon: list[Callable[[], Callable[[], None]]] = []
        self._finished: list[Callable[[], None]] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = 0
        self.busy = 0  # jobs submitted and not yet finished; the leader alone counts
        self._lock = _thread.allocate_lock()  # over the next three
        self._generation = 0  # of leaders
        self._started: float | None = None  # when the leader's job began
        self._watched = False  # the timer is set, or the standby awake

    def fileno(self) -> int:
        """The eventfd to wait on."""
        return self._event

    def close(self) -> None:
        """Give the eventfd back, where no job was ever submitted."""
        os.close(self._event)

    def wake(self) -> None:
        """Make the loop turn once; from any thread, which must not end by it if that fails."""
        for _ in range(WAKES):
            try:
                os.eventfd_write(self._event, 1)
                return
            except OSError:
                continue

    def submit(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run `job` in a thread and `then` with its result in the leader's.

        A job returns what can be expected to go wrong; what it raises, the leader raises.
        """
        self.busy += 1
        if self.busy > self._threads:
            self._threads += 1
            _start(self._work)

        def work() -> None:
            try:
                result = job()
            except Exception as error:
                raised = error  # `error` ends with this clause
                self._finished.append(lambda: _raise(raised))
            else:
                self._finished.append(lambda: self._count_off(then, result))
            self.wake()

        self._jobs.put(work)

    def soon(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run `job` in the leader's thread before its next turn, and `then` with its result in
        the thread that leads by then. A job does not raise what can be expected."""

        def work() -> Callable[[], None]:
            result = job()
            return lambda: then(result)

        self._soon.append(work)

    @property
    def eager(self) -> bool:
        """Whether there are jobs of `soon` to run."""
        return bool(self._soon)

    def finish(self) -> None:
        """Run what the finished jobs left to do, in this thread."""
        try:
            os.eventfd_read(self._event)
        except OSError:  # nothing to read; or if it cannot be read, we are called again
            pass
        while self._finished:
            self._finished.pop(0)()

    def run_soon(self) -> None:
        """Run the jobs of `soon`. Raises LeftBehind if one took too long."""
        while self._soon:
            work = self._soon.pop(0)
            with self._lock:
                generation = self._generation
                self._started = time.monotonic()
                watched, self._watched = self._watched, True
            if not watched:
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)  # guard: watch-a-stuck-open
            then = work()
            with self._lock:
                left_behind = self._generation != generation
                if not left_behind:
                    self._started = None
            if left_behind:
                self._finished.append(then)
                self.wake()
                raise LeftBehind
            then()

    def lead(self, turn: Callable[[], None]) -> NoReturn:
        """Call `turn` for ever, in this thread as long as it is the leader. `turn` raises
        nothing but LeftBehind, and ends it all by os._exit(): which thread that will be in is
        not known before."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        _start(lambda: self._stand_by(turn))
        self._follow(turn)
        while True:  # the main thread cannot just end
            signal.pause()

    def _follow(self, turn: Callable[[], None]) -> None:
        try:
            while True:
                turn()
        except LeftBehind:
            pass

    def _stand_by(self, turn: Callable[[], None]) -> None:
        signal.sigwait([signal.SIGALRM])
        while (left := self._take_over()) is not None:
            if left > 0:
                time.sleep(left)
            else:
                signal.sigwait([signal.SIGALRM])
        _start(lambda: self._stand_by(turn))
        self._follow(turn)

    def _take_over(self) -> float | None:
        """Become the leader if it is time, and return None; else return the seconds until the
        job under way will have had its time, or 0 if there is none."""
        with self._lock:
            if self._started is None:
                self._watched = False
                return 0
            left = self._started + PATIENCE - time.monotonic()
            if left > 0:
                return left
            self._generation += 1
            self._started = None
            self._watched = False
            return None

    def _count_off(self, then: Callable[[T], None], result: T) -> None:
        self.busy -= 1
        if self._threads > self.busy + IDLE:
            self._threads -= 1
            self._jobs.put(None)
        then(result)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _raise(error: Exception) -> None:
    raise error


def _start(body: Callable[[], None]) -> None:
    _thread.stack_size(STACK)
    _thread.start_new_thread(body, ())
