"""A lease: one port, its holder, and all that the broker keeps of it while it lasts.

The device is opened twice. The holder's descriptor is passed on, and closed here. The broker's
descriptor is never read or written, and stays as long as the lease. With it, the holder's close
cannot block. An unplugged device shows as a hang-up. To take the port back needs no new open.
"""

from __future__ import annotations

import os
import select

from ttybroker.wire import NO_SESSION, YIELD_ALL, YIELD_USER, Holder
from ttybrokerd.root import TYPE_CHECKING, linux, peer
from ttybrokerd.root.ask import Ask
from ttybrokerd.root.copies import DeadCopy
from ttybrokerd.root.device import Target
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.processes import process
from ttybrokerd.root.record import Record
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.settings import NONE, Settings, unpack

if TYPE_CHECKING:
    from ttybrokerd.root.connection import Connection
    from ttybrokerd.root.store import Kept


class Lease:
    """One lease, from the first lock to the last.

    In the kernel: `own_fd` is the broker's description. `watcher` is an epoll set that lists the
    holder's descriptions until their last copies are closed. `exit_fd` is a pidfd of the holder, -1
    if it has ended or is not known. `watch` is the node's inotify watch.

    In the lock directory: `lock_name` is the device's name there. `lock_pid` is the process that
    the file names, None if the file is the holder's own. `lock_left`: why the lock file could not
    be removed. `replaced`: what lay in its place and was not believed, "" if nothing did.

    `revokers`: who waits for its end. `withdrawn`: how many requests of its user went with it.
    `kept`: its name in systemd's descriptor store. `not_put_back`: what could not be set as it was
    found, each with its cause. `not_ended`: the same of the calls that end it. `session`: who may
    open it again, None for a client of protocol version 1. `left`: the settings that its session
    left, None until it closed the port. `joining`: how many opens of its session are under way.
    `lent_by`: user and session of each that has a claim on the port, the next one first.
    """

    __slots__ = ("_locks", "ask", "exit_fd", "holder", "joining", "kept", "key", "left", "lent_by",
                 "lock_left", "lock_name", "lock_pid", "not_ended", "not_put_back", "own_fd",
                 "pid", "replaced", "revokers", "rule", "session", "settings", "target", "uid",
                 "watch", "watcher", "withdrawn")  # fmt: skip

    def __init__(
        self,
        key: int,
        ask: Ask,
        target: Target,
        rule: str,
        pid: int,
        lock_name: str,
        locks: LockFiles,
    ) -> None:
        self.key = key
        self.ask = ask
        self.uid = ask.uid
        self.holder: Holder = ask.holder
        self.target = target
        self.rule = rule
        self.pid = pid
        self.lock_name = lock_name
        self.lock_pid: int | None = None
        self.lock_left: Refusal | None = None
        self.replaced = ""
        self.own_fd = -1
        self.exit_fd = -1
        self.watch: int | None = None
        self.watcher: select.epoll | None = None
        self.settings = NONE
        self.not_put_back: list[str] = []
        self.not_ended: list[str] = []
        self.left: Settings | None = None
        self.revokers: list[Connection] = []
        self.withdrawn = self.joining = 0
        self.kept = ""
        self.session = ask.session
        self.lent_by: list[tuple[int, bytes]] = []
        self._locks = locks

    @classmethod
    def adopted(cls, kept: Kept, locks: LockFiles, now: float) -> Lease:
        """Return the lease that an earlier broker kept in systemd's store."""
        was = kept.record
        holder = Holder(was.uid, "", was.pid or None, was.program, was.since, "lease", was.label)
        target = Target(was.name, was.path, was.pty, was.console)
        ask = Ask(was.uid, holder, now=now, wait=0)
        ask.yields = was.yield_user * YIELD_USER | was.yield_all * YIELD_ALL
        ask.active = was.active
        lease = cls(was.rdev, ask, target, was.rule, was.pid, was.lock_name, locks)
        lease.own_fd, lease.watcher, lease.exit_fd = kept.own_fd, kept.watcher, kept.exit_fd
        lease.settings = unpack(was.settings)
        lease.kept = kept.name
        return lease

    @property
    def name(self) -> str:
        """The port's name, as it was asked for."""
        return self.target.name

    @property
    def hangup_fd(self) -> int:
        """The descriptor that can be read when the port is hung up, whatever the discipline.

        After a restart of the broker, a discipline without poll may be attached. What is added to
        an epoll set then, as `own_fd` is, never shows a hang-up. The watcher's first entry was made
        before the holder could attach any.
        """
        assert self.watcher is not None
        return self.watcher.fileno()

    def live_pid(self) -> int:
        """Return the pid that the lock is to name, 0 if that process has ended.

        It may have ended while it waited. Its pid may be another process's by now, which has a lock
        of its own.
        """
        # guard: pid-at-the-grant
        return self.pid if self.pid and peer.owns(self.uid, self.pid) else 0

    def record(self, expires: float | None) -> Record:
        """Return what no descriptor tells of the lease, for the next broker.

        `expires` is in seconds of time.monotonic(), None if the lease has no time limit.
        """
        target, holder, session = self.target, self.holder, self.session
        return Record(self.key, self.uid, self.pid, holder.since or 0, expires,
                      self.settings.pack(), target.name, target.path, self.lock_name, self.rule,
                      holder.program, holder.label,
                      NO_SESSION if session is None else session.number, tuple(self.lent_by),
                      target.pty, target.console, self.lock_pid is not None,
                      self.ask.yields & YIELD_USER != 0, self.ask.yields & YIELD_ALL != 0,
                      self.ask.active)  # fmt: skip

    def pieces(self) -> tuple[int, ...]:
        """Return the descriptors that the lease is made of."""
        watcher = -1 if self.watcher is None else self.watcher.fileno()
        return tuple(piece for piece in (self.own_fd, watcher, self.exit_fd) if piece >= 0)

    def held(self) -> bool:
        """Return whether any copy of the holder's descriptors is open anywhere."""
        # guard: watch-the-last-copy
        return self.watcher is not None and linux.still_open(self.watcher)

    def lock_again(self) -> None:
        """Make sure of the lock that an earlier broker took.

        It names the holder's process. If that has ended, it names the earlier broker, which signed
        for it, and this broker signs instead. Raises Refusal as LockFiles.take().
        """
        signer = os.getpid() if self.exit_fd < 0 or linux.ended(self.exit_fd) else self.pid
        named = self._locks.named(self.lock_name)
        if named is not None and (named == self.pid or process(named) is None):
            self._locks.reassign(self.lock_name, signer, instead_of=named)
        else:
            self._locks.take(self.lock_name, signer)
            self._locks.hung_up(self.lock_name)  # the port will be, at the end of this lease
        self.lock_pid = signer

    def sign(self, pid: int) -> None:
        """Put `pid` (the broker's) into the lock.

        The holder's process has ended, but a copy of its descriptor lives on. Raises Refusal as
        LockFiles.take().
        """
        if self.lock_pid is not None and self.lock_pid != pid:
            self._locks.reassign(self.lock_name, pid, instead_of=self.lock_pid)
            self.lock_pid = pid  # guard: broker-signs-for-the-dead

    def close(self) -> DeadCopy | None:
        """Close all that the lease is made of, and remove its lock file.

        Returns the dead copy if the holder was hung up and still keeps its descriptor, else None.
        """
        copy = None
        if self.watcher is not None and self.held():
            status = os.fstat(self.own_fd)
            node = status.st_dev, status.st_ino
            copy = DeadCopy(self.key, node, self.uid, self.holder, self.name, self.watcher)
        elif self.watcher is not None:
            self.watcher.close()
        self.watcher = None
        for descriptor in self.pieces():
            os.close(descriptor)
        self.own_fd = self.exit_fd = -1
        if self.lock_pid is not None:
            try:
                self._locks.release(self.lock_name, self.lock_pid)
            except Refusal as refusal:  # guard: lock-left-is-logged
                self.lock_left = refusal
        return copy
