"""The filter of system calls, from the table in syscalls.py to what seccomp(2) takes.

libseccomp makes an allow-list. It knows the numbers of each architecture, and refuses the other
ABIs of the machine (i386, x32). A call that is not in the table kills the process, because our code
makes no such call. Under Python's development mode (`python3 -X dev`) the call fails with EPERM
instead, and the kernel logs a line (type=1326, with the number of the call).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from types import ModuleType
from typing import Any

from ttybrokerd.prepare import selftest, syscalls
from ttybrokerd.root import linux


class NoFilter(OSError):
    """The filter cannot be made here."""


def build() -> tuple[int, bytes]:
    """Return the number of seccomp(2) on this machine, and the program. Raises NoFilter."""
    try:
        library = _bindings()
        number = int(library.resolve_syscall(library.Arch.NATIVE, "seccomp"))
        reading, writing = os.pipe()
        with open(writing, "wb", buffering=0) as file:
            _rules(library).export_bpf(file)  # at most 4096 instructions: the pipe holds them
        code = linux.read_all(reading)
        os.close(reading)
    except Exception as error:
        what = f"cannot filter system calls: {error}; is libseccomp2 installed?"
        raise NoFilter(errno.ENOSYS, what) from None
    return number, code


def tried() -> tuple[int, bytes]:
    """Return what `build` returns, after a child under it has done what a root side does.

    Raises NoFilter, with the name of a call that would end a root side.
    """
    number, code = build()
    try:
        call = selftest.refused(number, code)
    except OSError as error:
        raise NoFilter(errno.ENOSYS, str(error)) from None
    if call is not None:  # guard: try-the-filter
        library = _bindings()
        name = library.resolve_syscall(library.Arch.NATIVE, call).decode()
        what = f"the filter of system calls lacks {name}, which this Python or C library makes"
        raise NoFilter(errno.ENOSYS, f"{what}: a newer ttybroker is needed; please report it")
    return number, code


def _rules(library: Any) -> Any:
    """Return the rules, as libseccomp's object."""
    # guard: kill-unlisted-calls, developer-error
    denied = library.ERRNO(errno.EPERM) if sys.flags.dev_mode else library.KILL_PROCESS
    rules = library.SyscallFilter(denied)
    rules.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)  # guard: kill-other-abis
    for call in syscalls.CALLS:
        needs = [
            library.Arg(need.argument, library.MASKED_EQ, need.mask, need.value)
            for need in call.needs
        ]
        rules.add_rule(library.ALLOW, call.name, *needs)
    rules.add_rule(library.ERRNO(errno.ENOSYS), syscalls.ABSENT)
    return rules


def _bindings() -> Any:
    """Return libseccomp's own bindings, which distributions have, or pyseccomp from PyPI.

    pyseccomp asks ctypes.util where the library is, which would run ldconfig twice. So it is told
    here.
    """
    try:
        import seccomp
    except ImportError:
        util = ModuleType("ctypes.util")
        vars(util)["find_library"] = {"c": None, "seccomp": "libseccomp.so.2"}.get
        vars(ctypes)["util"] = sys.modules["ctypes.util"] = util
        import pyseccomp as seccomp
    return seccomp
