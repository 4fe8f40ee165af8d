"""A dead copy counts for nothing under the next daemon either: systemd keeps what is known of it,
and of what its port is owed."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from collections.abc import Callable
from typing import BinaryIO

import pytest

from real.test_restart import end, kept, memory, row, systemd
from support.children import Chat, Child, as_user
from support.namespaces import sees_dead_takers
from support.rig import Rig
from support.systemd import Systemd
from support.users import ALICE, BOB
from ttybroker import BrokerError, client, open_fd
from ttybrokerd.root import copy_record, linux

__all__ = ["systemd"]  # the fixture
pytestmark = pytest.mark.root

ENDS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])


def revoke(rig: Rig, name: str = "ttyS0") -> None:
    with client.connect(str(rig.socket)) as connection:
        connection.revoke(name)


def hang_up(rig: Rig, name: str = "ttyS0") -> None:
    """As root does by hand, or a login that takes the port over."""
    with opened(rig, name) as slave:
        fcntl.ioctl(slave, linux.TIOCVHANGUP)
    rig.daemons[-1].record("release", port=name)


def opened(rig: Rig, name: str = "ttyS0") -> BinaryIO:
    return open(os.open(rig.ports[name].path, os.O_RDWR | os.O_NOCTTY), "rb")


def cling(
    rig: Rig, name: str = "ttyS0", how: str = "unlocked", end: Callable[..., None] = revoke
) -> Child:
    """Alice, whose lease was ended, and who keeps a dead copy."""

    def keep(chat: Chat) -> None:
        descriptor = open_fd(name, broker=str(rig.socket))
        if how == "exclusive":
            fcntl.ioctl(descriptor, linux.TIOCEXCL)
        chat.say()
        chat.hear()
        if how == "unlocked":
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        elif how == "her own flock":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        chat.say()
        chat.hear()
        os.close(descriptor)
        chat.say()
        chat.hear()

    child = rig.child(ALICE, keep)
    child.hear()
    end(rig, name)
    child.say()
    child.hear()
    return child


def let_go(child: Child) -> None:
    """Alice closes her copy, and lives on."""
    child.say()
    child.hear()


def take(rig: Rig, name: str = "ttyS0") -> int:
    """Bob opens the port and closes it again, and it is in order; return VMIN as he found it."""

    def bob() -> int:
        descriptor = open_fd(name, broker=str(rig.socket))
        found = vmin(descriptor)
        os.close(descriptor)
        return found

    found = as_user(BOB, (), bob)
    rig.daemons[-1].record("release", port=name, uid=BOB)
    return found


def vmin(descriptor: int) -> int:
    (value,) = bytes(termios.tcgetattr(descriptor)[6][termios.VMIN])
    return int(value)


def set_vmin(rig: Rig, value: int) -> None:
    """Set it as a call does that was under way at the hang-up, or as root by hand."""
    with opened(rig) as slave:
        changed = termios.tcgetattr(slave)
        changed[6][termios.VMIN] = bytes([value])
        termios.tcsetattr(slave, termios.TCSANOW, changed)


def stored(systemd: Systemd) -> list[str]:
    """The names of what is kept of dead copies."""
    return sorted(name for name in systemd.names() if name.startswith("copy."))


def restart(systemd: Systemd, rig: Rig, number: signal.Signals = signal.SIGKILL) -> None:
    end(systemd, rig, number)
    systemd.start()


@ENDS
@pytest.mark.parametrize(
    "how", ["unlocked", pytest.param("the brokers flock", marks=sees_dead_takers), "her own flock"]
)
def test_the_port_is_free_and_the_list_names_the_keeper(
    rig: Rig, systemd: Systemd, number: signal.Signals, how: str
) -> None:
    systemd.start()
    alice = cling(rig, how=how)
    before = row(rig)
    assert [copy.pid for copy in before.copies] == [alice.pid]
    for _ in range(2):
        restart(systemd, rig, number)
        assert row(rig) == before
        take(rig)
        assert len(stored(systemd)) == 1
    let_go(alice)
    assert row(rig).copies == ()
    as_user(ALICE, (), lambda: row(rig))  # what she keeps is looked at
    assert systemd.names() == set()


NOT_REACHED = """
from ttybrokerd.root.device import Devices
from ttybrokerd.root.refusal import Refusal
def never(*_):
    raise Refusal(5, "the device does not answer")
Devices.open_again = never
"""


@ENDS
def test_exclusive_use_that_could_not_be_ended_ends_at_the_next_grant(
    rig: Rig, systemd: Systemd, number: signal.Signals
) -> None:
    """Somebody else has hung the port up, and the first daemon does not reach it to end that."""
    systemd.start(hook=NOT_REACHED)
    alice = cling(rig, how="exclusive", end=hang_up)
    rig.daemons[-1].record("settings-failed", port="ttyS0")
    with opened(rig) as slave:
        assert linux.is_exclusive(slave.fileno())
    restart(systemd, rig, number)
    take(rig)
    let_go(alice)


@ENDS
@pytest.mark.parametrize("closed", ["never", "meanwhile"])
def test_what_a_port_is_owed_is_put_back_at_the_next_grant(
    rig: Rig, systemd: Systemd, number: signal.Signals, closed: str
) -> None:
    systemd.start()
    take(rig)  # whose hang-up sets a pty back
    found = take(rig)
    alice = cling(rig)
    end(systemd, rig, number)
    set_vmin(rig, 77)
    if closed == "meanwhile":
        let_go(alice)
    systemd.start()
    assert take(rig) == found
    if closed == "never":
        let_go(alice)


@ENDS
def test_what_was_paid_is_not_paid_again(
    rig: Rig, systemd: Systemd, number: signal.Signals
) -> None:
    """Root may have set something since."""
    systemd.start()
    alice = cling(rig)
    take(rig)
    restart(systemd, rig, number)
    assert len(row(rig).copies) == 1
    set_vmin(rig, 77)
    assert take(rig) == 77
    let_go(alice)


@ENDS
def test_a_copy_that_is_closed_while_there_is_no_daemon_is_kept_no_more(
    rig: Rig, systemd: Systemd, number: signal.Signals
) -> None:
    systemd.start()
    alice, other = cling(rig), cling(rig, "ttyS1")
    end(systemd, rig, number)
    assert len(stored(systemd)) == 2
    let_go(alice)
    systemd.start()
    assert len(stored(systemd)) == 1
    (left,) = row(rig, "ttyS1").copies
    assert left.pid == other.pid and row(rig).copies == ()
    let_go(other)


def test_a_copy_that_is_closed_is_kept_no_more_when_the_daemon_ends(
    rig: Rig, systemd: Systemd
) -> None:
    """Though its user never asked again."""
    systemd.start()
    let_go(cling(rig))
    assert len(stored(systemd)) == 1
    end(systemd, rig, signal.SIGTERM)
    assert systemd.names() == set()


def test_it_counts_against_its_user(rig: Rig, systemd: Systemd) -> None:
    one = "from ttybrokerd.root import table; table.LEASES_PER_UID = 1"
    systemd.start(hook=one)
    alice = cling(rig)
    for _ in range(2):
        with pytest.raises(BrokerError, match="close some first"):
            as_user(ALICE, (), lambda: open_fd("ttyS1", broker=str(rig.socket)))
        end(systemd, rig)
        systemd.start(hook=one)
    let_go(alice)
    as_user(ALICE, (), lambda: open_fd("ttyS1", broker=str(rig.socket)))


# what comes back and is no copy


def swap(systemd: Systemd, what: str, number: int) -> None:
    """Have systemd keep another record or watcher of the only copy, -1: none."""
    (name,) = stored(systemd)
    have = {"watcher" if linux.is_epoll(piece) else "record": os.dup(piece)
            for kept_as, piece in systemd.stored if kept_as == name}  # fmt: skip
    os.close(have.pop(what))
    systemd.remove(name)
    systemd.put(name, [*have.values(), *([number] if number >= 0 else [])])
    for piece in have.values():
        os.close(piece)
    if number >= 0:
        os.close(number)


def told(systemd: Systemd) -> bytes:
    """The record of the only copy."""
    for name, piece in systemd.stored:
        if name.startswith("copy.") and not linux.is_epoll(piece):
            return os.pread(piece, 4096, 0)
    raise AssertionError(systemd.stored)


def of_bobs(rig: Rig) -> int:
    """A watcher of another node, of which a copy lives as long as the test."""
    watcher = linux.weak_reference(rig.ports["ttyS1"].master)
    return os.dup(watcher.fileno())


ODD = {
    "no record": ("record", lambda *_: -1, "incomplete: 1 descriptors"),
    "no watcher": ("watcher", lambda *_: -1, "incomplete: 1 descriptors"),
    "next version": ("record", lambda _, data: memory(
        data.replace(copy_record.MAGIC, copy_record.KIND + b"\2")), "another version"),
    "cut": ("record", lambda _, data: memory(data[:-1]), "texts that are missing"),
    "not sealed": ("record", lambda _, data: memory(data, fcntl.F_SEAL_GROW), "no kind of ours"),
    "another's watcher": ("watcher", lambda rig, _: of_bobs(rig), "lists something else"),
    "a pidfd": ("watcher", lambda *_: os.pidfd_open(os.getpid()), "incomplete: 2 descriptors"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_copy_is_refused_with_its_reason_and_leases_go_on(
    rig: Rig, systemd: Systemd, case: str
) -> None:
    systemd.start()
    alice, bob = cling(rig), rig.holder(BOB, "ttyS1")
    end(systemd, rig)
    what, make, reason = ODD[case]
    swap(systemd, what, make(rig, told(systemd)))
    daemon = systemd.start()
    assert reason in daemon.record("store-refused").fields["reason"]
    daemon.record("adopt", port="ttyS1", pid=bob.pid)
    assert row(rig).copies == () and stored(systemd) == []
    take(rig)
    let_go(alice)


def test_a_copy_with_a_piece_too_many_is_refused(rig: Rig, systemd: Systemd) -> None:
    systemd.start()
    alice = cling(rig)
    end(systemd, rig)
    pidfd = os.pidfd_open(os.getpid())
    systemd.put(stored(systemd)[0], [pidfd])
    os.close(pidfd)
    reason = systemd.start().record("store-refused").fields["reason"]
    assert reason == "a copy of 3 descriptors"
    assert systemd.names() == set()
    let_go(alice)


# leases come first


def test_copies_have_so_many_places_and_leases_have_theirs(rig: Rig, systemd: Systemd) -> None:
    """Here two. What has no place is known until the daemon ends."""
    systemd.start(hook="from ttybrokerd.root import copies; copies.MOST_KEPT = 2")
    alices = [cling(rig) for _ in range(4)]
    bob = rig.holder(BOB)
    kept(systemd, rig)
    assert len(stored(systemd)) == 2 and len(row(rig).copies) == 4
    let_go(alices.pop(0))
    bob.say()
    rig.daemons[-1].record("release", port="ttyS0", uid=BOB)
    assert len(as_user(ALICE, (), lambda: row(rig)).copies) == 3
    alices.append(cling(rig))
    assert len(stored(systemd)) == 2
    restart(systemd, rig)
    shown = [copy.pid for copy in row(rig).copies]
    assert sorted(shown) == sorted([alices[0].pid, alices[-1].pid])
    for alice in alices:
        let_go(alice)


BEHIND = "from ttybrokerd.root import keeper as m; m.BURST, m.YOUNG, m.PACE = 1, 1.0, 0.2"


def test_copies_go_in_behind_leases(rig: Rig, systemd: Systemd) -> None:
    daemon = systemd.start(hook=BEHIND)
    alice = rig.child(ALICE, lambda chat: hold(chat, rig))
    alice.hear()
    bob = rig.holder(BOB, "ttyS1")
    revoke(rig)
    while not stored(systemd):
        row(rig)
    names = [line for pid, line in systemd.words if pid == daemon.pid and "FDNAME=" in line]
    assert [name.partition("=")[2].partition(".")[0] for name in names] == [
        "ttyS0", "ttyS0", "ttyS1", "copy"]  # fmt: skip
    bob.say()
    alice.say()


def hold(chat: Chat, rig: Rig) -> None:
    open_fd("ttyS0", broker=str(rig.socket))
    chat.say()
    chat.hear()
