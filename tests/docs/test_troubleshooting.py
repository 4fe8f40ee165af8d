"""Each line on docs/troubleshooting.md is one that the product prints: here it is provoked."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from support.children import Chat, Orphan, as_user
from support.command import command
from support.logind import HOOK
from support.processes import PR_SET_NAME, ROOT, prctl, python_path
from support.rig import Rig, lock_text
from support.screen import Screen
from support.users import ALICE, BOB, NOBODY
from support.waiting import TIMEOUT
from ttybroker import BrokerError, cli, client, modems, open_fd, sysfs, wire
from ttybrokerd.prepare.make import make
from ttybrokerd.root.device import Devices, Target
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.plan import Plan
from ttybrokerd.root.refusal import Refusal, busy

pytestmark = pytest.mark.root

PAGE = ROOT / "docs" / "troubleshooting.md"
LINES = re.findall(r"^```text\n(.*)\n```$", PAGE.read_text(), re.M)
Provoke = Callable[[Rig], str]
PROVOKED: list[Provoke] = []


def provoke(function: Provoke) -> Provoke:
    """Have the function, which returns what the product printed, make a line of the page."""
    PROVOKED.append(function)
    return function


def _in_the_pages_words(text: str, rig: Rig) -> str:
    """The line as it is on a machine with the paths, the user and the program of the page."""
    text = text.rstrip("\r\n").replace(f"uid {ALICE} ", f"alice (uid {ALICE}) ")
    for ours, theirs in ((rig.locks, "/run/lock"), (rig.socket, "/run/ttybroker/socket"),
                         (rig.policy, "/etc/ttybroker/policy.toml"),
                         (rig.base / "labs", "/srv/labs")):  # fmt: skip
        text = text.replace(str(ours), theirs)
    text = re.sub(r"(alice .*) with \S+ \(pid \d+\)", r"\1 with picocom (pid 4711)", text)
    text = re.sub(r"pid \d+ has ended", "pid 4711 has ended", text)
    return re.sub(r"ps -fp \d+", "ps -fp 4711", text).replace(str(ALICE), "1000")


def test_every_line_of_the_page_is_provoked() -> None:
    assert len(LINES) >= 20
    assert len(PROVOKED) == len(set(LINES)) == len(LINES)


def typed(rig: Rig, *words: str, uid: int = BOB) -> str:
    """What `ttybroker` prints on both, in a child of this user."""

    def body() -> str:
        os.environ["TTYBROKER_SOCKET"] = str(rig.socket)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            cli.main(list(words))
        return out.getvalue()

    return as_user(uid, (), body)


def refused(rig: Rig, name: str = "ttyS0", wait: float | None = None) -> str:
    """What the error says that bob gets."""

    def body() -> str:
        with pytest.raises(BrokerError) as caught:
            open_fd(name, broker=str(rig.socket), wait=wait)
        return str(caught.value)

    return as_user(BOB, (), body)


def alias(rig: Rig, device: str, name: str = "gps") -> None:
    rig.rules.append(f'[[rule]]\nport = "{name}"\ndevice = "{device}"\nallow = ["*"]\n')


def started(rig: Rig, *arguments: str) -> str:
    """What ttybrokerd says that does not start, or does not serve."""
    command = [sys.executable, "-m", "ttybrokerd.daemon", *arguments]
    done = subprocess.run(command, env={**os.environ, **python_path()}, capture_output=True,
                          text=True, timeout=TIMEOUT)  # fmt: skip
    return done.stderr


# you may not have the port


@provoke
def no_rule_allows_it(rig: Rig) -> str:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    rig.daemon()
    return typed(rig, "check", "ttyS0")


@provoke
def a_rule_is_for_who_sits_at_the_machine(rig: Rig) -> str:
    rig.port("ttyS0", 'allow = ["*"]', 'while = "active"')
    rig.daemon(hook=HOOK.format("/proc/no-logind"))  # where no directory can be made
    return typed(rig, "check", "ttyS0")


@provoke
def a_rule_denies_it(rig: Rig) -> str:
    rig.port("ttyS0", f"deny = [{BOB}]")
    rig.daemon()
    return typed(rig, "check", "ttyS0")


@provoke
def the_active_console(rig: Rig) -> str:
    """Of a directory of nodes, for the machine's own console is not a test's."""
    dev, consoles = rig.base / "dev", rig.base / "consoles"
    dev.mkdir()
    os.mknod(dev / "ttyS0", stat.S_IFCHR | 0o600, os.makedev(4, 64))
    consoles.write_text("ttyS0\n")
    (rig.base / "drivers").write_text("serial /dev/ttyS 4 64-95 serial\n")
    devices = Devices(str(dev), str(rig.base / "drivers"), str(consoles))
    with pytest.raises(Refusal) as caught:
        devices.look(Target("ttyS0", f"{dev}/ttyS0", False, False))
    return caught.value.answer().message("ttyS0").replace(str(dev), "/dev")


@provoke
def a_device_that_has_another_name(rig: Rig) -> str:
    dev = rig.base / "dev"
    dev.mkdir()
    os.mknod(dev / "ttyS0", stat.S_IFCHR | 0o600, os.makedev(4, 64))
    (rig.base / "drivers").write_text("serial /dev/ttyS 4 64-95 serial\n")
    alias(rig, f"{dev}/ttyS0")
    rig.rules.append('[[rule]]\nport = "ttyS*"\nallow = ["*"]\nunnamed = true\n')
    rig.write_policy()
    devices = Devices(str(dev), str(rig.base / "drivers"), str(rig.base / "none"))
    judge = Judge(Plan(make(str(rig.policy)).data), devices)
    who = Identity(BOB, BOB, frozenset(), 1)
    decision = judge.of(who).allowed("ttyS0")
    with pytest.raises(Refusal) as caught:
        judge.of(who).look(devices.target("ttyS0", decision), str(decision.rule))
    return caught.value.answer().message("ttyS0")


@provoke
def a_program_of_roots_that_probes_ports(rig: Rig) -> str:
    port = rig.base / "usb1/ttyS0"
    (rig.base / "7").mkdir()
    port.mkdir(parents=True)
    (rig.base / "7/comm").write_text("ModemManager\n")
    (port / "dev").write_text("188:0\n")
    (rig.base / "c188:0").write_text("E:ID_MM_CANDIDATE=1\n")
    places = {"TTYS": str(port.parent), "UDEV": str(rig.base)}
    err = io.StringIO()
    with (
        mock.patch.object(modems, "_PROC", str(rig.base)),
        mock.patch.multiple(sysfs, **places),
        contextlib.redirect_stderr(err),
    ):
        cli._warn_of_probes([wire.PortInfo("ttyS0", "/dev/ttyS0", "free", "")])
    return err.getvalue()


@provoke
def an_alias_that_others_could_redirect(rig: Rig) -> str:
    pty = rig.port("ttyS0")
    labs = rig.base / "labs"
    labs.mkdir()
    (labs / "gps").symlink_to(pty.path)
    os.chown(labs, ALICE, ALICE)
    alias(rig, f"{labs}/gps")
    rig.daemon()
    told = refused(rig, "gps")
    (labs / "gps").unlink()
    labs.rmdir()
    return told


@provoke
def who_may_not_revoke(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    rig.holder(ALICE)
    return typed(rig, "revoke", "ttyS0")


# somebody has the port


@provoke
def a_busy_port(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    rig.holder(ALICE)
    return refused(rig)


@provoke
def a_wait_that_is_over(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    rig.holder(ALICE)
    return refused(rig, wait=0.1)


def _outsider(rig: Rig, lock: Callable[[], object]) -> str:
    rig.port("ttyS0")
    rig.daemon()

    def body(chat: Chat) -> None:
        kept = lock()
        chat.say("locked")
        chat.hear()
        del kept

    rig.child(ALICE, body).hear()
    return refused(rig)


@provoke
def a_lock_file(rig: Rig) -> str:
    rig.expected_locks.add("LCK..ttyS0")
    return _outsider(rig, lambda: rig.lock().write_bytes(lock_text(os.getpid())))


@provoke
def a_stale_lock_file(rig: Rig) -> str:
    rig.port("ttyS0")
    daemon = rig.daemon()
    dead = rig.child(NOBODY, lambda _chat: None)
    dead.wait()
    rig.lock().write_bytes(lock_text(dead.pid))
    as_user(BOB, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket))))
    record = daemon.record("lock-replaced")
    return f'{record.event} ... reason="{record.fields["reason"]}"'


@provoke
def an_flock(rig: Rig) -> str:
    rig.port("ttyS0")
    os.chmod(rig.ports["ttyS0"].path, 0o666)

    def lock() -> object:
        file = open(rig.ports["ttyS0"].path, "rb", buffering=0)  # noqa: SIM115 (kept)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    return _outsider(rig, lock)


@provoke
def a_copy_that_is_left(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()

    def leave_a_copy(chat: Chat) -> None:
        open_fd("ttyS0", broker=str(rig.socket))
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            prctl(PR_SET_NAME, b"sleep")
            os.write(writing, b"!")
            while True:
                signal.pause()
        os.read(reading, 1)
        chat.say(pid)

    holder = rig.child(ALICE, leave_a_copy)
    copy = holder.hear()
    holder.wait()
    told = command(rig, "term", "ttyS0").stderr
    os.kill(copy, signal.SIGKILL)
    Orphan(copy).wait()
    told = re.sub(r"since \d\d:\d\d", "since 14:03", told).replace(f"uid {ALICE}", "alice")
    return told.replace(f"(pid {copy})", "(pid 4712)")


@provoke
def a_program_that_has_its_port_again(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    rig.holder(ALICE)

    def comes_back(chat: Chat) -> None:
        with client.connect(str(rig.socket)) as connection:
            chat.say()
            descriptor = None
            while descriptor is None:
                with contextlib.suppress(BrokerError):
                    descriptor = connection.open("ttyS0")
            chat.hear()

    rig.child(ALICE, comes_back).hear()
    told = typed(rig, "revoke", "ttyS0", uid=0)
    # There is no time yet while the port is being opened for her.
    return re.sub(rf"uid {ALICE} has it with .* \(pid \d+\)( since \d\d:\d\d)?",
                  "alice has it with picocom (pid 4711) since 14:03", told)  # fmt: skip


@provoke
def a_program_that_may_have_its_port_again(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    holder = rig.holder(ALICE)
    told = typed(rig, "revoke", "ttyS0", uid=0)
    return re.sub(rf"uid {ALICE}'s \S+ \(pid {holder.pid}\)", "alice's picocom (pid 4711)", told)


@provoke
def a_port_that_is_kept_from_you(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    rig.holder(BOB)
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0", hold=60)
    return re.sub(r"5\d s,", "60 s,", refused(rig))


@provoke
def a_time_limit_without_the_daemon(rig: Rig) -> str:
    rig.port("ttyS0", extra="max_lease = 60")
    rig.write_policy()
    judge = Judge(Plan(make(str(rig.policy)).data), Devices(), alone=True)
    with pytest.raises(Refusal) as caught:
        judge.of(Identity(BOB, BOB, frozenset(), 0)).allowed("ttyS0")
    return caught.value.answer().message("ttyS0")


@provoke
def a_login(_rig: Rig) -> str:
    """A getty on a pty is not seen (tests/real/test_outsiders.py has one on a real port)."""
    return busy(wire.Holder(0, "", 4711, "agetty", None, "login")).answer().message("ttyS0")


@provoke
def too_many_requests(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    rig.holder(ALICE)

    def body() -> str:
        asking = [client.connect(str(rig.socket)) for _ in range(33)]
        for one in asking:
            one.ask_open("ttyS0", wait=TIMEOUT)
        with pytest.raises(BrokerError) as caught:
            asking[-1].take_descriptor()
        return str(caught.value).removeprefix("ttyS0: ")

    return as_user(BOB, (), body)


# the port is not there


@provoke
def a_port_that_is_not_there(rig: Rig) -> str:
    rig.rules.append('[[rule]]\nport = "ttyUSB*"\nallow = ["*"]\n')
    rig.daemon()
    missing = next(n for n in range(7, 1000) if not Path(f"/dev/ttyUSB{n}").exists())
    return refused(rig, f"ttyUSB{missing}").replace(str(missing), "7")


@provoke
def an_alias_that_leads_nowhere(rig: Rig) -> str:
    alias(rig, "/dev/serial/by-id/usb-FTDI_FT232R_A1-if00-port0")
    rig.daemon()
    return refused(rig, "gps")


@provoke
def a_path_for_a_name(rig: Rig) -> str:
    rig.daemon()
    return refused(rig, "/dev/ttyS0")


@provoke
def an_empty_list(rig: Rig) -> str:
    rig.daemon()
    return typed(rig, "list")


@provoke
def what_is_no_serial_port(rig: Rig) -> str:
    alias(rig, "/dev/null")
    rig.daemon()
    return refused(rig, "gps")


# the port goes away


@provoke
def a_terminal_whose_port_is_taken_back(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        typed(rig, "revoke", "ttyS0", uid=0)
        screen.shows(b"ends that\r\n")
        lines = screen.seen.decode().splitlines()
        screen.leave()
    return next(line for line in lines if "taken back" in line)


# the daemon


@provoke
def no_daemon(rig: Rig) -> str:
    return refused(rig)


@provoke
def a_daemon_that_does_not_answer(rig: Rig) -> str:
    with (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent,
          pytest.MonkeyPatch.context() as patch):  # fmt: skip
        silent.bind(str(rig.socket))
        silent.listen()
        patch.setattr(client, "ANSWER_LIMIT", 0.1)
        with client.connect(str(rig.socket)) as broker, pytest.raises(BrokerError) as caught:
            broker.ports()
    rig.socket.unlink()
    return str(caught.value)


@provoke
def a_mistake_in_the_policy(rig: Rig) -> str:
    rig.write_policy('[[rule]]\nport = "ttyS*"\nallow = "alice"\n')
    return started(rig, "--prepare", *rig.arguments[:4])


@provoke
def a_start_with_a_mistake_in_the_policy(rig: Rig) -> str:
    rig.write_policy('[[rule]]\nport = "ttyS*"\nallow = "alice"\n')
    daemon = rig.daemon(*rig.arguments)
    line = refused(rig)
    daemon.stop(settled=False)
    return line


@provoke
def a_name_that_nobody_has(rig: Rig) -> str:
    rig.write_policy('[[rule]]\nport = "ttyS*"\nallow = ["root", "alcie"]\n')
    return started(rig, "--check", *rig.arguments[:2])


@provoke
def no_lock_directory(rig: Rig) -> str:
    rig.write_policy()
    rig.locks.rmdir()
    told = started(rig, *rig.arguments)
    rig.locks.mkdir()
    return told.replace(str(rig.locks), "/run/uucp")


@provoke
def a_second_daemon(rig: Rig) -> str:
    rig.daemon()
    return started(rig, *rig.arguments)


# programs


@provoke
def a_program_that_is_not_there(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    return command(rig, "run", "--", "picocmo").stderr


@provoke
def a_tracer_inside(rig: Rig) -> str:
    rig.port("ttyS0")
    rig.daemon()
    told = command(rig, "run", "ttyS0", "--", "sh", "-c", "strace -o /dev/null true; true").stderr
    for supervisor in rig.orphans():
        Orphan(supervisor).wait()
    return next((line for line in told.splitlines() if line.startswith("ttybroker: ")), told)


@provoke
def a_port_that_the_run_does_not_name(rig: Rig) -> str:
    return _opening(rig, "ttyS0", "os.open('/dev/ttyS1', os.O_RDWR)")


@provoke
def a_port_that_is_open_too_often(rig: Rig) -> str:
    return _opening(rig, "ttyS0", "[os.open('/dev/ttyS0', os.O_RDWR) for _ in range(65)]")


def _opening(rig: Rig, name: str, code: str) -> str:
    """Our line while a program under `run NAME` does this. The port cannot be this machine's."""
    kept = {"ttyS0": "ttyUSB900", "ttyS1": "ttyUSB901"}
    for port in kept.values():
        rig.port(port)
    rig.daemon()
    for shown, port in kept.items():
        name, code = name.replace(shown, port), code.replace(shown, port)
    told = command(rig, "run", name, "--", sys.executable, "-c", f"import os; {code}").stderr
    for supervisor in rig.orphans():
        Orphan(supervisor).wait()
    line = next((line for line in told.splitlines() if line.startswith("ttybroker: ")), told)
    for shown, port in kept.items():
        line = line.replace(port, shown)
    return line


@pytest.mark.parametrize("function", PROVOKED, ids=lambda function: function.__name__)
def test_it_prints_the_line_that_the_page_shows(function: Provoke, rig: Rig) -> None:
    printed = _in_the_pages_words(function(rig), rig)
    assert printed in LINES, printed
