"""A running ttybrokerd."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from support.log import Record, parse_record
from support.processes import (
    PR_SET_PDEATHSIG,
    descriptors,
    prctl,
    python_path,
)
from support.waiting import TIMEOUT, wait_readable
from ttybroker import client

if TYPE_CHECKING:
    from support.rig import Rig

RUN_DAEMON = str(Path(__file__).with_name("run_daemon.py"))


class Manager(Protocol):
    """What starts daemons in place of the test itself: see systemd.py."""

    address: str
    notify: socket.socket

    def ready(self, pid: int) -> bool: ...


class Daemon:
    """A running ttybrokerd. It is made only when the daemon says that it is ready."""

    def __init__(
        self,
        rig: Rig,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        hook: str = "",
        pass_fds: tuple[int, ...] = (),
        systemd: Manager | None = None,
    ) -> None:
        self.rig = rig
        self.ended = False
        self.records: list[Record] = []
        self._seen = 0
        self._partial = b""
        self._log, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)  # room for the log of a whole test
        os.set_blocking(self._log, False)
        address = str(rig.base / f"notify-{len(rig.daemons)}")
        if systemd is None:
            notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            notify.bind(address)
        else:
            address, notify = systemd.address, systemd.notify
        command = [sys.executable, RUN_DAEMON, f"--hook={hook}", "--"]
        command += arguments or rig.arguments
        command = [*rig.tracer(), *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            env={**os.environ, **python_path(), "NOTIFY_SOCKET": address, **(env or {})},
            pass_fds=pass_fds,
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        os.close(write)
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)
        rig.daemons.append(self)
        if systemd is None:
            with notify:
                self._wait_for(notify)
                self.notified = notify.recv(4096).decode()
            os.unlink(address)
        else:
            while not systemd.ready(self.pid):
                self._wait_for(notify)
        self.baseline = descriptors(self.pid)

    def _wait_for(self, notify: socket.socket) -> None:
        poll = select.poll()
        poll.register(notify, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(TIMEOUT * 1000)]
        assert notify.fileno() in ready, f"the daemon did not start: {self.output()}"

    def narrow_log(self) -> None:
        """Leave room in the log for a page that nobody has read, instead of for a whole test."""
        fcntl.fcntl(self._log, fcntl.F_SETPIPE_SZ, 4096)

    def output(self) -> str:
        """Return all that it has written so far."""
        self._read()
        return "\n".join(record.text for record in self.records)

    def record(self, event: str, timeout: float = TIMEOUT, **fields: object) -> Record:
        """Wait for the next record of this event with these fields, and skip those before it."""
        wanted = {key: str(value) for key, value in fields.items()}
        while True:
            while self._seen < len(self.records):
                record = self.records[self._seen]
                self._seen += 1
                if record.event == event and wanted.items() <= record.fields.items():
                    return record
            what = f"log record {event} {wanted}; there is:\n{self.output()}"
            if self._seen == len(self.records):
                wait_readable(self._log, what, timeout)
                if not self._read():
                    raise AssertionError(f"the daemon ended before {what}")

    def _read(self) -> bool:
        """Read what is there; return False at the end."""
        while self._log >= 0:
            try:
                data = os.read(self._log, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._partial = (self._partial + data).split(b"\n")
            self.records += [parse_record(line.decode("ascii")) for line in lines]
        return False

    def settled(self) -> None:
        """Wait until the daemon has no more descriptors than at its start, and no lock.

        Fails if that does not happen in time.
        """
        end = time.monotonic() + TIMEOUT
        extra: dict[int, str] = {}
        while time.monotonic() < end:
            with client.connect(str(self.rig.socket)) as connection:
                connection.ports()
                now = descriptors(self.pid)
                extra = {n: what for n, what in now.items() if n not in self.baseline}
                if len(now) <= len(self.baseline) + 1 and not self.rig.lock_files():
                    return
        locks = self.rig.lock_files()
        raise AssertionError(f"left over: {extra}, locks {locks}; log:\n{self.output()}")

    def stop(self, settled: bool = True) -> int:
        """Check that nothing is left over, end it by SIGTERM, and return its exit status."""
        if self.ended:
            return self.process.returncode
        try:
            if settled:
                self.settled()
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
            return self.wait()
        finally:
            self.kill()

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for its end, and return its exit status."""
        wait_readable(self.pidfd, f"the daemon's end; log:\n{self.output()}", timeout)
        status = self.process.wait()
        self._close()
        return status

    def end(self) -> str:
        """Return how it ended, in words."""
        status = self.process.returncode
        if status == -signal.SIGSYS:
            return "the daemon made a system call that prepare/syscalls.py does not list"
        return f"the daemon ended with {status}"

    def kill(self) -> None:
        """End it by SIGKILL, if it still runs."""
        if not self.ended:
            self.process.kill()
            self.process.wait()
            self._close()

    def _close(self) -> None:
        self._read()
        self.ended = True
        os.close(self.pidfd)
        os.close(self._log)
        self._log = -1
