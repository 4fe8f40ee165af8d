"""The root side knows uids, not names: it looks none up while it serves, and has no helper for it.

A client shows the name that its own machine has.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import struct

import pytest

from support.children import as_user
from support.command import command
from support.daemon import Daemon
from support.processes import children
from support.rig import Rig
from support.users import ALICE, NOBODY
from ttybroker import BrokerError, NotPermitted, PortBusy, client, open_fd, wire

pytestmark = pytest.mark.root

DAEMON = pwd.getpwnam("daemon").pw_uid


def take(rig: Rig, uid: int) -> None:
    """Lease and give back."""
    as_user(uid, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5)))


def reload(rig: Rig, daemon: Daemon, old: str, new: str) -> None:
    """Have it take a plan for the policy with this change."""
    rig.write_policy(rig.policy.read_text().replace(old, new))
    rig.reload(daemon)


def test_a_daemon_that_serves_has_no_child(rig: Rig, daemon: Daemon) -> None:
    assert children(daemon.pid) == set()
    take(rig, NOBODY)
    take(rig, ALICE)
    assert children(daemon.pid) == set()


def test_a_daemon_that_serves_opens_no_file_of_etc(rig: Rig) -> None:
    """Not passwd(5), nor group(5), nor nsswitch.conf(5)."""
    rig.traces = []
    rig.port("ttyS0", 'allow = ["nobody"]')
    daemon = rig.daemon()
    take(rig, NOBODY)
    as_user(NOBODY, (), lambda: list_and_ask(rig))
    with pytest.raises(NotPermitted):
        take(rig, ALICE)
    reload(rig, daemon, "nobody", "nobody")
    take(rig, NOBODY)
    daemon.stop()
    (trace,) = rig.traced()
    # The last filter is the daemon's own; before that one is tried.
    *before, confined = re.split(r"^\d+ +seccomp\(.*\{len=.*$", trace, flags=re.MULTILINE)
    assert '"/etc/passwd"' in "".join(before)
    opened = re.findall(r'open(?:at)?\(.*?"(.*?)"', confined)
    assert "LCK..ttyS0" in " ".join(opened)
    assert [path for path in opened if path.startswith("/etc")] == []


def list_and_ask(rig: Rig) -> None:
    """Hold the port, list it, and be refused."""
    with client.connect(str(rig.socket)) as connection:
        held = connection.open("ttyS0")
        connection.ports()
        with pytest.raises(PortBusy):
            connection.open("ttyS0")
        os.close(held)


def test_a_reload_takes_names_that_are_new(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["nobody"]')
    daemon = rig.daemon()
    take(rig, NOBODY)
    reload(rig, daemon, "nobody", "daemon")
    take(rig, DAEMON)
    with pytest.raises(NotPermitted):
        take(rig, NOBODY)


@pytest.mark.parametrize(
    ("uid", "shown", "user"),
    [(NOBODY, "nobody (uid 65534)", "nobody"), (ALICE, f"uid {ALICE}", None)],
)
def test_a_client_shows_the_name_that_its_own_machine_has(
    rig: Rig, daemon: Daemon, uid: int, shown: str, user: str | None
) -> None:
    holder = rig.holder(uid)
    for wait, cause in ((None, "busy"), (0.1, "timed out")):
        with pytest.raises(BrokerError) as caught:
            open_fd("ttyS0", broker=str(rig.socket), wait=wait)
        assert str(caught.value).startswith(f"ttyS0: {cause}: held by {shown} with python")
    found = json.loads(command(rig, "list", "--json").stdout)[0]["holder"]
    assert (found["uid"], found["user"]) == (uid, user)
    assert f" {user or shown} python" in command(rig, "list").stdout
    holder.say()
    holder.result()


def test_a_client_that_shows_the_message_as_it_is_names_the_uid(rig: Rig, daemon: Daemon) -> None:
    """As those of version 1 do. Here is what they send and read, byte for byte."""
    holder = rig.holder(NOBODY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(rig.socket))
        sock.send(struct.pack("<BBHII", 1, wire.OPEN, 0, 0, 0) + b"ttyS0")
        answer = sock.recv(65536)
    fixed = struct.Struct("<BBHHBIIdH")
    version, kind, _, number, has_holder, uid, pid, _since, user = fixed.unpack_from(answer)
    assert (version, kind, number) == (1, wire.REFUSED, 16)  # EBUSY
    assert (has_holder, uid, pid, user) == (1, NOBODY, holder.pid, 0)
    texts = answer[fixed.size :]
    found = []
    while texts:
        size = int.from_bytes(texts[:2], "little")
        found.append(texts[2 : 2 + size].decode())
        texts = texts[2 + size :]
    program, how, message = found
    assert how == "lease"
    assert message == (
        f"ttyS0: busy: held by uid {NOBODY} with {program} (pid {holder.pid}); wait for it "
        "(wait=SECONDS in Python, --wait SECONDS on the command line), "
        "or have its holder or an admin take it back (ttybroker revoke)"
    )
    holder.say()
    holder.result()
