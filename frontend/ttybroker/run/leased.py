"""Which descriptors of other processes are open ports of this run.

An epoll set knows an open file description without keeping it open: its entry goes with the last
copy, wherever that is. kcmp(2) compares such an entry with a descriptor of another process.
"""

from __future__ import annotations

import os
import select

from ttybroker.run.kernel import is_in_set


class Leased:
    """The descriptions that this run was granted, as long as they are open. For several threads."""

    def __init__(self) -> None:
        self._set = select.epoll()
        self._pid = os.getpid()

    def add(self, fd: int) -> None:
        """Remember this descriptor's description."""
        try:
            self._set.register(fd, 0)
        except OSError:
            pass  # this user has no watch left, so the kernel answers its locks

    def has(self, pid: int, number: int) -> bool:
        """Return whether descriptor `number` of thread `pid` is one of them.

        False also if the kernel has no kcmp(2), or does not permit it.
        """
        seen: dict[int, int] = {}
        for entry in self._entries():
            nth = seen[entry] = seen.get(entry, -1) + 1
            if is_in_set(pid, number, self._pid, self._set.fileno(), entry, nth):
                return True
        return False

    def _entries(self) -> list[int]:
        """Return the numbers under which they were added, in the kernel's order.

        See proc_pid_fdinfo(5). A number that was used again is there more than once.
        """
        try:
            with open(f"/proc/self/fdinfo/{self._set.fileno()}", "rb") as file:
                lines = [line.split() for line in file.read().splitlines()]
        except OSError:  # no descriptor left, or no /proc: the kernel answers the lock then
            return []
        return [int(words[1]) for words in lines if words[0] == b"tfd:"]
