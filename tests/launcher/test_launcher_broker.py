"""Whose broker `ttyrun` uses: the daemon's where one listens, else a bounded one of its own."""

from __future__ import annotations

import contextlib
import grp
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.test_launcher_whole import (
    DEADLINE,
    TALK,
    Port,
    children,
    orphans,
    port,
    processes,
    replace,
    wait_end,
)
from support.daemon import Daemon
from support.fixtures import rig
from support.processes import name_of
from support.rig import Rig
from ttybroker import client
from ttybroker.run.command import NOBODY_ASKS

__all__ = ["orphans", "port", "rig"]

pytest.importorskip("prctl", reason="python-prctl is copied by the install: extra `broker`")
pytestmark = pytest.mark.root

KEEP = "exec 5<>{0}; sleep 99 5>&5 & echo up >&5; exit 0"  # ends, and a child keeps the port
HOLD = "exec 5<>{0}; echo up >&5; read line <&5"


UNDO = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
parent = os.getpid()
if os.fork() == 0:
    fcntl.flock(fd, fcntl.LOCK_UN)
    fcntl.ioctl(fd, 0x540D)  # TIOCNXCL
    while os.getppid() == parent: pass
    os.write(fd, b"up")
    while os.read(fd, 1): pass
"""


@pytest.fixture
def place(port: Port, rig: Rig) -> Iterator[Rig]:
    """Where a daemon can listen for this `ttyrun`, with the same policy and lock directory."""
    base = port.launcher.base
    rig.policy, rig.socket, rig.locks = base / "policy.toml", base / "socket", port.locks
    yield rig
    for pid in children() - {daemon.pid for daemon in rig.daemons}:
        wait_end(pid)


def allow(port: Port, who: object, more: str = "") -> None:
    """The only rule of the policy."""
    device = f'port = "demo"\ndevice = "{port.node}"\nclass = "pty"\n'
    (port.launcher.base / "policy.toml").write_text(f"[[rule]]\n{device}allow = [{who}]\n{more}")


def listening(place: Rig) -> Daemon:
    """A daemon with the policy that is there."""
    return place.daemon(*place.arguments)


def called(program: str) -> int:
    """Our child that has, or gets, this name."""
    end = time.monotonic() + DEADLINE
    while not (found := [pid for pid in children() if name_of(pid) == program]):
        assert time.monotonic() < end, f"no {program}"
    (pid,) = found
    return pid


def roots() -> set[int]:
    """Our children that are root's, by any of their uids."""
    found = set()
    for pid in children():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        uids = next(line for line in lines if line.startswith("Uid:")).split()[1:]
        if "0" in uids:
            found.add(pid)
    return found


def refusal(port: Port, *words: str) -> bytes:
    """What it says when it starts nothing, or no port for what it starts."""
    with port.start(*words, "--", "/bin/sh", "-c", HOLD) as process:
        try:
            _, error = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError("it has the port") from None
    assert process.returncode not in (0, None), error
    return error


def test_where_a_daemon_listens_the_lease_is_the_daemons(port: Port, place: Rig) -> None:
    """It knows the caller with all his groups, and revoke works."""
    port.launcher.group = grp.getgrnam("dialout").gr_gid
    allow(port, '"@dialout"')
    daemon = listening(place)
    before = roots()
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        assert roots() == before  # no root process of its own
        with client.connect(str(place.socket)) as broker:
            (row,) = broker.ports(("demo",))
            assert row.holder is not None and row.holder.how == "lease"
            assert (row.holder.uid, row.holder.pid) == (port.launcher.uid, process.pid)
            broker.revoke("demo")
        process.wait(DEADLINE)
    daemon.record("release", port="demo", reason="revoked")


def test_it_waits_in_the_daemons_queue(port: Port, place: Rig) -> None:
    listening(place)
    with port.start("demo", "--", "/bin/sh", "-c", HOLD) as first:
        port.expect(b"up")
        port.seen = b""
        with port.start("--wait", "30", "demo", "--", "/bin/sh", "-c", TALK) as second:
            with client.connect(str(place.socket)) as broker:
                while not broker.ports(("demo",))[0].waiting:
                    assert second.poll() is None
            port.say(b"\n")
            assert first.wait(DEADLINE) == 0
            port.expect(b"up")
            port.say(b"x\n")
            assert second.wait(DEADLINE) == 7


def test_without_a_daemon_nothing_is_lent_and_one_line_says_so(port: Port) -> None:
    """Then the program needs no pty, and has the port itself."""
    program = ("/bin/sh", "-c", "exec 5<>{0}; tty <&5")
    words = [word.format(port.node) for word in ("--yield", "demo", "--", *program)]
    done = port.launcher.run(*words)
    assert (done.returncode, done.stdout) == (0, f"{port.node}\n")
    lines = [line for line in done.stderr.splitlines() if line.startswith("ttyrun: ")]
    assert lines == [f"ttyrun: --yield lends nothing here: {NOBODY_ASKS}"]


def test_with_a_daemon_it_lends(port: Port, place: Rig) -> None:
    listening(place)
    words = ("--yield", "demo", "--", "/bin/sh", "-c", "exec 5<>{0}; echo up >&5; read line <&5")
    with port.start(*words) as process:
        port.expect(b"up")
        borrower = place.holder(port.launcher.uid, "demo")
        borrower.say()
        borrower.result()
        with client.connect(str(place.socket)) as broker:
            while broker.ports(("demo",))[0].lent is not None:
                assert process.poll() is None
        end = time.monotonic() + DEADLINE
        while process.poll() is None:  # what comes while the port is set up again is thrown away
            assert time.monotonic() < end
            port.say(b"x\n")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert process.returncode == 0
        assert process.stderr is not None and b"lends nothing" not in process.stderr.read()


def test_the_daemon_is_not_asked_as_root(port: Port, place: Rig) -> None:
    allow(port, '"root"')
    daemon = listening(place)
    assert b"not permitted" in refusal(port, "demo")
    assert "event=grant" not in daemon.output()


def test_nobody_is_asked_as_root_whoever_listens(port: Port) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(port.launcher.base / "socket"))
        listener.listen()
        listener.settimeout(DEADLINE)
        os.chmod(port.launcher.base / "socket", 0o666)
        port.launcher.run("--version")
        asker, _ = listener.accept()
        uid = asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8]
        asker.close()
        assert int.from_bytes(uid, sys.byteorder) == port.launcher.uid


def test_a_daemon_that_is_gone_is_no_daemon(port: Port, place: Rig) -> None:
    listening(place).kill()
    assert (port.launcher.base / "socket").exists()
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        backend, _ = processes(port, process)
        port.say(b"x\n")
        assert process.wait(DEADLINE) == 7
    wait_end(backend)


def test_alone_it_refuses_a_rule_with_a_time_limit(port: Port, place: Rig) -> None:
    allow(port, port.launcher.uid, "max_lease = 60\n")
    error = refusal(port, "demo")
    assert error.count(b"\n") == 1 and b"max_lease" in error and b"ttybroker.socket" in error
    assert b"max_lease" in refusal(port)  # not named, so asked at its open
    listening(place)
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        port.say(b"x\n")
        assert process.wait(DEADLINE) == 7


def test_its_root_processes_are_counted_for_each_caller(port: Port) -> None:
    """Also one whose `ttyrun` has ended, while somebody keeps the port."""
    launcher = port.launcher
    replace(launcher.code / "ttybrokerd/allowance.py", "MOST = 32", "MOST = 2")
    with port.start("demo", "--", "/bin/sh", "-c", KEEP) as process:
        port.expect(b"up")
        assert process.wait(DEADLINE) == 0
    (kept,), keeper = roots(), called("sleep")
    with launcher.popen("demo", "--", "/bin/cat", stdin=subprocess.PIPE) as second:
        while len(roots()) < 2:
            assert second.poll() is None
        assert launcher.run("--version", uid=launcher.uid + 1).returncode == 0
        line = "ttyrun: the broker did not start: 2 of your brokers have or want a port already"
        refused = launcher.run("--version")
        assert (refused.returncode, refused.stderr) == (1, f"{line}; end some of them first\n")
        os.kill(keeper, signal.SIGKILL)
        wait_end(keeper)
        wait_end(kept)
        assert launcher.run("--version").returncode == 0
        second.communicate(timeout=DEADLINE)


def test_a_caller_with_gid_0_gets_his_port(port: Port) -> None:
    port.launcher.gid = 0
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        port.say(b"x\n")
        assert process.wait(DEADLINE) == 7


def test_what_outlived_its_root_half_is_hung_up_before_the_next_has_the_port(port: Port) -> None:
    """A root half lies in its caller's cgroup, where he can kill it. Then he may keep the port and
    undo its locks."""
    with port.start("demo", "--", "/usr/bin/python3", "-c", UNDO, "{0}") as process:
        port.expect(b"up")
        assert process.wait(DEADLINE) == 0
    (backend,), keeper = roots(), called("python3")
    os.kill(backend, signal.SIGKILL)
    wait_end(backend)
    port.seen = b""
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        wait_end(keeper)  # it has read the end
        port.say(b"x\n")
        port.expect(b"got x")
        assert process.wait(DEADLINE) == 7
