"""Bad input, under both launchers: one clear line each, with what to do next."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from matrix.namespace import PORT
from matrix.stage import AGAIN, NAMELESS, NODE, Ended, Installation, Stage
from support.waiting import TIMEOUT
from ttybroker import client

pytestmark = pytest.mark.root

PRINT = f"echo x >{NODE}"


def only_line(done: Ended, launcher: str) -> str:
    """The one line on stderr that is ours, without our name."""
    name = f"{launcher.split()[0]}: "
    lines = [line for line in done.err.splitlines() if line.startswith(name)]
    assert len(lines) == 1, done
    return lines[0].removeprefix(name)


def change_policy(stage: Stage, allow: str) -> None:
    """Have the policy say this, and the daemon know it."""
    rule = f'[[rule]]\nport = "{PORT}"\ndevice = "{stage.far.path}"\nclass = "pty"\n'
    stage.rig.write_policy(f"{rule}allow = [{allow}]\n")
    for daemon in stage.rig.daemons:
        stage.rig.reload(daemon)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ((PORT,), 2, "no -- before the program; usage: {} [-q"),
        ((PORT, "true"), 2, "no -- before the program; write: {} ttyS7 -- true"),
        (("picocom", NODE), 2, "no -- before the program; write: {} -- picocom /dev/ttyS7"),
        ((PORT, "--"), 2, "no program after --; usage: {} [-q"),
        (("--speed", "9600", "--", "true"), 2, "--speed: no such option; usage: {} [-q"),
        ((PORT, PORT, "--", "true"), 2, "ttyS7: named twice; name each port once"),
        (("--fd", "3", PORT, "--fd", "4", PORT, "--", "true"), 2, "ttyS7: named twice"),
        ((NODE, "--", "true"), 2, "'/dev/ttyS7': not a port's name; write ttyS7"),
        (
            ("ttyS9", "--", "true"),
            1,
            "ttyS9: not permitted: no rule of the policy is about it; ask",
        ),
        ((PORT, "--", "nosuch"), 127, "nosuch: not found in $PATH; is it installed?"),
        ((PORT, "--", "/nosuch"), 127, "/nosuch: no such file"),
        ((PORT, "--", "/etc/passwd"), 126, "/etc/passwd: may not be executed; see its mode"),
        ((PORT, "--", "/etc"), 126, "/etc: is a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_command_line_is_one_line_that_says_what_to_do(
    stage: Stage,
    bare: list[str],
    launcher: str,
    words: tuple[str, ...],
    status: int,
    says: str,
) -> None:
    done = stage.run(*bare, *words)
    assert (done.status, done.out) == (status, "")
    assert says.format(launcher) in only_line(done, launcher)
    assert done.err.count("\n") == 1
    stage.demand_free()


def test_policy_that_refuses_is_the_programs_own_error_and_one_line_of_ours(
    stage: Stage, bare: list[str], launcher: str
) -> None:
    change_policy(stage, "0")
    done = stage.run(*bare, "--", "sh", "-c", f"{PRINT}; {PRINT}; exit 5")
    assert done.status == 5
    assert done.err.count(f"cannot create {NODE}: Permission denied") == 2
    said = only_line(done, launcher)
    assert said.startswith(f"{PORT}: not permitted") and said.endswith("ask the administrator")


@pytest.mark.parametrize("how", [(PORT,), ("--fd", "3", PORT), ("--stdio", PORT)])
def test_policy_that_refuses_a_named_port_stops_before_the_program(
    stage: Stage, bare: list[str], launcher: str, how: tuple[str, ...]
) -> None:
    change_policy(stage, "0")
    done = stage.run(*bare, *how, "--", "touch", "started")
    assert done.status == 1
    assert only_line(done, launcher).startswith(f"{PORT}: not permitted")
    assert not (stage.home / "started").exists()


def test_busy_port_is_the_programs_own_error_and_one_line_that_says_who_has_it(
    stage: Stage, line: list[str], launcher: str
) -> None:
    holder = stage.start(*line, "sh", "-c", f"exec 3<>{NODE}; echo up >&3; read x")
    stage.hear(b"up")
    done = stage.run(*line, "sh", "-c", f"{PRINT}; {PRINT}; exit 5")
    assert done.status == 5
    assert done.err.count(f"cannot create {NODE}: Device or resource busy") == 2
    said = only_line(done, launcher)
    assert said.startswith(f"{PORT}: busy: held by")
    assert "--wait SECONDS" in said
    assert f"uid {NAMELESS}" in said and f"(pid {stage.program(holder.pid)})" in said
    holder.communicate(b"\n")
    stage.demand_free()


def test_busy_port_is_waited_for(stage: Stage, bare: list[str]) -> None:
    holder = stage.start(*bare, PORT, "--", "sh", "-c", f"exec 3<>{NODE}; echo up >&3; read x")
    stage.hear(b"up")
    waiter = stage.start(*bare, "--wait", "10", PORT, "--", "sh", "-c", f"echo mine >{NODE}")
    holder.communicate(b"\n")
    stage.hear(b"mine")
    assert waiter.wait(10) == 0
    stage.demand_free()


@pytest.mark.parametrize("handled", [True, False], ids=["handled", "default"])
@pytest.mark.parametrize("how", [(PORT,), ("--via", "notify", PORT), ("--hold", PORT)])
def test_the_request_of_who_waits_no_longer_is_withdrawn(
    stage: Stage, installation: Installation, how: tuple[str, ...], handled: bool
) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    run = installation.launcher("ttybroker run")
    holder = stage.start(*run, "sh", "-c", f"exec 3<>{NODE}; echo up >&3; read x")
    stage.hear(b"up")
    trap = "trap 'exit 7' TERM; " if handled else ""
    script = f"{trap}echo mine >{NODE}"
    waiter = stage.start(*run[:-1], "--wait", "60", *how, "--", "sh", "-c", script)
    with client.connect(str(stage.rig.socket)) as connection:

        def waiting() -> int:
            return connection.ports((PORT,))[0].waiting

        until(lambda: waiting() == 1, TIMEOUT)
        waiter.terminate()
        until(lambda: waiting() == 0, 0.3)
    held = "--hold" in how  # the program has not begun, and set no trap
    assert waiter.wait(TIMEOUT) == (7 if handled and not held else -signal.SIGTERM)
    holder.communicate(b"\n")
    stage.demand_free(2)


def until(true: Callable[[], bool], timeout: float) -> None:
    """Ask until it is so."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(AGAIN)


def test_run_without_a_broker_says_what_is_missing(
    stage: Stage, installation: Installation
) -> None:
    done = stage.run(*installation.launcher("ttybroker run"), "true")
    assert (done.status, done.out) == (1, "")
    assert only_line(done, "ttybroker run") == (
        f"no broker at {stage.rig.socket}: No such file or directory; "
        "is ttybrokerd running? see: systemctl status ttybroker.socket"
    )
