"""Machines with labgrid: network namespaces on one bridge, and on two of them a broker each."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matrix.namespace import INSTALLED
from matrix.stage import AGAIN, NAMELESS, Installation, Stage
from support.children import Chat, Child
from support.ptys import Pty
from support.rig import Rig
from support.users import BOB
from support.waiting import TIMEOUT, wait_readable
from ttybroker import client

EXAMPLE = Path(__file__).parents[2] / "packaging/examples/labgrid"
LABGRID = INSTALLED / "labgrid"
BOARD = "board1"
PYTHON = ("/usr/bin/python3", "-B")
CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


class Net:
    """A network namespace, which lives as long as its holder."""

    def __init__(self, rig: Rig, address: str) -> None:
        self.address = address
        self.holder: Child = rig.child(0, _hold)
        self.holder.hear()
        self.fd = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.ip("link", "set", "lo", "up")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is there meanwhile, and what it starts stays there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _setns(self.fd)
        try:
            yield
        finally:
            _setns(before)
            os.close(before)

    def ip(self, *words: str) -> None:
        """One command of ip(8)."""
        with self.inside():
            subprocess.run(["ip", *words], check=True)

    def connect(self, middle: Net, number: int) -> None:
        """A cable to the bridge that `middle` has."""
        far = str(middle.holder.pid)
        self.ip("link", "add", "eth0", "type", "veth", "peer", f"port{number}", "netns", far)
        middle.ip("link", "set", f"port{number}", "master", "bridge", "up")
        self.ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)
        self.holder.kill()


def _hold(chat: Chat) -> None:
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    chat.say()
    with contextlib.suppress(EOFError):
        chat.hear(3600)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Machine:
    """One with a network of its own, and the files of a stage."""

    def __init__(self, stage: Stage, net: Net, installation: Installation) -> None:
        self.stage, self.net = stage, net
        self.environment = {
            "PATH": f"{installation.commands}:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": str(stage.programs / "labgrid"),
            "PYTHONUNBUFFERED": "1",
            "LG_COORDINATOR": "10.77.0.1:20408",
            "LG_HOSTNAME": "desk",
            "LG_USERNAME": "alice",
        }
        self.services: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start a service, or another program that is to be ended here."""
        with self.net.inside():
            process = self.stage.start(
                *words, env=self.environment, start_new_session=True,
                **{"stdin": subprocess.DEVNULL, **more},
            )  # fmt: skip
        self.services.append(process)
        return process

    def serve(self, *words: str, ready: bytes, **more: Any) -> subprocess.Popen[bytes]:
        """Start a service and wait until it says that it is ready. What it says goes to a file."""
        path = self.stage.root / f"said-{len(self.services)}"
        with path.open("wb") as file:
            process = self.start(*words, stdout=file, stderr=file, **more)
        end = time.monotonic() + TIMEOUT
        while ready not in path.read_bytes():
            assert process.poll() is None and time.monotonic() < end, path.read_text()
            time.sleep(AGAIN)
        return process

    def client(self, *words: str) -> str:
        """Run labgrid-client to its end; what it prints. Its own command is for another path."""
        process = self.start(
            *PYTHON, "-m", "labgrid.remote.client", *words, stderr=subprocess.STDOUT
        )
        out, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, (words, out.decode())
        return out.decode()

    def stop(self) -> None:
        """End all that was started here."""
        for process in self.services:
            kill(process)


def kill(service: subprocess.Popen[bytes]) -> None:
    """What systemd does at the end of a service's main process: KillMode=control-group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(service.pid, signal.SIGKILL)
    service.wait()


class Host(Machine):
    """A machine with a board, a broker and an exporter."""

    def __init__(self, rig: Rig, stage: Stage, net: Net, installation: Installation) -> None:
        super().__init__(stage, net, installation)
        self.rig = rig
        self.name = f"host{net.address[-1]}"
        self.board: Pty = rig.port(BOARD, far=True)
        rig.rules[-1] = self._rule((EXAMPLE / "policy.toml").read_text())
        self.daemon = rig.daemon()
        for name in ("brokered_exporter.py", "exporter.yaml"):
            (stage.root / name).write_text((EXAMPLE / name).read_text())

    def _rule(self, text: str) -> str:
        """The example's own, for a pty; the groups are the exporter's user and BOB here."""
        text = text.replace('device = "/dev/serial/by-id/..."', f'device = "{self.board.path}"')
        text = text.replace('"@labgrid"', str(NAMELESS)).replace('"@dialout"', str(BOB))
        return text + 'class = "pty"\n'

    def export(self, whole: bool = False) -> subprocess.Popen[bytes]:
        """Start the example's exporter, or labgrid's own as a whole under one run."""
        exporter = (*PYTHON, str(self.stage.root / "brokered_exporter.py"))
        if whole:
            run = ("ttybroker", "run", "--for", "labgrid", "--")
            exporter = (*run, *PYTHON, "-m", "labgrid.remote.exporter")
        name = ("-n", self.name, "--hostname", self.net.address)
        config = str(self.stage.root / "exporter.yaml")
        return self.serve(*exporter, *name, config, ready=b"Exporter ready")

    def hear(self, text: bytes) -> None:
        """Wait until the board has heard this."""
        assert self.board.read(len(text)) == text


def hear_line(process: subprocess.Popen[bytes], text: str) -> None:
    """Wait until this line comes from a program."""
    assert process.stdout is not None
    heard = b""
    while f"{text}\n".encode() not in heard:
        wait_readable(process.stdout.fileno(), f"{text!r}, got {heard!r}")
        heard += (data := os.read(process.stdout.fileno(), 4096))
        assert data, heard.decode()


def until_waiting(socket: str, name: str) -> None:
    """Ask until somebody waits for the port."""
    end = time.monotonic() + TIMEOUT
    with client.connect(socket) as broker:
        while broker.ports((name,))[0].waiting != 1:
            assert time.monotonic() < end, f"nobody waits for {name}"
            time.sleep(AGAIN)
