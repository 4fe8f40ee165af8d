"""A place for one test: its ports, policy, locks, daemons and children."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ttybrokerd
from support.children import Chat, Child, Orphan, load
from support.daemon import Daemon
from support.processes import children, descriptors, name_of, python_path
from support.ptys import Pty
from support.waiting import TIMEOUT
from ttybroker import client
from ttybrokerd import backend, init_backend
from ttybrokerd.root.log import Log

load(ttybrokerd)


def lock_text(pid: int) -> bytes:
    """Return the whole content of a lock file."""
    return b"%10d\n" % pid


class Rig:
    """A directory that only root can write, with ports, a policy, locks, and a test's processes.

    `close` fails if any of it is left.
    """

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(dir="/run", prefix="ttybroker-test-"))
        os.chmod(self.base, 0o755)
        self.locks = self.base / "lock"
        self.locks.mkdir()
        os.chmod(self.locks, 0o1777)
        self.policy = self.base / "policy.toml"
        self.socket = self.base / "socket"
        self.ports: dict[str, Pty] = {}
        self.rules: list[str] = []
        self.admins = "[]"
        self.children: list[Child] = []
        self.daemons: list[Daemon] = []
        self.traces: list[Path] | None = None  # where each daemon's system calls are written
        self.expected_locks: set[str] = set()  # left on purpose: by a killed daemon, an outsider
        self._mounts = self._mounted()
        self._before = children()
        self._open = len(descriptors(os.getpid()))

    @property
    def arguments(self) -> list[str]:
        """Return the daemon's command line."""
        return ["--policy", str(self.policy), "--socket", str(self.socket),
                "--lock-dir", str(self.locks)]  # fmt: skip

    def _mounted(self) -> set[str]:
        """Return what is mounted where a test mounts. Other programs may mount elsewhere."""
        places = ("/", "/dev", "/etc", "/proc", "/run", "/run/lock", "/sys", "/tmp")
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = ((line, line.split()[4]) for line in lines)
        return {line for line, at in points if at in places or at.startswith(str(self.base))}

    def port(
        self, name: str, who: str = 'allow = ["*"]', extra: str = "", far: bool = False
    ) -> Pty:
        """Make a pty under this name, and a rule that allows it to `who`."""
        pty = self.ports.get(name) or Pty(far)
        self.ports[name] = pty
        rule = f'[[rule]]\nport = "{name}"\ndevice = "{pty.path}"\nclass = "pty"\n{who}\n{extra}\n'
        self.rules.append(rule)
        return pty

    def write_policy(self, text: str | None = None) -> None:
        """Write the policy: `text`, or the rules of all ports."""
        whole = f"admins = {self.admins}\n" + "\n".join(self.rules)
        self.policy.write_text(whole if text is None else text)
        os.chmod(self.policy, 0o644)

    def daemon(self, *arguments: str, **options: Any) -> Daemon:
        """Start a daemon on these ports (or with these arguments) and wait until it is ready."""
        if not arguments:
            self.write_policy()
        return Daemon(self, *arguments, **options)

    def prepare(self) -> subprocess.CompletedProcess[str]:
        """Run `ttybrokerd --prepare` for a daemon with the usual arguments."""
        command = [sys.executable, "-m", "ttybrokerd.daemon", "--prepare", *self.arguments[:4]]
        env = {**os.environ, **python_path()}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT)

    def reload(self, daemon: Daemon) -> None:
        """Do what `systemctl reload` does, and wait until the daemon has taken the plan."""
        done = self.prepare()
        assert done.returncode == 0, done.stderr
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.record("reload")

    def tracer(self) -> list[str]:
        """Return the command that starts a root side: strace(1), if this rig traces.

        strace is then its grandchild.
        """
        if self.traces is None:
            return []
        trace = Path(f"{self.base}.trace-{len(self.traces)}")
        self.traces.append(trace)
        return ["strace", "-D", "-f", "-qq", "-X", "raw", "-s0", "-o", str(trace)]

    def traced(self) -> list[str]:
        """Return the complete traces, after every tracer and every traced process has ended."""
        for pid in children() - self._before:
            if name_of(pid) == "strace":
                Orphan(pid).wait()
        return [trace.read_text() for trace in self.traces or []]

    def child(self, uid: int, body: Callable[[Chat], object], **options: Any) -> Child:
        """Start a child that is gone when the test is."""
        child = Child(body, uid, **options)
        self.children.append(child)
        return child

    def holder(self, uid: int, name: str = "ttyS0", **options: Any) -> Child:
        """Start a child that has the port, and says so. Any word makes it close the port."""

        def hold(chat: Chat) -> float:
            with client.connect(str(self.socket)) as connection:
                descriptor = connection.open(name, wait=options.get("wait"))
            chat.say(descriptor)
            chat.hear()
            before = time.monotonic()
            os.close(descriptor)
            return before

        child = self.child(uid, hold, groups=options.get("groups", ()))
        if options.get("wait") is None:
            child.hear()
        return child

    def backend(self, **options: Any) -> None:
        """Become, in a child, the user half of a program with a forked backend on these ports."""
        vars(backend)["Log"] = partial(Log, journal="/nonexistent")
        given = {"policy": str(self.policy), "lock_dir": str(self.locks), "user": "nobody"}
        init_backend(**{**given, **options})

    def orphans(self) -> set[int]:
        """Return processes that have lost the parent that made them, such as forked backends."""
        known = {child.pid for child in self.children if not child.ended}
        known |= {daemon.pid for daemon in self.daemons if not daemon.ended}
        return children() - self._before - known

    def orphan(self) -> Orphan:
        """Return the only one of them."""
        (pid,) = self.orphans()
        return Orphan(pid)

    def lock(self, name: str = "ttyS0") -> Path:
        """Return the path of a port's lock file."""
        return self.locks / f"LCK..{name}"

    def lock_files(self) -> list[str]:
        """Return what is in the lock directory and should not be."""
        return sorted(set(os.listdir(self.locks)) - self.expected_locks)

    def close(self) -> None:
        """End everything; raise AssertionError if anything is left."""
        problems: list[str] = []
        for child in self.children:
            child.kill()
        for daemon in self.daemons:
            if not daemon.ended:
                try:
                    status = daemon.stop()
                    if status != 0:
                        problems.append(f"the daemon ended with {status}:\n{daemon.output()}")
                except AssertionError as error:
                    problems.append(str(error))
                except OSError as error:
                    problems.append(f"{error}; {daemon.end()}; log:\n{daemon.output()}")
        for pty in self.ports.values():
            pty.close()
        for pid in children() - self._before:
            if name_of(pid) == "strace":  # of a daemon that did not get ready
                Orphan(pid).wait()
            else:
                problems.append(f"process left: {pid}")
        for trace in self.traces or []:
            trace.unlink(missing_ok=True)
        problems += [f"a mount is left: {line}" for line in self._mounted() - self._mounts]
        left = {name for name in os.listdir(self.base) if not name.startswith("plan.")}
        left -= {"lock", "policy.toml"}
        problems += [f"file left: {name}" for name in left] if self.daemons else []
        problems += [f"lock left: {name}" for name in self.lock_files()]
        shutil.rmtree(self.base)
        mine = descriptors(os.getpid())
        if len(mine) > self._open:
            problems.append(f"descriptors left in the test: {mine}")
        assert not problems, "\n".join(problems)
