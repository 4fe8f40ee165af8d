"""The list of system calls is what the root side makes: no more, or an entry must go."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from real.test_devices import Slow, ask_for
from real.test_restart import kept
from support.children import Orphan, as_user
from support.numbers import made_here, number_of
from support.processes import children, python_path
from support.rig import Rig
from support.systemd import Systemd
from support.users import ALICE, NOBODY
from support.waiting import IN_MOVED_TO, Watch
from ttybroker import PortBusy, client, open_fd
from ttybrokerd.prepare import syscalls
from ttybrokerd.prepare.syscalls import Call

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

# A pty is let go of as a real port is: its queue and its chip are asked.
DRAINS = """
from ttybrokerd.root import port
let_go = port.release
def release(held, *how):
    held.target = held.target.replace(pty=False)
    return let_go(held, *how)
port.release = release
"""
# Standard error is a socket, as under some supervisors.
SOCKET = """
import os, socket
ours, theirs = socket.socketpair()
os.dup2(theirs.fileno(), 2)
"""
FRONTEND = """
import os, sys
from ttybroker import client, open_fd
from ttybrokerd import init_backend
init_backend(policy=sys.argv[1], lock_dir=sys.argv[2], user="nobody")
with client.connection_for_child() as another:
    os.close(open_fd("ttyS0", broker=another))
"""

Seen = tuple[str, tuple[int | None, ...]]  # a call and those of its arguments that are numbers
LOADED = ("= 0", "<unfinished ...>")  # the second if another process's call came between
_call = re.compile(r"(\d+) +(\w+)\((.*)$")
_thread = re.compile(r"(\d+) +(?:<\.\.\. )?clone(?: resumed>.*|\(.*)= (\d+)$")


def calls(trace: str) -> set[Seen]:
    """What the threads of the confined process called, from its filter on."""
    lines = trace.splitlines()
    begin: dict[str, int] = {}  # the line from which on a thread is confined
    for at, line in enumerate(lines):
        match = _call.match(line)
        if match and match[2] == "seccomp" and "{len=" in line and line.endswith(LOADED):
            begin.setdefault(match[1], at + 1)
        elif (match := _thread.match(line)) and match[1] in begin:
            begin[match[2]] = 0  # it may have called something before its parent's call returned
    assert begin, "nothing was confined"
    matches = [(at, match) for at, line in enumerate(lines) if (match := _call.match(line))]
    return {(match[2], numbers(match[2], match[3]))
            for at, match in matches if at >= begin.get(match[1], len(lines))}  # fmt: skip


def numbers(name: str, rest: str) -> tuple[int | None, ...]:
    """The arguments that are plain numbers; strace names those of clone(2)."""
    if name == "clone":
        flags = re.search(r"flags=(0x[0-9a-f]+)", rest)
        return (int(flags[1], 16) if flags else None,)
    found: list[int | None] = []
    for part in re.split(r", |\)| <", rest)[:4]:
        text = "0" if part == "NULL" else part
        try:
            found.append(int(text, 0))
        except ValueError:
            found.append(None)
    return tuple(found)


def fits(call: Call, seen: Seen) -> bool:
    """Whether this entry is what permits that call."""
    name, arguments = seen
    return call.name == name and all(
        len(arguments) > need.argument
        and arguments[need.argument] is not None
        and arguments[need.argument] & need.mask == need.value  # type: ignore[operator]
        for need in call.needs
    )


def take(rig: Rig, name: str = "ttyS0") -> None:
    """Lease and give back."""
    os.close(open_fd(name, broker=str(rig.socket), wait=10))


def dead_pid() -> int:
    """The pid of a process that has ended."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    return dead.pid


def daily(rig: Rig) -> None:
    """A daemon's life: leases that end in every way, lists, locks, a reload, stuck devices."""
    rig.port("short", extra="max_lease = 0.2")
    (rig.locks / f".ttybroker.{dead_pid()}.{0:016x}").touch()  # a killed broker's: removed
    slow = Slow(rig, 3, DRAINS)
    take(rig)
    slow.daemon.settled()
    with open(rig.ports["ttyS0"].path, "r+b", 0) as other:  # in a line discipline, N_NULL
        fcntl.ioctl(other, termios.TIOCSETD, struct.pack("i", 27))
        take(rig)
    rig.lock().write_text(f"{dead_pid():10d}\n")  # stale: put aside, and taken
    take(rig)
    rig.lock().write_text(f"{os.getppid():10d}\n")  # and one of a live process
    with pytest.raises(PortBusy):
        open_fd("ttyS0", broker=str(rig.socket))
    rig.lock().unlink()
    with client.connect(str(rig.socket)) as connection:
        connection.ports()
        connection.status()
        held = connection.open("ttyS0")
        connection.ports(details=True)
        connection.revoke("ttyS0")
        os.close(held)
        Orphan(rig.child(NOBODY, lambda _chat: outlived(rig)).result()).wait()
        held = open_fd("short", broker=str(rig.socket), wait=10)
        slow.daemon.record("release", port="short")
        os.close(held)
    rig.write_policy()
    rig.reload(slow.daemon)
    rig.write_policy()
    os.kill(slow.daemon.pid, signal.SIGHUP)  # not prepared
    slow.daemon.record("reload-failed")
    for number in range(2):  # two threads are left behind, the main one first
        rig.child(ALICE, ask_for(rig, number))
        slow.stuck(1)
        as_user(NOBODY, (), lambda: take(rig))
    slow.let_go()
    for child in rig.children[-2:]:
        child.result()
    as_user(NOBODY, (), lambda: take(rig))
    slow.close()
    slow.daemon.stop()


def outlived(rig: Rig) -> int:
    """Hold a port, and end while a child still has it: the broker signs the lock, which the child
    waits for. Its pid."""
    open_fd("ttyS0", broker=str(rig.socket), wait=10)
    with Watch(rig.locks) as watch:
        if (child := os.fork()) == 0:
            watch.wait("LCK..ttyS0", IN_MOVED_TO)
            os._exit(0)
    return child


def started_again(rig: Rig) -> None:
    """A lease is kept by systemd, and the next daemon goes on with it."""
    systemd = Systemd(rig)
    first = systemd.start()
    held = open_fd("ttyS0", broker=str(rig.socket))
    with client.connect(str(rig.socket)) as connection:
        connection.ports()
    kept(systemd, rig)
    first.kill()
    systemd.hear()
    second = systemd.start()
    second.record("adopt")
    os.close(held)
    second.record("release")
    second.stop()
    systemd.close()


def logs_to_a_socket(rig: Rig) -> None:
    daemon = rig.daemon(hook=SOCKET)
    take(rig)
    daemon.stop()


def forked(rig: Rig) -> None:
    """A frontend with a backend of its own, and a further connection to it."""
    command = [*rig.tracer(), sys.executable, "-c", FRONTEND, str(rig.policy), str(rig.locks)]
    known = children()
    subprocess.run(command, check=True, env={**os.environ, **python_path()}, capture_output=True)
    for pid in children() - known:  # the backend, which ends by itself, and strace
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


@pytest.fixture
def seen(rig: Rig) -> Iterator[set[Seen]]:
    """All that is called in all of that."""
    rig.traces = []
    rig.port("ttyS0")
    for part in (daily, started_again, logs_to_a_socket, forked):
        part(rig)
    yield set().union(*map(calls, rig.traced()))


def test_every_entry_is_called_and_every_call_has_an_entry(seen: set[Seen]) -> None:
    there = [call for call in syscalls.CALLS if number_of(call.name) >= 0]
    absent = (syscalls.ABSENT, "restart_syscall")
    unlisted = {one[0] for one in seen if not any(fits(call, one) for call in there)}
    assert unlisted - set(absent) == set()
    expected = [call for call in there if not call.unseen and made_here(call)]
    idle = [call for call in expected if not any(fits(call, one) for one in seen)]
    assert [f"{call.name}: {call.why}" for call in idle] == []
