"""A broker made of files: what the user side sees of a broker, with ptys for ports.

A directory describes everything. NAME is a link to the port's node. NAME.refuse has "errno text"
for open(), NAME.deny the text of a denial, NAME.holder "since user program pid", NAME.state its
state. If a test has locked NAME.gate with flock(), open() waits, and says so by a byte into
NAME.asked. Every question is a line of `log`. If `broker.down` exists, connections are refused.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ttybroker.errors import BY_ERRNO, BrokerUnavailable
from ttybroker.wire import Holder, PortInfo, Verdict


class FakeClient:
    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        if (self.directory / "broker.down").exists():
            raise BrokerUnavailable(111, "no broker at FAKE: is ttybrokerd running?")
        self._mine, self._its = socket.socketpair()

    def _log(self, line: str) -> None:
        with open(self.directory / "log", "a") as log:
            log.write(line + "\n")

    def _text(self, name: str) -> str | None:
        path = self.directory / name
        return path.read_text("utf-8") if path.exists() else None

    def fileno(self) -> int:
        return self._mine.fileno()

    session = bytes(16)

    def ask_open(
        self,
        name: str,
        *,
        wait: float | None = None,
        pid: int = 0,
        flags: int = 0,
        session: bytes = b"",
        tell: object = None,
    ) -> None:
        """Send the answer from a thread, as if from another process."""
        waits = "None" if wait is None else f"{wait:.1f}"
        self._log(f"open {name} wait={waits} pid={pid}")

        def answer() -> None:
            try:
                self._answer: int | OSError = self._open(name)
            except OSError as error:
                self._answer = error
            self._its.send(b"!")

        threading.Thread(target=answer, daemon=True).start()

    def take_answer(self) -> int | None:
        self._mine.recv(1)
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer

    def time_left(self) -> float:
        return 60.0

    def come_back(self, _budget: object) -> Iterator[float]:
        raise BrokerUnavailable(111, "the broker went away; is it running?")

    def _must_be_up(self) -> None:
        if (self.directory / "broker.down").exists():
            raise BrokerUnavailable(111, "the broker went away; is it running?")

    def _open(self, name: str) -> int:
        self._must_be_up()
        if (self.directory / f"{name}.gate").exists():
            self._wait_at(name)
        if refusal := self._text(f"{name}.refuse"):
            number, text = refusal.split(" ", 1)
            raise BY_ERRNO[int(number)](int(number), text)
        node = os.readlink(self.directory / name)
        return os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def _wait_at(self, name: str) -> None:
        try:
            asked = os.open(self.directory / f"{name}.asked", os.O_WRONLY | os.O_NONBLOCK)
            os.write(asked, b"!")
            os.close(asked)
        except OSError:
            pass  # nobody listens any more
        with open(self.directory / f"{name}.gate") as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
        ended = select.select([self._its], [], [], 0)[0]  # the client has closed: withdrawn
        if ended:
            raise OSError("withdrawn")

    def check(self, name: str) -> Verdict:
        self._log(f"check {name}")
        self._must_be_up()
        if (text := self._text(f"{name}.deny")) is not None:
            return Verdict(False, True, "rule 1", text)
        if (self.directory / name).is_symlink():
            return Verdict(True, True, "rule 2", "")
        return Verdict(False, False, "", "no rule names this port")

    def ports(self) -> list[PortInfo]:
        self._log("ports")
        return [
            PortInfo(
                path.name,
                os.readlink(path),
                self._text(f"{path.name}.state") or "free",
                "rule 2",
                0,
                self._holder(path.name),
            )
            for path in sorted(self.directory.iterdir())
            if path.is_symlink() and not (self.directory / f"{path.name}.deny").exists()
        ]

    def _holder(self, name: str) -> Holder | None:
        text = self._text(f"{name}.holder")
        if text is None:
            return None
        since, user, program, pid = text.split()
        return Holder(1000, user, int(pid), program, float(since))

    def close(self) -> None:
        self._log("close")
        self._mine.close()


def be_late() -> None:
    """Make the launcher look at the program only when that has had time to end."""
    look, launcher = os.pidfd_open, os.getpid()

    def look_late(pid: int) -> int:
        if os.getpid() == launcher:
            time.sleep(0.3)
        return look(pid)

    os.pidfd_open = look_late  # type: ignore[assignment]


def main() -> int:
    """Run `ttybroker run ARGUMENTS...` on that broker: `fake_broker.py DIRECTORY ARGUMENTS...`.

    $TEST_PTRACE_SCOPE replaces Yama's setting; $TEST_VIA is a --via; $TEST_LATE: `be_late`.
    """
    from ttybroker.run import choose
    from ttybroker.run import main as run

    directory = sys.argv[1]
    via = os.environ.pop("TEST_VIA", None)
    scope = os.environ.pop("TEST_PTRACE_SCOPE", None)
    if os.environ.pop("TEST_LATE", None):
        be_late()
    if scope is not None:
        choose.yama = lambda: int(scope)  # type: ignore[assignment]
    how = ["--via", via] if via else []
    return run([*how, *sys.argv[2:]], connect=lambda: FakeClient(directory))


if __name__ == "__main__":
    sys.exit(main())
