"""The numbers of system calls on this machine, by the bindings of libseccomp that there are."""

from __future__ import annotations

try:
    import pyseccomp as bindings  # of PyPI
except ImportError:
    import seccomp as bindings  # of Debian, as in the lab's guest


def number_of(name: str) -> int:
    """The number of a system call here; negative if there is none."""
    number: int = bindings.resolve_syscall(bindings.Arch.NATIVE, name)
    return number
