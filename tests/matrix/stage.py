"""Where the programs run: both launchers as they are installed, an ordinary user without any
right to the port, and the port as it is seen from outside."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from matrix.namespace import PORT, USER, Namespace
from support.place import PLACE
from support.processes import children
from support.rig import Rig
from support.waiting import TIMEOUT, Watch, wait_readable
from ttybrokerd.root.locks import parse_pid

PACKAGING = Path(__file__).parents[2] / "packaging" / "launcher"
NODE = f"/dev/{PORT}"
LOCK = f"LCK..{PORT}"
NAMELESS = 60201
AGAIN = 0.01  # seconds between two looks at what nothing tells of
FREE = 0.1  # seconds from the end of the last copy to a port and a lock that are free
TIOCGEXCL = 0x80045440  # asm-generic/ioctls.h


class Installation:
    """What `make install` puts in place, in a directory that only root writes."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(dir=PLACE, prefix="ttybroker-matrix-"))
        os.chmod(self.base, 0o755)
        self.commands = self.base / "bin"
        variables = [f"PREFIX={self.base}", f"VENV={sys.prefix}", f"BUILD={self.base}/build"]
        command = ["make", "-s", "-C", str(PACKAGING), *variables, "install"]
        subprocess.run(command, check=True, stdout=subprocess.PIPE)

    def launcher(self, name: str) -> list[str]:
        """How people begin the command line: up to and with the --."""
        words = {"ttybroker run": ["ttybroker", "run"], "ttyrun": ["ttyrun", PORT]}[name]
        return [str(self.commands / words[0]), *words[1:], "--"]

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.base)


class Ended(NamedTuple):
    """A program's exit status (128 + n after signal n, as shells have it) and what it wrote."""

    status: int
    out: str
    err: str


class LockWatch(Watch):
    """One that can be asked whether anything happened, whatever it is."""

    def pause(self, timeout: float) -> bool:
        """Wait for the next event; False when none comes within this time."""
        if not select.select([self._fd], [], [], max(timeout, 0))[0]:
            return False
        self._read()
        self._events.clear()
        return True


class Stage:
    """The namespace, with one port in it; `close` demands that nothing is left of it."""

    def __init__(self, rig: Rig, base: Path, ptrace_scope: int | None = None) -> None:
        """ptrace_scope: what Yama's setting is there (the kernel does not know of it), or the
        machine's own."""
        self.rig = rig
        self.ptrace_scope = ptrace_scope
        self.before = children()
        self.far = rig.port(PORT)
        os.chmod(self.far.path, 0o600)
        os.chown(self.far.path, 0, 0)
        rig.write_policy()
        self._near = self._open_near()
        self.root = Path(tempfile.mkdtemp(dir=base, prefix="stage-"))
        os.chmod(self.root, 0o755)
        self.home = self.root / "home"
        self.home.mkdir()
        os.chmod(self.home, 0o777)
        self.programs = self.root / "programs"
        self._namespace = Namespace(rig, self.root, self.far.path, ptrace_scope)
        self.started: list[subprocess.Popen[bytes]] = []
        self.locks = LockWatch(rig.locks)

    def enter(self, uid: int = 0) -> None:
        """Go there, as this user: in a process that is about to become a program."""
        self._namespace.enter()
        os.chdir(self.home)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    def environment(self) -> dict[str, str]:
        """What the program finds; TTYBROKER_SOCKET is where the rig's daemon listens."""
        path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        home = {"HOME": str(self.home), "USER": USER, "LOGNAME": USER, "SHELL": "/bin/sh"}
        broker = {"TTYBROKER_SOCKET": str(self.rig.socket)}
        return {"PATH": path, "LANG": "C.UTF-8", "TERM": "screen", **home, **broker}

    def start(
        self, *words: str, uid: int = NAMELESS, env: Mapping[str, str] | None = None, **more: Any
    ) -> subprocess.Popen[bytes]:
        """Start it with pipes."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            words,
            env={**self.environment(), **(env or {})},
            preexec_fn=lambda: self.enter(uid),
            **{**pipes, **more},
        )
        self.started.append(process)
        return process

    def run(self, *words: str, **more: Any) -> Ended:
        """Run it to its end."""
        with self.start(*words, **{"stdin": subprocess.DEVNULL, **more}) as process:
            out, err = process.communicate(timeout=TIMEOUT)
        status = process.returncode
        text = [(part or b"").decode(errors="replace") for part in (out, err)]
        return Ended(128 - status if status < 0 else status, *text)

    # ---- the port, seen from outside ----

    def _open_near(self) -> int:
        return os.open(self.far.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)

    def _renew_near(self) -> None:
        """Hold the pty open once more: the end of a lease hangs up on us, too, and without
        any the far end reads EIO."""
        os.close(self._near)
        self._near = self._open_near()

    def hear(self, text: bytes, timeout: float = TIMEOUT) -> bytes:
        """Read the far end until `text` has come; all that came."""
        heard = b""
        end = time.monotonic() + timeout
        while text not in heard:
            wait_readable(self.far.master, f"{text!r}, got {heard!r}", end - time.monotonic())
            try:
                heard += os.read(self.far.master, 4096)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                self._renew_near()
        return heard

    def listen(self, seconds: float) -> bytes:
        """What comes within this time."""
        if not select.select([self.far.master], [], [], seconds)[0]:
            return b""
        try:
            return os.read(self.far.master, 4096)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._renew_near()
            return b""

    def heard_yet(self, text: bytes, timeout: float) -> bool:
        """Whether `text` comes within this time; what comes is thrown away."""
        try:
            self.hear(text, timeout)
        except AssertionError:
            return False
        return True

    def say(self, data: bytes) -> None:
        """Send from the far end."""
        self.far.write(data)

    def speed(self) -> int:
        """The port's speed, as the constant of termios."""
        self._renew_near()
        speed: int = termios.tcgetattr(self._near)[4]
        return speed

    def lock_owner(self) -> int | None:
        """The uid whose file the port's lock is; None when there is none."""
        try:
            return self.rig.lock(PORT).stat().st_uid
        except FileNotFoundError:
            return None

    def lock_pid(self) -> int:
        """Who the lock says has the port."""
        pid = parse_pid(self.rig.lock(PORT).read_bytes())
        assert pid is not None, "the lock is no lock"
        return pid

    def program(self, launcher: int) -> int:
        """Who has the port, by its lock: what this process has become, or under Yama 1 the
        supervisor's child in between."""
        pid = self.lock_pid()
        assert launcher in (pid, parent(parent(pid))), f"locked by {pid}, not by {launcher}"
        return pid

    def demand_free(self, timeout: float = FREE) -> float:
        """Wait until the port is free by every convention; how long that took."""
        began = time.monotonic()
        while busy := self._busy():
            left = began + timeout - time.monotonic()
            assert left > 0, f"after {timeout} s: {busy}"
            self.locks.pause(min(left, AGAIN) if not self.rig.lock_files() else left)
        return time.monotonic() - began

    def _busy(self) -> str:
        """In what way it is not free; "" when it is."""
        if self.rig.lock_files():
            return f"locked: {self.rig.lock_files()}"
        self._renew_near()
        try:
            if any(fcntl.ioctl(self._near, TIOCGEXCL, bytes(4))):
                return "exclusive (TIOCEXCL)"
            fcntl.flock(self._near, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._near, fcntl.LOCK_UN)
        except OSError as error:  # EIO: hung up in this moment
            return str(error)
        return ""

    def close(self) -> None:
        """End what was started here and is not the rig's to end; what had to be killed is a
        failure."""
        known = {child.pid for child in self.rig.children if not child.ended}
        known |= {daemon.pid for daemon in self.rig.daemons if not daemon.ended}
        problems = end_all(lambda: children() - self.before - known)
        for process in self.started:
            with suppress(ChildProcessError):
                process.poll()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self.locks.__exit__()
        self._namespace.close()
        os.close(self._near)
        shutil.rmtree(self.root)
        assert not problems, problems


def end_all(mine: Callable[[], set[int]], patience: float = 3.0) -> list[str]:
    """Reap these children of ours until there are none; kill those that do not end on their
    own in time, and name them."""
    problems: list[str] = []
    deadline = time.monotonic() + patience
    while pids := mine():
        for pid in pids:
            if ended(pid, max(0.0, deadline - time.monotonic())):
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
                continue
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            problems.append(f"had to be killed: {pid} {command}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + patience
    return problems


def parent(pid: int) -> int:
    """The parent of a process; 0 when there is none."""
    status = Path(f"/proc/{pid}/status").read_text() if pid else "PPid:\t0\n"
    return int(status.partition("PPid:\t")[2].partition("\n")[0])


def ended(pid: int, timeout: float = TIMEOUT) -> bool:
    """Whether the process ends within this time; reaped or not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], timeout)[0])
    finally:
        os.close(handle)
