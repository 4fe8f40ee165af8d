"""The broker dies and comes back during a transfer, and the holders notice nothing."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from figures import note
from lines import FAR, NEAR, PAIR, raw
from service import ALICE, BOB, Service, SystemdService, flavour, heard, locks, run, until
from support.children import Chat, Child
from ttybroker import open_fd

SIZE, CHUNK, AHEAD = 64 * 1024, 1024, 16384  # bytes; test_uart.py says why not further ahead
RATE = 11520  # bytes a second: 115200 baud, and a processor that has time for the broker
RESTARTS = 3  # and a start limit of systemd's is five in ten seconds


def transfer(broker: Service) -> Child:
    """Hold both ends of a wire, and send from one to the other for as long as it takes.

    It says when it has begun and, after a word, whether all has arrived. Another word makes it
    close.
    """

    def carry(chat: Chat) -> None:
        source, sink = map(open_fd, PAIR)
        for descriptor in (source, sink):
            raw(descriptor)
            os.set_blocking(descriptor, True)
        sent, got, length = hashlib.sha256(), hashlib.sha256(), [0, 0]

        def give(data: bytes) -> None:
            sent.update(data)
            length[0] += len(data)
            while data:
                data = data[os.write(source, data) :]

        def take(most: int) -> None:
            while length[1] < most:
                data = os.read(sink, most - length[1])
                got.update(data)
                length[1] += len(data)

        chat.say()
        chat.sock.setblocking(False)
        while length[0] < SIZE or not heard(chat):
            give(os.urandom(CHUNK))
            take(length[0] - AHEAD)
            time.sleep(CHUNK / RATE)
        take(length[0])
        chat.say((length, sent.hexdigest() == got.hexdigest()))
        chat.sock.setblocking(True)
        chat.hear(60)

    child = broker.child(BOB, carry)
    child.hear()
    return child


def arrived(child: Child) -> None:
    """Check that no byte was lost, after the test has done its worst."""
    child.say()
    length, equal = child.hear(90)
    assert length[0] == length[1] >= SIZE
    assert equal


def test_killed_in_the_middle_of_a_transfer(broker: Service) -> None:
    """It comes back, knows who has the ports, and frees them when they are closed."""
    child = transfer(broker)
    old, since = broker.pid, broker.port(NEAR).holder.since
    broker.kill()
    start = time.monotonic()
    broker.start()
    until("another daemon", lambda: broker.pid not in (0, old), told=broker.log)
    row = broker.port(NEAR)
    note("ms from kill -9 to the answer of the next daemon", 1000 * (time.monotonic() - start))
    assert (row.state, row.holder.uid, row.holder.pid) == ("busy", BOB, child.pid)
    if flavour() == "systemd":  # its descriptor store kept the lease
        assert (row.holder.how, row.holder.since) == ("lease", since)
    else:
        assert row.holder.how == "lock file"
    with pytest.raises(Exception, match="busy"):
        open_fd_as_alice(broker)
    arrived(child)
    child.say()
    child.wait()
    until("the ports to be free", lambda: not broker.held(), told=broker.log)
    open_fd_as_alice(broker)
    if flavour() == "systemd":
        until("the locks to go", lambda: not locks())
    else:
        broker.holder(ALICE, FAR).kill()  # who asks for it next removes a dead one's lock


def open_fd_as_alice(broker: Service) -> None:
    """Open the port, and close it."""
    broker.child(ALICE, lambda _chat: os.close(open_fd(NEAR))).result()


@pytest.mark.systemd
def test_restarted_again_and_again_under_load(broker: SystemdService) -> None:
    """Nobody loses a byte, a request or a lease, and the broker stays right."""

    def opens(chat: Chat) -> int:
        times = 0
        chat.sock.setblocking(False)
        while not heard(chat):
            os.close(open_fd("ttyS1", wait=30))
            times += 1
        return times

    carrier, opener = transfer(broker), broker.child(BOB, opens)
    since = broker.port(NEAR).holder.since
    for _ in range(RESTARTS):
        old = broker.pid
        start = time.monotonic()
        run("systemctl", "restart", "ttybroker.service")
        note("ms for systemctl restart under load", 1000 * (time.monotonic() - start))
        assert broker.pid not in (0, old)
        row = broker.port(NEAR)
        assert (row.holder.pid, row.holder.since) == (carrier.pid, since)
    opener.say(True)
    assert opener.result(60) > 0
    arrived(carrier)
    carrier.say()
    carrier.wait()
