"""Make one system call of a running daemon fail, or kill it there: strace --inject.

The call is not made; the daemon gets the error instead. `getpid` is called in its place, for the
seccomp filter knows no system call -1. Counted from when the tracer is there, for each thread.
"""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from support.daemon import Daemon
from support.waiting import TIMEOUT

ERRORS = ("EIO", "EMFILE", "ENFILE", "ENOSPC", "EINTR", "ENOMEM", "EAGAIN")
# Traced, everything is slow: the loop would be taken over by another thread in the middle.
# And a grant makes the same calls each time: there is a utmp, and it is always read.
HOOK = """
from ttybrokerd.root import logins, others, paced, workers
workers.PATIENCE = 60
paced.Paced.rest = logins.Logins.rest = 0
others.Others.__init__.__defaults__ = ("/dev/null",)
"""
# What waits does not fail; close() gives the descriptor back whatever it says: close(2).
NEVER = {"futex", "epoll_wait", "rt_sigtimedwait", "clock_nanosleep", "close", "restart_syscall",
         "getrandom", "rt_sigreturn", "madvise", "munmap", "mmap", "mprotect", "brk", "exit",
         "getpid", "rseq", "set_robust_list", "clone", "clone3", "rt_sigprocmask",
         "gettid", "clock_gettime"}  # fmt: skip
EPOLL_WAIT = {"x86_64": "232", "aarch64": "22"}[platform.machine()]  # asm/unistd.h
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


class Call(NamedTuple):
    """The `nth` call of `name` in its thread; `what` is its line in the trace."""

    name: str
    nth: int
    what: str

    def __str__(self) -> str:
        return f"{self.name} {self.nth}"


@contextmanager
def traced(daemon: Daemon, *options: str) -> Iterator[Path]:
    """The daemon under strace with these options; the trace is in the file."""
    with tempfile.NamedTemporaryFile(prefix="ttybroker-strace-") as file:
        command = ["strace", "-f", "-o", file.name, *options, "-p", str(daemon.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            line = tracer.stderr.readline()
            assert "attached" in line, f"strace {options}: {line}"
            try:
                yield Path(file.name)
            finally:
                rest(daemon)
                tracer.kill()  # it lets go of everything by that; asked to end, it may wait


def rest(daemon: Daemon) -> None:
    """Wait until the daemon waits for news, or has ended.

    An answer is sent before all that belongs to it is done. A tracer that is killed in the middle
    of a call leaves `getpid` in its place, which succeeds: the daemon would miss what it asked for.
    """
    end = time.monotonic() + TIMEOUT
    while daemon.process.poll() is None:
        for thread in Path(f"/proc/{daemon.pid}/task").glob("*/syscall"):
            with suppress(OSError):  # the thread has ended
                if thread.read_text().split()[0] == EPOLL_WAIT:
                    return
        assert time.monotonic() < end, "the daemon does not come to rest"


def calls(trace: str) -> list[Call]:
    """The calls that may fail, in order."""
    counts: Counter[tuple[str, str]] = Counter()
    found = []
    for line in trace.splitlines():
        if match := _CALL.match(line):
            thread, name, rest = match.groups()
            counts[thread, name] += 1
            if name not in NEVER:
                found.append(Call(name, counts[thread, name], rest))
    return found


def failing(call: Call, error: str) -> str:
    """The option that makes it fail."""
    return f"--inject={call.name}:error={error}:syscall=getpid:when={call.nth}"


def killed_before(call: Call) -> str:
    """The option that kills the daemon just before it."""
    return f"--inject={call.name}:signal=SIGKILL:syscall=getpid:when={call.nth}"


def spread(
    steps: list[Call], number: int, errors: tuple[str, ...] = ERRORS
) -> list[tuple[Call, str]]:
    """So many of all pairs of a call and an error, every call among them if that many will do."""
    pairs = [(call, errors[(at + turn) % len(errors)])
             for turn in range(len(errors)) for at, call in enumerate(steps)]  # fmt: skip
    step = max(1, len(steps) // number)
    return pairs[::step][:number]
