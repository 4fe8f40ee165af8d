"""Real systemd, real drivers: the descriptor store carries leases over a restart of the daemon."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator

import pytest

from adapters import Adapters
from lines import LONE, NEAR, PAIR, far, raw, receive
from service import ALICE, BOB, PATIENT, Service, SystemdService, run, until
from support.children import Chat, Child
from ttybroker import client, open_fd

pytestmark = pytest.mark.systemd

UNIT = "ttybroker.service"
RESTARTS = 2
COPY = 2  # descriptors of what is known of a dead copy, at most
PIECE = 1024  # bytes of a transfer under load


def stored() -> int:
    """Return how many descriptors are in the store."""
    return int(run("systemctl", "show", "--value", "-p", "NFileDescriptorStore", UNIT))


def restart(broker: Service) -> None:
    """Restart it as an administrator does."""
    run("systemctl", "restart", UNIT)


def kill(broker: Service) -> None:
    """Kill it as the kernel does when memory is out, and wait until it is there again."""
    old = broker.pid
    run("systemctl", "kill", "-s", "KILL", "--kill-who=main", UNIT)
    until("another daemon", lambda: broker.pid not in (0, old), told=broker.log)


End = Callable[[Service], None]


@pytest.fixture(autouse=True)
def _nothing_is_left_in_the_store(broker: SystemdService) -> Iterator[None]:
    yield
    for child in broker.children:
        child.kill()
    until("the store to be empty", lambda: emptied(broker), told=broker.log)


def emptied(broker: Service) -> bool:
    """Return whether the store is empty. The daemon looks at dead copies when somebody asks."""
    return not broker.held() and stored() == 0


def holder(broker: Service, name: str) -> Child:
    """Start a child that has a port.

    It writes what it hears, and says what comes back. "close" makes it close the port and live on.
    """

    def hold(chat: Chat) -> None:
        descriptor = open_fd(name)
        raw(descriptor)
        chat.say()
        while (word := chat.hear(PATIENT)) != "close":
            os.write(descriptor, word)
            chat.say(receive(descriptor, len(word)))
        os.close(descriptor)
        chat.say()
        chat.hear(PATIENT)

    child = broker.child(BOB, hold)
    child.hear()
    return child


def crosses(child: Child, other: int) -> None:
    """Check that bytes go both ways between the holder and the other end of its wire."""
    os.write(other, b"pong!")
    child.say(b"ping!")
    assert child.hear(PATIENT) == b"pong!"
    assert receive(other, 5) == b"ping!"


@pytest.mark.parametrize(("kind", "end"), [("uart", restart), ("ftdi", kill)])
def test_a_lease_goes_on_and_its_end_is_seen(
    broker: SystemdService, adapters: Adapters, end: End, kind: str
) -> None:
    name, other_name = PAIR if kind == "uart" else (adapters.plug(0), "ttyS3")
    other = far(other_name)
    try:
        child = holder(broker, name)
        before = broker.port(name)
        until("it to be kept", lambda: stored() == 4, told=broker.log)
        crosses(child, other)
        for _ in range(2):
            end(broker)
            assert broker.port(name) == before
            assert before is not None and before.holder is not None
            assert before.holder.pid == child.pid
            assert stored() == 4
            crosses(child, other)
        child.say("close")
        child.hear()
        until("the port to be free", lambda: not broker.held(), told=broker.log)
        words = (f"release port={name} ", f" pid={child.pid} ", " reason=closed")
        until(
            "the log of it",
            lambda: any(all(w in line for w in words) for line in broker.log().splitlines()),
        )
    finally:
        os.close(other)


def test_what_is_closed_while_there_is_no_daemon_is_free_when_there_is_one(
    broker: SystemdService,
) -> None:
    child = holder(broker, NEAR)
    run("systemctl", "kill", "-s", "KILL", "--kill-who=main", UNIT)
    child.say("close")
    child.hear()  # it lives on: only the store tells that it has the port no more
    taken = broker.child(ALICE, lambda _chat: os.close(open_fd(NEAR, wait=PATIENT)))
    taken.result(PATIENT)
    assert f"adopt port={NEAR} device=/dev/{NEAR} uid={BOB}" in broker.log()


def test_an_adapter_pulled_while_there_is_no_daemon_is_let_go_of(
    broker: SystemdService, adapters: Adapters
) -> None:
    name = adapters.plug(0)
    child = holder(broker, name)
    run("systemctl", "kill", "-s", "KILL", "--kill-who=main", UNIT)
    adapters.unplug(0)
    until("the lease to leave the store", lambda: stored() <= COPY, told=broker.log)
    assert name not in {port.name for port in broker.held()}
    child.say("close")
    child.hear()
    assert adapters.plug(0) == name  # nothing holds the number


def test_it_can_be_taken_back_after_a_restart(broker: SystemdService) -> None:
    child = holder(broker, NEAR)
    kill(broker)
    with client.connect() as connection:
        connection.revoke(NEAR)
    child.say(b"x")
    with pytest.raises(OSError):
        child.hear(PATIENT)
    broker.child(ALICE, lambda _chat: os.close(open_fd(NEAR, wait=5))).result()


def test_its_time_limit_is_the_one_it_was_granted(broker: SystemdService) -> None:
    broker.policy(f'[[rule]]\nport = "{NEAR}"\nallow = ["bob"]\nmax_lease = 6\n')
    child = holder(broker, NEAR)
    start = time.monotonic()
    kill(broker)
    assert broker.held() or 'reason="time limit"' in broker.log()
    back = time.monotonic()  # and serving
    until("the limit", lambda: not broker.held(), told=broker.log)
    assert start + 5 < time.monotonic() < max(start + 6, back) + 3
    assert 'reason="time limit"' in broker.log()
    child.say("close")
    child.hear()


# Milliseconds between two leases of a worker: all of them together ask for no more than what goes
# into the store at once. A lease that is too young for it is tests/real/test_restart.py's.
PACE = 700


def carry(chat: Chat, one: str, other: str) -> int:
    """Lease both ends of a wire, send, receive and give back, until told to stop; say how often."""
    chat.say()
    poll, times = select.poll(), 0
    poll.register(chat.sock, select.POLLIN)
    while not poll.poll(PACE):
        near, end = open_fd(one, wait=PATIENT), open_fd(other, wait=PATIENT)
        raw(near)
        raw(end)
        for source, sink in ((near, end), (end, near)):
            data = os.urandom(PIECE)
            for at in range(0, PIECE, 16):  # a chip's queue
                os.write(source, data[at : at + 16])
                assert receive(sink, 16) == data[at : at + 16], "bytes were lost"
        os.close(near)
        os.close(end)
        times += 1
    chat.hear()
    return times


def touch(chat: Chat) -> int:
    """Do the same with a port of its own, without waiting for it and without sending."""
    chat.say()
    poll, times = select.poll(), 0
    poll.register(chat.sock, select.POLLIN)
    while not poll.poll(PACE):
        os.close(open_fd(LONE))
        times += 1
    chat.hear()
    return times


@pytest.mark.parametrize("end", [restart, kill])
@pytest.mark.timeout(240)
def test_nobody_loses_anything_by_restarts_under_load(broker: SystemdService, end: End) -> None:
    refused = broker.log().count("refuse ")
    pairs = [("ttyS1", "ttyS2"), PAIR] * 2
    workers = [broker.child(BOB, lambda chat, pair=pair: carry(chat, *pair)) for pair in pairs]
    workers.append(broker.child(ALICE, touch))
    for worker in workers:
        worker.hear()
    for _ in range(RESTARTS):
        end(broker)
        all_used(broker)
    for worker in workers:
        worker.say()
    assert min(worker.result(PATIENT) for worker in workers) > 0
    assert broker.log().count("refuse ") == refused


def all_used(broker: Service) -> None:
    """Wait until each of the ports was seen leased through the broker."""
    seen: set[str] = set()

    def look() -> bool:
        held = broker.held()
        seen.update(port.name for port in held if port.holder and port.holder.how == "lease")
        return seen == {"ttyS1", "ttyS2", LONE, *PAIR}

    until("all ports to be used again", look, told=broker.log)


def test_a_dead_copy_counts_for_nothing_after_a_restart(broker: SystemdService) -> None:
    """Its flock stays as long as it is open."""
    holder(broker, NEAR)
    with client.connect() as connection:
        connection.revoke(NEAR)
    until("the copy to be kept", lambda: stored() == COPY, told=broker.log)
    restart(broker)
    broker.child(ALICE, lambda _chat: os.close(open_fd(NEAR, wait=5))).result()
