"""What may block, and how the loop gets on meanwhile.

A device can keep open() or close() for 30 seconds. No thread may wait for a device while clients
wait for that thread. There are two ways:

`submit` runs a job in a thread of its own. It is for what is likely to take its time: ending a
lease, looking through all ports, reading the policy again.

`soon` runs a job in the loop's thread, between two turns. Opening a port is over in some
microseconds as a rule. To hand it to another thread and back would cost twice as much as to do it.
The exception is watched for. When the job takes longer than PATIENCE, a thread that stood by takes
the loop over. The one that is stuck only hands in its result, whenever that is. A timer signal is
the watch, which only the standby's sigwait(2) receives. To set the timer costs the most, so that is
done once for all the jobs within its time.

Either way there is one leader at a time. All state but the jobs' own is the leader's.

The system may refuse a thread: pids_cgroup, RLIMIT_NPROC, memory. That is never the end. A job
waits for a worker that is there, and one that finds no memory is run again. Where nobody stands by,
`soon` gives its jobs to the workers, so that the loop cannot get stuck. Each turn tries again to
start the missing thread.
"""

from __future__ import annotations

import _thread  # not threading: to have it loaded costs every forked backend 0.4 MB
import os
import sys
import time
from _queue import SimpleQueue

from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.linux import signal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVar

    T = TypeVar("T")

PATIENCE = 0.005  # seconds
SWITCH = 0.0005  # seconds for which a job may keep the interpreter from the loop; usually 0.005
WAKES = 8  # tries to wake the loop
IDLE = 16  # workers that stay though nothing is to be done
MOST = 128  # workers
STUCK = 64  # leaders left behind at once
SHORT = 0.25  # seconds between two tries to have a thread or memory that is missing
BIRTH = 0.5  # seconds in which a thread begins, also on a busy machine
STACK = 512 * 1024  # bytes; what is not touched costs nothing


class LeftBehind(BaseException):
    """Raised in a thread that is not the leader any more: it must leave, and touch nothing."""


class Workers:
    """Runs jobs; `fileno()` becomes readable when `finish()` has something to do.

    `short_of_threads` is called when a thread cannot be made. It is called again only after one
    could be made meanwhile.
    """

    def __init__(self, short_of_threads: Callable[[], None] = lambda: None) -> None:
        self._short_of_threads = short_of_threads
        self._short = False
        self._not_before = 0.0  # no thread is tried, because the last never began
        self._leading = False
        self._guarded = False  # somebody stands by
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # None: end
        self._soon: list[Callable[[], Callable[[], None]]] = []
        self._finished: list[Callable[[], None]] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = 0  # workers
        self.busy = 0  # jobs submitted and not yet finished; the leader alone counts
        self._lock = _thread.allocate_lock()  # over the next four
        self._stuck = 0  # leaders that were left behind and are not back
        self._generation = 0  # of leaders
        self._started: float | None = None  # when the leader's job began
        self._watched = False  # the timer is set, or the standby awake

    def fileno(self) -> int:
        """Return the eventfd to wait on."""
        return self._event

    def close(self) -> None:
        """Close the eventfd. No job may have been submitted."""
        os.close(self._event)

    def wake(self) -> None:
        """Make the loop turn once. Any thread may call this: a failure does not end it."""
        for _ in range(WAKES):
            try:
                os.eventfd_write(self._event, 1)
                return
            except OSError:
                continue

    def submit(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run `job` in a worker, and `then` with its result in the leader.

        A job returns what can be expected to go wrong. What it raises, the leader raises. But if
        there is no memory, it is run again.
        """
        ran = False
        result: T
        raised: Exception | None = None

        def work() -> None:
            nonlocal ran, result, raised
            if not ran:  # and not only what follows failed
                try:
                    result = job()
                except MemoryError:
                    raise
                except Exception as error:
                    raised = error
                ran = True
            self._finished.append(finish)

        def finish() -> None:
            if raised is not None:
                raise raised
            self._count_off(then, result)

        self._jobs.put(work)
        self.busy += 1
        self._staff()

    def soon(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run `job` in the leader's thread before its next turn.

        `then` gets the result, in the thread that leads by then. A job does not raise what can be
        expected to go wrong. Where nobody stands by, this is as `submit`.
        """
        if self._leading and not self._guarded:  # guard: no-stuck-open-without-a-standby
            self.submit(job, then)
            return

        result: T

        def work() -> Callable[[], None]:
            nonlocal result
            try:
                result = job()
            except MemoryError:  # guard: job-of-the-loop-without-memory
                return again
            return finish

        def again() -> None:
            self.submit(job, then)

        def finish() -> None:
            then(result)

        self._soon.append(work)

    @property
    def eager(self) -> bool:
        """Whether there are jobs of `soon` to run."""
        return bool(self._soon)

    @property
    def retry(self) -> float | None:
        """In how many seconds a turn should try again to start missing threads; None: never."""
        jobs_wait = self.busy > self._threads and (self._short or self._threads == 0)
        missing = jobs_wait or (self._leading and not self._guarded)
        return SHORT if missing else None

    def finish(self) -> None:
        """Run what the finished jobs left to do, in this thread."""
        try:
            os.eventfd_read(self._event)
        except OSError:  # nothing to read; or if it cannot be read, we are called again
            pass
        try:
            while self._finished:
                self._finished.pop(0)()
        finally:
            if self._finished:  # that one has failed
                self.wake()

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
        """Call `turn` for ever, in this thread as long as it is the leader.

        `turn` raises nothing but LeftBehind. It ends the process by os._exit(), because nobody
        knows before in which thread it will be.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        # The leader gives it away in many system calls, and must wait to have it back.
        sys.setswitchinterval(SWITCH)  # guard: jobs-give-way
        self._leading = True
        self._follow(turn)
        while True:  # the main thread cannot just end
            signal.pause()

    def _follow(self, turn: Callable[[], None]) -> None:
        """Lead, until left behind."""
        self._guarded = False
        try:
            while True:
                if not self._guarded and self._stuck < STUCK:
                    self._guarded = self._start(lambda: self._stand_by(turn))
                if self.busy > self._threads:
                    self._staff()
                turn()
        except LeftBehind:
            with self._lock:
                self._stuck -= 1

    def _stand_by(self, turn: Callable[[], None]) -> None:
        signal.sigwait([signal.SIGALRM])
        while (left := self._take_over()) is not None:
            if left > 0:
                time.sleep(left)
            else:
                signal.sigwait([signal.SIGALRM])
        self._follow(turn)

    def _take_over(self) -> float | None:
        """Become the leader if it is time, and return None; else return the seconds to wait.

        These are until the job under way has had its time; 0 if there is no job.
        """
        with self._lock:
            if self._started is None:
                self._watched = False
                return 0
            left = self._started + PATIENCE - time.monotonic()
            if left > 0:
                return left
            self._generation += 1
            self._stuck += 1
            self._started = None
            self._watched = False
            return None

    def _staff(self) -> None:
        """Start one more worker, if there are fewer than jobs and the system allows it."""
        # guard: bounded-threads
        if self.busy > self._threads < MOST and self._start(self._work):
            self._threads += 1

    def _start(self, body: Callable[[], None]) -> bool:
        """Start a thread; return whether that worked."""
        try:
            began = self._begin(body)
        except (RuntimeError, MemoryError):  # guard: no-thread-is-no-end
            began = False
        if not began and not self._short:
            self._short_of_threads()
        self._short = not began
        return began

    def _begin(self, body: Callable[[], None]) -> bool:
        """Start a thread; return whether it has begun. Raises RuntimeError or MemoryError.

        Without memory it ends before its first line, and nothing tells of that.
        """
        if time.monotonic() < self._not_before:
            return False
        begun = _thread.allocate_lock()
        begun.acquire()
        wanted = True

        def run() -> None:
            nonlocal wanted
            with self._lock:
                ours, wanted = wanted, False
            if ours:
                begun.release()
                body()

        _thread.stack_size(STACK)
        _thread.start_new_thread(run, ())
        begun.acquire(timeout=BIRTH)
        with self._lock:
            late, wanted = wanted, False  # then it leaves at once, if it ever begins
        if late:
            self._not_before = time.monotonic() + 2 * BIRTH  # the loop has waited for this one
        return not late

    def _count_off(self, then: Callable[[T], None], result: T) -> None:
        self.busy -= 1
        if self._threads > self.busy + IDLE:
            self._threads -= 1
            self._jobs.put(None)
        then(result)

    def _work(self) -> None:
        """Run jobs until one is None. Want of memory, wherever, ends no worker and loses no job."""
        job: Callable[[], None] | None = None
        wake, short = self.wake, False
        while True:
            try:
                if short:
                    time.sleep(SHORT)
                    short = False
                if job is None and (job := self._jobs.get()) is None:
                    return
                job()
                job = None if job is wake else wake
            except MemoryError:  # guard: job-without-memory
                short = True
