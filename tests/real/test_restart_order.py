"""Who waits for a port keeps his place when the daemon is started again with systemd's store."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from real.test_restart import content, memory, row, take
from real.test_restart_load import Ear
from support.children import Chat, Child, as_user
from support.daemon import Daemon
from support.rig import Rig
from support.systemd import Systemd, manager
from support.users import ALICE, NOBODY
from support.waiting import TIMEOUT
from ttybroker import NotPermitted, PortBusy, open_fd
from ttybrokerd.root import order
from ttybrokerd.root.order import BACK, NAME, PACE

pytestmark = pytest.mark.root

USERS = range(ALICE + 10, ALICE + 16)
NEWCOMER = ALICE + 20
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])


@pytest.fixture
def systemd(rig: Rig) -> Iterator[Systemd]:
    """A manager for a service with the port ttyS0, which hears all the time."""
    rig.port("ttyS0")
    with manager(rig) as made:
        ear = Ear(made)
        yield made
        for child in rig.children:
            child.kill()
        for daemon in rig.daemons:
            assert daemon.ended or daemon.stop() == 0
        ear.close()


def when_granted(rig: Rig, uid: int) -> Child:
    """A child that waits for the port, closes it at once, and returns when it was granted."""

    def body(_: Chat) -> float:
        descriptor = open_fd("ttyS0", broker=str(rig.socket), wait=TIMEOUT)
        granted = time.monotonic()
        os.close(descriptor)
        return granted

    return rig.child(uid, body)


def until(what: Callable[[], bool]) -> None:
    """Wait until this is so."""
    end = time.monotonic() + TIMEOUT
    while not what():
        assert time.monotonic() < end, "it does not become so"
        time.sleep(0.005)


def wait_in_line(rig: Rig, users: range = USERS) -> list[Child]:
    """A child of each user, which wait in this order."""
    line: list[Child] = []
    for uid in users:
        line.append(when_granted(rig, uid))
        until(lambda: row(rig).waiting == len(line))
    return line


def places(systemd: Systemd) -> list[int]:
    """Whose places systemd keeps, in order: their pids.

    A new record comes before the old one goes.
    """
    kept = [order.decode(data) for data in systemd.contents(NAME)]
    _, newest = max(kept, default=(0.0, []))
    return [pid for _, _, pid, _, _, _ in newest]


def end(systemd: Systemd, rig: Rig, line: list[Child], number: signal.Signals) -> None:
    """End the daemon; with SIGKILL, when systemd keeps the order. Nobody comes back yet."""
    stop(line)
    pids = [child.pid for child in line]
    if number == signal.SIGKILL:
        until(lambda: places(systemd) == pids)
    rig.daemons[-1].process.send_signal(number)
    assert rig.daemons[-1].wait() == (-number if number == signal.SIGKILL else 0)
    assert places(systemd) == pids


def stop(line: list[Child]) -> None:
    for child in line:
        os.kill(child.pid, signal.SIGSTOP)


def come_back(rig: Rig, line: list[Child]) -> None:
    """They ask again, the last one first."""
    back: list[Child] = []
    for child in reversed(line):
        os.kill(child.pid, signal.SIGCONT)
        back.append(child)
        until(lambda: row(rig).waiting == len(back))


def in_order(line: list[Child]) -> list[float]:
    """When each was granted the port: one after the other, in this order."""
    times = [child.result() for child in line]
    assert times == sorted(times), [sorted(times).index(one) for one in times]
    return times


@SIGNALS
def test_those_who_wait_keep_their_order(
    rig: Rig, systemd: Systemd, number: signal.Signals
) -> None:
    systemd.start()
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig)
    for _ in range(2):
        end(systemd, rig, line, number)
        systemd.start()
        come_back(rig, line)
    holder.say()
    in_order(line)
    until(lambda: places(systemd) == [])


NEVER_AT_A_PACE = "from ttybrokerd.root import order; order.PACE = 3600.0\n"


def test_they_keep_it_when_the_daemon_is_asked_to_end_at_once(rig: Rig, systemd: Systemd) -> None:
    systemd.start(hook=NEVER_AT_A_PACE)
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig, USERS[:2])
    assert places(systemd) == []
    end(systemd, rig, line, signal.SIGTERM)
    systemd.start()
    come_back(rig, line)
    holder.say()
    in_order(line)


@SIGNALS
def test_they_keep_it_when_the_daemon_is_started_again_before_they_are_back(
    rig: Rig, systemd: Systemd, number: signal.Signals
) -> None:
    systemd.start()
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig, USERS[:3])
    end(systemd, rig, line, number)
    systemd.start()
    come_back(rig, line[2:])
    end(systemd, rig, line, number)
    systemd.start()
    come_back(rig, line)
    holder.say()
    in_order(line)


@SIGNALS
def test_who_does_not_come_back_delays_the_others_by_two_seconds_at_most(
    rig: Rig, systemd: Systemd, number: signal.Signals
) -> None:
    systemd.start()
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig, USERS[:3])
    end(systemd, rig, line, number)
    line.pop(0).kill()
    began = time.monotonic()
    systemd.start()
    served = time.monotonic()
    come_back(rig, line)
    holder.say()
    first, _ = in_order(line)
    assert began + BACK <= first < served + BACK + 0.5
    until(lambda: places(systemd) == [])


def test_a_newcomer_overtakes_nobody(rig: Rig, systemd: Systemd) -> None:
    systemd.start()
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig, USERS[:2])
    end(systemd, rig, line, signal.SIGTERM)
    systemd.start()
    new = when_granted(rig, NEWCOMER)
    until(lambda: row(rig).waiting == 1)
    holder.say()
    until(lambda: row(rig).state == "busy elsewhere")
    assert row(rig).holder is None
    with pytest.raises(PortBusy, match="kept for who waited for it before the broker was rest"):
        as_user(NEWCOMER, (), lambda: take(rig))
    os.kill(line[0].pid, signal.SIGCONT)
    first = line[0].result()
    os.kill(line[1].pid, signal.SIGCONT)
    assert first < in_order([line[1], new])[0]


def test_a_place_is_no_right(rig: Rig, systemd: Systemd) -> None:
    rig.rules.clear()
    rig.port("ttyS0", who=f"allow = [{NOBODY}, {', '.join(map(str, USERS))}]")
    systemd.start()
    holder = rig.holder(NOBODY)

    def refused(_: Chat) -> None:
        with pytest.raises(NotPermitted):
            open_fd("ttyS0", broker=str(rig.socket), wait=TIMEOUT)

    first = rig.child(USERS[0], refused)
    until(lambda: row(rig).waiting == 1)
    second = when_granted(rig, USERS[1])
    until(lambda: row(rig).waiting == 2)
    end(systemd, rig, [first, second], signal.SIGTERM)
    rig.rules.clear()
    rig.port("ttyS0", who=f"allow = [{NOBODY}, {USERS[1]}]")
    systemd.start()
    served = time.monotonic()
    os.kill(first.pid, signal.SIGCONT)
    first.result()
    come_back(rig, [second])
    holder.say()
    assert second.result() < served + BACK + 0.5


def test_without_a_store_nobody_is_kept_off(rig: Rig) -> None:
    rig.port("ttyS0")
    daemon = rig.daemon()
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig, USERS[:2])
    stop(line)
    daemon.process.terminate()
    assert daemon.wait() == 0
    holder.say()
    holder.result()
    rig.ports["ttyS0"].forget_exclusive()
    rig.daemon()
    as_user(NEWCOMER, (), lambda: take(rig))
    for child in line:
        os.kill(child.pid, signal.SIGCONT)
        child.result()


def test_nothing_is_kept_while_nobody_waits_and_little_while_many_come_and_go(
    rig: Rig, systemd: Systemd
) -> None:
    daemon = systemd.start()
    take(rig)
    holder = rig.holder(NOBODY)
    begin = time.monotonic()
    first = when_granted(rig, USERS[0])
    until(lambda: places(systemd) == [first.pid])
    assert stored_by(systemd, daemon) == 1
    for _ in range(30):
        child = when_granted(rig, USERS[1])
        until(lambda: row(rig).waiting == 2)
        child.kill()
        until(lambda: row(rig).waiting == 1)
    assert stored_by(systemd, daemon) <= (time.monotonic() - begin) / PACE
    first.kill()
    until(lambda: places(systemd) == [])
    holder.say()
    holder.result()
    daemon.settled()


def stored_by(systemd: Systemd, daemon: Daemon) -> int:
    """How often the daemon had the order kept."""
    systemd.hear()
    told = (line for pid, line in systemd.words if pid == daemon.pid)
    return len({line for line in told if line.startswith(f"FDNAME={NAME}")})


ODD = {
    "not sealed": lambda data: memory(data, 0),
    "torn": lambda data: memory(data[:-1]),
    "another version": lambda data: memory(data[:15] + b"\2" + data[16:]),
    "a lease's": lambda data: memory(b"ttybroker lease\2" + data[16:]),
    "no memory": lambda _: os.eventfd(0),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_order_is_dropped_and_the_log_says_so(
    rig: Rig, systemd: Systemd, case: str
) -> None:
    systemd.start()
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig, USERS[:1])
    end(systemd, rig, line, signal.SIGTERM)
    ((name, number),) = [one for one in systemd.stored if one[0].startswith(NAME)]
    odd = ODD[case](content(number))
    systemd.remove(name)
    systemd.put(name, [odd])
    os.close(odd)
    daemon = systemd.start()
    daemon.record("store-refused", name=name)
    assert name not in systemd.names()
    holder.say()
    holder.result()
    until(lambda: row(rig).state == "free")
    as_user(NEWCOMER, (), lambda: take(rig))
    os.kill(line[0].pid, signal.SIGCONT)
    line[0].result()


def test_of_two_orders_the_newer_counts(rig: Rig, systemd: Systemd) -> None:
    """A daemon that is killed between two messages to systemd leaves both."""
    systemd.start()
    holder = rig.holder(NOBODY)
    line = wait_in_line(rig, USERS[:2])
    end(systemd, rig, line, signal.SIGTERM)
    ((_, number),) = [one for one in systemd.stored if one[0].startswith(NAME)]
    written, found = order.decode(content(number))
    for name, moment in (("older", written - 1), ("oldest", written - 2)):
        made = memory(order.encode(moment, found[::-1]))
        systemd.put(f"{NAME}{name}", [made])
        os.close(made)
    systemd.stored.insert(0, systemd.stored.pop())  # in whatever order they come
    systemd.start()
    assert len([name for name in systemd.names() if name.startswith(NAME)]) == 1
    come_back(rig, line)
    holder.say()
    in_order(line)
