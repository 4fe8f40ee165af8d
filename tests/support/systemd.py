"""What systemd does for a service with a socket unit and a descriptor store, and no more.

It listens, receives sd_notify(3), keeps descriptors, and passes both to the next daemon
(sd_listen_fds(3)). The lab has the real one.
"""

from __future__ import annotations

import array
import ctypes
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from support.daemon import Daemon
from support.rig import Rig

ROOM = socket.CMSG_SPACE(4 * 253)  # SCM_MAX_FD, include/net/scm.h

# In the daemon's process, before it starts: what was passed becomes 3 and following.
HOOK = """
import fcntl, os
passed = [fcntl.fcntl(number, fcntl.F_DUPFD, 512) for number in {numbers}]
os.closerange(3, 512)
for index, number in enumerate(passed):
    os.dup2(number, 3 + index)
    os.close(number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)))
os.environ.update(LISTEN_FDNAMES="{names}")
"""


SYS_KCMP = {"x86_64": 312, "aarch64": 272}[os.uname().machine]  # asm/unistd.h
KCMP_FILE = 0  # linux/kcmp.h
_libc = ctypes.CDLL(None, use_errno=True)


def same_file(one: int, other: int) -> bool:
    """Return whether both are of one open file description. systemd keeps each once: same_fd() in
    service_add_fd_store(), core/service.c."""
    me = os.getpid()
    found = int(_libc.syscall(SYS_KCMP, me, me, KCMP_FILE, one, other))
    if found < 0:
        raise OSError(ctypes.get_errno(), "kcmp")
    return found == 0


class Systemd:
    """The manager of one service. `most` is its FileDescriptorStoreMax=."""

    def __init__(self, rig: Rig, most: int = 64) -> None:
        self._rig = rig
        self._most = most
        self.stored: list[tuple[str, int]] = []
        self.words: list[tuple[int, str]] = []  # of what it was told: sender's pid and line
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(rig.socket))
        os.chmod(rig.socket, 0o666)
        self.listener.listen(1024)
        self.address = str(rig.base / "notify")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.notify.bind(self.address)
        os.chmod(self.address, 0o777)
        self._lock = threading.RLock()

    def start(self, *options: str, hook: str = "") -> Daemon:
        """Start the service; it is ready when this returns."""
        with self._lock:
            return self._start(options, hook)

    def _start(self, options: tuple[str, ...], hook: str) -> Daemon:
        self.hear()
        passed = [("ttybroker.socket", self.listener.fileno()), *self.stored]
        numbers = [number for _, number in passed]
        hook += HOOK.format(numbers=numbers, names=":".join(name for name, _ in passed))
        self._rig.write_policy()
        return self._rig.daemon(
            *self._rig.arguments, *options, hook=hook, pass_fds=tuple(numbers), systemd=self
        )

    def restart(self) -> Daemon:
        """End the running daemon, as an administrator does, and start the next."""
        self._rig.daemons[-1].process.terminate()
        assert self._rig.daemons[-1].wait() == 0
        self.hear()
        return self.start()

    def hear(self) -> None:
        """Do what the daemon has asked for so far."""
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        while True:
            with self._lock:
                try:
                    data, ancillary, got, _ = self.notify.recvmsg(4096, ROOM, flags)
                except BlockingIOError:
                    return
                assert not got & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
                self._do(data.decode().splitlines(), ancillary)

    def ready(self, pid: int) -> bool:
        """Return whether this process has said that it is ready."""
        self.hear()
        return (pid, "READY=1") in self.words

    def names(self) -> set[str]:
        """Return the names under which descriptors are kept."""
        self.hear()
        return {name for name, _ in self.stored}

    def contents(self, prefix: str) -> list[bytes]:
        """Return the bytes of each memory that is kept under a name which begins so."""
        with self._lock:
            self.hear()
            kept = [number for name, number in self.stored if name.startswith(prefix)]
            return [os.pread(number, 1 << 20, 0) for number in kept]

    def put(self, name: str, descriptors: Iterable[int]) -> None:
        """Keep copies of these descriptors, whatever they are."""
        self.stored += [(name, os.dup(descriptor)) for descriptor in descriptors]

    def remove(self, name: str) -> None:
        """Drop what is kept under a name."""
        for entry in [entry for entry in self.stored if entry[0] == name]:
            self.stored.remove(entry)
            os.close(entry[1])

    def close(self) -> None:
        """Close everything."""
        for name in self.names():
            self.remove(name)
        self.listener.close()
        self.notify.close()
        os.unlink(self._rig.socket)
        os.unlink(self.address)

    def _do(self, lines: list[str], ancillary: list[tuple[int, int, bytes]]) -> None:
        pid, descriptors = 0, []
        for _level, kind, data in ancillary:
            numbers = list(array.array("i", data))
            if kind == socket.SCM_CREDENTIALS:
                pid = numbers[0]
            else:
                descriptors = numbers
        fields = dict(line.split("=", 1) for line in lines)
        name = fields.get("FDNAME", "stored")
        assert name.isascii() and name.isprintable() and ":" not in name and 0 < len(name) < 256
        if "FDSTOREREMOVE" in fields:
            self.remove(name)
        if "FDSTORE" in fields:
            assert fields["FDPOLL"] == "0"  # or it would drop what is hung up
            for descriptor in descriptors:
                known = any(same_file(descriptor, kept) for _, kept in self.stored)
                if len(self.stored) < self._most and not known:
                    self.put(name, [descriptor])
                os.close(descriptor)
        else:
            assert not descriptors
        self.words += [(pid, line) for line in lines]


@contextmanager
def manager(rig: Rig) -> Iterator[Systemd]:
    """Yield a manager. At the end its daemons must stop, and leave nothing in its store."""
    made = Systemd(rig)
    try:
        yield made
        for child in rig.children:
            child.kill()
        for daemon in rig.daemons:
            assert daemon.ended or daemon.stop() == 0
        assert made.names() == set()
    finally:
        for daemon in rig.daemons:
            daemon.kill()
        made.close()
