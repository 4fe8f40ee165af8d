"""Attacks on the broker's descriptors: nothing that a client sends along is ever installed.

recvmsg(2) installs the descriptors of a message before the receiver has seen a byte of it, as
many as its control buffer holds (unix(7), SCM_RIGHTS; net/core/scm.c, scm_detach_fds), and a
message that lies unread holds them open. The broker's buffer has no room for any, and from Linux
6.16 on its sockets refuse them at the sender (SO_PASSRIGHTS). Single messages of that kind are
in tests/real/test_hostile.py; here are floods, rings and exhaustion.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from attack.accounts import OLD_KERNEL, explained, kinds
from support.children import Chat, Child, as_user
from support.processes import descriptors
from support.raw import LIST, answer, connect, cut_off, message, opening, others_are_served
from support.rig import Rig
from support.users import ALICE, BOB, CAROL
from ttybroker import BrokerError, asking, client, open_fd, wire
from ttybrokerd.root import linux

pytestmark = pytest.mark.root

MOST = 253  # SCM_MAX_FD, include/net/scm.h
KERNELS = pytest.mark.parametrize("hook", ["", OLD_KERNEL], ids=["this kernel", "before 6.16"])
MESSAGES = {
    "open": opening("ttyS0"),
    "open and wait": opening("ttyS0", 1000),
    "list": LIST,
    "revoke": asking.encode_request(wire.Revoke("ttyS0")),
    "check": asking.encode_request(wire.Check("ttyS0")),
    "connect": asking.encode_request(wire.Connect()),
    "an answer": wire.encode_reply(wire.Grant()),
    "no kind": message(77),
    "empty": b"",
    "too long": opening("ttyS0") + bytes(wire.MAX_REQUEST),
}


def kernel_refuses() -> bool:
    """Whether it can refuse descriptors for a socket: Linux 6.16."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, linux.SO_PASSRIGHTS)
        except OSError:
            return False
        return True


def with_descriptors(count: int) -> list[tuple[int, int, array.array[int]]]:
    """Ancillary data with so many copies of a file whose name shows wherever it is open."""
    bait = os.memfd_create("bait")
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [bait] * count))]


def baited(pid: int) -> bool:
    """Whether the process has the bait."""
    return any("bait" in what for what in descriptors(pid).values())


def has_word(child: Child) -> bool:
    """Whether the child has said something that was not heard yet."""
    return bool(select.select([child.chat.sock], [], [], 0)[0])


def flood(rig: Rig, times: int, data: bytes) -> Counter[str]:
    """Send the message with as many descriptors as there may be, again and again, on new
    connections as the old ones are ended; what became of them."""
    done: Counter[str] = Counter()
    rights = with_descriptors(MOST)
    sock = connect(rig)
    while done.total() < times:
        try:
            sock.sendmsg([data], rights)
            done["sent"] += 1
        except (BrokenPipeError, ConnectionResetError):
            done["ended"] += 1
            sock.close()
            sock = connect(rig)
        except OSError as error:
            done[errno.errorcode[error.errno or 0]] += 1
    return done


def flood_as_child(rig: Rig, times: int, data: bytes, _chat: Chat) -> Counter[str]:
    """The same, as the body of a child."""
    return flood(rig, times, data)


@KERNELS
def test_a_flood_of_descriptors_installs_none(
    rig: Rig,
    hook: str,
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
    progress: Callable[[str], None],
) -> None:
    """Source: CVE-2014-3636, descriptors passed to dbus-daemon until it had none left.

    Promise: whatever the message, nothing is installed, its sender gains nothing, others wait
    for nothing.
    """
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon(hook=hook)
    before = kinds(daemon.pid)
    times = scale(50, 10_000)
    for kind, data in MESSAGES.items():
        child = rig.child(ALICE, partial(flood_as_child, rig, times, data))
        while not has_word(child):
            assert not baited(daemon.pid), kind
            others_are_served(rig)
        done = child.result()
        assert set(done) <= {"sent", "ended", "EPERM", "ETOOMANYREFS"}, (kind, done)
        assert bool(done["EPERM"]) == (not hook and kernel_refuses()), (kind, done)
        explained(daemon, before, 0, 0)
        count("messages with 253 descriptors each", done.total())
        progress(f"{kind}: {dict(done)}")


@pytest.mark.parametrize("number", [1, 2, MOST])
@pytest.mark.parametrize("kind", ["open", "list", "empty"])
def test_descriptors_are_the_end_of_their_sender(rig: Rig, kind: str, number: int) -> None:
    """Source: unix(7), SCM_RIGHTS; MSG_CTRUNC in recvmsg(2) is all that tells of them.

    Promise: before Linux 6.16 a message with descriptors is the last of its sender.
    """
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon(hook=OLD_KERNEL)

    def run() -> str:
        sock = connect(rig)
        sock.settimeout(10)
        sock.send(LIST)
        answer(sock)  # it is idle now
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(20):  # in every message
                sock.sendmsg([MESSAGES[kind]], with_descriptors(number))
        return cut_off(sock)

    assert "descriptors" in as_user(ALICE, (), run)
    assert "descriptors" in daemon.record("cut-off", uid=ALICE).fields["reason"]
    daemon.settled()
    assert not baited(daemon.pid)


@KERNELS
def test_a_hundred_clients_flood_at_once(
    rig: Rig, hook: str, scale: Callable[[int, int], int], count: Callable[[str, int], None]
) -> None:
    """Source: CVE-2014-3636; unix(7), ETOOMANYREFS: what a user has in flight is counted against
    his RLIMIT_NOFILE, and it is said to him and not to the broker.

    Promise: a hundred at once install no more than one, and a bystander is served in time.
    """
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon(hook=hook)
    before = kinds(daemon.pid)
    times, clients = scale(20, 2_000), 100
    kind = list(MESSAGES.values())

    def run(chat: Chat, number: int) -> Counter[str]:
        chat.hear()
        return flood(rig, times, kind[number % len(kind)])

    children = [rig.child(ALICE, partial(run, number=number)) for number in range(clients)]
    for child in children:
        child.say()
    while not all(child.ended for child in children):
        assert not baited(daemon.pid)
        sockets = kinds(daemon.pid)["socket"] - before["socket"]
        assert sockets <= clients + 1, f"{sockets} sockets of {clients} clients"
        others_are_served(rig)
        for child in [child for child in children if not child.ended and has_word(child)]:
            count("messages with 253 descriptors each", child.result().total())
    explained(daemon, before, 0, 0)
    count("floods by a hundred clients at once", 1)


def test_a_frontend_floods_its_own_backend(rig: Rig) -> None:
    """Source: as before; a setuid program's own user is no better than another.

    Promise: what its user half sends along does not come into a forked backend, neither by the
    pair nor by a further connection, and ends that connection at most.
    """
    rig.port("ttyS0")
    rig.write_policy()

    def run(chat: Chat) -> None:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)  # its log
        rig.backend()
        ours = client.connect()
        more = client.connect()
        chat.say()
        chat.hear()
        for connection in (more, ours):
            sock = socket.socket(fileno=os.dup(connection.fileno()))
            with contextlib.suppress(PermissionError, BrokenPipeError, ConnectionResetError):
                for _ in range(100):
                    sock.sendmsg([LIST], with_descriptors(MOST))
        chat.say()
        chat.hear()

    child = rig.child(0, run)
    child.hear()
    backend = rig.orphan()
    before = kinds(backend.pid)
    child.say()
    child.hear()
    assert not baited(backend.pid)
    assert not kinds(backend.pid) - before
    child.say()
    child.result()
    backend.wait()


def hold_itself(sock: socket.socket, rights: socket.socket, data: bytes) -> bool:
    """Send a socket along; False if the kernel refuses it on the broker's behalf."""
    try:
        sock.sendmsg(
            [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [rights.fileno()]))]
        )
    except PermissionError:
        return False
    return True


@KERNELS
@pytest.mark.parametrize("ring", [False, True], ids=["itself", "a ring of two"])
@pytest.mark.parametrize("asked", [False, True], ids=["idle", "waiting"])
def test_a_connection_that_holds_itself_ends_with_its_process(
    rig: Rig, hook: str, ring: bool, asked: bool
) -> None:
    """Source: CVE-2014-3637, connections to dbus-daemon that killing their processes did not
    end, because they lay in their own queues; CVE-2021-4083 for rings of sockets.

    Promise: a dead process's connection is over, and so is what it waited for.
    """
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon(hook=hook)
    before = kinds(daemon.pid)
    holder = rig.holder(BOB)

    def run(chat: Chat) -> None:
        sock, other = connect(rig), connect(rig)
        if asked:
            sock.send(opening("ttyS0", 3_600_000))
            other.send(opening("ttyS0", 3_600_000))
        hold_itself(sock, other if ring else sock, LIST)
        hold_itself(other, sock if ring else other, LIST)
        chat.say()
        signal.pause()

    child = rig.child(ALICE, run)
    child.hear()
    child.kill()
    explained(daemon, before, 0, 1)
    holder.say()
    holder.result()
    others_are_served(rig, "ttyS0")


@pytest.mark.skipif(not kernel_refuses(), reason="needs SO_PASSRIGHTS, Linux 6.16")
def test_on_this_kernel_no_descriptor_lies_behind_a_request_either(rig: Rig) -> None:
    """Source: CVE-2014-3637, with the descriptor in the third message, which the broker does not
    look at while the first is under way. Before Linux 6.16 such a connection lives until that
    request is answered, and counts as its user's.

    Promise: where the kernel can refuse descriptors, none lies in any queue of the broker.
    """
    rig.port("ttyS0")
    daemon = rig.daemon()
    before = kinds(daemon.pid)
    holder = rig.holder(BOB)

    def run(chat: Chat) -> bool:
        sock = connect(rig)
        sock.send(opening("ttyS0", 3_600_000))
        sock.send(LIST)
        return hold_itself(sock, sock, LIST)

    assert rig.child(ALICE, run).result() is False
    explained(daemon, before, 0, 1)
    holder.say()
    holder.result()


def test_before_that_it_lives_no_longer_than_its_request(rig: Rig) -> None:
    """As the last one, on a kernel before 6.16."""
    rig.port("ttyS0")
    daemon = rig.daemon(hook=OLD_KERNEL)
    before = kinds(daemon.pid)
    holder = rig.holder(BOB)

    def run(chat: Chat) -> bool:
        sock = connect(rig)
        sock.send(opening("ttyS0", 1000))
        sock.send(LIST)
        return hold_itself(sock, sock, LIST)

    assert rig.child(ALICE, run).result() is True
    daemon.record("refuse", uid=ALICE)
    explained(daemon, before, 0, 1)
    holder.say()
    holder.result()


@pytest.mark.parametrize("uid", [ALICE, 0], ids=["a user", "root"])
def test_who_has_all_in_flight_that_he_may_is_served_and_so_are_others(rig: Rig, uid: int) -> None:
    """Source: CVE-2013-4312 and CVE-2016-2550, the count of descriptors in flight of a user;
    the broker's grants are in flight too, and it is root like the second of these users.

    Promise: a user who has used up his share, root too, keeps no grant from anybody.
    """
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon()
    before = kinds(daemon.pid)

    def run(chat: Chat) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        if uid == 0:  # who has CAP_SYS_ADMIN or CAP_SYS_RESOURCE is not counted
            drop_capabilities()
        rights = with_descriptors(100)
        kept = []
        with pytest.raises(OSError) as caught:
            while True:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                kept += [ours, theirs]
                ours.sendmsg([b"x"], rights)
        assert caught.value.errno == errno.ETOOMANYREFS
        os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5))
        chat.say()
        chat.hear()

    child = rig.child(uid, run)
    child.hear()
    others_are_served(rig)
    child.say()
    child.result()
    explained(daemon, before, 0, 0)


def drop_capabilities() -> None:
    """Have none of them, as root in a container may."""
    everything = struct.pack("IiIIIIII", 0x20080522, 0, 0, 0, 0, 0, 0, 0)  # linux/capability.h
    header, data = everything[:8], everything[8:]
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def test_a_client_without_room_for_the_grant_has_no_lease(rig: Rig) -> None:
    """Source: recvmsg(2), MSG_CTRUNC: where there is no free number the kernel closes what it
    cannot install.

    Promise: a grant that its client cannot take is an error there, and no lease here.
    """
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon()
    before = kinds(daemon.pid)

    def run(_chat: Chat) -> int | None:
        with client.connect(str(rig.socket)) as connection:
            connection.check("ttyS0")
            highest = max(descriptors(os.getpid()))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
            with contextlib.suppress(OSError):
                while True:
                    os.dup(0)
            with pytest.raises(BrokerError) as caught:
                connection.open("ttyS0")
            return caught.value.errno

    assert rig.child(ALICE, run).result() == errno.EMFILE
    explained(daemon, before, 0, 0)
    others_are_served(rig, "ttyS0")


def test_the_broker_has_no_more_open_than_leases_explain(
    rig: Rig, scale: Callable[[int, int], int], count: Callable[[str, int], None]
) -> None:
    """Source: /proc/PID/fd, proc(5), which is the kernel's word and not the broker's.

    Promise: a socket a client, and its own port, weak reference and pidfd a lease; whatever
    happened before, to the number.
    """
    ports, rounds = 40, scale(1, 50)
    for number in range(ports):
        rig.port(f"ttyS{number}")
    daemon = rig.daemon()
    before = kinds(daemon.pid)

    def run(chat: Chat, first: int) -> None:
        socks = [connect(rig) for _ in range(10)]
        held = []
        for number in range(first, first + 10):
            held.append(open_fd(f"ttyS{number}", broker=str(rig.socket), wait=10))
            for sock in socks[:2]:  # and refused ones on the way
                sock.send(opening(f"ttyS{number}"))
                assert isinstance(answer(sock), wire.Refused)
        chat.say()
        chat.hear()
        for descriptor in held[:5]:
            os.close(descriptor)
        chat.say()
        chat.hear()

    for _ in range(rounds):
        users = [ALICE, BOB, CAROL, 0]
        children = [rig.child(uid, partial(run, first=10 * n)) for n, uid in enumerate(users)]
        for child in children:
            child.hear()
        explained(daemon, before, 40, 40)
        for child in children:
            child.say()
            child.hear()
        explained(daemon, before, 40, 20)
        for child in children:
            child.kill()
        explained(daemon, before, 0, 0)
        count("leases counted in /proc", ports)
    as_user(ALICE, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5)))
