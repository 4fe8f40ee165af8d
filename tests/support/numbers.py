"""The system calls of this machine: their numbers, and which of the list are made here."""

from __future__ import annotations

import platform
import sys

from ttybrokerd.prepare.syscalls import Call

try:
    import pyseccomp as bindings  # of PyPI
except ImportError:
    import seccomp as bindings  # of Debian, as in the lab's guest


def number_of(name: str) -> int:
    """The number of a system call here, by the bindings that there are; negative: there is none."""
    number: int = bindings.resolve_syscall(bindings.Arch.NATIVE, name)
    return number


def made_here(call: Call) -> bool:
    """Whether this Python and this C library are of the versions that make it."""
    here = {"": (0,), "Python": sys.version_info[:2], "glibc": version(platform.libc_ver()[1])}
    program, _, since = call.since.partition(" ")
    other, _, until = call.until.partition(" ")
    return version(since) <= here[program] and (not other or here[other] < version(until))


def version(text: str) -> tuple[int, ...]:
    """2.36 as (2, 36)."""
    return tuple(map(int, text.split("."))) if text else (0,)
