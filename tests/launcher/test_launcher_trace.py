"""At no stage can the caller reach into `ttyrun`: stub, interpreter, root half, frontend.

The stages are found by tracing as root: a tracer with CAP_SYS_PTRACE does not cost the
set-user-ID bit, and detaching with SIGSTOP leaves the process stopped at that very point.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from launcher.conftest import Launcher

pytestmark = pytest.mark.root

# linux/ptrace.h
PTRACE_TRACEME, PTRACE_CONT, PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SEIZE = 0, 7, 16, 17, 0x4206
SYS_PIDFD_GETFD = 438  # asm-generic/unistd.h, Linux 5.6

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request: int, pid: int = 0, data: int = 0) -> None:
    if LIBC.ptrace(request, pid, None, data) == -1:
        raise OSError(ctypes.get_errno(), f"ptrace {request}")


def pidfd_getfd(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    if LIBC.syscall(SYS_PIDFD_GETFD, pidfd, 1, 0) == -1:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")


def attacks(pid: int) -> dict[str, Callable[[], object]]:
    proc = Path(f"/proc/{pid}")
    limits = (1 << 30, 1 << 30)
    return {
        "attach": lambda: ptrace(PTRACE_ATTACH, pid),
        "seize": lambda: ptrace(PTRACE_SEIZE, pid),
        "read memory": lambda: open(proc / "mem", "rb"),
        "write memory": lambda: open(proc / "mem", "r+b"),
        "environment": lambda: (proc / "environ").read_bytes(),
        "address": lambda: (proc / "maps").read_bytes(),
        "descriptor": lambda: os.readlink(proc / "fd/1"),
        "take descriptor": lambda: pidfd_getfd(pid),
        "limits": lambda: resource.prlimit(pid, resource.RLIMIT_RTPRIO, limits),
        "real time": lambda: os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, pid, -20),
    }


def attack(launcher: Launcher, pid: int) -> set[str]:
    """Which of the attacks the caller's uid brings off on `pid`, each from a fresh process."""
    done = set()
    for name, act in attacks(pid).items():
        child = os.fork()
        if child == 0:
            status = 2
            try:
                os.setgroups([launcher.group])
                os.setresgid(*[launcher.gid] * 3)
                os.setresuid(*[launcher.uid] * 3)
                status = 0
                act()
            except OSError as error:
                status = 1 if status == 0 and error.errno in (errno.EPERM, errno.EACCES) else 2
            finally:
                os._exit(status)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 1), name
        if code == 0:
            done.add(name)
    return done


def stopped_at_exec(launcher: Launcher, count: int) -> int:
    """Start ttyrun as the caller; return its pid, stopped behind its `count`th execve(2)."""
    pid = os.fork()
    if pid == 0:
        try:
            ptrace(PTRACE_TRACEME)  # still root: the tracer keeps the rights it has now
            os.setgroups([])
            os.setresgid(*[launcher.gid] * 3)
            os.setresuid(*[launcher.uid] * 3)
            os.execve(launcher.program, ["ttyrun"], {})
        finally:
            os._exit(127)
    for stop in range(1, count + 1):
        _, status = os.waitpid(pid, 0)
        assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP, status
        if stop < count:
            ptrace(PTRACE_CONT, pid)
    ptrace(PTRACE_DETACH, pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, status
    return pid


def status_of(pid: int, key: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{key}:")).split()[1:]


def end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def test_attacks_work_on_a_process_of_ones_own(launcher: Launcher) -> None:
    """Or the other tests here would prove nothing."""
    with subprocess.Popen(
        ["cat"], user=launcher.uid, group=launcher.gid, extra_groups=[launcher.group], stdin=-1
    ) as victim:
        try:
            done = attack(launcher, victim.pid)
        finally:
            victim.kill()
    assert {"environment", "address", "descriptor"} <= done
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if not yama.exists() or yama.read_text() == "0\n":
        assert {"attach", "seize", "read memory", "write memory", "take descriptor"} <= done


@pytest.mark.parametrize("count", [1, 2], ids=["stub", "interpreter"])
def test_nobody_attaches_before_python_runs(launcher: Launcher, count: int) -> None:
    pid = stopped_at_exec(launcher, count)
    try:
        assert status_of(pid, "Uid") == [str(launcher.uid), "0", "0", "0"]
        assert attack(launcher, pid) == set()
    finally:
        end(pid)


def test_nobody_attaches_to_the_root_half(launcher: Launcher) -> None:
    with launcher.popen("hold", stdin=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        assert attack(launcher, process.pid) == set()


def test_traced_from_the_start_it_stays_the_callers(launcher: Launcher) -> None:
    """A tracer without CAP_SYS_PTRACE costs the set-user-ID bit: nothing to gain."""
    read, write = os.pipe()
    tracer = os.fork()
    if tracer == 0:  # the caller, who forks and traces ttyrun
        try:
            os.setgroups([])
            os.setresgid(*[launcher.gid] * 3)
            os.setresuid(*[launcher.uid] * 3)
            os.dup2(write, 2)
            pid = os.fork()
            if pid == 0:
                ptrace(PTRACE_TRACEME)
                os.execve(launcher.program, ["ttyrun"], {})
            os.waitpid(pid, 0)
            uids = status_of(pid, "Uid")
            ptrace(PTRACE_CONT, pid)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(write, json.dumps([uids, code]).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(tracer, 0)
    with open(read) as pipe:
        refusal, result = pipe.read().splitlines()
    assert "4755" in refusal
    assert json.loads(result) == [[str(launcher.uid)] * 4, 1]
