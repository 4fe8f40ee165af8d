"""Ports made of ptys, behind a broker made of files, and programs that run on them."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import subprocess
import sys
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial

from support.waiting import TIMEOUT

HERE = Path(__file__).parent
ROOTS = f"{HERE.parents[1] / 'frontend'}:{HERE.parents[1] / 'broker'}"
LIMIT = max(20.0, TIMEOUT)  # seconds for anything that has to happen


class Device:
    """The far end of a port."""

    def __init__(self) -> None:
        self.far, self.near = os.openpty()
        tty.setraw(self.near)
        self.node = os.ttyname(self.near)

    def hear(self, size: int) -> bytes:
        """Return `size` bytes of what the program has sent."""
        data = b""
        while len(data) < size:
            ready, _, _ = select.select([self.far], [], [], LIMIT)
            assert ready, f"only {data!r} of {size} bytes came"
            data += os.read(self.far, size - len(data))
        return data

    def readable(self) -> bool:
        """Return whether something has come that `hear` did not return yet."""
        return bool(select.select([self.far], [], [], 0)[0])

    def say(self, data: bytes) -> None:
        os.write(self.far, data)

    def close(self) -> None:
        os.close(self.far)
        os.close(self.near)


class Gate:
    """Make opens of the port wait at the broker until `open()`."""

    def __init__(self, directory: Path, name: str) -> None:
        self._lock = open(directory / f"{name}.gate", "w")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.mkfifo(directory / f"{name}.asked")
        self._asked = os.open(directory / f"{name}.asked", os.O_RDWR)

    def wait_for(self, opens: int) -> None:
        """Wait until this many opens wait."""
        for _ in range(opens):
            assert os.read(self._asked, 1) == b"!"

    def open(self) -> None:
        if not self._lock.closed:
            self._lock.close()
            os.close(self._asked)


class Rig:
    """The broker made of files in `directory`, and `ttybroker run` on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.device = Device()
        self.started: list[subprocess.Popen[bytes]] = []
        self.gates: list[Gate] = []
        # how `ttybroker run` on that broker is started, and where its code is
        self.command = [sys.executable, str(HERE / "fake_broker.py")]
        self.code = ROOTS

    def port(self, name: str) -> None:
        (self.directory / name).symlink_to(self.device.node)

    def renew(self, name: str) -> None:
        """Hang the port up, and put another device under its name."""
        self.device.close()
        self.device = Device()
        (self.directory / name).unlink()
        self.port(name)

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, "utf-8")

    def log(self, word: str) -> list[str]:
        """Return the lines of the broker's log that begin with `word`."""
        path = self.directory / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(word)]

    def start(self, *arguments: str, **more: object) -> subprocess.Popen[bytes]:
        """Start `ttybroker run ARGUMENTS`, with pipes."""
        env = {**os.environ, "PYTHONPATH": self.code, **more.pop("env", {})}  # type: ignore[dict-item]
        command = [*self.command, str(self.directory), *arguments]
        pipe = subprocess.PIPE
        settings = {"stdin": pipe, "stdout": pipe, "stderr": pipe, "env": env, **more}
        process: subprocess.Popen[bytes] = subprocess.Popen(command, **settings)  # type: ignore[call-overload]
        self.started.append(process)
        return process

    def copy_code(self) -> None:
        """Start it from a copy, with the system's Python.

        Root's checkout may be in a directory that no other user may enter.
        """
        code = self.directory / "code"
        for package in (HERE.parents[1] / "frontend" / "ttybroker", Path(serial.__file__).parent):
            shutil.copytree(package, code / package.name)
        shutil.copy(HERE / "fake_broker.py", code)
        self.command = ["/usr/bin/python3", str(code / "fake_broker.py")]
        self.code = str(code)

    def run(self, *arguments: str, **more: object) -> tuple[int, str, str]:
        """Run it to its end, and return exit status, output and errors."""
        process = self.start(*arguments, **more)
        output, errors = process.communicate(timeout=LIMIT)
        return process.returncode, output.decode(), errors.decode()

    def python(self, code: str, *arguments: str, **more: object) -> tuple[int, str, str]:
        """Run a Python program on the broker."""
        return self.run(*arguments, "--", sys.executable, "-c", f"import os, sys\n{code}", **more)

    def gate(self, name: str) -> Gate:
        """Make opens of the port wait at the broker."""
        self.gates.append(Gate(self.directory, name))
        return self.gates[-1]

    def processes(self) -> set[int]:
        """Return every live process that was started on this broker and is not the program."""
        return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is(pid)}

    def _is(self, pid: int) -> bool:
        try:
            return os.fsencode(str(self.directory)) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for gate in self.gates:
            gate.open()
        self.device.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.port("ttyS7")
    yield rig
    rig.close()


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., str]:
    """Build a C program that needs no library; skip the test if that is impossible."""

    def build(source: str, *flags: str) -> str:
        file = tmp_path / "program.c"
        file.write_text(source)
        command = ["gcc", "-nostdlib", "-static", "-O1", "-fno-stack-protector", *flags]
        try:
            made = subprocess.run(
                [*command, "-o", str(tmp_path / "program"), str(file)], capture_output=True
            )
        except FileNotFoundError:
            pytest.skip("no C compiler")
        if made.returncode:
            pytest.skip(f"the C compiler cannot: {made.stderr.decode()[-200:]}")
        return str(tmp_path / "program")

    return build


def wait_for_end(pid: int) -> None:
    """Wait until the process has ended, reaped or not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], LIMIT)[0], f"process {pid} does not end"
    finally:
        os.close(handle)
