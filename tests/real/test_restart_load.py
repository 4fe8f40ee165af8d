"""The daemon is started again and again while clients open, transfer and close: nobody loses
anything."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
import tty
from collections.abc import Callable

import pytest

from support.children import Chat
from support.ptys import Pty
from support.rig import Rig
from support.systemd import Systemd
from support.users import ALICE, BOB, NOBODY
from support.waiting import TIMEOUT
from ttybroker import client, open_fd

pytestmark = pytest.mark.root

RESTARTS = 12
BYTES = 4096  # a transfer, each way


class Echo:
    """The far ends of ports: what comes goes back."""

    def __init__(self, ports: list[Pty]) -> None:
        self._stop, self.stop = os.pipe()
        self._ports = ports
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        os.close(self.stop)
        self._thread.join()
        os.close(self._stop)

    def _run(self) -> None:
        poll = select.poll()
        for number in (self._stop, *(port.master for port in self._ports)):
            poll.register(number, select.POLLIN)
        while self._stop not in (ready := [number for number, _ in poll.poll()]):
            for number in ready:
                try:
                    data = os.read(number, 65536)
                except OSError:  # nobody has the port; of the next one who does nothing tells
                    time.sleep(0.001)
                    continue
                while data:
                    data = data[os.write(number, data) :]


class Ear:
    """systemd hears while the test does something else."""

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._over = True
        self._thread.join()

    def _run(self) -> None:
        while not self._over:
            select.select([self._systemd.notify], [], [], 0.05)
            self._systemd.hear()


def transfer(descriptor: int) -> None:
    """Send random bytes and get the same ones back."""
    left = sent = os.urandom(BYTES)
    got = b""
    poll = select.poll()
    while len(got) < BYTES:
        poll.register(descriptor, select.POLLIN | (select.POLLOUT if left else 0))
        events = poll.poll(TIMEOUT * 1000)
        assert events, f"{len(got)} of {BYTES} bytes came back"
        if events[0][1] & select.POLLOUT:
            left = left[os.write(descriptor, left[:512]) :]
        if events[0][1] & select.POLLIN:
            got += os.read(descriptor, 65536)
    assert got == sent


def work(chat: Chat, rig: Rig, name: str, wait: float | None) -> int:
    """Lease, transfer and give back until told to stop; the number of times."""
    chat.say("starting")
    poll = select.poll()
    poll.register(chat.sock, select.POLLIN)
    times = 0
    while not poll.poll(0):
        descriptor = open_fd(name, broker=str(rig.socket), wait=wait)
        tty.setraw(descriptor)
        transfer(descriptor)
        os.close(descriptor)
        times += 1
    chat.hear()
    return times


# The store's pace leaves young leases out of it; a lease that is in it is what this is about.
ALL_STORED = "from ttybrokerd.root import keeper; keeper.BURST = 10**9; keeper.PACE = 1e-9"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_open_fails_and_no_byte_is_lost(rig: Rig, number: signal.Signals) -> None:
    restarted_under_load(rig, number, RESTARTS)


def restarted_under_load(
    rig: Rig,
    number: signal.Signals,
    restarts: int,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Four clients share two ports and wait for them; the fifth has one of its own, and does not
    wait. Meanwhile a signal ends the daemon again and again."""
    names = ["ttyS0", "ttyS1", "ttyS2"]
    ports = [rig.port(name) for name in names]
    systemd, echo = Systemd(rig), Echo(ports)
    ear: Ear | None = None
    try:
        daemon = systemd.start(hook=ALL_STORED)
        workers = [
            rig.child(uid, lambda chat, name=name, wait=wait: work(chat, rig, name, wait))
            for uid, name, wait in (
                (ALICE, "ttyS0", TIMEOUT),
                (BOB, "ttyS0", TIMEOUT),
                (NOBODY, "ttyS1", TIMEOUT),
                (ALICE, "ttyS1", TIMEOUT),
                (BOB, "ttyS2", None),
            )
        ]
        for worker in workers:
            assert worker.hear() == "starting"
        ear = Ear(systemd)
        for done in range(restarts):
            for port in names:  # each was used since the last time
                daemon.record("grant", port=port)
            daemon.process.send_signal(number)
            assert daemon.wait() == (-number if number == signal.SIGKILL else 0)
            if number == signal.SIGKILL:
                for pty in ports:  # which a pty does not at its last close
                    pty.forget_exclusive()
            daemon = systemd.start(hook=ALL_STORED)
            progress(done + 1)
        for worker in workers:
            worker.say("enough")
        counts = []
        for worker in workers:
            counts.append(worker.result())
        assert min(counts) >= restarts / 4, counts
        while systemd.names() or rig.lock_files():
            with client.connect(str(rig.socket)) as connection:
                assert connection.ports()
        assert daemon.stop() == 0
    finally:
        for worker in rig.children:
            worker.kill()
        rig.daemons[-1].kill()
        if ear is not None:
            ear.close()
        echo.close()
        systemd.close()
