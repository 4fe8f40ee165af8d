"""A held port's line in lists, seen through the broker's descriptor, not touched."""

from __future__ import annotations

import json
import re
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest

from support.children import Chat, Child, as_user
from support.command import TTYBROKER, command, environment
from support.daemon import Daemon
from support.processes import descriptors
from support.rig import Rig
from support.users import ALICE, BOB, CAROL
from support.waiting import TIMEOUT, read_until
from ttybroker import client, wire

pytestmark = pytest.mark.root


@pytest.fixture
def holder(rig: Rig) -> Iterator[Child]:
    """Alice has ttyS0, at 9600 8N2 with software flow control; carol is an admin."""
    rig.admins = f"[{CAROL}]"
    rig.port("ttyS0")
    rig.port("ttyS1")
    rig.daemon()

    def hold(chat: Chat) -> None:
        with client.connect(str(rig.socket)) as connection:
            descriptor = connection.open("ttyS0")
            found = termios.tcgetattr(descriptor)
            found[0] = termios.IXON
            found[2] = termios.CS8 | termios.CSTOPB | termios.CREAD
            found[4] = found[5] = termios.B9600
            termios.tcsetattr(descriptor, termios.TCSANOW, found)
            chat.say()
            chat.hear()

    child = rig.child(ALICE, hold)
    child.hear()
    yield child
    child.say()
    child.result()


def facts(rig: Rig, uid: int) -> dict[str, dict[int, int]]:
    """What this user is told of each port."""

    def ask() -> dict[str, dict[int, int]]:
        with client.connect(str(rig.socket)) as connection:
            return {port.name: dict(port.facts) for port in connection.ports(details=True)}

    return as_user(uid, (), ask)


def test_the_holder_root_and_admins_are_told_of_the_line_and_nobody_else(
    rig: Rig, holder: Child
) -> None:
    for uid in (ALICE, CAROL):
        told = facts(rig, uid)
        assert told["ttyS1"] == {}
        assert told["ttyS0"][wire.SPEED] == 9600
        assert told["ttyS0"][wire.CFLAG] & termios.CSTOPB
        assert told["ttyS0"][wire.IFLAG] & termios.IXON
    with client.connect(str(rig.socket)) as connection:
        assert connection.ports(details=True)[0].facts
        assert not connection.ports()[0].facts  # not asked for
    assert facts(rig, BOB) == {"ttyS0": {}, "ttyS1": {}}


LINE = "  9600 8N2, soft flow control"  # a pty has no more


def test_it_is_shown_below_the_port_where_it_is_asked_for_and_in_json(
    rig: Rig, holder: Child
) -> None:
    def list_(*words: str) -> str:
        return command(rig, "list", *words).stdout

    lines = list_("--details").splitlines()
    assert re.match(r"ttyS0 +busy ", lines[1])
    assert lines[2] == LINE
    assert re.match(r"ttyS1 +free ", lines[3]) and len(lines) == 4
    assert [line.split()[0] for line in list_().splitlines()] == ["PORT", "ttyS0", "ttyS1"]
    for words in (["--json"], ["--json", "--details"]):
        rows = json.loads(list_(*words))
        assert [row["line"] and row["line"]["frame"] for row in rows] == ["8N2", None]
        assert ["is" in row for row in rows] == ["--details" in words] * 2


def test_who_watches_sees_it_too(rig: Rig, holder: Child) -> None:
    """In the table and in JSON, without --details."""

    def seen(text: bytes, *words: str) -> None:
        """Wait for it: the first list may come before the broker has looked at the line."""
        with subprocess.Popen(
            [*TTYBROKER, "list", "--watch", *words],
            env=environment(rig), stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                read_until(process.stdout.fileno(), text)
            finally:
                process.terminate()

    seen(f"\n{LINE}\n".encode())
    seen(b'"line": {"speed": 9600, "frame": "8N2"', "--json")


def test_looks_leave_nothing_behind_and_the_port_as_it_is(rig: Rig, holder: Child) -> None:
    daemon: Daemon = rig.daemons[0]
    with client.connect(str(rig.socket)) as connection:
        connection.ports()  # accepted, and so counted
        before = len(descriptors(daemon.pid))
        for _ in range(50):
            assert connection.ports(details=True)[0].facts
        end = time.monotonic() + TIMEOUT
        while len(descriptors(daemon.pid)) > before:  # it may close what the last look opened
            assert time.monotonic() < end, descriptors(daemon.pid)
        assert connection.ports()[0].state == "busy"
