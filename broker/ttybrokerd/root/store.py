"""systemd's descriptor store, in which leases outlive the daemon: sd_notify(3), FDSTORE=1.

systemd keeps copies of what a lease is made of: the watcher, the broker's descriptor, the holder's
pidfd, and a sealed memfd with the rest (record.py). It passes them, after the socket, to a daemon
that is started again: sd_listen_fds(3). Nobody who has a port notices anything. If there is no
store, or a full one, the lock file and the flock tell the next daemon who has the port.

Nothing here waits for systemd. What its socket does not take at once is sent later. Each descriptor
that comes back is asked what it is. A lease is believed only if every piece fits the others.

A dead copy is kept as its watcher and a sealed memfd (copy_record.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import struct
import time

from ttybroker.wire import Value
from ttybrokerd.root import TYPE_CHECKING, copy_record, linux, record
from ttybrokerd.root.copy_record import CopyRecord
from ttybrokerd.root.linux import socket
from ttybrokerd.root.log import NOTICE, WARNING, Log, connect
from ttybrokerd.root.loop import WRITE, Loop
from ttybrokerd.root.record import Record

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_GONE = (errno.ECONNREFUSED, errno.ENOTCONN, errno.ENOENT, errno.EPIPE)


class Kept(Value):
    """A lease of an earlier daemon.

    `exit_fd` is -1 if the holder's process was not known, or had ended when the port was opened.
    """

    name: str
    record: Record
    own_fd: int
    watcher: select.epoll
    exit_fd: int


class KeptCopy(Value):
    """A dead copy that an earlier daemon knew of. It may be closed by now."""

    name: str
    record: CopyRecord
    watcher: select.epoll


class NotKept(Exception):
    """These descriptors are no lease and no dead copy; the text says why."""


class _Message(Value):
    """What the socket did not take yet. `descriptors` are copies, closed when it is sent."""

    text: str
    name: str
    descriptors: tuple[int, ...]


class Store:
    """The way to systemd: one socket, at $NOTIFY_SOCKET.

    If `address` is empty, or nobody listens there, everything here does nothing.
    """

    def __init__(self, loop: Loop, log: Log, address: str) -> None:
        self._loop = loop
        self._log = log
        self._unsent: list[_Message] = []  # at most one for each lease that is or was kept
        path = "\0" + address[1:] if address.startswith("@") else address
        self._socket = connect(path) if address else None

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be sent to systemd."""
        return not self._unsent

    def tell(self, state: str) -> None:
        """Send systemd a state: READY=1, STOPPING=1."""
        self._send(_Message(state, "", ()))

    def keep(self, lease: Record | CopyRecord, descriptors: tuple[int, ...]) -> str:
        """Have a lease or dead copy kept: its record, and the descriptors that it is made of.

        Returns its name in the store, for `forget`; "" if it is not kept.
        """
        if self._socket is None:
            return ""
        name = f"{_stem(lease)}.{time.monotonic_ns():x}"
        try:
            data = _encoded(lease)
        except record.NoRecord as error:
            self._log("store-failed", WARNING, port=lease.name, reason=str(error))
            return ""
        return self.keep_data(name, data, descriptors)

    def keep_data(self, name: str, data: bytes, descriptors: tuple[int, ...] = ()) -> str:
        """Have these bytes kept in a sealed memfd, beside descriptors, under a name.

        Returns the name; "" if they are not kept.
        """
        if self._socket is None:
            return ""
        try:
            memory = linux.sealed_memory("ttybroker", data, SEALS)
        except OSError as error:
            self._log("store-failed", WARNING, name=name, reason=str(error))
            return ""
        try:
            text = f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0"
            self._send(_Message(text, name, (memory, *descriptors)))
        finally:
            os.close(memory)
        return name

    def forget(self, name: str) -> None:
        """Have systemd drop what has this name, which is over. "": it was not kept."""
        for message in [message for message in self._unsent if name and message.name == name]:
            self._unsent.remove(message)
            _close(message.descriptors)
            self._rest()
            name = ""
        if name:
            self._remove(name)

    def take_back(self, passed: Iterable[tuple[int, str]]) -> list[Kept | KeptCopy]:
        """Return leases and dead copies in the descriptors (with their names) that systemd passed.

        Descriptors that are neither are closed, and systemd is told to drop them.
        """
        by_name: dict[str, list[int]] = {}
        for descriptor, name in passed:
            by_name.setdefault(name, []).append(descriptor)
        found: dict[int, Kept] = {}
        copies: list[KeptCopy] = []
        for name, descriptors in by_name.items():
            try:
                one = _assemble(name, descriptors, found)
            except (NotKept, OSError) as error:
                _close(descriptors)
                self._log("store-refused", NOTICE, name=name, reason=str(error))
                self._remove(name)
                continue
            if isinstance(one, Kept):
                found[one.record.rdev] = one
            else:
                copies.append(one)
        return [*found.values(), *copies]

    def _remove(self, name: str) -> None:
        self._send(_Message(f"FDSTOREREMOVE=1\nFDNAME={name}", "", ()))

    def _send(self, message: _Message) -> None:
        """Send now, or later behind what waits already.

        What waits has copies of its descriptors, because the lease may have closed them by then.
        """
        if self._socket is None or (not self._unsent and self._sent(message)):
            return
        copies: list[int] = []
        try:
            for descriptor in message.descriptors:
                copies.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
        except OSError as error:
            _close(copies)
            self._log("store-failed", WARNING, reason=error.strerror)
            return
        if not self._unsent:
            self._loop.add(self._socket.fileno(), WRITE, self._flush)
        self._unsent.append(message.replace(descriptors=tuple(copies)))

    def _flush(self) -> None:
        """Go on sending: the socket takes more, or is broken."""
        while self._unsent and self._sent(self._unsent[0]):
            _close(self._unsent.pop(0).descriptors)
        self._rest()

    def _rest(self) -> None:
        """Stop waiting for the socket, if there is nothing to send."""
        if not self._unsent and self._socket is not None:
            self._loop.remove(self._socket.fileno())

    def _sent(self, message: _Message) -> bool:
        """Send the message; return whether it is done with: sent, or failed for good and logged."""
        if self._socket is None:
            return True
        packed = struct.pack(f"{len(message.descriptors)}i", *message.descriptors)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
        try:
            self._socket.sendmsg([message.text.encode()], rights if packed else [], SEND)
        except BlockingIOError:
            return False
        except OSError as error:
            self._log("store-failed", WARNING, reason=f"systemd: {error.strerror}")
            if error.errno in _GONE:
                self._loop.remove(self._socket.fileno())
                self._socket.close()
                self._socket = None
        return True


def _stem(lease: Record | CopyRecord) -> str:
    """Return what a name in the store begins with."""
    if isinstance(lease, CopyRecord):
        return f"copy.{lease.name[:32]}"
    return lease.lock_name[:32].replace(":", "_")


def _encoded(lease: Record | CopyRecord) -> bytes:
    """Return the record's bytes. Raises NoRecord."""
    if isinstance(lease, CopyRecord):
        return copy_record.encode(lease)
    return record.encode(lease)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _assemble(name: str, descriptors: list[int], others: Container[int]) -> Kept | KeptCopy:
    """Return what these descriptors make up: a lease of a port that is none of `others`, or a copy.

    Raises NotKept or OSError. Then nothing is closed yet.
    """
    own_fd = watcher = memory = exit_fd = -1
    for descriptor in descriptors:
        if stat.S_ISCHR(os.fstat(descriptor).st_mode) and own_fd < 0:
            own_fd = descriptor
        elif linux.is_epoll(descriptor) and watcher < 0:
            watcher = descriptor
        elif linux.pidfd_process(descriptor) is not None and exit_fd < 0:
            exit_fd = descriptor
        # guard: kept-record-is-sealed
        elif linux.seals(descriptor) & SEALS == SEALS and memory < 0:
            memory = descriptor
        else:
            raise NotKept("a descriptor that is of no kind of ours, or one too many")
    data = b"" if memory < 0 else os.pread(memory, record.MAX_RECORD + 1, 0)
    is_copy = data.startswith(copy_record.KIND)
    if min(watcher, memory) < 0 or (own_fd < 0 and not is_copy):
        raise NotKept(f"incomplete: {len(descriptors)} descriptors")
    try:
        if is_copy:
            return _copy(name, copy_record.decode(data), descriptors, watcher, memory)
        lease = record.decode(data)
    except record.NoRecord as error:
        raise NotKept(f"no record: {error}") from None
    _check(lease, own_fd, watcher, exit_fd)
    if lease.rdev in others:  # guard: one-kept-lease-a-port
        raise NotKept("its port has another lease")
    os.close(memory)
    return Kept(name, lease, own_fd, select.epoll.fromfd(watcher), exit_fd)


def _copy(
    name: str, copy: CopyRecord, descriptors: list[int], watcher: int, memory: int
) -> KeptCopy:
    """Return the dead copy with this record, if the pieces belong together. Raises NotKept."""
    if len(descriptors) > 2:
        raise NotKept(f"a copy of {len(descriptors)} descriptors")
    if not set(linux.listed(watcher)) <= {copy.node}:  # guard: kept-copy-is-of-its-node
        raise NotKept("the watcher lists something else than the copy")
    os.close(memory)
    return KeptCopy(name, copy, select.epoll.fromfd(watcher))


def _check(lease: Record, own_fd: int, watcher: int, exit_fd: int) -> None:
    """Check that the pieces belong together. Raises NotKept."""
    status = os.fstat(own_fd)
    if status.st_rdev != lease.rdev:  # guard: kept-descriptor-matches-record
        raise NotKept("the descriptor is of another device")
    # guard: kept-pidfd-matches-record
    if exit_fd >= 0 and linux.pidfd_process(exit_fd) not in (lease.pid, -1):  # -1: reaped
        raise NotKept("the pidfd is of another process")
    # guard: kept-watcher-lists-the-port
    if not set(linux.listed(watcher)) <= {(status.st_dev, status.st_ino)}:
        raise NotKept("the watcher lists something else than the port")
