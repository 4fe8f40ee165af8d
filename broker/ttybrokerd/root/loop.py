"""The event loop: descriptors, what to wait for, and whom to call. epoll(7), level-triggered."""

from __future__ import annotations

import select

from ttybrokerd.root import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
LONGEST = 86400.0  # seconds of one wait: epoll_wait(2) takes an int of milliseconds, 24 days
NOTHING = 0  # but hang-up and error, which are always told
TRIES = 4  # to change what to wait for
ONCE = select.EPOLLONESHOT  # tell news once, and not again until the next `change`


class Loop:
    """Calls handlers when their descriptors have news.

    A handler may be called without news. It reads, and must cope with finding nothing.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._removed: set[int] = set()

    def fileno(self) -> int:
        """Return the epoll descriptor."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()

    def add(self, descriptor: int, events: int, handler: Callable[[], None]) -> None:
        """Call `handler` when `descriptor` has one of `events`, or is hung up."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events from now on. Raises OSError when it fails again and again."""
        for left in range(TRIES - 1, -1, -1):
            try:
                self._epoll.modify(descriptor, events)
                return
            except OSError:
                if not left:
                    raise

    def remove(self, descriptor: int) -> None:
        """Forget `descriptor`. Call it before you close that: its number may come again at once."""
        if self._handlers.pop(descriptor, None) is not None:
            self._removed.add(descriptor)
            try:
                self._epoll.unregister(descriptor)
            except OSError:  # its closing will do it: epoll(7)
                pass

    def turn(self, timeout: float | None) -> None:
        """Wait for news for at most `timeout` seconds (None: for ever) and call the handlers.

        Raises MemoryError if one has raised it, after all have been called. That one is called
        again in the next turn, unless its news has gone.
        """
        failed: MemoryError | None = None
        self._removed.clear()
        if timeout is not None:
            timeout = min(timeout, LONGEST)  # guard: longest-wait
        for descriptor, _events in self._epoll.poll(timeout):
            handler = self._handlers.get(descriptor)
            if handler is not None and descriptor not in self._removed:
                try:
                    handler()
                except MemoryError as error:  # guard: news-of-others-without-memory
                    failed = error
        if failed is not None:
            raise failed
