"""A client of commit 7778755, which speaks version 1, at a daemon of this build; and what version 2
asks for that the daemon does not serve."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket

import pytest

from support import old_wire
from support.children import Child, as_user
from support.daemon import Daemon
from support.rig import Rig
from support.users import ALICE, BOB
from ttybroker import BrokerError, asking, client, open_fd, wire

pytestmark = pytest.mark.root

CLONE_NEWPID = 0x20000000  # linux/sched.h


class OldClient:
    """What a client of that commit sends and reads. `take` receives an answer and at most one
    descriptor beside it."""

    def __init__(self, rig: Rig) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.sock.connect(str(rig.socket))

    def ask(self, request: old_wire.Request) -> tuple[old_wire.Reply, list[int]]:
        self.sock.send(old_wire.encode_request(request))
        return self.take()

    def take(self) -> tuple[old_wire.Reply, list[int]]:
        data, descriptors, _, _ = socket.recv_fds(self.sock, 65536, 1)
        return old_wire.decode_reply(data), descriptors


def test_an_older_client_is_granted_a_port_and_told_who_has_it(rig: Rig, daemon: Daemon) -> None:
    def first() -> None:
        asker = OldClient(rig)
        reply, (descriptor,) = asker.ask(old_wire.Open("ttyS0", 0, 0))
        assert reply == old_wire.Grant()
        assert os.ttyname(descriptor) == rig.ports["ttyS0"].path
        ask_everything(rig, os.getpid())
        os.close(descriptor)

    as_user(ALICE, (), first)
    daemon.record("release", port="ttyS0", uid=ALICE)


def ask_everything(rig: Rig, holder: int) -> None:
    """Ask for the held port, and everything else that version 1 has."""
    asker = OldClient(rig)
    reply, _ = asker.ask(old_wire.Open("ttyS0", 0, 0))
    assert isinstance(reply, old_wire.Refused) and reply.errno == errno.EBUSY
    assert reply.message.startswith(f"ttyS0: busy: held by uid {ALICE} with python")
    assert f"(pid {holder}); wait for it (wait=SECONDS in Python" in reply.message
    assert reply.holder is not None
    assert (reply.holder.uid, reply.holder.user, reply.holder.pid) == (ALICE, "", holder)
    reply, _ = asker.ask(old_wire.Open("no/name"))
    assert isinstance(reply, old_wire.Refused) and reply.errno == errno.EINVAL
    assert reply.message.startswith("'no/name': not a port's name")
    reply, _ = asker.ask(old_wire.List())
    assert isinstance(reply, old_wire.Ports)
    rows = {port.name: port for port in reply.ports}
    assert rows["ttyS0"].holder is not None and rows["ttyS0"].holder.pid == holder
    assert rows["ttyS1"].state == "free"
    reply, _ = asker.ask(old_wire.Check("ttyS1"))
    assert isinstance(reply, old_wire.Verdict) and reply.allowed
    reply, _ = asker.ask(old_wire.Status())
    assert isinstance(reply, old_wire.Running)
    reply, _ = asker.ask(old_wire.Revoke("ttyS1"))
    assert isinstance(reply, old_wire.Refused) and reply.errno == errno.EACCES
    asker.sock.send(b"\1\2\0\0x")
    reply, _ = asker.take()
    assert reply == old_wire.Refused(errno.EPROTO, "cut off: message too short")
    assert asker.sock.recv(1) == b""


def test_an_older_client_takes_a_port_back(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE)

    def revoke() -> None:
        assert OldClient(rig).ask(old_wire.Revoke("ttyS0")) == (old_wire.Done(), [])

    as_user(ALICE, (), revoke)
    daemon.record("release", port="ttyS0", reason="revoked")
    holder.say()
    holder.result()


def test_each_answer_is_in_the_version_of_its_question(rig: Rig, daemon: Daemon) -> None:
    asker = OldClient(rig)
    for version in (1, 2, 2, 1):
        asker.sock.send(asking.encode_request(wire.List(), version))
        assert asker.sock.recv(65536)[0] == version
        asker.sock.send(asking.encode_request(wire.Open("not-here"), version))
        assert asker.sock.recv(65536)[0] == version
    asker.sock.send(b"\2\2\0\0x")
    reply = asking.decode_reply(data := asker.sock.recv(65536))
    assert data[0] == 2
    assert reply == wire.Refused(errno.EPROTO, "cut off: message too short")


def test_a_label_is_shown_beside_the_holder(rig: Rig, daemon: Daemon) -> None:
    with client.connect(str(rig.socket), label="night test") as connection:
        descriptor = connection.open("ttyS0")
        with pytest.raises(BrokerError, match="for 'night test'; wait for it"):
            as_user(BOB, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
        (row,) = [port for port in connection.ports() if port.name == "ttyS0"]
        assert row.holder is not None and row.holder.label == "night test"
    os.close(descriptor)
    daemon.record("grant", port="ttyS0", label="night test")


@pytest.mark.parametrize("label", ["x" * 81, "a\0b", "a\nb", "\x1b[31m"])
def test_a_label_that_cannot_be_shown_is_refused_before_anything_is_asked(label: str) -> None:
    with pytest.raises(ValueError, match="at most 80 printable characters"):
        client.connect("/nobody/listens/here", label=label)


def test_a_list_of_some_names_has_those_alone(rig: Rig, daemon: Daemon) -> None:
    asker = OldClient(rig)
    asker.sock.send(asking.encode_request(wire.List(names=("ttyS1", "nothing"))))
    reply = asking.decode_reply(asker.sock.recv(65536))
    assert isinstance(reply, wire.Ports) and [port.name for port in reply.ports] == ["ttyS1"]


def test_a_pid_of_another_pid_namespace_means_nothing_here(rig: Rig, daemon: Daemon) -> None:
    """The client says by which pid it knows itself; where that is another than the kernel's,
    the process it asks for is one of there."""

    def ask() -> int:
        request = wire.Open("ttyS0", 0, 1, os.getpid() + 1)
        asker = OldClient(rig)
        asker.sock.send(asking.encode_request(request))
        data, (descriptor,), _, _ = socket.recv_fds(asker.sock, 65536, 1)
        assert isinstance(asking.decode_reply(data), wire.Grant)
        os.close(descriptor)
        return os.getpid()

    pid = as_user(ALICE, (), ask)
    assert daemon.record("grant", port="ttyS0").fields["pid"] == str(pid)


def test_a_pid_that_an_older_client_in_another_pid_namespace_sends_means_nothing_here(
    rig: Rig, daemon: Daemon
) -> None:
    """It cannot say by which pid it knows itself. The pid is that of a bystander out here."""
    bystander = rig.holder(ALICE, "ttyS1")

    def ask() -> None:
        reply, (descriptor,) = OldClient(rig).ask(old_wire.Open("ttyS0", 0, bystander.pid))
        assert (reply, os.getpid()) == (old_wire.Grant(), 1)
        os.close(descriptor)

    def inside() -> int:
        assert ctypes.CDLL(None).unshare(CLONE_NEWPID) == 0
        inner = Child(lambda _chat: ask(), ALICE)
        inner.result()
        return inner.pid

    pid = as_user(0, (), inside)
    assert daemon.record("grant", port="ttyS0").fields["pid"] == str(pid)
    bystander.say()
    bystander.result()


def test_an_older_client_names_the_process_that_it_acts_for(rig: Rig, daemon: Daemon) -> None:
    other = rig.holder(ALICE, "ttyS1")

    def ask() -> None:
        _, (descriptor,) = OldClient(rig).ask(old_wire.Open("ttyS0", 0, other.pid))
        os.close(descriptor)

    as_user(ALICE, (), ask)
    assert daemon.record("grant", port="ttyS0").fields["pid"] == str(other.pid)
    other.say()
    other.result()


def test_a_daemon_that_is_stopped_is_not_waited_for_without_end(
    rig: Rig, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "DEVICE_LIMIT", 0.2)
    monkeypatch.setattr(client, "ANSWER_LIMIT", 0.2)
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        for ask in (
            lambda broker: broker.open("ttyS0", wait=0.1),
            lambda broker: broker.revoke("ttyS0"),
            lambda broker: broker.ports(),
        ):
            with pytest.raises(BrokerError) as caught, client.connect(str(rig.socket)) as broker:
                ask(broker)
            assert caught.value.errno == errno.ECONNREFUSED
            assert str(caught.value).endswith(
                "does not answer; see: systemctl status ttybroker.service"
            )
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5))
