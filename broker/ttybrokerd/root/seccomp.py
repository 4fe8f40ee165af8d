"""The filter of system calls, from the table in syscalls.py to the kernel: seccomp(2).

An allow-list by libseccomp, which knows each architecture's numbers and refuses the other ABIs of
the machine (i386, x32). What is not in the table kills the process: nothing of ours calls it.
Under Python's development mode (`python3 -X dev`) it fails with EPERM instead, and the kernel's
log has a line (type=1326, with the number of the call).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from types import ModuleType

from ttybrokerd.root import linux
from ttybrokerd.root.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, NoReturn


class Program(NamedTuple):
    """The filter as the kernel takes it: struct sock_filter, one after the other, and the number
    of seccomp(2) on this machine."""

    number: int
    code: bytes

    def load(self) -> None:
        """Put it in force, for every thread of this process and for good. Raises OSError."""
        log = linux.SECCOMP_FILTER_FLAG_LOG if sys.flags.dev_mode else 0
        linux.seccomp(self.number, linux.SECCOMP_FILTER_FLAG_TSYNC | log, self.code)


def program() -> Program:
    """The program of the table in syscalls.py. Made in a child: what that takes of libraries and
    memory is no part of a process that stays root. No thread may run yet. Raises OSError."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _make(writing)
    os.close(writing)
    made = linux.read_all(reading)
    os.close(reading)
    linux.reap(child)
    number = int.from_bytes(made[:4], sys.byteorder)
    if number == 0:
        why = made[4:].decode("utf-8", "replace") or "its process has ended"
        raise OSError(errno.ENOSYS, f"cannot filter system calls: {why}")
    return Program(number, made[4:])


def _make(writing: int) -> NoReturn:
    """The child: write the number of seccomp(2) and the program, or 0 and what is wrong."""
    try:
        library = _bindings()
        number = library.resolve_syscall(library.Arch.NATIVE, "seccomp")
        os.write(writing, int(number).to_bytes(4, sys.byteorder))
        with open(writing, "wb", buffering=0) as file:
            _built(library).export_bpf(file)
    except BaseException as error:
        os.write(writing, bytes(4) + f"{error}; is libseccomp2 installed?".encode())
    finally:
        os._exit(0)


def _built(library: Any) -> Any:
    """The rules, in libseccomp's hands."""
    from ttybrokerd.prepare import syscalls  # a table of which the broker has no further use

    # guard: kill-unlisted-calls, developer-error
    denied = library.ERRNO(errno.EPERM) if sys.flags.dev_mode else library.KILL_PROCESS
    rules = library.SyscallFilter(denied)
    rules.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)  # guard: kill-other-abis
    for call in syscalls.CALLS:
        needs = [library.Arg(a, library.MASKED_EQ, mask, value) for a, value, mask in call.needs]
        rules.add_rule(library.ALLOW, call.name, *needs)
    rules.add_rule(library.ERRNO(errno.ENOSYS), syscalls.ABSENT)
    return rules


def _bindings() -> Any:
    """libseccomp's own, which distributions have, or pyseccomp, which is on PyPI. That one asks
    ctypes.util where the library is, who would run ldconfig twice: it is told instead."""
    try:
        import seccomp
    except ImportError:
        util = ModuleType("ctypes.util")
        vars(util)["find_library"] = {"c": None, "seccomp": "libseccomp.so.2"}.get
        vars(ctypes)["util"] = sys.modules["ctypes.util"] = util
        import pyseccomp as seccomp
    return seccomp
