"""Signals reach the program as without us, and end its waits. Our processes outlive them."""

from __future__ import annotations

import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from run.conftest import LIMIT, Rig, wait_for_end
from support.waiting import read_until

TRACED, LISTENED = {"TEST_VIA": "auto"}, {"TEST_VIA": "notify"}
TREE = {"TEST_PTRACE_SCOPE": "1", "TEST_VIA": "notify"}
LAYOUTS = pytest.mark.parametrize(
    "env", [TRACED, LISTENED, TREE], ids=["traced", "listened", "tree"]
)
SOON = 3.0  # seconds within which a signal ends a wait of 30, on a busy machine too
GENTLE = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1]


def ours(rig: Rig, but: set[int]) -> set[int]:
    """Return the processes beside the program.

    (Its children have the directory in their words, too.)
    """
    found = {pid for pid in rig.processes() - but if _is_launcher_s(pid)}
    assert found
    return found


def _is_launcher_s(pid: int) -> bool:
    try:
        return b"fake_broker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


# ---- a service's stop ----


@LAYOUTS
def test_what_ends_a_service_does_not_end_the_supervisor_before_the_program(
    rig: Rig, env: dict[str, str]
) -> None:
    """systemd sends SIGTERM to every process of a unit at once (KillMode=control-group)."""
    saved = rig.directory / "saved"
    script = f"""trap 'sleep 0.3; echo work > {saved}; echo last >&3; exit 0' TERM
exec 3<>/dev/ttyS7; echo $$; while :; do sleep 0.05; done"""
    process = rig.start("ttyS7", "--", "sh", "-c", script, env=env)
    assert process.stdout is not None
    program = int(process.stdout.readline())
    beside = ours(rig, {process.pid, program})
    for number in GENTLE:
        for pid in beside:
            os.kill(pid, number)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (0, b"")
    assert saved.read_text() == "work\n"
    assert rig.device.hear(5) == b"last\n"
    for pid in beside:
        wait_for_end(pid)


def test_what_a_program_writes_after_its_stop_passes_the_pty(rig: Rig) -> None:
    script = """trap 'sleep 0.3; echo last >&3; exit 0' TERM
exec 3<>$0; echo $$; while :; do sleep 0.05; done"""
    process = rig.start("--via", "pty", "--", "sh", "-c", script, "/dev/ttyS7")
    assert process.stdout is not None
    process.stdout.readline()
    for pid in ours(rig, {process.pid}):
        for number in GENTLE:
            os.kill(pid, number)
    os.kill(process.pid, signal.SIGTERM)
    assert rig.device.hear(5) == b"last\n"
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0


# ---- a wait for a port ----

HANDLED = """
import signal
signal.signal(signal.SIGNAL, lambda *_: os._exit(7))
print("ready"); sys.stdout.flush()
os.open("/dev/ttyS7", os.O_RDWR | os.O_NOCTTY)
print("opened")"""
DEFAULT = """
import resource, signal
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.signal(signal.SIGNAL, signal.SIG_DFL)
print("ready"); sys.stdout.flush()
os.open("/dev/ttyS7", os.O_RDWR | os.O_NOCTTY)
print("opened")"""


def waiting(rig: Rig, code: str, env: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """Return a Python program in its open() of the port, which the broker has not answered yet."""
    gate = rig.gate("ttyS7")
    program = ["--", sys.executable, "-c", f"import os, sys\n{code}"]
    process = rig.start("--wait", "30", "ttyS7", *arguments, *program, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    gate.wait_for(1)
    return process


@LAYOUTS
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGQUIT", "SIGALRM", "SIGUSR1"])
@pytest.mark.parametrize(("code", "handled"), [(HANDLED, True), (DEFAULT, False)])
def test_a_signal_ends_a_wait_and_the_request_is_withdrawn(
    rig: Rig, env: dict[str, str], code: str, handled: bool, number: str
) -> None:
    process = waiting(rig, code.replace("SIGNAL", number), env)
    beside = rig.processes() - {process.pid}
    began = time.monotonic()
    process.send_signal(getattr(signal, number))
    status = process.wait(LIMIT)
    took = time.monotonic() - began
    assert status == (7 if handled else -getattr(signal, number))
    assert took < SOON, f"{took:.2f} s"
    for pid in beside:  # the broker hears the end of their connections
        wait_for_end(pid)


@LAYOUTS
def test_a_handler_that_returns_interrupts_as_a_driver_does(rig: Rig, env: dict[str, str]) -> None:
    """EINTR without SA_RESTART. With SA_RESTART the call begins again, and is answered."""
    code = """
import ctypes, signal
signal.signal(signal.SIGALRM, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
print("ready"); sys.stdout.flush()
signal.setitimer(signal.ITIMER_REAL, 0.2)
print(libc.open(b"/dev/ttyS7", os.O_RDWR | os.O_NOCTTY), ctypes.get_errno()); sys.stdout.flush()
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.2)
print(libc.open(b"/dev/ttyS7", os.O_RDWR | os.O_NOCTTY) > 2)"""
    gate = rig.gate("ttyS7")
    program = ["--", sys.executable, "-c", f"import os, sys\n{code}"]
    process = rig.start("--wait", "30", "ttyS7", *program, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert process.stdout.readline() == b"-1 4\n"
    gate.wait_for(3)  # the first, the second, and the second begun again
    gate.open()
    assert process.communicate(timeout=LIMIT)[0] == b"True\n"
    assert len(rig.log("close")) >= 2  # withdrawn, both times


def test_a_stop_ends_no_wait(rig: Rig) -> None:
    process = waiting(rig, DEFAULT.replace("SIGNAL", "SIGTERM"), TRACED)
    os.kill(process.pid, signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(process.pid, signal.SIGCONT)
    rig.gates[0].wait_for(1)  # the call has begun again
    rig.gates[0].open()
    assert process.communicate(timeout=LIMIT)[0] == b"opened\n"


def test_ctrl_c_ends_picocom_while_it_waits(rig: Rig) -> None:
    gate = rig.gate("ttyS7")
    master, slave = pty.openpty()
    process = rig.start(
        *("--wait", "30", "--", "picocom", "-q", "/dev/ttyS7"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: os.set_inheritable(slave, True) or _take_terminal(slave),  # type: ignore[func-returns-value]
    )
    os.close(slave)
    gate.wait_for(1)
    began = time.monotonic()
    os.write(master, b"\x03")
    process.wait(LIMIT)
    assert time.monotonic() - began < SOON
    os.close(master)


def _take_terminal(fd: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


def test_a_wait_shows_who_has_it_since_when(rig: Rig) -> None:
    """On a terminal, by a look at the list, because this broker sends no news."""
    rig.write("ttyS7.holder", "1600000000 alice minicom 71")
    screen, terminal = pty.openpty()
    gate = rig.gate("ttyS7")
    program = ("--", sys.executable, "-c", "open('/dev/ttyS7')")
    process = rig.start("--wait", "30", "ttyS7", *program, stderr=terminal)
    os.close(terminal)
    gate.wait_for(1)
    shown = read_until(screen, b"has it", LIMIT)
    assert shown.startswith(b"\r\x1b[Kttybroker: ttyS7: waiting, 29 s left: alice has it")
    process.terminate()
    process.communicate(timeout=LIMIT)
    os.close(screen)


@pytest.mark.parametrize("how", [(), ("--hold",), ("--via", "pty"), ("--fd", "3")])
@pytest.mark.parametrize("quiet", [False, True])
def test_a_service_s_wait_is_told_once(rig: Rig, how: tuple[str, ...], quiet: bool) -> None:
    """Its standard error is no terminal."""
    rig.write("ttyS7.holder", "1600000000 alice minicom 71")
    gate = rig.gate("ttyS7")
    options = ("-q", "--wait", "30") if quiet else ("--wait", "30")
    process = rig.start(*options, *how, "ttyS7", "--", "sh", "-c", ": <$0", "/dev/ttyS7")
    gate.wait_for(1)
    assert process.stderr is not None
    told = b"" if quiet else process.stderr.readline()
    # Ten looks later it would be told again.
    assert not select.select([process.stderr], [], [], 1.2)[0]
    gate.open()
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and b"waiting" not in errors
    if not quiet:
        assert told.startswith(b"ttybroker: ttyS7: waiting, 29 s left: alice has it")
        assert b" since 2020-09-13 " in told


SHELL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = subprocess.Popen(sys.argv[1:], process_group=0)
sys.stdin.readline()
os.tcsetpgrp(2, job.pid)
job.wait()"""


@pytest.mark.parametrize("how", [(), ("--hold", "ttyS7"), ("--via", "pty", "ttyS7")])
def test_a_wait_is_shown_when_the_job_is_in_the_foreground_and_not_before(
    rig: Rig, how: tuple[str, ...]
) -> None:
    rig.write("ttyS7.holder", "1600000000 alice minicom 71")
    screen, terminal = pty.openpty()
    gate = rig.gate("ttyS7")
    job = [*rig.command, str(rig.directory), "--wait", "30", *how, "--", "cat", "/dev/ttyS7"]
    shell = subprocess.Popen(
        [sys.executable, "-c", SHELL, *job],
        stdin=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "PYTHONPATH": rig.code},
        start_new_session=True,
        preexec_fn=lambda: _take_terminal(2),
    )
    rig.started.append(shell)
    os.close(terminal)
    gate.wait_for(1)
    assert not select.select([screen], [], [], 1.5)[0], os.read(screen, 4096)
    assert shell.stdin is not None
    os.write(shell.stdin.fileno(), b"\n")  # fg
    shown = read_until(screen, b"has it", LIMIT)
    assert shown.startswith(b"\r\x1b[Kttybroker: ttyS7: waiting, ")
    os.write(screen, b"\x03")
    assert shell.wait(LIMIT) == 0
    os.close(screen)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGALRM])
@pytest.mark.parametrize(
    ("how", "env"),
    [
        (("--via", "pty"), {}),
        (("--fd", "3"), TRACED),
        (("--fd", "3"), TREE),
        (("--stdio",), TRACED),
        (("--hold",), TRACED),
        (("--hold",), TREE),
        (("--hold", "--via", "pty"), {}),
    ],
)
def test_a_signal_ends_a_wait_before_the_program_begins(
    rig: Rig, how: tuple[str, ...], env: dict[str, str], number: signal.Signals
) -> None:
    gate = rig.gate("ttyS7")
    process = rig.start(
        *("-q", "--wait", "30", *how, "ttyS7", "--", "cat", "/dev/ttyS7"),
        env=env,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    gate.wait_for(1)
    beside = rig.processes() - {process.pid}
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT)
    assert time.monotonic() - began < SOON
    assert (process.returncode, errors) == (-number, b"")
    for pid in beside:  # the broker hears the end of their connections
        wait_for_end(pid)
    gate.open()
