"""One root side, put together: the same for the daemon and for the forked backend."""

from __future__ import annotations

import socket
import time

from ttybrokerd.broker import Broker
from ttybrokerd.clients import Clients
from ttybrokerd.device import Devices
from ttybrokerd.locks import LockFiles
from ttybrokerd.log import Log
from ttybrokerd.loop import READ, Loop
from ttybrokerd.peer import Identity, Users
from ttybrokerd.policy import Policy
from ttybrokerd.workers import Workers

LAST_WORDS = 2.0  # seconds for ports that are being put in order when all is over


class Server:
    """Serves clients until it is told to stop, or until the last one of a forked backend left."""

    def __init__(self, policy: Policy, lock_dir: str, log: Log) -> None:
        """Raises OSError if the lock directory cannot be used.

        No thread runs and no client is served before the first `turn`: it may be forked till then.
        """
        self._loop = Loop()
        self._workers = Workers()
        self._stopping = False
        self.users = users = Users()
        self._clients = Clients(self._loop, self._workers, users, log)
        self._locks = LockFiles(lock_dir)
        self.broker = Broker(
            self._loop, self._workers, self._clients, users, policy, Devices(), self._locks, log
        )
        self._loop.add(self._workers.fileno(), READ, self._workers.finish)

    @property
    def descriptors(self) -> set[int]:
        """What must stay open for it to work, before it serves anybody."""
        return {part.fileno() for part in (self._loop, self._workers, self._locks, self.broker)}

    def close(self) -> None:
        """Close those, in a process that is not to serve."""
        for part in (self._loop, self._workers, self._locks, self.broker):
            part.close()

    def stop(self) -> None:
        """End `run` soon; safe in a signal handler."""
        self._stopping = True
        self._workers.wake()

    def wake(self) -> None:
        """Make `run` turn once; safe in a signal handler."""
        self._workers.wake()

    def listen(self, listener: socket.socket) -> None:
        """Serve whoever connects to `listener`."""
        self._clients.listen(listener)

    def adopt(self, pair: socket.socket, identity: Identity) -> None:
        """Serve one end of a socket pair."""
        self._clients.adopt(pair, identity)

    def turn(self, timeout: float | None = None) -> None:
        """Wait for news, for `timeout` seconds at most, and deal with it."""
        alarm = self.broker.tick()
        times = [seconds for seconds in (alarm, timeout) if seconds is not None]
        self._loop.turn(min(times, default=None))

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def deserted(self) -> bool:
        """Whether no client is connected."""
        return len(self._clients) == 0

    def last_words(self) -> None:
        """Let ports that are being put in order come to their end, within LAST_WORDS seconds.

        What a holder still has it keeps: descriptor, flock, and the lock file with its pid.
        """
        end = time.monotonic() + LAST_WORDS
        while not self.broker.idle() and (left := end - time.monotonic()) > 0:
            self.turn(left)
