"""Who is told of which inotify watch: inotify(7).

The kernel has one watch for an inode on one descriptor. So `arrivals`, which asks for other events
of the same directories, has a descriptor of its own.
"""

from __future__ import annotations

import os

from ttybrokerd.root import TYPE_CHECKING, linux
from ttybrokerd.root.loop import READ, Loop

if TYPE_CHECKING:
    from collections.abc import Callable


class Inotify:
    """Calls handlers when names in a directory come and go, and when a node is closed."""

    def __init__(self, loop: Loop) -> None:
        self._names: dict[str, tuple[int, Callable[[], None]]] = {}  # by directory, with the watch
        self._closes: dict[int, Callable[[], None]] = {}  # by watch
        self._descriptor = linux.inotify()
        loop.add(self._descriptor, READ, self._on_news)

    def fileno(self) -> int:
        """Return the inotify descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close the inotify descriptor."""
        os.close(self._descriptor)

    def names(self, directory: str, handler: Callable[[], None]) -> None:
        """Call `handler` when names in the directory come and go. Raises OSError."""
        self._names[directory] = linux.watch_names(self._descriptor, directory), handler

    def forget_names(self, directory: str) -> None:
        """Call the handler of this directory no more."""
        if (known := self._names.pop(directory, None)) is not None:
            linux.unwatch(self._descriptor, known[0])

    def closes(self, descriptor: int, handler: Callable[[], None]) -> int:
        """Call `handler` when somebody closes the node of this descriptor; return the watch.

        Raises OSError when the kernel is out of watches.
        """
        watch = linux.watch_closes(self._descriptor, descriptor)
        self._closes[watch] = handler
        return watch

    def forget_closes(self, watch: int) -> None:
        """Call the handler of this watch no more."""
        del self._closes[watch]
        linux.unwatch(self._descriptor, watch)

    def _on_news(self) -> None:
        woken, overflow = linux.read_watches(self._descriptor)
        names = {handler for watch, handler in self._names.values() if overflow or watch in woken}
        for handler in names:
            handler()
        for watch in list(self._closes) if overflow else woken:
            if (told := self._closes.get(watch)) is not None:
                told()
