"""A run makes no process group orphaned that would not be so without us, and keeps none from it.

When an exit makes a group orphaned in which somebody is stopped, the kernel sends SIGHUP and
SIGCONT to all of it: setpgid(2), and kernel/exit.c, kill_orphaned_pgrp(). A group is orphaned if no
parent of a member is in another group of the same session. A job of cron or CI is so from its
start, and so nothing is sent to it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from run.conftest import LIMIT, Rig, wait_for_end
from support.processes import children

TREE = {"TEST_PTRACE_SCOPE": "1", "TEST_VIA": "notify"}
LAYOUTS = pytest.mark.parametrize(
    ("how", "env"),
    [
        ((), {"TEST_VIA": "auto"}),
        ((), {"TEST_VIA": "notify"}),
        ((), TREE),
        (("--hold",), TREE),
        (("--via", "pty"), {}),
        (("--hold", "--via", "pty", "--fd", "7"), {}),
    ],
    ids=["traced", "listened", "tree", "held in the tree", "pty", "held beside"],
)

WAIT_STOPPED = "until grep -q State:.T /proc/$!/status; do sleep 0.01; done"


def job(
    rig: Rig, script: str, how: tuple[str, ...], env: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a script as cron does, in an orphaned group: its "$@" is `ttybroker run ... --`."""
    run = [*rig.command, str(rig.directory), *how, "ttyS7", "--"]
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", *run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": rig.code, **env},
        start_new_session=True,
    )
    rig.started.append(process)
    return process


def state(pid: int) -> str:
    """Return a process's state, "T" if it is stopped: proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_stopped(pid: int) -> None:
    """Wait until a process has stopped that is no child of this one. It may be traced."""
    end = time.monotonic() + LIMIT
    while (now := state(pid)) not in "Tt":
        assert time.monotonic() < end, f"process {pid} does not stop, but is {now}"
        time.sleep(0.001)


@LAYOUTS
def test_the_end_of_a_run_hangs_up_no_stopped_process_beside_it(
    rig: Rig, how: tuple[str, ...], env: dict[str, str]
) -> None:
    script = f"""sh -c 'kill -STOP $$' <&- >&- 2>&- &
{WAIT_STOPPED}
"$@" sh -c 'exit 3' /dev/ttyS7; echo $! $?"""
    process = job(rig, script, how, env)
    output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    beside, status = map(int, output.split())
    assert (status, state(beside)) == (3, "T")
    os.kill(beside, signal.SIGKILL)
    wait_for_end(beside)


def stopped(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait until the program of a job, which prints its pid, has stopped; return it and its run."""
    assert process.stdout is not None
    program = int(process.stdout.readline())
    (launcher,) = children(process.pid)
    wait_stopped(launcher)
    return program, launcher


@LAYOUTS
def test_a_stopped_program_that_is_killed_ends_its_run_and_nothing_else(
    rig: Rig, how: tuple[str, ...], env: dict[str, str]
) -> None:
    process = job(rig, """"$@" sh -c 'echo $$; kill -STOP $$' /dev/ttyS7; echo $?""", how, env)
    program, _ = stopped(process)
    os.kill(program, signal.SIGKILL)
    output, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, output) == (0, b"137\n"), errors


@LAYOUTS
def test_what_continues_a_program_continues_its_run(
    rig: Rig, how: tuple[str, ...], env: dict[str, str]
) -> None:
    """Somebody who found the program by its name knows nothing of the launcher."""
    script = """"$@" sh -c 'trap "exit 5" USR1; echo $$; kill -STOP $$
while :; do read x; done' /dev/ttyS7; echo $?"""
    process = job(rig, script, how, env)
    program, launcher = stopped(process)
    os.kill(program, signal.SIGCONT)
    os.kill(launcher, signal.SIGUSR1)
    output, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, output) == (0, b"5\n"), errors


@LAYOUTS
def test_a_stopped_job_that_the_program_leaves_behind_is_hung_up(
    rig: Rig, how: tuple[str, ...], env: dict[str, str]
) -> None:
    """Nobody could continue it: its own group is orphaned when the program has ended."""
    code = """
import os, signal
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    for number in 0, 1, 2:
        os.close(number)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
os.waitpid(job, os.WUNTRACED)
print(job)"""
    process = job(rig, f'"$@" {sys.executable} -c "$CODE" /dev/ttyS7', how, {**env, "CODE": code})
    output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    wait_for_end(int(output))
