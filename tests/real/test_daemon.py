"""The daemon's own life: its start and what stops that, its socket, its signals, its death."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Callable
from pathlib import Path

import pytest

from support.children import Chat, Child, as_user
from support.daemon import RUN_DAEMON, Daemon
from support.processes import accounts, python_path
from support.rig import Rig, lock_text
from support.users import ALICE, BOB, NOBODY
from ttybroker import BrokerError, BrokerUnavailable, NotPermitted, PortBusy, client, open_fd
from ttybroker.version import VERSION
from ttybrokerd.daemon import PAUSE, main

pytestmark = pytest.mark.root


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ttybrokerd to its end, as the command is."""
    return subprocess.run(
        [sys.executable, "-m", "ttybrokerd.daemon", *arguments],
        env={**os.environ, **python_path(), "NO_COLOR": "1", **env},
        capture_output=True,
        text=True,
        timeout=20,
    )


def refused(rig: Rig, why: str, *arguments: str, **env: str) -> None:
    """It does not start: status 1 and one line that says why."""
    done = command(*(arguments or rig.arguments), **env)
    assert done.returncode == 1, done
    assert done.stderr.startswith("ttybrokerd: ") and done.stderr.count("\n") == 1, done.stderr
    assert why in done.stderr


def take(rig: Rig, name: str = "ttyS0") -> None:
    """Lease a port and give it back."""
    os.close(open_fd(name, broker=str(rig.socket), wait=5))


# the socket


def test_a_dead_daemons_socket_is_replaced(rig: Rig) -> None:
    rig.port("ttyS0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(rig.socket))
    rig.daemon()
    as_user(NOBODY, (), lambda: take(rig))


def test_a_live_daemons_socket_is_refused_and_it_lives_on(rig: Rig, daemon: Daemon) -> None:
    refused(rig, "already")
    as_user(NOBODY, (), lambda: take(rig))


def test_a_daemon_ends_well_and_leaves_the_socket_of_another_in_its_place(
    rig: Rig, daemon: Daemon
) -> None:
    rig.socket.unlink()
    second = rig.daemon()
    assert daemon.stop() == 0
    as_user(NOBODY, (), lambda: take(rig))
    rig.socket.unlink()
    assert second.stop(settled=False) == 0
    assert not rig.socket.exists()


def test_a_path_that_is_too_long_for_a_socket_is_said_as_that(rig: Rig) -> None:
    rig.write_policy()
    path = f"{rig.base}/{'x' * 100}"
    arguments = [path if word == str(rig.socket) else word for word in rig.arguments]
    refused(rig, f"cannot listen at {path}: AF_UNIX path too long", *arguments)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_another_programs_live_socket_is_left_alone(rig: Rig, kind: socket.SocketKind) -> None:
    rig.write_policy()
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(rig.socket))
        if kind == socket.SOCK_STREAM:
            other.listen()
        inode = rig.socket.lstat().st_ino
        refused(rig, str(rig.socket))
        assert rig.socket.lstat().st_ino == inode
    rig.socket.unlink()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda p: p.symlink_to("/dev/null")])
def test_what_is_no_socket_is_left_alone(rig: Rig, make: Callable[[Path], None]) -> None:
    rig.write_policy()
    make(rig.socket)
    inode = rig.socket.lstat().st_ino
    refused(rig, "no socket")
    assert rig.socket.lstat().st_ino == inode
    rig.socket.rmdir() if rig.socket.is_dir() else rig.socket.unlink()


def test_systemds_socket_is_served_and_left_where_it_is(rig: Rig) -> None:
    rig.port("ttyS0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(rig.socket))
        os.chmod(rig.socket, 0o666)
        listener.listen()

        number = listener.fileno()
        hook = f"import os; os.dup2({number}, 3); {number} == 3 or os.close({number}); "
        hook += "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')"
        daemon = rig.daemon(hook=hook, pass_fds=(number,))
        as_user(NOBODY, (), lambda: take(rig))
        assert daemon.stop() == 0
        assert rig.socket.is_socket()
    rig.socket.unlink()


def test_it_says_ready_and_stopping_to_systemd(rig: Rig) -> None:
    rig.write_policy()
    address = str(rig.base / "systemd")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        daemon = rig.daemon()
        assert "READY=1" in daemon.notified and f"MAINPID={daemon.pid}" in daemon.notified
        assert daemon.stop() == 0
        systemd.bind(address)
        process = subprocess.Popen(
            [sys.executable, "-m", "ttybrokerd.daemon", *rig.arguments],
            env={**os.environ, **python_path(), "NOTIFY_SOCKET": address},
            stderr=subprocess.DEVNULL,
        )
        systemd.settimeout(15)
        assert systemd.recv(4096).startswith(b"READY=1")
        process.terminate()
        assert systemd.recv(4096) == b"STOPPING=1"
        assert process.wait(15) == 0
    os.unlink(address)


# what it gives up


def test_what_is_left_of_root_when_it_serves(rig: Rig, daemon: Daemon) -> None:
    as_user(NOBODY, (), lambda: take(rig))
    for fields in accounts(daemon.pid):
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(fields[name], 16) == 1 << 21 | 1 << 1, name
        assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert fields["Umask"] == "0077"
    assert os.getsid(daemon.pid) == daemon.pid
    assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]

    def trace() -> None:
        with pytest.raises(PermissionError):
            os.listdir(f"/proc/{daemon.pid}/fd")

    as_user(NOBODY, (), trace)


# its end


def hold_across(rig: Rig) -> Child:
    """A holder that writes and reads when it is told to, then closes."""

    def hold(chat: Chat) -> None:
        descriptor = open_fd("ttyS0", broker=str(rig.socket))
        os.set_blocking(descriptor, True)
        tty.setraw(descriptor)
        chat.say()
        while chat.hear() == "again":
            got = b""
            while len(got) < 4:
                got += os.read(descriptor, 4 - len(got))
            chat.say(got)
            os.write(descriptor, b"pong")
        os.close(descriptor)

    child = rig.child(NOBODY, hold)
    child.hear()
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_holder_loses_nothing_by_the_brokers_end_and_the_next_one_sees_it(
    rig: Rig, daemon: Daemon, number: signal.Signals
) -> None:
    far = rig.ports["ttyS0"]
    holder = hold_across(rig)
    far.write(b"pi")  # on the way while the broker ends
    daemon.process.send_signal(number)
    status = daemon.wait()
    assert status == (-number if number == signal.SIGKILL else 0)
    assert rig.socket.exists() == (number == signal.SIGKILL)
    assert rig.lock().read_bytes() == lock_text(holder.pid)
    far.write(b"ng")
    holder.say("again")
    assert holder.hear() == b"ping"
    assert far.read(4) == b"pong"

    rig.expected_locks.add("LCK..ttyS0")  # of a live process: the new one finds it
    again = rig.daemon(*rig.arguments)
    with pytest.raises(PortBusy) as caught:
        as_user(ALICE, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
    found = caught.value.holder
    assert found is not None and (found.uid, found.pid) == (NOBODY, holder.pid)
    with client.connect(str(rig.socket)) as connection:
        rows = {port.name: port for port in connection.ports()}
    assert rows["ttyS0"].state == "busy"
    assert rows["ttyS0"].holder is not None and rows["ttyS0"].holder.pid == holder.pid
    holder.say("enough")
    holder.result()
    rig.ports["ttyS0"].forget_exclusive()
    as_user(ALICE, (), lambda: take(rig))
    again.record("release", port="ttyS0", uid=ALICE)
    assert not rig.lock().exists()
    rig.expected_locks.clear()


def test_it_ends_at_once_although_a_port_is_held(rig: Rig, daemon: Daemon) -> None:
    rig.expected_locks.add("LCK..ttyS0")
    holder = rig.holder(NOBODY)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=1) == 0
    holder.say()
    holder.result()


def test_who_waits_hears_of_its_end(rig: Rig, daemon: Daemon) -> None:
    rig.expected_locks.add("LCK..ttyS0")
    holder = rig.holder(NOBODY)
    waiting = rig.holder(ALICE, wait=30)
    with client.connect(str(rig.socket)) as connection:
        while not any(port.waiting for port in connection.ports()):
            pass
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait()
    with pytest.raises(BrokerUnavailable):
        waiting.result()
    holder.say()
    holder.result()


# the policy

PTY = '[[rule]]\nport = "{}"\ndevice = "{}"\nclass = "pty"\n{}\n'


def test_a_reload_takes_the_new_plan_and_a_bad_policy_changes_nothing(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    daemon = rig.daemon()
    held = rig.holder(ALICE)
    with pytest.raises(NotPermitted):
        as_user(BOB, (), lambda: take(rig))
    good = rig.policy.read_text()
    for bad in (good.replace("allow", "alow"), "not TOML", ""):
        rig.write_policy(bad)
        if not bad:
            os.chmod(rig.policy, 0o666)
        done = rig.prepare()
        assert done.returncode == 1 and done.stderr.startswith(f"{rig.policy}:"), done
        daemon.process.send_signal(signal.SIGHUP)
        assert "`ttybrokerd --prepare` first" in daemon.record("reload-failed").fields["reason"]
        with pytest.raises(NotPermitted):
            as_user(BOB, (), lambda: take(rig))
    rig.write_policy(good.replace(str(ALICE), str(BOB)))
    rig.reload(daemon)
    with pytest.raises(PortBusy):  # a lease is a lease
        as_user(BOB, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
    held.say()
    held.result()
    as_user(BOB, (), lambda: take(rig))
    with pytest.raises(NotPermitted):
        as_user(ALICE, (), lambda: take(rig))


EARLY_HUP = """
import os, signal
from ttybrokerd import daemon
listening = daemon._own_session
daemon._own_session = lambda: (os.kill(os.getpid(), signal.SIGHUP), listening())
"""


def test_sighup_as_soon_as_it_listens_is_a_reload_and_not_its_end(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["*"]')
    daemon = rig.daemon(hook=EARLY_HUP)
    daemon.record("reload")
    as_user(BOB, (), lambda: take(rig))


# As installed. It says when signals are blocked, and whether anything was loaded before that.
AS_INSTALLED = """
import os, sys, _signal
sys.path[:0] = {paths!r}
from ttybrokerd.entry import main
block = _signal.pthread_sigmask
def mark(*them):
    old = block(*them)
    os.write(1, b"late" if "ttybrokerd.daemon" in sys.modules else b"early")
    return old
_signal.pthread_sigmask = mark
sys.exit(main())
"""


@pytest.mark.parametrize("after", [0, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3])
def test_sighup_at_any_moment_of_the_start_is_not_its_end(rig: Rig, after: float) -> None:
    rig.write_policy()
    code = AS_INSTALLED.format(paths=python_path()["PYTHONPATH"].split(":"))
    address = str(rig.base / "systemd")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, subprocess.Popen(
        [sys.executable, "-IB", "-c", code, *rig.arguments],
        env={**os.environ, "NOTIFY_SOCKET": address}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        systemd.bind(address)
        systemd.settimeout(15)
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 5) == b"early"
        time.sleep(after)
        process.send_signal(signal.SIGHUP)
        assert systemd.recv(4096).startswith(b"READY=1")
        process.terminate()
        assert process.wait(15) == 0
    os.unlink(address)


SLOW_RELOAD = """
import time
from ttybrokerd import start
read = start.read_again
start.read_again = lambda *them: (time.sleep(0.2), read(*them))[1]
"""


def test_many_signals_are_one_reload_and_keep_no_end_waiting(rig: Rig) -> None:
    """An administrator's script in a loop, and then `systemctl stop`."""
    rig.port("ttyS0")
    daemon = rig.daemon(hook=SLOW_RELOAD)
    for _ in range(40):  # in about two of its reloads
        os.kill(daemon.pid, signal.SIGHUP)
        time.sleep(0.01)
    assert daemon.stop(settled=False) == 0
    assert 0 < daemon.output().count("reload ") <= 10


def serves_the_mistake(rig: Rig, why: str) -> None:
    """A daemon starts with this policy, and refuses everything with its mistake."""
    daemon = rig.daemon(*rig.arguments)
    asks: tuple[Callable[[client.Client], object], ...] = (
        lambda broker: broker.open("ttyS0"),
        lambda broker: broker.ports(),
        lambda broker: broker.check("ttyS0"),
        lambda broker: broker.revoke("ttyS0"),
    )
    with client.connect(str(rig.socket)) as broker:
        for ask in asks:
            with pytest.raises(NotPermitted, match="to correct it") as refusal:
                ask(broker)
            assert f"the policy cannot be used: {rig.policy}:" in str(refusal.value)
            assert why in str(refusal.value)
    assert why in daemon.record("policy").fields["reason"]
    assert daemon.stop(settled=False) == 0
    assert not list(rig.base.glob("plan.*"))


def test_a_policy_that_others_may_change_permits_nothing(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    os.chmod(rig.policy, 0o666)
    serves_the_mistake(rig, "others than root may write (mode 666); install it as /etc/ttybroker")
    os.chmod(rig.policy, 0o644)
    os.chown(rig.policy, ALICE, 0)
    serves_the_mistake(rig, f"owned by uid {ALICE}")
    os.chown(rig.policy, 0, 0)
    rig.policy.unlink()
    serves_the_mistake(rig, "No such file")
    rig.policy.mkdir()
    serves_the_mistake(rig, "not a regular file")
    rig.policy.rmdir()


def test_a_bad_policy_is_served_as_its_mistake(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy('[[rule]]\nport = "ttyS*"\nallow = ["*"]\nconsole = 1\n')
    serves_the_mistake(rig, "policy.toml:4: console: must be true or false")


def test_a_deny_of_a_name_that_nobody_knows_denies_everybody_that_port_alone(rig: Rig) -> None:
    rig.port("ttyS0", 'deny = ["no-such-user"]')
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon()
    unknown = f"{rig.policy}:6: deny: no such user: 'no-such-user'"
    assert daemon.record("policy").fields["reason"] == (
        f"{unknown}; everybody is denied until it is known"
    )
    for uid in (0, ALICE):
        with pytest.raises(NotPermitted, match="denies a user or group that is not known here"):
            as_user(uid, (), lambda: take(rig))
    os.close(open_fd("ttyS1", broker=str(rig.socket)))
    done = rig.prepare()
    must = "a deny must name one that is known"
    assert (done.returncode, done.stderr) == (1, f"{unknown}; {must}\n")
    rig.write_policy(rig.policy.read_text().replace("no-such-user", "daemon"))
    rig.reload(daemon)
    as_user(ALICE, (), lambda: take(rig))
    daemon.record("release", port="ttyS0")


def test_a_drop_in_is_taken_by_a_reload_and_a_bad_one_changes_nothing(rig: Rig) -> None:
    pty = rig.port("ttyS0")
    daemon = rig.daemon()
    drop_ins = rig.base / "policy.d"
    drop_ins.mkdir()
    gps = drop_ins / "50-gps.toml"
    try:
        gps.write_text(PTY.format("gps", pty.path, f"allow = [{ALICE}]"))
        rig.reload(daemon)
        as_user(ALICE, (), lambda: take(rig, "gps"))
        grant = daemon.record("grant", port="gps")
        assert grant.fields["rule"] == "gps (50-gps.toml, line 1)"
        with pytest.raises(NotPermitted, match="no rule of the policy allows you this port"):
            as_user(BOB, (), lambda: take(rig, "gps"))
        gps.write_text(PTY.format("gps", pty.path, f"deny = [{ALICE}]\nconsole = 1"))
        done = rig.prepare()
        assert (done.returncode, done.stderr) == (1, f"{gps}:6: console: must be true or false\n")
        as_user(ALICE, (), lambda: take(rig, "gps"))
        gps.write_text(PTY.format("gps", pty.path, f"deny = [{ALICE}]"))
        rig.reload(daemon)
        denied = r"rule gps \(50-gps.toml, line 1\) of the policy denies it"
        for name in ("gps", "ttyS0"):
            with pytest.raises(NotPermitted, match=denied):
                as_user(ALICE, (), lambda name=name: take(rig, name))  # type: ignore[misc]
        as_user(BOB, (), lambda: take(rig))
    finally:
        gps.unlink()
        drop_ins.rmdir()


def test_a_plan_in_a_directory_of_others_is_neither_read_nor_written(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    anybodys = rig.base / "anybodys"
    anybodys.mkdir()
    anybodys.chmod(0o1777)
    path = anybodys / "socket"
    daemon = rig.daemon(*rig.arguments[:2], "--socket", str(path), *rig.arguments[4:])
    assert "others than root may write" in daemon.record("plan").fields["reason"]
    os.close(open_fd("ttyS0", broker=str(path), wait=5))
    daemon.process.send_signal(signal.SIGHUP)
    assert "others than root" in daemon.record("reload-failed").fields["reason"]
    daemon.record("release")
    assert daemon.stop(settled=False) == 0
    path.unlink(missing_ok=True)
    anybodys.rmdir()  # no plan was left in it


def test_a_daemon_with_a_mistake_ends_to_be_started_again_when_that_may_be_mended(
    rig: Rig,
) -> None:
    rig.port("ttyS0")
    rig.write_policy("nonsense")
    daemon = rig.daemon(*rig.arguments)
    with client.connect(str(rig.socket)) as broker, pytest.raises(NotPermitted):
        broker.ports()
    rig.write_policy()
    with pytest.raises(BrokerUnavailable):  # here nothing starts it again
        for _ in range(1000):  # it looks once a second
            with client.connect(str(rig.socket)) as broker, contextlib.suppress(NotPermitted):
                broker.ports()
            time.sleep(0.01)
    assert daemon.wait() == 75
    again = rig.daemon(*rig.arguments)
    as_user(NOBODY, (), lambda: take(rig))
    again.record("release")


def test_a_lock_directory_that_cannot_be_is_refused(rig: Rig) -> None:
    rig.write_policy()
    missing = str(rig.base / "missing")
    arguments = ["--policy", str(rig.policy), "--socket", str(rig.socket), "--lock-dir", missing]
    refused(rig, missing, *arguments)
    assert not rig.socket.exists()
    begin = time.monotonic()
    refused(rig, missing, *arguments, NOTIFY_SOCKET=str(rig.base / "systemd"))
    assert time.monotonic() - begin > PAUSE  # whoever starts it again does not do so too often


@pytest.mark.parametrize("action", ["--check", "--prepare"])
def test_check_and_prepare_point_at_line_and_key(rig: Rig, action: str) -> None:
    rig.write_policy('[[rule]]\nport = "ttyS*"\nallow = ["@dialout"]\nmax_lease = "soon"\n')
    done = command(action, *rig.arguments[:4])
    assert done.returncode == 1
    assert done.stderr == f"{rig.policy}:4: max_lease: must be a number of seconds\n"
    rig.write_policy('[[rule]]\nport = "ttyS*"\nallow = ["@dialout", "no-such-user"]\n')
    done = command(action, *rig.arguments[:4])
    assert done.returncode == 0 and ("good" in done.stdout) == (action == "--check")
    assert f"{rig.policy}:3: allow" in done.stderr and "no-such-user" in done.stderr


def test_prepare_needs_root_and_says_so(rig: Rig) -> None:
    def prepare() -> tuple[int, str]:
        out, told = io.StringIO(), io.StringIO()  # a child of a test has neither
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
            return main(["--prepare", *rig.arguments[:4]]), told.getvalue()

    rig.write_policy()
    why = (
        "ttybrokerd: --prepare needs root, because the plan must belong to root; --check does not\n"
    )
    assert as_user(ALICE, (), prepare) == (1, why)


def test_check_warns_of_a_rule_that_another_hides(rig: Rig) -> None:
    rig.write_policy(
        '[[rule]]\nport = "ttyS*"\ndeny = ["*"]\n[[rule]]\nport = "ttyS1"\nallow = [1]\n'
    )
    done = command("--check", *rig.arguments[:2])
    why = f"{rig.policy}:1 comes first, about the same ports and users"
    assert done.stderr == f"warning: {rig.policy}:4: rule: ttyS1 never applies: {why}\n"
    assert done.returncode == 0 and "good" in done.stdout


def test_exit_codes() -> None:
    for words in (["--no-such-option"], ["ttyS0"], ["--policy"], ["--check=yes"]):
        done = command(*words)
        assert done.returncode == 2 and done.stderr.startswith(f"ttybrokerd: {words[0]}: ")
    told = "ttybrokerd: lab.toml: not an option; write --policy lab.toml\n"
    assert command("--check", "lab.toml").stderr.startswith(told)
    assert command("--help").returncode == 0
    assert command("--version").stdout == f"ttybrokerd {VERSION}\n"


@pytest.mark.parametrize("buffer", ["", "1"])
@pytest.mark.parametrize("word", ["--help", "--version", "--check", "--udev-rules"])
def test_a_reader_that_has_seen_enough_is_no_error(word: str, buffer: str, rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "ttybrokerd.daemon", word, *rig.arguments[:2]]
    env = {**os.environ, **python_path(), "PYTHONUNBUFFERED": buffer}
    done = subprocess.run(words, env=env, stdout=writer, stderr=subprocess.PIPE, timeout=20)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_that_cannot_be_written_is_one_line_and_no_output_is_none() -> None:
    daemon = f"{sys.executable} -m ttybrokerd.daemon"
    for redirect, status, told in (
        (">/dev/full", 1, "ttybrokerd: No space left on device\n"),
        (">&-", 0, ""),
    ):
        done = subprocess.run(
            ["sh", "-c", f"{daemon} --help {redirect}"],
            env={**os.environ, **python_path(), "PYTHONUNBUFFERED": ""},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert (done.returncode, done.stderr) == (status, told)


@pytest.mark.parametrize("words", ["--check --policy p", "--policy=p", "--socket s --help"])
def test_a_removed_working_directory_is_said(words: str, rig: Rig) -> None:
    script = f'cd "$0" && rmdir "$0" && exec {sys.executable} -m ttybrokerd.daemon {words}'
    (rig.base / "gone").mkdir()
    done = subprocess.run(
        ["sh", "-c", script, str(rig.base / "gone")],
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=20,
    )
    option, file = ("--socket", "s") if "--socket" in words else ("--policy", "p")
    what = "the working directory: No such file or directory; write a path that begins with /"
    assert (done.returncode, done.stderr) == (1, f"ttybrokerd: {option} {file}: {what}\n")


def test_without_root_it_says_so(rig: Rig) -> None:
    rig.write_policy()

    def run() -> int:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            status = main(rig.arguments)
        assert "needs root" in said.getvalue()
        return status

    assert as_user(NOBODY, (), run) == 1


# Root in a user namespace, where the kernel lets it hang up nothing.
LESS_THAN_ROOT = """
import ctypes, pathlib
assert ctypes.CDLL(None).unshare(0x10000000) == 0  # CLONE_NEWUSER, linux/sched.h
for file, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
    pathlib.Path("/proc/self", file).write_text(text)
"""
NO_WATCHES = f"""{LESS_THAN_ROOT}
pathlib.Path("/proc/sys/user/max_inotify_watches").write_text("0")
"""


def test_without_inotify_watches_a_port_is_refused_with_the_next_step(rig: Rig) -> None:
    """Nobody would hear of the end of a lease. So there is none, and nothing stays locked."""
    rig.port("ttyS0")
    rig.write_policy()
    assert rig.prepare().returncode == 0
    daemon = rig.daemon(*rig.arguments, hook=NO_WATCHES)
    for wait in (None, 5.0):
        with pytest.raises(BrokerError, match=r"raise fs\.inotify\.max_user_watches") as refusal:
            open_fd("ttyS0", broker=str(rig.socket), wait=wait)
        assert refusal.value.errno == errno.ENOSPC
        assert "fs.inotify.max_user_watches" in daemon.record("watch-failed").fields["reason"]
        daemon.record("release", port="ttyS0")
    assert daemon.stop() == 0
    assert "grant " not in daemon.output()


def test_without_inotify_watches_and_without_a_plan_one_line_says_what_to_do(rig: Rig) -> None:
    rig.write_policy()
    hook = f"--hook={NO_WATCHES}"
    for action in ([], ["--prepare"]):
        done = subprocess.run(
            [sys.executable, RUN_DAEMON, hook, "--", *rig.arguments, *action],
            env={**os.environ, **python_path()}, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "raise fs.inotify.max_user_watches" in done.stderr
        assert not re.search("Errno|Error", done.stderr), done.stderr


def test_a_port_that_cannot_be_hung_up_is_in_the_log_and_one_that_is_gone_is_not(rig: Rig) -> None:
    for name in ("ttyS0", "ttyS1"):
        rig.port(name)
    rig.write_policy()
    assert rig.prepare().returncode == 0
    daemon = rig.daemon(*rig.arguments, hook=LESS_THAN_ROOT)
    gone = open_fd("ttyS1", broker=str(rig.socket))
    rig.ports["ttyS1"].close()
    daemon.record("release", port="ttyS1")
    os.close(gone)
    take(rig)
    reason = daemon.record("release-failed", port="ttyS0").fields["reason"]
    assert reason.endswith("(TIOCVHANGUP): Operation not permitted")
    assert daemon.output().count("release-failed") == 1
    assert daemon.stop() == 0


def test_stale_locks_of_a_killed_daemon_go_with_the_next_lease(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(NOBODY)
    daemon.kill()
    holder.kill()
    assert rig.lock().read_bytes() == lock_text(holder.pid)  # nobody was there to remove it
    rig.ports["ttyS0"].forget_exclusive()
    rig.socket.unlink()
    rig.daemon(*rig.arguments)
    as_user(ALICE, (), lambda: take(rig))


def test_a_holder_that_kept_only_the_flock_is_seen_by_a_new_daemon(
    rig: Rig, daemon: Daemon
) -> None:
    holder = rig.holder(NOBODY)
    daemon.kill()
    rig.lock().unlink()
    rig.socket.unlink()
    rig.daemon(*rig.arguments)
    with pytest.raises(PortBusy) as caught:
        as_user(ALICE, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
    assert caught.value.holder is not None
    assert caught.value.holder.how in ("flock", "exclusive")
    node = os.open(rig.ports["ttyS0"].path, os.O_RDWR | os.O_NOCTTY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(node, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(node)
    holder.say()
    holder.result()
    rig.ports["ttyS0"].forget_exclusive()
    as_user(ALICE, (), lambda: take(rig))
