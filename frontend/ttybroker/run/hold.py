"""`--hold`: ports that a run keeps from start to end, even if its program closes them.

The port stays open. So input that arrives between two opens of the program waits in the kernel,
settings last, and the modem lines do not change.
"""

from __future__ import annotations

import errno
import os
import select
from _thread import allocate_lock, start_new_thread

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable


class Held:
    """Keep one descriptor of each of these ports, until this process ends.

    If a port is taken back or unplugged, it is let go. Then the next descriptor of it is kept.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._wanted = frozenset(names)
        self._kept: dict[str, int] = {}
        self._lock = allocate_lock()

    def keep(self, name: str, fd: int) -> None:
        """Keep a copy of this descriptor of the port, if the port is to be held and is not.

        Raises OSError, with a line to show, if there is no descriptor or no thread left.
        """
        if name not in self._wanted:
            return
        with self._lock:
            # Its thread may not have noticed yet that it was hung up.
            if name not in self._kept or _is_hung_up(self._kept[name]):
                try:
                    self._watch(name, fd)
                except OSError as error:
                    raise OSError(error.errno, f"{name}: cannot be held: {error.strerror}")

    def _watch(self, name: str, fd: int) -> None:
        copy = os.dup(fd)
        try:
            start_new_thread(self._until_hung_up, (name, copy))
        except RuntimeError:
            os.close(copy)
            raise OSError(errno.EAGAIN, "no thread can be started")
        self._kept[name] = copy

    def _until_hung_up(self, name: str, fd: int) -> None:
        """Let go when the port is hung up: a dead descriptor would be in the next holder's way."""
        _is_hung_up(fd, wait=None)
        with self._lock:
            if self._kept.get(name) == fd:
                del self._kept[name]
            os.close(fd)


def _is_hung_up(fd: int, wait: int | None = 0) -> bool:
    """Wait until the port is hung up, or for that many milliseconds. Return whether it is."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(wait))


def hold_beside(fds: list[int]) -> None:
    """Keep these descriptors until this process, or what it becomes, has ended.

    A process aside keeps them, because there is no supervisor. Raises OSError.
    """
    from ttybroker.run.aside import Talk, leave_terminal, start_aside
    from ttybroker.run.kernel import outlive_signals

    process = os.pidfd_open(os.getpid())

    def keep(talk: Talk) -> None:
        outlive_signals()
        leave_terminal()
        talk.send(b"kept")
        talk.close()
        poll = select.poll()
        poll.register(process, select.POLLIN)
        for fd in fds:
            poll.register(fd, 0)
        while process not in (ready := [fd for fd, _ in poll.poll()]):
            for fd in ready:  # hung up
                poll.unregister(fd)
                os.close(fd)

    talk = start_aside(keep)
    talk.answer()
    talk.close()
    os.close(process)
