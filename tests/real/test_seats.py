"""Rules for who sits at the machine, by files as systemd-logind writes them."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from support.children import as_user
from support.daemon import Daemon
from support.logind import HOOK, Logind
from support.rig import Rig
from support.systemd import manager
from support.users import ALICE, BOB
from support.waiting import TIMEOUT
from ttybroker import NotPermitted, client, loan, open_fd, wire
from ttybrokerd.root.leases import INACTIVE

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
ACTIVE = 'allow = ["%active"]'
WHILE = 'while = "active"'


@pytest.fixture
def logind(rig: Rig) -> Logind:
    """Logind's files; the test starts it."""
    return Logind(rig.base / "lock" / "systemd")


@pytest.fixture
def start(rig: Rig, logind: Logind) -> Callable[[], Daemon]:
    """Start a daemon that reads them."""
    os.chmod(rig.locks, 0o755)  # only root can change what is in it
    rig.expected_locks.add("systemd")
    return lambda: rig.daemon(hook=HOOK.format(str(logind.top)))


def may(rig: Rig, uid: int, name: str = "ttyS0", groups: tuple[int, ...] = ()) -> bool:
    """Whether the user gets the port."""

    def take() -> bool:
        try:
            os.close(open_fd(name, broker=str(rig.socket)))
        except NotPermitted:
            return False
        return True

    return bool(as_user(uid, groups, take))


def comes(rig: Rig, uid: int, wanted: bool) -> None:
    """Wait until the policy says so of the user; nothing tells when the daemon has heard."""
    with client.connect(str(rig.socket)) as connection:
        for _ in range(100_000):
            if connection.check("ttyS0", uid=uid).allowed == wanted:
                return
    raise AssertionError(f"{uid} should come to be {'allowed' if wanted else 'refused'}")


def test_the_port_is_for_who_sits_there_and_for_nobody_else(
    rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    logind.start()
    logind.sits(ALICE)
    rig.port("ttyS0", ACTIVE)
    rig.port("ttyS1", 'allow = ["%seat:seat1"]')
    start()
    assert may(rig, ALICE) and not may(rig, BOB) and not may(rig, 0)
    assert not may(rig, ALICE, "ttyS1")
    logind.sits(BOB, "2")
    comes(rig, BOB, True)
    assert not may(rig, ALICE)
    logind.sits(ALICE, "3", "seat1")
    comes(rig, ALICE, True)
    assert may(rig, ALICE, "ttyS1") and not may(rig, BOB, "ttyS1") and may(rig, BOB)


def test_a_group_with_the_number_of_a_seat_is_none(
    rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    logind.start()
    rig.port("ttyS0", ACTIVE)
    start()
    assert not may(rig, BOB, groups=(0xFFF00000, 0xFFF00001))


def test_logind_may_come_and_go_while_the_daemon_runs(
    rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    """The directory that Landlock needs is made, for whoever fills it."""
    rig.port("ttyS0", ACTIVE)
    start()
    assert os.stat(logind.top).st_mode & 0o777 == 0o755
    assert not may(rig, ALICE)
    for _ in range(2):
        logind.start()
        logind.sits(ALICE)
        comes(rig, ALICE, True)
        for name in ("seats", "sessions"):
            (logind.top / name).rename(rig.base / "lock" / "gone")
            comes(rig, ALICE, False)
            for file in (rig.base / "lock" / "gone").iterdir():
                file.unlink()
            (rig.base / "lock" / "gone").rmdir()


def test_a_lease_ends_when_its_user_does_not_sit_there_any_more(
    rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    logind.start()
    logind.sits(ALICE)
    rig.port("ttyS0", ACTIVE, WHILE)
    rig.port("ttyS1", ACTIVE)
    daemon = start()
    holders = [rig.holder(ALICE, name) for name in ("ttyS0", "ttyS1")]
    logind.sits(ALICE, "5")  # another session of the same user
    comes(rig, ALICE, True)
    logind.sits(BOB, "2")
    daemon.record("release", port="ttyS0", uid=ALICE, reason=INACTIVE)
    assert may(rig, BOB)
    for holder in holders:
        holder.say()
        holder.result()
    daemon.record("release", port="ttyS1", uid=ALICE, reason="closed")


LEAVES: dict[str, Callable[[Logind], None]] = {
    "logs out": Logind.logs_out,
    "is logging out": lambda logind: logind.session(ALICE, STATE="closing"),
    "is in the background": lambda logind: logind.session(ALICE, ACTIVE=0, STATE="online"),
    "is at a login screen": lambda logind: logind.sits(None),
    "has no seat any more": Logind.unplug,
}


@pytest.mark.parametrize("leaves", LEAVES.values(), ids=LEAVES)
def test_a_lease_ends_however_its_user_leaves(
    leaves: Callable[[Logind], None], rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    logind.start()
    logind.sits(ALICE)
    rig.port("ttyS0", ACTIVE, WHILE)
    daemon = start()
    holder = rig.holder(ALICE)
    leaves(logind)
    daemon.record("release", port="ttyS0", uid=ALICE, reason=INACTIVE)
    assert not may(rig, ALICE)
    holder.say()
    holder.result()


def test_a_lease_stays_behind_a_locked_screen(
    rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    logind.start()
    logind.sits(ALICE)
    rig.port("ttyS0", ACTIVE, WHILE)
    rig.port("ttyS1", 'allow = ["%seat:seat1"]')
    daemon = start()
    holder = rig.holder(ALICE)
    logind.session(ALICE, LOCKED_HINT=1, IDLE_HINT=1)
    logind.sits(BOB, "9", "seat1")  # the daemon has read both when it has read this
    while not may(rig, BOB, "ttyS1"):
        pass
    holder.say()
    holder.result()
    daemon.record("release", port="ttyS0", uid=ALICE, reason="closed")


def test_a_session_that_listens_is_told_why(
    rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    logind.start()
    logind.sits(0)
    rig.port("ttyS0", ACTIVE, WHILE)
    daemon = start()
    with client.connect(str(rig.socket)) as connection:
        descriptor = connection.open("ttyS0", flags=loan.flags("user"))
        logind.sits(BOB, "2")
        assert connection.news() == wire.Ending(0, INACTIVE)
        daemon.record("release", port="ttyS0", uid=0, reason=INACTIVE)
    os.close(descriptor)


def test_who_waits_and_sits_there_no_more_is_refused(
    rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    logind.start()
    logind.sits(ALICE)
    rig.port("ttyS0", f'allow = ["%active", {BOB}]')
    daemon = start()
    bob = rig.holder(BOB)

    def ask() -> str:
        with pytest.raises(NotPermitted) as caught:
            open_fd("ttyS0", broker=str(rig.socket), wait=TIMEOUT)
        return str(caught.value)

    alice = rig.child(ALICE, lambda _: ask())
    with client.connect(str(rig.socket)) as connection:
        while connection.ports()[0].waiting == 0:
            pass
    logind.sits(None)
    comes(rig, ALICE, False)
    with client.connect(str(rig.socket)) as connection:
        assert connection.ports()[0].waiting == 0, "who may not have the port still waits for it"
    assert "not permitted" in alice.result()
    bob.say()
    bob.result()
    daemon.record("release", port="ttyS0", uid=BOB)


def test_such_a_rule_refuses_a_user_whom_it_names_and_who_sits_elsewhere(
    rig: Rig, logind: Logind, start: Callable[[], Daemon]
) -> None:
    logind.start()
    rig.port("ttyS0", 'allow = ["*"]', WHILE)
    start()
    assert not may(rig, ALICE)
    with client.connect(str(rig.socket)) as connection:
        assert "active session" in connection.check("ttyS0", uid=ALICE).message
    logind.sits(ALICE)
    comes(rig, ALICE, True)
    assert may(rig, ALICE)


NODES = """
from ttybrokerd.root import device
device.Devices.__init__.__defaults__ = ({0!r}, {0!r} + "/drivers", {0!r} + "/none", "/sys")
"""


def test_an_adapter_that_no_rule_names_is_for_who_sits_there(rig: Rig, logind: Logind) -> None:
    """By the shipped rules. The nodes are looked at and never opened."""
    os.chmod(rig.locks, 0o755)
    rig.expected_locks |= {"systemd", "dev"}
    dev = rig.locks / "dev"
    dev.mkdir()
    (dev / "drivers").write_text("usbserial /dev/ttyUSB 60 0-9 serial\n")  # of no driver: LOCAL
    for number in range(2):
        os.mknod(dev / f"ttyUSB{number}", stat.S_IFCHR | 0o600, os.makedev(60, number))
    alias = f'[[rule]]\nport = "gps"\ndevice = "{dev}/ttyUSB1"\nallow = [{BOB}]\n'
    rig.write_policy(alias + (TOP / "packaging/desk.toml").read_text())
    logind.start()
    logind.sits(ALICE)
    rig.daemon(*rig.arguments, hook=NODES.format(str(dev)) + HOOK.format(str(logind.top)))

    def listed() -> list[str]:
        with client.connect(str(rig.socket)) as connection:
            return [port.name for port in connection.ports()]

    assert as_user(ALICE, (), listed) == ["ttyUSB0"] and as_user(BOB, (), listed) == ["gps"]
    with client.connect(str(rig.socket)) as connection:

        def may(name: str, uid: int, *groups: int) -> bool:
            return connection.check(name, uid=uid, groups=groups).allowed

        dialout = grp.getgrnam("dialout").gr_gid
        assert may("ttyUSB0", ALICE) and may("ttyUSB0", BOB, dialout) and may("gps", BOB)
        assert not may("ttyUSB0", BOB) and not may("ttyUSB0", 0)
        assert not may("ttyUSB1", ALICE) and not may("gps", ALICE)
        assert "it is gps" in connection.check("ttyUSB1", uid=ALICE).message


def test_a_daemon_that_is_started_again_ends_the_leases_of_who_left_meanwhile(
    rig: Rig, logind: Logind
) -> None:
    os.chmod(rig.locks, 0o755)
    rig.expected_locks.add("systemd")
    logind.start()
    logind.sits(ALICE)
    rig.port("ttyS0", ACTIVE, WHILE)
    rig.write_policy()
    with manager(rig) as systemd:
        hook = HOOK.format(str(logind.top))
        first = systemd.start(hook=hook)
        alice = rig.holder(ALICE)
        first.process.terminate()
        assert first.wait() == 0
        systemd.hear()
        logind.sits(BOB, "2")
        systemd.start(hook=hook).record("release", port="ttyS0", uid=ALICE, reason=INACTIVE)
        alice.say()
        alice.result()
