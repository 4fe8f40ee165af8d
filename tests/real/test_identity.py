"""Who may do what, asked by real processes with real ids; the kernel says who they are."""

from __future__ import annotations

import errno
import grp
import os
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import pytest

from support.children import Chat, as_user
from support.daemon import Daemon
from support.raw import LIST, connect
from support.rig import Rig, lock_text
from support.users import ALICE, BOB, CAROL, NOBODY
from ttybroker import NotPermitted, PortBusy, asking, client, open_fd, wire

pytestmark = pytest.mark.root

DIALOUT = grp.getgrnam("dialout").gr_gid


def ask(rig: Rig, name: str = "ttyS0") -> Callable[[], None]:
    """Lease and give back."""

    def run() -> None:
        os.close(open_fd(name, broker=str(rig.socket), wait=5))

    return run


def names(rig: Rig) -> Callable[[], list[str]]:
    """What the caller's list shows."""

    def run() -> list[str]:
        with client.connect(str(rig.socket)) as connection:
            return [port.name for port in connection.ports()]

    return run


def test_who_is_not_in_the_group_is_refused_and_who_is_gets_the_port(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["@dialout"]')
    daemon = rig.daemon()
    with pytest.raises(NotPermitted) as caught:
        as_user(ALICE, [ALICE], ask(rig))
    assert caught.value.errno == errno.EACCES
    assert "ttyS0" in str(caught.value) and "policy" in str(caught.value)
    record = daemon.record("refuse", port="ttyS0", uid=ALICE)
    assert record.fields["reason"]
    as_user(ALICE, [DIALOUT], ask(rig))  # supplementary
    as_user(BOB, [], ask(rig), gid=DIALOUT)  # primary
    as_user(0, [], lambda: names(rig)())


def test_root_too_needs_a_rule_to_open(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    rig.daemon()
    with pytest.raises(NotPermitted):
        ask(rig)()


def test_many_supplementary_groups_are_all_seen(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["@dialout"]')
    rig.daemon()
    as_user(ALICE, [*range(70000, 70200), DIALOUT], ask(rig))


@pytest.mark.alone
def test_who_may_not_use_a_port_does_not_learn_who_holds_it(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{BOB}]")
    rig.daemon()

    def refused() -> tuple[int | None, str, object]:
        with pytest.raises(NotPermitted) as caught:
            ask(rig)()
        return caught.value.errno, str(caught.value), caught.value.holder

    free = as_user(ALICE, (), refused)
    holder = rig.holder(BOB)
    assert as_user(ALICE, (), refused) == free
    holder.say()
    holder.result()
    rig.ports["ttyS0"].close()  # nor whether the device is there
    assert as_user(ALICE, (), refused) == free


def test_a_list_shows_ones_own_ports_and_everything_to_admins(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    rig.port("ttyS1", f"allow = [{BOB}]")
    rig.port("gps", 'allow = ["*"]')
    rig.admins = f"[{CAROL}]"
    rig.daemon()
    holder = rig.holder(BOB, "ttyS1")
    assert as_user(ALICE, (), names(rig)) == ["ttyS0", "gps"]
    assert as_user(BOB, (), names(rig)) == ["ttyS1", "gps"]
    assert as_user(NOBODY, (), names(rig)) == ["gps"]
    assert as_user(CAROL, (), names(rig)) == names(rig)() == ["ttyS0", "ttyS1", "gps"]
    with client.connect(str(rig.socket)) as connection:
        rows = {port.name: port for port in connection.ports()}
    assert rows["ttyS0"].state == "free" and rows["ttyS0"].holder is None
    seen = rows["ttyS1"].holder
    assert rows["ttyS1"].state == "busy"
    assert seen is not None and (seen.uid, seen.pid) == (BOB, holder.pid)


def test_check_is_for_oneself_and_for_others_by_admins(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["@dialout"]')
    rig.admins = f"[{CAROL}]"
    rig.daemon()

    def check(uid: int | None = None, groups: tuple[int, ...] = ()) -> Callable[[], wire.Verdict]:
        def run() -> wire.Verdict:
            with client.connect(str(rig.socket)) as connection:
                return connection.check("ttyS0", uid=uid, groups=groups)

        return run

    assert as_user(ALICE, [DIALOUT], check()).allowed
    verdict = as_user(ALICE, [], check())
    assert not verdict.allowed and verdict.known
    assert not as_user(ALICE, [], check(ALICE, (DIALOUT,))).allowed  # its claim counts nothing
    with pytest.raises(NotPermitted):
        as_user(ALICE, [], check(BOB, (DIALOUT,)))
    for admin in (CAROL, 0):
        assert as_user(admin, [], check(BOB, (DIALOUT,))).allowed
        assert not as_user(admin, [], check(BOB)).allowed


def test_asking_for_another_process_is_for_ones_own_alone(rig: Rig, daemon: Daemon) -> None:
    other = rig.holder(BOB, "ttyS1")

    def ask_for(pid: int) -> Callable[[], None]:
        def run() -> None:
            with client.connect(str(rig.socket)) as connection:
                os.close(connection.open("ttyS0", pid=pid, wait=5))

        return run

    for pid in (other.pid, 1, 0x7FFFFFFF):
        with pytest.raises(NotPermitted):
            as_user(ALICE, (), ask_for(pid))
    mine = rig.holder(ALICE, "ttyS0")
    with pytest.raises(PortBusy):
        as_user(ALICE, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
    mine.say()
    mine.result()

    def idle_about(chat: Chat) -> None:
        chat.say()
        chat.hear()

    idle = rig.child(ALICE, idle_about)
    idle.hear()  # it is ALICE's by now
    as_user(ALICE, (), ask_for(idle.pid))
    idle.say()
    idle.result()


def test_the_number_of_a_thread_means_its_process(rig: Rig, daemon: Daemon) -> None:
    def run() -> None:
        found, go_on = SimpleQueue[int](), threading.Event()
        threading.Thread(
            target=lambda: (found.put(threading.get_native_id()), go_on.wait())
        ).start()
        with client.connect(str(rig.socket)) as connection:
            descriptor = connection.open("ttyS0", pid=found.get())
            (row,) = (port for port in connection.ports() if port.name == "ttyS0")
        assert row.holder is not None and row.holder.pid == os.getpid()
        assert rig.lock().read_bytes() == lock_text(os.getpid())
        os.write(descriptor, b"alive")
        go_on.set()

    as_user(ALICE, (), run)


# a change of identity


def cut_off(sock: socket.socket) -> str:
    """The last word of the broker on a connection that it ends."""
    reply = asking.decode_reply(sock.recv(65536))
    assert isinstance(reply, wire.Refused) and reply.errno == errno.EPROTO
    assert sock.recv(65536) == b""
    return reply.cause


def test_a_forked_child_on_its_parents_connection_is_cut_off(rig: Rig, daemon: Daemon) -> None:
    def run() -> str:
        sock = connect(rig)
        sock.send(LIST)
        assert isinstance(asking.decode_reply(sock.recv(65536)), wire.Ports)
        if (pid := os.fork()) == 0:
            sock.send(LIST)
            os._exit(0)
        os.waitpid(pid, 0)
        return cut_off(sock)

    assert "identity changed" in as_user(ALICE, (), run)
    assert "identity" in daemon.record("cut-off", uid=ALICE).fields["reason"]


@pytest.mark.parametrize(
    "change", [lambda: os.setresuid(BOB, BOB, BOB), lambda: os.setresgid(BOB, BOB, BOB)]
)
def test_who_changes_its_ids_is_cut_off(
    rig: Rig, daemon: Daemon, change: Callable[[], None]
) -> None:
    def run(_chat: Chat) -> str:
        sock = connect(rig)
        change()
        sock.send(LIST)
        return cut_off(sock)

    assert "identity changed" in rig.child(0, run).result()


def test_credentials_sent_by_hand_count_as_what_they_are(rig: Rig, daemon: Daemon) -> None:
    """Root may claim anybody's; nobody else can."""

    def claim(pid: int, uid: int, gid: int) -> str:
        sock = connect(rig)
        ucred = struct.pack("iII", pid or os.getpid(), uid, gid)
        message = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ucred)]
        sock.sendmsg([LIST], message)
        return cut_off(sock)

    for forged in ((0, ALICE, ALICE), (1, 0, 0), (0, ALICE, 0)):
        assert "identity changed" in as_user(0, (), partial(claim, *forged))
    for forged in ((0, 0, 0), (1, ALICE, ALICE), (0, BOB, ALICE)):
        with pytest.raises(PermissionError):
            as_user(ALICE, (), partial(claim, *forged))


@pytest.mark.parametrize("what", ["uid", "gid"])
def test_a_program_with_an_effective_id_of_its_own_is_no_changeling(rig: Rig, what: str) -> None:
    """SO_PEERCRED tells the effective ids, unasked SCM_CREDENTIALS the real ones."""
    rig.port("ttyS0", f"allow = [{BOB}]" if what == "uid" else 'allow = ["@dialout"]')
    rig.daemon()

    def run(_chat: Chat) -> None:
        os.setresgid(ALICE, DIALOUT, DIALOUT) if what == "gid" else os.setresgid(ALICE, BOB, BOB)
        os.setresuid(ALICE, BOB if what == "uid" else ALICE, ALICE)
        ask(rig)()

    rig.child(0, run).result()
