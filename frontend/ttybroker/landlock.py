"""Landlock: a process gives up the file system, except for what it names. landlock(7).

Best effort by design, as the kernel's own documentation asks: what this kernel's ABI does not know
is left out, and the level that was reached is returned. Thin calls by ctypes; the numbers are the
same on every architecture. Both halves use it, each with its own rules.
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping

# include/uapi/asm-generic/unistd.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # Linux 5.13
# include/uapi/linux/landlock.h
_VERSION = 1 << 0
_RULE_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_REG = 1 << 8
REFER = 1 << 13  # ABI 2, Linux 5.19; without it link and rename stay in one directory
TRUNCATE = 1 << 14  # ABI 3, Linux 6.2
IOCTL_DEV = 1 << 15  # ABI 5, Linux 6.10
RESOLVE_UNIX = 1 << 16  # ABI 9, Linux 7.1: connect and send to sockets by their paths
_ACCESS = {1: (1 << 13) - 1, 2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}  # what each ABI brought
_ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX
_NETWORK = 3  # bind and connect of TCP: ABI 4, Linux 6.7
_SCOPES = 3  # abstract sockets, and signals to who is not confined with us: ABI 6, Linux 6.12
KNOWN = 6  # the newest ABI that is asked for here in any case
_SOCKETS = 9  # the ABI that RESOLVE_UNIX came with
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr of linux/landlock.h."""

    _fields_ = (
        ("fs", ctypes.c_uint64),
        ("net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr of linux/landlock.h."""

    _pack_ = 1
    _layout_ = "ms"  # what _pack_ means; Python warns from 3.14 on if it is not said
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the kernel's Landlock ABI version; 0 if it has none, or was booted without it."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


class Ruleset:
    """Rules that are not yet in force: the ABI level and the kernel's descriptor.

    They are 0 and -1 where the kernel has no Landlock.
    """

    __slots__ = ("descriptor", "level")

    def __init__(self, level: int, descriptor: int) -> None:
        self.level = level
        self.descriptor = descriptor


def ruleset(allowed: Mapping[str, int], *, sockets: bool = False) -> Ruleset:
    """Make rules for giving up the file system except `allowed`.

    `allowed` maps a path to the accesses to everything beneath it. TCP, abstract sockets, and
    signals to processes that are not confined with this one are given up too. `sockets`:
    also sockets with a path, except those of RESOLVE_UNIX. Paths that do not exist are passed over.
    Raises OSError.
    """
    kernel = abi()
    level = min(kernel, KNOWN)
    if level == 0:
        return Ruleset(0, -1)
    handled = 0
    for since, access in _ACCESS.items():
        handled |= access if since <= level else 0
    if sockets and kernel >= _SOCKETS:
        handled |= RESOLVE_UNIX  # guard: landlock-sockets
    # guard: landlock-scopes
    wanted = _Ruleset(handled, _NETWORK if level >= 4 else 0, _SCOPES if level >= 6 else 0)
    size = 8 if level < 4 else 16 if level < 6 else 24  # what the kernel of that time knew
    made = _call(_CREATE_RULESET, ctypes.byref(wanted), size, 0)
    try:
        for path, access in allowed.items():
            if access & handled:  # the kernel refuses a rule that allows nothing: ENOMSG
                _allow(made, path, access & handled)
    except BaseException:
        os.close(made)
        raise
    return Ruleset(level, made)


def enforce(rules: Ruleset) -> None:
    """Put the rules in force, for this thread and what it starts, for good. Close the descriptor.

    Sets no_new_privs. Descriptors that are open stay as they are. Raises OSError.
    """
    if rules.descriptor < 0:
        return
    try:
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
        _call(_RESTRICT_SELF, rules.descriptor, 0)  # guard: landlock-restrict
    finally:
        os.close(rules.descriptor)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(f"/proc/self/fd/{beneath}"):
            access &= _ON_FILES
        rule = _PathBeneath(access, beneath)
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(beneath)


def _call(number: int, *arguments: object) -> int:
    """Call syscall(2) with longs: ctypes would pass ints of 32 bits."""
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *plain))
    if result < 0:
        why = ctypes.get_errno()
        raise OSError(why, f"landlock: {os.strerror(why)}")
    return result
