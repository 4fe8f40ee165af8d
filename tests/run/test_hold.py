"""`--hold`: the port is taken before the program begins, and kept until the run ends."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from run.conftest import LIMIT, Rig, wait_for_end
from support.processes import descriptors
from support.waiting import read_until
from ttybroker.run import command, hold

LAYOUTS = pytest.mark.parametrize(
    "env",
    [
        {"TEST_VIA": "auto"},
        {"TEST_VIA": "notify"},
        {"TEST_PTRACE_SCOPE": "1", "TEST_VIA": "notify"},
        {"TEST_VIA": "pty"},
        {"TEST_PTRACE_SCOPE": "2"},
    ],
    ids=["traced", "listened", "tree", "pty", "no filter"],
)
HOW = pytest.mark.parametrize("how", [("ttyS7",), ("--fd", "5", "ttyS7")], ids=["open", "fd"])


def holders(rig: Rig) -> set[int]:
    """Return the processes of the run that have the port open."""
    return {pid for pid in rig.processes() if _has(pid, rig.device.node)}


def _has(pid: int, node: str) -> bool:
    try:
        return node in descriptors(pid).values()
    except OSError:  # it has ended
        return False


@LAYOUTS
@HOW
def test_the_port_is_taken_at_the_start_and_kept_to_the_end(
    rig: Rig, env: dict[str, str], how: tuple[str, ...]
) -> None:
    script = "exec 5<&-; echo closed; read line"
    opens = f": <> $0; {script}" if how == ("ttyS7",) else script
    process = rig.start("--hold", *how, "--", "sh", "-c", opens, "/dev/ttyS7", env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"closed\n"
    first = rig.log("open")[0]
    assert first.startswith("open ttyS7 wait=None pid=")
    beside = holders(rig)
    assert len(beside) == 1
    process.communicate(b"\n", timeout=LIMIT)
    for pid in beside:
        wait_for_end(pid)


@LAYOUTS
@HOW
def test_what_ends_a_service_does_not_let_the_port_go_before_the_program(
    rig: Rig, env: dict[str, str], how: tuple[str, ...]
) -> None:
    script = "echo began; read line"
    process = rig.start("--hold", *how, "--", "sh", "-c", script, "/dev/ttyS7", env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    (beside,) = {pid for pid in holders(rig) if b"fake_broker" in words(pid)}
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(beside, number)
    process.communicate(b"\n", timeout=LIMIT)
    assert process.returncode == 0
    wait_for_end(beside)


def words(pid: int) -> bytes:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("env", [{"TEST_VIA": "auto"}, {"TEST_VIA": "notify"}])
def test_a_port_that_is_taken_back_is_let_go_and_held_again_when_it_is_opened_again(
    rig: Rig, env: dict[str, str]
) -> None:
    code = """
for word in sys.stdin:
    os.close(os.open("/dev/ttyS7", os.O_RDWR | os.O_NOCTTY)); print("closed", flush=True)"""
    program = ["--", sys.executable, "-c", f"import os, sys\n{code}"]
    process = rig.start("--hold", "ttyS7", *program, env=env)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"closed\n"
    (supervisor,) = holders(rig)
    old = rig.device
    rig.renew("ttyS7")  # hangs up
    assert select.select([], [], [], 0) and until(lambda: not _has(supervisor, old.node))
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"closed\n"
    assert holders(rig) == {supervisor}
    process.communicate(timeout=LIMIT)


def until(true: object) -> bool:
    """Ask until it is so, within the limit."""
    for _ in range(int(LIMIT / 0.01)):
        if true():  # type: ignore[operator]
            return True
        select.select([], [], [], 0.01)
    return False


@pytest.mark.parametrize("env", [{"TEST_VIA": "auto"}, {"TEST_VIA": "pty"}])
def test_the_wait_for_it_is_shown_and_ended_by_ctrl_c(rig: Rig, env: dict[str, str]) -> None:
    rig.write("ttyS7.holder", "1600000000 alice minicom 71")
    gate = rig.gate("ttyS7")
    arguments = ("--hold", "--wait", "30", "ttyS7", "--", "sh", "-c", "echo began", "/dev/ttyS7")
    screen, terminal = os.openpty()
    process = rig.start(*arguments, env=env, stderr=terminal)
    os.close(terminal)
    gate.wait_for(1)
    shown = read_until(screen, b"has it", LIMIT)
    assert b"ttyS7: waiting, 29 s left: alice has it" in shown
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT)[0] == b""
    assert process.returncode == -signal.SIGINT
    os.close(screen)


def test_a_refusal_stops_us_before_the_program(rig: Rig) -> None:
    rig.write("ttyS7.refuse", "16 ttyS7: busy")
    status, output, errors = rig.run("--hold", "ttyS7", "--", "echo", "began")
    assert (status, output, errors) == (1, "", "ttybroker: ttyS7: busy\n")


def test_without_a_port_there_is_nothing_to_hold(capfd: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--hold", "--", "true"]) == 2
    assert capfd.readouterr().err == (
        "ttybroker: --hold: name the ports that it keeps, --hold ttyS0 for example\n"
    )


def test_a_port_that_cannot_be_held_says_so_and_can_be_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, before = hold.Held(["ttyS0"]), set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(hold, "start_new_thread", _no_thread)
        with pytest.raises(OSError, match="ttyS0: cannot be held: no thread can be started"):
            held.keep("ttyS0", rig.device.near)
    assert set(os.listdir("/proc/self/fd")) == before
    held.keep("ttyS0", rig.device.near)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    rig.renew("ttyS7")  # hangs up
    assert until(lambda: len(os.listdir("/proc/self/fd")) == len(before))


def _no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_what_is_not_to_be_held_is_not_kept() -> None:
    before = set(os.listdir("/proc/self/fd"))
    hold.Held(["ttyS1"]).keep("ttyS0", 0)
    assert set(os.listdir("/proc/self/fd")) == before
