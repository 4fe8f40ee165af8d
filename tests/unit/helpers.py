"""What the unit tests share: leaks noticed, processes that do one thing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support.processes import descriptors
from ttybrokerd.prepare.accounts import Accounts
from ttybrokerd.prepare.encode import Origin, encode
from ttybrokerd.prepare.policy import Text, parse
from ttybrokerd.root.plan import Plan


def plan_of(text: str, path: str = "policy") -> Plan:
    """The plan for the policy in `text`, written and read again. Raises PolicyError."""
    policy = parse([Text(path, text.encode())], Accounts())
    origin = Origin(False, 0.0, "", path, "", {})
    return Plan(encode(origin, 0, b"", policy))


@contextlib.contextmanager
def nothing_leaked() -> Iterator[None]:
    """Within it, whatever is opened is closed again."""
    before = descriptors(os.getpid())
    yield
    assert descriptors(os.getpid()) == before


@contextlib.contextmanager
def process(code: str, *args: str, passed: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A Python process running `code`; when it has printed a line it is yielded, and it goes
    on until its standard input ends. `code` sees its arguments as `sys.argv[1:]`."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys\n{code}\nprint(flush=True)\n"
               "sys.stdin.read()", *args]  # fmt: skip
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=passed,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "\n", "the helper process failed"
            yield child
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()


def dead_pid() -> int:
    """The pid of a process that has ended and is reaped."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def no_warning(_event: str, _level: int, *, reason: str) -> Any:
    """Stands in for the log of a start that has nothing to warn of."""
    pytest.fail(reason)
