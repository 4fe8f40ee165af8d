"""A daemon without memory refuses what is new, goes on, and forgets no lease."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from functools import partial
from pathlib import Path

import pytest

from attack.floods import FLOODS, Flood
from support.children import Chat
from support.daemon import Daemon
from support.rig import Rig
from support.users import BOB, CAROL
from ttybroker import client, open_fd

pytestmark = pytest.mark.root

FLOODERS = 60301  # the first of them: ids that no account has
HELD = ("ttyS1", "ttyS2")


def size(daemon: Daemon) -> int:
    """Bytes of address space that it has: proc_pid_statm(5)."""
    pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def limit(daemon: Daemon, most: int) -> None:
    """Let it have so many bytes of address space from now on."""
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_AS)
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (most, hard))


# What each of some users does. Connections that do nothing take the most memory.
FLOOD = {
    "all": ("all",),
    "list": ("list",),
    "open": ("open", *4 * ("silent",)),
    "watch": ("watch", *2 * ("silent",), "all"),
}


@pytest.mark.parametrize("kind", FLOOD)
@pytest.mark.parametrize("more", [0, 0.5, 2])
def test_a_flood_on_a_daemon_without_memory_ends_neither_it_nor_a_lease(
    rig: Rig, more: float, kind: str
) -> None:
    """`more`: how many MiB it may have beyond what it has."""
    for name in ("ttyS0", *HELD):
        rig.port(name)
    daemon = rig.daemon()
    keeps, closes = (rig.holder(uid, name) for uid, name in zip((BOB, CAROL), HELD, strict=True))
    limit(daemon, size(daemon) + int(more * 2**20))
    floods = [rig.child(FLOODERS + number, partial(quietly, FLOODS[flood], rig))
              for number, flood in enumerate(FLOOD[kind])]  # fmt: skip
    time.sleep(1)  # of it: there is nothing to wait for
    closes.say()
    closes.result()
    time.sleep(0.5)
    assert daemon.process.poll() is None, daemon.output()
    for flood in floods:
        flood.kill()
    limit(daemon, resource.RLIM_INFINITY)
    for name in ("ttyS2", "ttyS0"):
        os.close(open_fd(name, broker=str(rig.socket), wait=10))
    with client.connect(str(rig.socket)) as connection:
        rows = {row.name: row for row in connection.ports()}
    assert rows["ttyS1"].state == "busy"
    keeps.say()
    keeps.result()
    assert daemon.stop() == 0


def quietly(flood: Flood, rig: Rig, chat: Chat) -> None:
    """In a child: flood until it is killed, or until the daemon has ended its connections."""
    with contextlib.suppress(OSError):
        flood(rig, chat)
