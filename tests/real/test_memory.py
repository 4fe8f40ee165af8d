"""A daemon without memory refuses what is new, goes on, and forgets no lease."""

from __future__ import annotations

import contextlib
import os
import resource
from functools import partial
from pathlib import Path

import pytest

from attack.floods import FLOODS, Flood
from support.children import Chat
from support.daemon import Daemon
from support.rig import Rig
from support.users import BOB, CAROL
from support.waiting import wait_readable
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


# Writes a byte to a pipe each time that there is no memory for anything, or for a further thread.
TELL = """
import os
from ttybrokerd.root import memory, workers
def tell(of, name):
    ask = getattr(of, name)
    def asked(*what):
        had = ask(*what)
        if not had:
            try:
                os.write({}, b"!")
            except OSError:  # it is full, or nobody reads any more
                pass
        return had
    setattr(of, name, asked)
tell(memory.Memory, "room")
tell(workers.Workers, "_start")
"""


class Short:
    """A daemon with `hook` tells each time that it lacks something."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.hook = TELL.format(self.write)

    def __enter__(self) -> Short:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._read)
        os.close(self.write)

    def wait(self, times: int) -> None:
        """Wait until it has told so many times more."""
        while times > 0:
            wait_readable(self._read, f"a want of memory, {times} times")
            times -= len(os.read(self._read, 4096))


# What each of some users does. Connections that do nothing take the most memory.
FLOOD = {
    "all": ("all",),
    "list": ("list",),
    "open": ("open", *4 * ("silent",)),
    "watch": ("watch", *2 * ("silent",), "all"),
}
# (flood, MiB that the daemon may have beyond what it has, how often it is to lack something)
CASES = [
    ("all", 0, 50),
    ("all", 0.5, 50),
    ("list", 0, 4),  # a thread is all that it lacks at times, tried again four times a second
    ("list", 0.5, 4),
    ("open", 0, 50),
    ("open", 0.5, 50),
    ("watch", 0, 10),
    ("watch", 0.5, 50),
]


@pytest.mark.parametrize(("kind", "more", "often"), CASES)
def test_a_flood_on_a_daemon_without_memory_ends_neither_it_nor_a_lease(
    rig: Rig, kind: str, more: float, often: int
) -> None:
    for name in ("ttyS0", *HELD):
        rig.port(name)
    with Short() as short:
        daemon = rig.daemon(hook=short.hook, pass_fds=(short.write,))
        keeps, closes = (
            rig.holder(uid, name) for uid, name in zip((BOB, CAROL), HELD, strict=True)
        )
        limit(daemon, size(daemon) + int(more * 2**20))
        floods = [rig.child(FLOODERS + number, partial(quietly, FLOODS[flood], rig))
                  for number, flood in enumerate(FLOOD[kind])]  # fmt: skip
        short.wait(often)
        closes.say()
        closes.result()
        short.wait(often)
    assert daemon.process.poll() is None, daemon.output()
    for flood in floods:
        flood.kill()
    limit(daemon, resource.RLIM_INFINITY)
    for name in ("ttyS2", "ttyS0"):
        os.close(open_fd(name, broker=str(rig.socket), wait=10))
    with client.connect(str(rig.socket)) as connection:
        rows = {row.name: row for row in connection.ports()}
    assert rows["ttyS1"].state == "busy", daemon.output()
    keeps.say()
    keeps.result()
    assert daemon.stop() == 0


def quietly(flood: Flood, rig: Rig, chat: Chat) -> None:
    """In a child: flood until it is killed, or until the daemon has ended its connections."""
    with contextlib.suppress(OSError):
        flood(rig, chat)
