"""Threads for what may block: opening and ending a port, asking the name service.

A device can keep open() or close() for 30 seconds, so there is a thread for every job under
way, however many; jobs are bounded by the ports and clients there are. Results come back to
the loop's own thread: nothing but the jobs themselves runs beside it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

STACK = 256 * 1024  # bytes; jobs are a few calls deep

T = TypeVar("T")


class Workers:
    """Runs jobs in threads; `fileno()` becomes readable when `finish()` has something to do."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._finished: deque[Callable[[], None]] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = 0
        self.busy = 0  # jobs submitted and not yet finished; the loop's thread alone counts

    def fileno(self) -> int:
        """The eventfd to wait on."""
        return self._event

    def close(self) -> None:
        """Give the eventfd back, where no job was ever submitted."""
        os.close(self._event)

    def wake(self) -> None:
        """Make the loop turn once; safe in a signal handler."""
        os.eventfd_write(self._event, 1)

    def submit(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run `job` in a thread and `then` with its result in the loop's thread.

        A job does not raise what can be expected: it returns it.
        """
        self.busy += 1
        if self.busy > self._threads:
            self._threads += 1
            threading.stack_size(STACK)
            threading.Thread(target=self._work, daemon=True).start()

        def work() -> None:
            result = job()
            self._finished.append(lambda: then(result))
            self.wake()

        self._jobs.put(work)

    def finish(self) -> None:
        """Run what the finished jobs left to do, in this thread."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass
        while self._finished:
            self.busy -= 1
            self._finished.popleft()()

    def _work(self) -> None:
        while True:
            self._jobs.get()()
