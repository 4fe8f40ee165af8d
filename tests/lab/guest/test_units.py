"""The two units: they serve after any number of restarts, and leave systemd time for others."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

import pytest

from figures import note
from lines import NEAR
from service import ALICE, BOB, LAB_POLICY, PATIENT, Service, SystemdService, run, until
from support.children import Chat
from ttybroker import BrokerError, open_fd

pytestmark = pytest.mark.systemd

UNITS = ("ttybroker.service", "ttybroker.socket")
GETTY = "serial-getty@ttyS1.service"
STOPS = 4
SHOWS = 30
SOON = 1.0  # seconds; or three times calm, on a host that is busy


def restarted(broker: Service) -> None:
    """Restart it as an administrator does."""
    run("systemctl", "restart", "ttybroker.service")


def both_restarted(broker: Service) -> None:
    """Restart the socket too, as an upgrade of a package may."""
    run("systemctl", "restart", *UNITS)


def killed(broker: Service) -> None:
    """Kill it, and wait for the next daemon."""
    old = broker.pid
    broker.kill()
    until("another daemon", lambda: broker.pid not in (0, old), told=broker.log)


def mended(broker: Service) -> None:
    """Restart it with a mistake in its policy, and correct that: it ends, to be started again."""
    broker.write_policy("[[rule]]\nport = 7\n")
    restarted(broker)
    assert "policy.toml:2" in asked(broker)
    old = broker.pid
    broker.write_policy(LAB_POLICY)
    until("the new policy", lambda: asked(broker) == "" and broker.pid != old, told=broker.log)


def asked(broker: Service) -> str:
    """Have a port for a moment; return why not."""

    def ask(_chat: Chat) -> str:
        try:
            os.close(open_fd(NEAR, wait=PATIENT))
        except BrokerError as error:
            return str(error)
        return ""

    return str(broker.child(ALICE, ask).result(PATIENT))


@pytest.mark.timeout(300)
# systemd's own limit is five starts in ten seconds. To mend a policy takes longer.
@pytest.mark.parametrize(
    ("again", "times"), [(restarted, 8), (both_restarted, 8), (killed, 8), (mended, 3)]
)
def test_neither_unit_ends_at_a_limit_of_starts(
    broker: SystemdService, again: Callable[[Service], None], times: int
) -> None:
    begin = time.monotonic()
    for _ in range(times):
        again(broker)
        assert asked(broker) == "", broker.log()
    note(f"s for {times} starts of which each was {again.__name__}", time.monotonic() - begin)
    for unit in UNITS:
        shown = run("systemctl", "show", "-p", "Result,ActiveState", unit).split()
        assert sorted(shown) == ["ActiveState=active", "Result=success"], unit


def lease(chat: Chat, name: str) -> int:
    """Have the port again and again as fast as possible, until told to stop; say how often."""
    chat.say()
    poll, times = select.poll(), 0
    poll.register(chat.sock, select.POLLIN)
    while not poll.poll(0):
        os.close(open_fd(name, wait=PATIENT))
        times += 1
    chat.hear()
    return times


def shows(what: str) -> float:
    """Ask systemd many times; return how long it takes, in seconds.

    The host may stop the guest for a while, so the middle counts.
    """
    took = []
    for _ in range(SHOWS):
        before = time.monotonic()
        run("systemctl", "show", "ttybroker.service")
        took.append(time.monotonic() - before)
        note(f"ms for systemctl show {what}", 1000 * took[-1])
    return sorted(took)[SHOWS // 2]


def test_systemd_answers_during_a_loop_of_leases(broker: SystemdService) -> None:
    """Each lease in the descriptor store is work for process 1."""
    calm = shows("while nobody leases")
    children = [
        broker.child(uid, lambda chat, name=name: lease(chat, name))
        for uid, name in ((BOB, "ttyS1"), (ALICE, "ttyS2"))
    ]
    for child in children:
        child.hear()
    took = shows("during two loops of leases")
    for child in children:
        child.say()
    note("leases meanwhile", sum(child.result(PATIENT) for child in children))
    assert took < max(SOON, 3 * calm)


def test_who_waits_for_a_getty_to_stop_is_not_hung_up_with_it(broker: SystemdService) -> None:
    """systemd hangs the port up some time after the getty's end."""

    def wait(chat: Chat) -> None:
        descriptor = open_fd("ttyS1", wait=PATIENT)
        hung_up = select.poll()
        hung_up.register(descriptor, 0)
        chat.say(hung_up.poll(1000))
        os.close(descriptor)

    for _ in range(STOPS):
        run("systemctl", "start", GETTY)
        try:
            until("the getty to be known", lambda: broker.port("ttyS1").state == "busy")
            child = broker.child(ALICE, wait)
            until("somebody to wait", lambda: broker.waiting("ttyS1") == 1)
        finally:
            run("systemctl", "stop", GETTY)
        stopped = time.monotonic()
        assert child.hear(PATIENT) == [], broker.log()
        note("s from systemctl stop of a getty to the grant", time.monotonic() - stopped - 1)
        child.wait()
