"""A daemon of one build with all that it needs: ports, a policy, a manager that takes its
descriptors; and its clients."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from bench.build import HERE, Build, open_pty

TIMEOUT = 60.0
TIOCNXCL = 0x540D  # asm-generic/ioctls.h
USER = 60301  # a uid that no account has


class Talk:
    """A process that answers each line with one."""

    def __init__(self, build: Build, *words: str, uid: int = 0, **how: Any) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = build.start(*words, uid=uid, text=True, **pipes, **how)

    def say(self, line: object) -> None:
        """Have it begin with something."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Return its answer. Raises RuntimeError if it ended instead, or says nothing."""
        return read_line(self.process.stdout, "a client").rstrip("\n")

    def answer(self, line: object) -> str:
        """Return its answer to this."""
        self.say(line)
        return self.hear()

    def expect_ready(self) -> None:
        """Wait until it says so."""
        if (said := self.hear()) != "ready":
            raise RuntimeError(f"a client says {said!r}, not that it is ready")

    def close(self) -> None:
        """End it."""
        end(self.process)


class Client(Talk):
    """A process that runs client.py on one build's code. What it says and hears is JSON."""

    def __init__(self, build: Build, path: Path, *more: str, uid: int = USER, **how: Any) -> None:
        script = build.python(str(HERE / "client.py"), str(build.code), str(path), *more)
        super().__init__(build, *script, uid=uid, **how)

    def send(self, command: str, *arguments: object) -> None:
        """Have it begin with something."""
        self.say(json.dumps([command, *arguments]))

    def take(self) -> Any:
        """Return its answer."""
        return json.loads(self.hear())

    def interrupt(self) -> Any:
        """End what goes on until it is told; the answer."""
        self.say("")
        return self.take()

    def ask(self, command: str, *arguments: object) -> Any:
        """Return its answer to this."""
        self.send(command, *arguments)
        return self.take()


class Rig:
    """One daemon and what it needs. Ports are p0, p1, ...; `rules` is more of the policy, after
    the rules of these."""

    count = 0

    def __init__(self, build: Build, ports: int, rules: str = "") -> None:
        self.build = build
        Rig.count += 1
        self.base = build.base / f"rig{Rig.count}"
        self.base.mkdir(mode=0o755)
        self.locks, self.run = self.base / "lock", self.base / "run"
        self.locks.mkdir()
        self.locks.chmod(0o1777)
        self.socket = self.run / "socket"
        self.policy = self.base / "policy.toml"
        self.clients: list[Client] = []
        self.daemon: subprocess.Popen[bytes] | None = None
        self.ptys = [open_pty() for _ in range(ports)]
        own = "".join(
            f'[[rule]]\nport = "p{number}"\ndevice = "{path}"\nclass = "pty"\nallow = ["*"]\n'
            for number, (_, path) in enumerate(self.ptys)
        )
        self.write_policy(own + rules)
        self.log = self.base / "log"
        self.notify = self.base / "notify"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        script = build.python(str(HERE / "store.py"), str(self.notify))
        self.store = build.start(*script, text=True, **pipes)
        self._hear_store("bound")

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        if self.daemon is not None:
            end(self.daemon)
        end(self.store)
        for master, _ in self.ptys:
            os.close(master)
        shutil.rmtree(self.base)

    @property
    def places(self) -> list[str]:
        """The daemon's arguments."""
        return ["--policy", str(self.policy), "--socket", str(self.socket),
                "--lock-dir", str(self.locks)]  # fmt: skip

    def write_policy(self, text: str) -> None:
        """Replace the policy."""
        self.policy.write_text(text)
        self.policy.chmod(0o644)

    def start(self, words: list[str] | None = None, **more: Any) -> Rig:
        """Start the daemon (by these words, or as everybody does) and wait until it is ready."""
        command = words or [*self.build.daemon, *self.places]
        env = {**os.environ, "NOTIFY_SOCKET": str(self.notify)}
        with self.log.open("ab") as log:
            self.daemon = self.build.start(*command, stdout=log, stderr=log, env=env, **more)
        try:
            self._hear_store("ready")
        except RuntimeError as error:
            raise RuntimeError(f"{error}; its log:\n{self.log.read_text()[-2000:]}") from None
        return self

    def client(self, *more: str, **how: Any) -> Client:
        """Start a client of it."""
        client = Client(self.build, self.socket, *more, **how)
        self.clients.append(client)
        return client

    def client_with_yardstick(self, yardstick: Path) -> Client:
        """Start a client that has the C backend beside it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            number, device = theirs.fileno(), self.ptys[-1][1]
            words = (yardstick, str(number), "ttyS0", device, self.locks)
            self.build.start(*words, pass_fds=[number])  # ends with the client
            # Root, as the yardstick is: both have the same way to the node.
            return self.client(str(ours.fileno()), device, uid=0, pass_fds=[ours.fileno()])

    @property
    def pid(self) -> int:
        """The daemon's."""
        assert self.daemon is not None
        return self.daemon.pid

    def kill(self) -> None:
        """End the daemon at once; it has no time to take anything away."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def tidy(self) -> None:
        """Make everything as before the first start: no leases, no locks, no descriptors kept."""
        self.store.stdin.write("\n")
        self.store.stdin.flush()
        self._hear_store("forgot")
        for lock in self.locks.iterdir():
            lock.unlink()
        for _, path in self.ptys:
            port = os.open(path, os.O_RDWR | os.O_NOCTTY)
            fcntl.ioctl(port, TIOCNXCL)
            os.close(port)
        self.socket.unlink(missing_ok=True)

    def row(self, name: str) -> dict[str, Any]:
        """Return what `ttybroker list` says of the port."""
        command = [str(self.build.commands / "ttybroker"), "list", "--json", name]
        env = {"PATH": "/usr/bin:/bin", "TTYBROKER_SOCKET": str(self.socket)}
        found = json.loads(self.build.call(*command, env=env))
        return dict(found[0])

    def until_held(self, name: str, pid: int) -> None:
        """Wait until this process has the port."""
        wait_until(lambda: (self.row(name)["holder"] or {}).get("pid") == pid, "the holder")

    def settled(self) -> None:
        """Wait until no port is locked."""
        deadline = time.monotonic() + TIMEOUT
        while any(lock.name.startswith("LCK") for lock in self.locks.iterdir()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"locks stay: {sorted(self.locks.iterdir())}")
            time.sleep(0.001)

    def _hear_store(self, word: str) -> None:
        """Wait for this word of the store."""
        watched = [] if self.daemon is None else [self.daemon]
        told = read_line(self.store.stdout, "the daemon", watched)
        assert told == f"{word}\n", f"the store says {told!r}, not {word}"


@contextlib.contextmanager
def rigs(builds: dict[str, Build], ports: int, rules: str = "") -> Iterator[dict[str, Rig]]:
    """Have one of each build; the daemons are not started."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Rig(build, ports, rules)) for name, build in builds.items()
        }


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Ask until it is so. Raises RuntimeError when it does not come to be."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} does not come")
        time.sleep(0.005)


def read_line(
    stream: IO[str], of: str, watched: list[subprocess.Popen[bytes]] | None = None
) -> str:
    """Return the next line. Raises RuntimeError when none comes, or a watched process ends."""
    deadline = time.monotonic() + TIMEOUT
    while not select.select([stream], [], [], 0.2)[0]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{of} says nothing for {TIMEOUT:.0f} s")
        if any(process.poll() is not None for process in watched or []):
            raise RuntimeError(f"{of} ended")
    line = stream.readline()
    if not line:
        raise RuntimeError(f"{of} ended")
    return line


def end(process: subprocess.Popen[Any]) -> None:
    """End a process of ours by SIGTERM, or else by SIGKILL; close our ends of its pipes."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
