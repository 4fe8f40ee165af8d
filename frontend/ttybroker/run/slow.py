"""Paths that take long to follow: on a dead file server, or on one that the program runs.

They must not keep the tracer from its other work.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections import deque

from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

    Request = tuple[int, str, int, int]  # as `Finder.find` takes it

_WAKE = signal.SIGUSR1  # interrupts the tracer's wait
_RING_AGAIN = 0.001  # seconds; the tracer may have looked just before, and wait again


def _do_nothing(*_: object) -> None:
    pass


class SlowFinder:
    """Follow paths in threads, one for each path that waits, and wake the tracer.

    The tracer makes this object. Its waitpid(2) fails with EINTR when it is woken.
    """

    def __init__(self, find: Callable[..., str | None]) -> None:
        self._find = find
        self._asked: queue.SimpleQueue[tuple[int, Request, tuple[int, int]]] = queue.SimpleQueue()
        self._found: deque[tuple[int, str | None, tuple[int, int], threading.Event]] = deque()
        signal.signal(_WAKE, _do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {_WAKE})  # who started us may block it
        self._tracer = threading.get_ident()
        self._lock = threading.Lock()
        self._spare = 0  # threads that wait, less the paths that wait
        self._threads = 0

    def find(self, pid: int, request: Request, rest: tuple[int, int]) -> None:
        """Begin to follow a path. `found` returns the answer later.

        If no thread is to be had, those that are there do it one by one. Raises RuntimeError if
        there is none.
        """
        if self._spare < 1:
            try:
                threading.Thread(target=self._work, daemon=True).start()
            except RuntimeError:
                if not self._threads:
                    raise
            else:
                self._threads += 1
                self._count(1)
        self._count(-1)
        self._asked.put((pid, request, rest))

    def found(self) -> list[tuple[int, str | None, tuple[int, int]]]:
        """Return what was found since the last call: (thread, port or None, rest)."""
        answers = []
        while self._found:
            pid, name, rest, taken = self._found.popleft()
            taken.set()
            answers.append((pid, name, rest))
        return answers

    def _work(self) -> None:
        while True:
            pid, request, rest = self._asked.get()
            try:
                name = self._find(pid, *request)
            except Exception as error:
                say(f"could not look at a path of process {pid}: {error!r}")
                name = None
            taken = threading.Event()
            self._found.append((pid, name, rest, taken))
            signal.pthread_kill(self._tracer, _WAKE)
            while not taken.wait(_RING_AGAIN):
                signal.pthread_kill(self._tracer, _WAKE)
            self._count(1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._spare += change
