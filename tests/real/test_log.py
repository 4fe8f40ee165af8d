"""The log: a line for everything that matters, and no client can write in another's hand."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from support.children import as_user
from support.daemon import Daemon
from support.log import Record
from support.processes import PR_SET_NAME, prctl
from support.raw import opening
from support.rig import Rig
from support.users import ALICE, BOB, NOBODY
from support.waiting import TIMEOUT
from ttybroker import BrokerError, NotPermitted, asking, client, open_fd, wire

pytestmark = pytest.mark.root

EVIL = b'\nx uid=0 "\xff\x1b['  # 15 bytes: all that a name may have


def common(record: Record, uid: int, pid: int) -> None:
    """The fields that say who."""
    fields = record.fields
    assert (fields["uid"], fields["pid"]) == (str(uid), str(pid))
    assert "user" not in fields  # its name is not known here
    assert fields["program"] and fields["port"] == "ttyS0"


def test_grant_and_release_say_who_what_by_which_rule_and_why(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(NOBODY)
    grant = daemon.record("grant")
    common(grant, NOBODY, holder.pid)
    assert grant.fields["device"] == rig.ports["ttyS0"].path
    assert grant.fields["rule"] == "ttyS0 (line 2)"
    holder.say()
    holder.result()
    release = daemon.record("release")
    common(release, NOBODY, holder.pid)
    assert release.fields["reason"] == "closed"
    assert release.fields["rule"] == "ttyS0 (line 2)"


def test_a_refusal_says_who_and_why_and_by_which_rule(rig: Rig) -> None:
    rig.port("ttyS0", f"deny = [{ALICE}]")
    rig.port("ttyS0")
    daemon = rig.daemon()

    def ask() -> int:
        with pytest.raises(NotPermitted):
            open_fd("ttyS0", broker=str(rig.socket))
        return os.getpid()

    pid = as_user(ALICE, (), ask)
    refuse = daemon.record("refuse")
    common(refuse, ALICE, pid)
    assert "ttyS0 (line 2)" in refuse.fields.get("rule", refuse.fields["reason"])
    holder = rig.holder(BOB)
    with pytest.raises(BrokerError):
        open_fd("ttyS0", broker=str(rig.socket))
    busy = daemon.record("refuse", uid=0)
    assert f"pid {holder.pid}" in busy.fields["reason"]


def test_a_revoke_says_of_whom_and_by_whom(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.admins = f"[{BOB}]"
    daemon = rig.daemon()
    holder = rig.holder(ALICE)

    def revoke() -> int:
        with client.connect(str(rig.socket)) as connection:
            connection.revoke("ttyS0")
        return os.getpid()

    pid = as_user(BOB, (), revoke)
    record = daemon.record("revoke")
    common(record, ALICE, holder.pid)
    assert f"uid {BOB}" in record.fields["by"] and f"pid {pid}" in record.fields["by"]
    assert daemon.record("release").fields["reason"] == "revoked"
    holder.say()
    holder.result()
    os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5))


def test_no_name_of_a_program_or_port_can_forge_a_field_or_a_line(rig: Rig, daemon: Daemon) -> None:
    name = b'ttyS0" uid=0 user=root\ngrant port=ttyS0 uid=0 \\ \xff'

    def ask() -> int:
        prctl(PR_SET_NAME, EVIL)
        os.close(open_fd("ttyS0", broker=str(rig.socket)))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(rig.socket))
            sock.send(struct.pack("<BBHII", 1, wire.OPEN, 0, 0, 0) + name)
            sock.recv(65536)
            sock.send(b"broken")
            sock.recv(65536)
        return os.getpid()

    pid = as_user(ALICE, (), ask)
    for event in ("grant", "refuse", "cut-off"):
        record = daemon.record(event)
        assert record.fields["uid"] == str(ALICE) and record.fields["pid"] == str(pid)
        assert record.fields["program"].startswith("?x uid=0")
        assert record.text.isprintable() and record.text.isascii()
    events = [record.event for record in daemon.records]
    assert events.count("grant") == 1
    known = {"start", "grant", "release", "refuse", "cut-off", "store-failed"}
    assert set(events) <= known
    assert all(record.fields.get("uid", str(ALICE)) == str(ALICE) for record in daemon.records)


def test_the_start_says_how_many_rules_there_are(rig: Rig) -> None:
    rig.port("ttyS0")
    assert rig.daemon().record("start").fields["reason"] == "rules: 1"


def test_a_log_that_nobody_reads_blocks_nobody(rig: Rig, daemon: Daemon) -> None:
    daemon.narrow_log()
    for _ in range(60):  # two records each, more than it holds
        os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5))
    assert daemon.output()
    os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5))
    assert daemon.stop() == 0
    dropped = sum(int(record.fields.get("dropped_before", "0")) for record in daemon.records)
    events = [record.event for record in daemon.records]
    assert dropped > 0
    assert events.count("grant") + events.count("release") + dropped == 2 * 61


def test_ten_thousand_refusals_do_not_drown_a_grant(rig: Rig, daemon: Daemon) -> None:
    """Some are written, the rest are counted, and at the end of the daemon none is missing."""

    def flood() -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(rig.socket))
            for _ in range(10_000):
                sock.send(opening("no-such-thing"))
                assert isinstance(asking.decode_reply(sock.recv(4096)), wire.Refused)
        return 10_000

    refused = as_user(ALICE, (), flood, timeout=3 * TIMEOUT)
    holder = rig.holder(BOB)
    daemon.record("grant", uid=BOB)
    holder.say()
    holder.result()
    daemon.record("release", uid=BOB)
    daemon.stop()
    daemon.output()
    about = [record for record in daemon.records if record.fields.get("uid") == str(ALICE)]
    lines = sum(record.event == "refuse" for record in about)
    counted = sum(int(record.fields["count"]) for record in about if record.event == "folded")
    assert lines + counted == refused
    assert len(about) < 1000
