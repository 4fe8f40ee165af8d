"""In a sandbox with pids of its own the port is granted, and its holder is a real process: the
broker's own number of it, never that of a bystander who has the same number outside."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from matrix.namespace import PORT
from matrix.stage import NAMELESS, NODE, Installation, Stage

pytestmark = pytest.mark.root

BWRAP = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
UNSHARE = ["unshare", "-Urpf", "--mount-proc"]
EXAMPLE = Path(__file__).parents[2] / "packaging/examples/container.sh"
HOLD = "echo up >&3; read x"


@pytest.fixture
def run(stage: Stage, installation: Installation) -> list[str]:
    """`ttybroker run`, with a daemon outside."""
    stage.rig.daemon(*stage.rig.arguments)
    return [word for word in installation.launcher("ttybroker run") if word != "--"]


def holder(stage: Stage) -> str:
    """The command line of the process that the lock names, which is a number outside."""
    pid = stage.lock_pid()
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = re.search(r"^NSpid:\t(.*)$", status, re.MULTILINE)
    assert numbers is not None and len(numbers[1].split()) > 1, "not a process of the sandbox"
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.parametrize("sandbox", [BWRAP, UNSHARE], ids=["bwrap", "unshare"])
@pytest.mark.parametrize(
    ("how", "inside"),
    [
        ((), ["sh", "-c", f"exec 3<>{NODE}; {HOLD}"]),
        (("--via", "notify"), ["sh", "-c", f"exec 3<>{NODE}; {HOLD}"]),
        (("--fd", "3", PORT), ["sh", "-c", HOLD]),
        (("--stdio", PORT), ["sh", "-c", f"exec 3>&1; {HOLD}"]),
        (("--via", "pty"), ["sh", "-c", f"exec 3<>$0; {HOLD}", NODE]),
    ],
    ids=["traced", "listened", "fd", "stdio", "pty"],
)
def test_a_sandbox_gets_its_port_and_the_holder_is_a_process_of_it(
    stage: Stage, run: list[str], sandbox: list[str], how: tuple[str, ...], inside: list[str]
) -> None:
    process = stage.start(*sandbox, *run, *how, "--", *inside)
    try:
        stage.hear(b"up")
    except AssertionError:
        process.kill()
        raise AssertionError(process.communicate()[1].decode()) from None
    assert "ttybroker" in holder(stage) or "sh -c" in holder(stage)
    if "--stdio" in how:
        stage.say(b"\n")
    process.communicate(b"\n", timeout=10)
    stage.demand_free(2)


@pytest.mark.parametrize("how", [(), ("--via", "notify"), ("--fd", "3", PORT), ("--hold", PORT)])
def test_the_container_of_the_examples_gets_its_port(
    stage: Stage, run: list[str], installation: Installation, how: tuple[str, ...]
) -> None:
    container = stage.root / "container.sh"
    shutil.copy(EXAMPLE, container)
    base = str(installation.base)
    opens = HOLD if "--fd" in how else f"exec 3<>{NODE}; {HOLD}"
    words = [str(container), "--ro-bind", base, base, *run, *how, "--", "sh", "-c", opens]
    process = stage.start(*words)
    stage.hear(b"up")
    assert "sh -c" in holder(stage) or "ttybroker" in holder(stage)
    process.communicate(b"\n", timeout=10)
    stage.demand_free(2)


@pytest.mark.parametrize("how", [(), ("--via", "notify"), ("--via", "pty"), ("--hold", PORT)])
def test_another_root_directory_gets_its_port(
    stage: Stage, run: list[str], how: tuple[str, ...]
) -> None:
    """A whole run in it: the same pids, so its program is the holder."""
    root = stage.root / "chroot"
    root.mkdir()
    user = f"--userspec={NAMELESS}:{NAMELESS}"
    program = f"exec 3<>$0; {HOLD}"
    inner = [f'chroot {user} --groups= {root} "$@"', "x", *run, *how, "--", "sh", "-c", program]
    script = f"mount --rbind / {root}; exec {inner[0]}"
    process = stage.start("unshare", "-m", "sh", "-c", script, *inner[1:], NODE, uid=0)
    stage.hear(b"up")
    assert stage.lock_pid() == process.pid
    process.communicate(b"\n", timeout=10)
    stage.demand_free(2)


def test_a_bystander_with_the_same_number_is_never_named(stage: Stage, run: list[str]) -> None:
    bystander = subprocess.Popen(["sleep", "60"], user=NAMELESS, group=NAMELESS, extra_groups=[])
    try:
        last = f"echo {bystander.pid - 1} > /proc/sys/kernel/ns_last_pid"
        inner = f"exec 3<>{NODE}; echo up $$ >&3; read x"
        words = " ".join(run)
        script = f'{last}; {words} -- sh -c "$0"'
        process = stage.start(*UNSHARE, "sh", "-c", script, inner.replace("$$", "$$"))
        heard = stage.hear(b"up")
        assert stage.lock_pid() != bystander.pid
        assert "sleep" not in holder(stage), heard
        listed = stage.run(run[0], "list")
        assert f"(pid {bystander.pid})" not in listed.out
        granted = stage.rig.daemons[0].record("grant")
        assert granted.fields["pid"] == str(stage.lock_pid())
        process.communicate(b"\n", timeout=10)
    finally:
        os.kill(bystander.pid, signal.SIGKILL)
        bystander.wait()
    stage.demand_free(2)


def test_outside_a_sandbox_the_program_itself_is_the_holder(stage: Stage, run: list[str]) -> None:
    process = stage.start(*run, "--", "sh", "-c", f"exec 3<>{NODE}; {HOLD}")
    stage.hear(b"up")
    assert stage.lock_pid() == process.pid
    process.communicate(b"\n", timeout=10)
    stage.demand_free(2)
