"""The daemon's child that asks the name service: it has no rights, and nobody depends on it."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from real.support import (
    ALICE,
    HERE,
    NOBODY,
    TIMEOUT,
    Chat,
    Child,
    Daemon,
    Rig,
    as_user,
    children,
    descriptors,
    name_of,
    python_path,
    wait_readable,
)
from real.systemd import Systemd
from ttybroker import NotPermitted, client, open_fd
from ttybrokerd.prepare import names, nameservice

pytestmark = pytest.mark.root

QUICK = "from ttybrokerd.prepare import names; names.PATIENCE = 1"


def take(rig: Rig, uid: int = ALICE) -> None:
    """Lease and give back."""
    as_user(uid, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5)))


def fields(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_it_is_nobody_and_has_nothing_of_the_brokers(rig: Rig, daemon: Daemon) -> None:
    now = fields(daemon.names)
    assert now["Uid"].split() == now["Gid"].split() == [str(NOBODY)] * 4
    assert now["Groups"] == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(now[name], 16) == 0, name
    assert now["NoNewPrivs"] == "1"
    assert os.getsid(daemon.names) == daemon.names
    opened = descriptors(daemon.names)
    null = [opened.pop(number) for number in (0, 1, 2)]
    assert null == ["/dev/null"] * 3
    assert [what.partition(":")[0] for what in opened.values()] == ["socket"]
    assert os.stat(f"/proc/{daemon.names}/mem").st_uid == 0  # not dumpable: not nobody's to trace


def test_names_are_known_by_it(rig: Rig, daemon: Daemon) -> None:
    take(rig, NOBODY)
    assert daemon.record("grant").fields["user"] == "nobody"
    take(rig, ALICE)
    assert daemon.record("grant").fields["user"] == ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_without_it_ports_are_leased_all_the_same(rig: Rig, how: signal.Signals) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    daemon = rig.daemon(hook=QUICK)
    os.kill(daemon.names, how)
    if how == signal.SIGKILL:
        with pytest.raises(ProcessLookupError):  # nobody leaves a zombie about
            for _ in range(500):
                os.kill(daemon.names, 0)
                time.sleep(0.01)
    take(rig)
    record = daemon.record("no-name", uid=ALICE)
    assert ("has ended" if how == signal.SIGKILL else "does not answer") in record.fields["reason"]
    assert daemon.record("grant").fields["user"] == ""
    good = rig.policy.read_text()
    rig.write_policy(good.replace(str(ALICE), '"daemon"'))
    os.kill(daemon.pid, signal.SIGHUP)
    reason = daemon.record("reload-failed").fields["reason"]
    assert "allow: 'daemon': " in reason and "the old policy stays" in reason
    take(rig)
    rig.write_policy(good.replace(str(ALICE), str(NOBODY)))  # a number needs no telling
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.record("reload")
    with pytest.raises(NotPermitted):
        take(rig)
    if how == signal.SIGSTOP:
        os.kill(daemon.names, signal.SIGCONT)


def test_after_a_pause_it_is_believed_again(rig: Rig) -> None:
    rig.port("ttyS0")
    daemon = rig.daemon(hook=QUICK)
    os.kill(daemon.names, signal.SIGSTOP)
    take(rig, NOBODY)
    daemon.record("no-name", uid=NOBODY)
    before = time.monotonic()
    take(rig, ALICE)  # an answer is owed: nobody waits for a second one
    daemon.record("no-name", uid=ALICE)
    assert time.monotonic() - before < 0.9
    os.kill(daemon.names, signal.SIGCONT)
    daemon.record("grant", uid=ALICE)
    end = time.monotonic() + 10
    named = ""
    while not named and time.monotonic() < end:  # it is asked anew by whoever comes
        take(rig, NOBODY)
        named = daemon.record("grant", uid=NOBODY).fields["user"]
    assert named == "nobody"


def test_a_slow_name_service_keeps_only_those_whom_it_does_not_know(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon()
    with client.connect(str(rig.socket)) as known:
        os.close(known.open("ttyS0"))
        os.kill(daemon.names, signal.SIGSTOP)
        waiting = rig.holder(NOBODY, "ttyS1", wait=20)
        for _ in range(50):
            os.close(known.open("ttyS0", wait=5))
        os.kill(daemon.names, signal.SIGCONT)
        waiting.hear()
        waiting.say()
        waiting.result()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_daemon(rig: Rig, number: signal.Signals) -> None:
    daemon = rig.daemon()
    assert name_of(daemon.names) == "ttybroker-names"
    os.kill(daemon.pid, number)
    daemon.wait()  # which waits for it too
    assert not os.path.exists(f"/proc/{daemon.names}")
    rig.socket.unlink(missing_ok=True)


# what systemd starts for it instead: ttybroker-names.socket

# As ttybroker.service does: no capability but those that are kept, so nothing can be cut or set,
# and uid 0 brings none, which is locked (include/uapi/linux/securebits.h). They came by the ambient
# set; and capset(2) is not there.
LOCKED = "from ttybrokerd.root import linux; linux.set_securebits(0x01 | 0x02 | 0x04 | 0x08 | 0x20)"
AMBIENT = """
prctl.set_caps((list(kept), (prctl.CAP_INHERITABLE,), True))
for number in kept:
    assert linux._libc.prctl(47, 2, number, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE, linux/prctl.h
prctl.set_caps = None
"""
BOUND = """
import prctl
kept = (prctl.CAP_SYS_ADMIN, prctl.CAP_DAC_OVERRIDE)
dropped = [number for number in prctl.ALL_CAPS if number not in kept]
for number in dropped:
    prctl.capbset_drop(number)
prctl.set_caps((dropped, (prctl.CAP_EFFECTIVE, prctl.CAP_PERMITTED), False))
"""


@pytest.fixture
def service(rig: Rig) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    path = rig.base / "names"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        try:
            yield listener
        finally:
            path.unlink()


def started(service: socket.socket) -> subprocess.Popen[bytes]:
    """The process that is started when somebody connects, as ttybroker-names@.service has it."""
    connection, _ = service.accept()
    with connection:
        return subprocess.Popen(
            ["/usr/bin/python3", "-ISB", nameservice.__file__],
            stdin=connection,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )


def test_with_systemds_it_needs_no_capability_but_those_it_keeps(
    rig: Rig, service: socket.socket
) -> None:
    rig.port("ttyS0", 'allow = ["nobody"]')
    rig.write_policy()
    daemon = rig.daemon(
        *rig.arguments, "--names", str(rig.base / "names"), hook=LOCKED + BOUND + AMBIENT
    )
    process = started(service)
    for name in ("CapPrm", "CapEff", "CapBnd", "CapInh"):
        assert int(fields(daemon.pid)[name], 16) == 1 << 21 | 1 << 1, name
    assert int(fields(daemon.pid)["CapAmb"], 16) == 0
    assert children(daemon.pid) == set()
    take(rig, NOBODY)
    assert daemon.record("grant").fields["user"] == "nobody"
    rig.write_policy(rig.policy.read_text().replace("nobody", "daemon"))
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.record("reload")
    take(rig, pwd.getpwnam("daemon").pw_uid)
    assert daemon.record("grant").fields["user"] == "daemon"
    assert daemon.stop() == 0
    assert process.wait(TIMEOUT) == 0


@pytest.fixture
def systemd(rig: Rig) -> Iterator[Systemd]:
    """It listens, and somebody waits there already."""
    rig.port("ttyS0")
    made = Systemd(rig)
    yield made
    for daemon in rig.daemons:
        daemon.stop()
    made.close()


def woken(rig: Rig, systemd: Systemd, uid: int, hook: str = "") -> tuple[Daemon, Child]:
    """A daemon that this user woke, whose names nobody will tell; and the holder."""
    holder = rig.holder(uid, wait=20)
    wait_readable(systemd.listener.fileno(), "somebody who wakes the daemon")
    daemon = systemd.start("--names", str(rig.base / "names"), hook=hook)
    return daemon, holder


def test_who_wakes_the_daemon_waits_for_no_other_process(
    rig: Rig, service: socket.socket, systemd: Systemd
) -> None:
    daemon, holder = woken(rig, systemd, NOBODY)
    holder.hear()
    assert daemon.record("grant").fields["user"] == "nobody"
    assert children(daemon.pid) == set()
    holder.say()
    holder.result()


def test_its_name_is_known_though_nobody_waits_for_children(rig: Rig) -> None:
    """The daemon ignores SIGCHLD by then: a child's pid may be another's as soon as it ended."""

    def run(_chat: Chat) -> list[str | None]:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return [names.name_while_starting(0) for _ in range(100)]

    assert rig.child(0, run).result() == ["root"] * 100


def test_a_name_service_that_hangs_while_it_starts_does_not_keep_it_from_starting(
    rig: Rig, service: socket.socket, systemd: Systemd
) -> None:
    hook = f"{QUICK}; names.STARTING = 0.1; import time; names.look_up = lambda *_: time.sleep(99)"
    daemon, holder = woken(rig, systemd, NOBODY, hook)
    daemon.record("no-name", uid=NOBODY)
    holder.hear()
    assert daemon.record("grant").fields["user"] == ""
    assert children(daemon.pid) == set()
    holder.say()
    holder.result()


def not_started(rig: Rig, hook: str = "") -> str:
    """What a daemon says that does not start."""
    rig.write_policy()
    command = [sys.executable, HERE / "run_daemon.py", f"--hook={hook}", "--", *rig.arguments]
    done = subprocess.run(
        [*command, "--names", rig.base / "names"],
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def test_without_systemds_socket_it_does_not_start_and_says_why(rig: Rig) -> None:
    said = not_started(rig)
    assert f"no name service at {rig.base}/names: No such file or directory" in said
    assert "ttybroker-names.socket" in said


def test_where_uid_0_may_bring_capabilities_back_it_does_not_start_and_says_why(
    rig: Rig, service: socket.socket
) -> None:
    assert "the securebits are 0x0, not 0x2f; is CAP_SETPCAP missing?" in not_started(rig, BOUND)
