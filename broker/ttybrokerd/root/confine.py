"""The root side gives up what its job does not need, before it reads a client's first byte.

Every step is verified by what the kernel says afterwards (/proc/self/status), not by what was asked
of it. If a step had no effect, the process ends. All of the steps are in this module.

The job needs two capabilities. CAP_SYS_ADMIN is to hang up a terminal (TIOCVHANGUP,
drivers/tty/tty_io.c), and to open one that somebody made exclusive. CAP_DAC_OVERRIDE is there
because udev may give a node to anybody, and a program a lock file.
"""

from __future__ import annotations

import os
import resource
import stat
import sys

import prctl

from ttybroker import landlock, wire
from ttybroker.version import VERSION
from ttybroker.wire import Value
from ttybrokerd.root import linux, logins, seats

CAPABILITIES: tuple[int, ...] = (prctl.CAP_SYS_ADMIN, prctl.CAP_DAC_OVERRIDE)
# include/uapi/linux/securebits.h: NOROOT and NO_SETUID_FIXUP (uid 0 brings no capability, neither
# by execve nor by setuid), NO_CAP_AMBIENT_RAISE, KEEP_CAPS not, and all four locked.
SECUREBITS = 0x01 | 0x04 | 0x40 | 0x02 | 0x08 | 0x20 | 0x80
AMBIENT = 0x40 | 0x80  # the bits about ambient capabilities, of which none is left to raise
# setrlimit(2). RLIMIT_NPROC is not there, because CAP_SYS_ADMIN lifts it: the filter has no fork.
LIMITS = (
    # guard: descriptor-limit
    (resource.RLIMIT_NOFILE, 16384),  # clients and four a lease, with room
    (resource.RLIMIT_CORE, 0),  # guard: no-core
    (resource.RLIMIT_MEMLOCK, 0),  # guard: no-locked-memory
)
FILE_SIZE = 4096  # bytes; a lock file has 11

# What Landlock leaves, for all that is beneath a directory. Files can be made and removed only in
# the directory of the lock files. Of /sys, only the part with consoles and empty slots can be read.
READ = landlock.READ_FILE
KERNEL_FILES = {"/proc": READ | landlock.READ_DIR, "/sys/devices": READ, logins.UTMP: READ}
LOCKS = READ | landlock.WRITE_FILE | landlock.MAKE_REG | landlock.REMOVE_FILE
DEVICES = READ | landlock.WRITE_FILE | landlock.READ_DIR | landlock.IOCTL_DEV
FORBIDDEN = "/etc"  # a directory that Landlock must keep us from reading
CROWDED = ("/", "/etc", "/run", "/tmp")  # not given as a whole for one file's sake

_landlock = 0  # the ABI level in force


class NotConfined(RuntimeError):
    """The kernel did not take away what it was asked to."""


class Places(Value):
    """Where in the file system the job is done.

    `locks` is a directory, `devices` are nodes, and `plan` is a file. Another node or file may take
    the place of each in the same directory. `socket` is removed at the end.
    """

    locks: str
    devices: tuple[str, ...] = ()
    plan: str | None = None
    socket: str | None = None

    def rules(self) -> dict[str, int]:
        """Return the Landlock rules for these places: access rights by path."""
        sitting = {seats.TOP: READ | landlock.READ_DIR}
        rules = {**KERNEL_FILES, **sitting, self.locks: LOCKS, "/dev": DEVICES}
        more = [] if self.plan is None else [(_around(self.plan), READ)]
        more += [(_around(path), DEVICES) for path in self.devices]
        if self.socket is not None and os.path.dirname(self.socket) not in CROWDED:
            more.append((os.path.dirname(self.socket), landlock.REMOVE_FILE))
        for path, access in more:
            rules[path] = rules.get(path, 0) | access
        return rules


class Bounds(Value):
    """What the kernel is to enforce, made and not yet in force."""

    files: landlock.Ruleset
    seccomp: int  # the number of seccomp(2) on this machine
    filter: bytes  # struct sock_filter, one after the other

    def close(self) -> None:
        """Close its descriptors, in a process that is not to be confined."""
        if self.files.descriptor >= 0:
            os.close(self.files.descriptor)


def bounds(places: Places, seccomp: int, code: bytes) -> Bounds:
    """Make what `confine` needs. Call it before a fork, so that the memory stays shared.

    `seccomp` and `code` are a plan's `seccomp` and `filter`. Raises OSError.
    """
    return Bounds(landlock.ruleset(places.rules()), seccomp, code)


def confine(bounds: Bounds) -> None:
    """Shrink this process for good.

    Raises NotConfined or OSError. Then the process must not go on.
    """
    if len(os.listdir("/proc/self/task")) != 1:  # guard: one-thread-when-confined
        raise NotConfined("threads are running: what follows binds the one that does it alone")
    os.umask(0o077)  # guard: umask
    os.chdir("/")  # guard: working-directory
    for what, value in LIMITS:
        _limit(what, value)
    if not _logs_to_a_file():
        _limit(resource.RLIMIT_FSIZE, FILE_SIZE)  # guard: file-size-limit
    _lock_securebits()
    cut_bounding_set(CAPABILITIES)  # guard: cut-the-bounding-set
    cut_sets(CAPABILITIES)  # guard: cut-capabilities
    prctl.set_no_new_privs(1)  # guard: no-new-privs
    if not prctl.get_no_new_privs():
        raise NotConfined("no_new_privs is not set")
    prctl.set_dumpable(0)  # guard: not-dumpable
    if prctl.get_dumpable() != 0:
        raise NotConfined("the process is still dumpable")
    _give_up_files(bounds.files)
    _filter_calls(bounds.seccomp, bounds.filter)  # guard: load-seccomp
    wanted = _mask(CAPABILITIES)
    verify(permitted=wanted, bounding=wanted, filtered=True)


def account() -> wire.Running:
    """Return what /proc does not show of how this process is confined."""
    return wire.Running(_landlock, bool(prctl.get_dumpable()), VERSION)


def _give_up_files(rules: landlock.Ruleset) -> None:
    """Give up files by Landlock. Where it can, give up signals to others and abstract sockets."""
    global _landlock
    landlock.enforce(rules)  # guard: enforce-landlock
    _landlock = rules.level
    if _landlock == 0:
        return
    try:
        os.close(os.open(FORBIDDEN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError:
        return
    raise NotConfined(f"{FORBIDDEN} can still be read")  # guard: landlock-tried


def _filter_calls(number: int, code: bytes) -> None:
    """Filter the system calls of every thread for good.

    In development mode, refused calls are logged.
    """
    log = linux.SECCOMP_FILTER_FLAG_LOG if sys.flags.dev_mode else 0
    linux.seccomp(number, linux.SECCOMP_FILTER_FLAG_TSYNC | log, code)


def _around(path: str) -> str:
    """Return the directory of a file that may be replaced; of a crowded one, the file itself."""
    directory = os.path.dirname(path)
    return path if directory in CROWDED else directory  # guard: crowded-directories


def _lock_securebits() -> None:
    """Lock the securebits.

    Where systemd has left no CAP_SETPCAP, it has locked them itself (SecureBits= of the unit), but
    for those of ambient capabilities, which it does not know.
    """
    wanted = SECUREBITS
    if int(status()["CapEff"], 16) >> prctl.CAP_SETPCAP & 1:
        linux.set_securebits(SECUREBITS)  # guard: lock-securebits
    else:
        wanted &= ~AMBIENT
    bits = linux.get_securebits()
    if bits & wanted != wanted:
        raise NotConfined(f"the securebits are {bits:#x}, not {wanted:#x}; is CAP_SETPCAP missing?")


def _mask(capabilities: tuple[int, ...]) -> int:
    """Return a set of capabilities as the number that the kernel shows."""
    return sum(1 << number for number in capabilities)


def cut_bounding_set(keep: tuple[int, ...]) -> None:
    """Drop what is in the bounding set and not in `keep`.

    The kernel says what is in it, because python-prctl knows no capability that is newer than its
    build. What systemd has dropped cannot be dropped again without CAP_SETPCAP.
    """
    held = int(status()["CapBnd"], 16)
    for number in range(held.bit_length()):
        if held >> number & 1 and number not in keep:
            prctl.capbset_drop(number)


def cut_sets(keep: tuple[int, ...]) -> None:
    """Drop all capabilities that are not in `keep`, unless systemd has done so.

    If it has, capset(2) is not called: the unit does not allow it. The inheritable set is then as
    wide as what is kept, because systemd passes capabilities by it: capabilities(7).
    """
    linux.clear_ambient()
    held, wanted = status(), _mask(keep)
    much = int(held["CapInh"], 16) & ~wanted
    if not much and int(held["CapPrm"], 16) == int(held["CapEff"], 16) == wanted:
        return
    sets = (prctl.CAP_EFFECTIVE, prctl.CAP_PERMITTED)
    drop = [number for number in prctl.ALL_CAPS if number not in keep]
    inherit = (list(prctl.ALL_CAPS), (prctl.CAP_INHERITABLE,), False)
    prctl.set_caps((drop, sets, False), inherit)


def verify(*, permitted: int, bounding: int, filtered: bool = False) -> None:
    """Compare the kernel's account of every thread with what must be. Raises NotConfined."""
    for thread in os.listdir("/proc/self/task"):
        found = status(thread)
        for field, value in (
            ("CapPrm", permitted),
            ("CapEff", permitted),
            ("CapBnd", bounding),
            ("CapInh", int(found["CapInh"], 16) & permitted),  # guard: inheritable-read-back
            ("CapAmb", 0),
        ):
            if int(found[field], 16) != value:  # guard: capabilities-read-back
                raise NotConfined(f"{field} is {found[field]}, not {value:016x}")
        if found["NoNewPrivs"] != "1":  # guard: no-new-privs-read-back
            raise NotConfined("no_new_privs is not set")
        # guard: seccomp-read-back
        if filtered and found["Seccomp"] != "2":  # SECCOMP_MODE_FILTER
            raise NotConfined("system calls are not filtered")


def status(thread: str = "self") -> dict[str, str]:
    """Return the kernel's account of a thread of this process, by field: proc_pid_status(5)."""
    path = "/proc/self/status" if thread == "self" else f"/proc/self/task/{thread}/status"
    lines = linux.read_file(path).decode("ascii", "replace").splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs}


def _logs_to_a_file() -> bool:
    """Return whether standard error is a file that grows with the log."""
    try:
        return stat.S_ISREG(os.fstat(2).st_mode)
    except OSError:  # closed
        return False


def _limit(what: int, value: int) -> None:
    _soft, hard = resource.getrlimit(what)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (allowed, allowed))
    if resource.getrlimit(what) != (allowed, allowed):
        raise NotConfined(f"resource limit {what} was not taken")  # guard: limit-read-back
