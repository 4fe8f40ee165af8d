"""A wire between two of QEMU's sockets that takes every byte, at once and without a limit.

This is needed because an emulated USB adapter stops all of QEMU if it cannot get rid of a byte.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from functools import partial
from queue import SimpleQueue


class Relay:
    """Carry bytes both ways between `one` and `other` until one of them ends."""

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        self._ends = one, other
        self._threads: list[threading.Thread] = []
        for source, sink in ((one, other), (other, one)):
            queue: SimpleQueue[bytes] = SimpleQueue()
            for body in (partial(_take, source, queue), partial(_give, queue, sink)):
                self._threads.append(threading.Thread(target=body))
                self._threads[-1].start()

    def close(self) -> None:
        """Cut the wire, and wait for its threads."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()


def _take(source: socket.socket, queue: SimpleQueue[bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            queue.put(data)
    queue.put(b"")


def _give(queue: SimpleQueue[bytes], sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := queue.get():
            sink.sendall(data)
