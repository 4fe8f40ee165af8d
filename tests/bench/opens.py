"""What an open costs: from the bare system call to the broker, with a C backend of the bare idea
as the yardstick."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from bench import figures
from support.rig import Rig
from ttybroker import client
from ttybrokerd.root.locks import LockFiles

BURSTS = 40
PORTS = 60  # opened one after the other in a burst, and closed together after it
FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC


class Yardstick:
    """The C backend, compiled here and now."""

    def __init__(self, work: Path, device: str, locks: str) -> None:
        program = work / "yardstick"
        source = Path(__file__).with_name("yardstick.c")
        subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [program, str(theirs.fileno()), "ttyS0", device, locks]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])

    def open(self) -> int:
        """The descriptor it sends."""
        self.sock.send(b"ttyS0")
        _, ancillary, _, _ = self.sock.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        return int.from_bytes(ancillary[0][2], "little")

    def unlock(self) -> None:
        """Have it remove its lock."""
        self.sock.send(b"-")
        self.sock.recv(64)

    def close(self) -> None:
        """End it."""
        self.sock.close()
        self.process.wait()


def run() -> None:
    """Print the table."""
    rig = Rig()
    work = Path(tempfile.mkdtemp(prefix="ttybroker-bench-", dir="/dev/shm"))
    try:
        _measure(rig, work)
    finally:
        shutil.rmtree(work)
        rig.close()


def _measure(rig: Rig, work: Path) -> None:
    device = rig.port("ttyS0").path
    for number in range(PORTS):
        rig.port(f"p{number}")
    rig.write_policy()
    daemon = rig.daemon(
        "--policy", str(rig.policy), "--socket", str(rig.socket), "--lock-dir", str(work)
    )
    yardstick = Yardstick(work, device, str(work))
    broker = client.connect(str(rig.socket))
    locks = LockFiles(str(work))
    held: list[int] = []

    def direct() -> float:
        before = time.perf_counter()
        descriptor = os.open(device, FLAGS)
        spent = time.perf_counter() - before
        os.close(descriptor)
        return spent

    def locked() -> float:
        before = time.perf_counter()
        locks.take("ttyS0", os.getpid())
        descriptor = os.open(device, FLAGS)
        spent = time.perf_counter() - before
        os.close(descriptor)
        locks.release("ttyS0", os.getpid())
        return spent

    def by_yardstick() -> float:
        before = time.perf_counter()
        descriptor = yardstick.open()
        spent = time.perf_counter() - before
        os.close(descriptor)
        yardstick.unlock()
        return spent

    def by_broker() -> float:
        before = time.perf_counter()
        held.append(broker.open(f"p{len(held)}"))
        return time.perf_counter() - before

    jobs = {"direct open": direct, "direct open, lock": locked, "C yardstick": by_yardstick,
            "open_fd, warm": by_broker}  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(BURSTS):
        for name, values in figures.interleave(PORTS, **jobs).items():
            times[name] += values
        while held:
            os.close(held.pop())
        while any(name.startswith("LCK") for name in os.listdir(work)):
            time.sleep(0.001)
        daemon.output()
    figures.times_table("Opening a port (at most 3.50 of the C yardstick)", times, "C yardstick")
    for thing in (broker, locks, yardstick):
        thing.close()
