"""Seccomp user notification: the filter, the listener, and the answers to it.

Everything here is a thin function over prctl(2), seccomp(2) or an ioctl(2) of the
listener; who is asked about what is decided in `supervise`. libseccomp is not used: 2.5
has no ADDFD. Numbers come from the kernel's own headers, named where they stand, with
the first kernel that has them. Every failing call raises OSError with its errno.

The notification ABI, after seccomp_unotify(2): the kernel stops a thread at a trapped
system call, the supervisor receives a `Notification`, and answers with one of `put_fd`
(the call returns this descriptor), `give_value`, `refuse` or `let_go_on`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import sys
from fcntl import ioctl

# linux/prctl.h
PR_GET_DUMPABLE = 3  # 2.4
PR_SET_DUMPABLE = 4  # 2.4
PR_SET_NO_NEW_PRIVS = 38  # 3.5
PR_SET_CHILD_SUBREAPER = 36  # 3.4

# linux/seccomp.h
SET_MODE_FILTER = 1  # 3.17
GET_NOTIF_SIZES = 3  # 5.0
FLAG_NEW_LISTENER = 1 << 3  # 5.0
FLAG_WAIT_KILLABLE_RECV = 1 << 5  # 5.19
RET_USER_NOTIF = 0x7FC00000  # 5.0
RET_ALLOW = 0x7FFF0000  # 3.5
NOTIF_FLAG_CONTINUE = 1 << 0  # 5.5
ADDFD_FLAG_SEND = 1 << 1  # 5.14
IOCTL_RECV = 0xC0502100  # _IOWR('!', 0, struct seccomp_notif), 5.0
IOCTL_SEND = 0xC0182101  # _IOWR('!', 1, struct seccomp_notif_resp), 5.0
IOCTL_ID_VALID = 0x40082102  # _IOW('!', 2, __u64), 5.0 (the direction was put right in 5.8)
IOCTL_ADDFD = 0x40182103  # _IOW('!', 3, struct seccomp_notif_addfd), 5.9
IOCTL_SET_FLAGS = 0x40082104  # _IOW('!', 4, __u64), 6.6
FD_SYNC_WAKE_UP = 1 << 0  # 6.6

# struct seccomp_notif: id, pid, flags; struct seccomp_data: nr, arch, ip, six arguments.
_NOTIF = struct.Struct("=QIIiIQ6Q")
_RESP = struct.Struct("=QqiI")  # id, val, error, flags
_ADDFD = struct.Struct("=QIIII")  # id, flags, srcfd, newfd, newfd_flags
_ZERO = bytes(_NOTIF.size)  # the kernel refuses a buffer that is not zero
SIZES = (_NOTIF.size, _RESP.size, 16 + 6 * 8)  # notif, resp, data

# asm-generic/fcntl.h; arm64 and i386 agree on these
O_ACCMODE = os.O_ACCMODE
_WANTS_A_TERMINAL = O_ACCMODE | os.O_NOCTTY | os.O_NONBLOCK
_READ_OR_WRITE = 6  # R_OK | W_OK of access(2)

X32_BIT = 0x40000000  # asm/unistd.h, __X32_SYSCALL_BIT

# What a trapped call is, whatever its number: a table per architecture maps onto these.
OPEN, OPENAT, OPENAT2, CREAT, ACCESS, FACCESSAT = range(6)


class Unsupported(OSError):
    """This kernel or machine cannot do it; `str()` says what is missing. errno is ENOSYS."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ENOSYS, reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Abi:
    """One system call convention: its AUDIT_ARCH, its numbers, its ELF machines."""

    def __init__(
        self, audit: int, calls: dict[int, int], o_directory: int, elf: tuple[tuple[int, int], ...]
    ) -> None:
        self.audit = audit
        self.calls = calls  # system call number -> OPEN..FACCESSAT
        self.o_directory = o_directory
        self.elf = elf  # (EI_CLASS, e_machine) of the programs that use it: linux/elf-em.h


_FROM_5_6 = {437: OPENAT2, 439: FACCESSAT}  # openat2 5.6, faccessat2 5.8: the same everywhere

# AUDIT_ARCH_*: linux/audit.h. The x32 numbers are those of x86-64 with X32_BIT set.
_X86_64 = Abi(  # asm/unistd_64.h
    0xC000003E,
    {2: OPEN, 257: OPENAT, 85: CREAT, 21: ACCESS, 269: FACCESSAT, **_FROM_5_6},
    0o200000,
    ((2, 62), (1, 62)),
)
_I386 = Abi(  # asm/unistd_32.h
    0x40000003,
    {5: OPEN, 295: OPENAT, 8: CREAT, 33: ACCESS, 307: FACCESSAT, **_FROM_5_6},
    0o200000,
    ((1, 3),),
)
_GENERIC = {56: OPENAT, 48: FACCESSAT, **_FROM_5_6}  # asm-generic/unistd.h
_AARCH64 = Abi(0xC00000B7, _GENERIC, 0o40000, ((2, 183),))  # arm64 has its own O_DIRECTORY
_RISCV64 = Abi(0xC00000F3, _GENERIC, 0o200000, ((2, 243),))

# uname(2) machine -> (seccomp(2)'s own number, the conventions its programs can use)
MACHINES: dict[str, tuple[int, tuple[Abi, ...]]] = {
    "x86_64": (317, (_X86_64, _I386)),
    "aarch64": (277, (_AARCH64,)),
    "riscv64": (277, (_RISCV64,)),
}


def machine() -> tuple[int, tuple[Abi, ...]]:
    """seccomp(2)'s number and the conventions of this machine.

    Raises Unsupported when the table does not know it, or this interpreter is a 32-bit one.
    """
    name = os.uname().machine
    if name not in MACHINES or sys.maxsize < 2**32:
        raise Unsupported(f"no system call table for {name}")
    return MACHINES[name]


# ---- the filter: classic BPF, linux/bpf_common.h and linux/filter.h ----

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_ANY = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each

# (code, value, label to go to when true, label when false); "" goes to the next line
_Line = tuple[int, int, str, str]
# kind -> (argument with the flags or the mode, what to look at)
_LOOKS = {OPEN: (1, "flags"), OPENAT: (2, "flags"), ACCESS: (1, "mode"), FACCESSAT: (2, "mode")}


def build_filter(abis: tuple[Abi, ...]) -> bytes:
    """The program, as an array of struct sock_filter, for the conventions given.

    Asks about an open that could be one of a terminal (it reads and writes, or says
    O_NOCTTY or O_NONBLOCK, or does not say O_CLOEXEC: so `cat PORT` and `< PORT` work, and
    the loader's own opens are never asked about), not of a directory; about access() for
    reading or writing; about openat2() and creat() always, because a filter cannot see
    their flags or they have none. A convention it does not know passes untouched: the
    program there has no brokered ports, and loses nothing else.
    """
    lines: list[_Line] = [(_LOAD, _ARCH, "", "")]
    labels: dict[str, int] = {}
    lines += [(_EQUAL, abi.audit, f"abi{at}", "") for at, abi in enumerate(abis)]
    lines.append((_RETURN, RET_ALLOW, "", ""))
    for at, abi in enumerate(abis):
        labels[f"abi{at}"] = len(lines)
        _one_abi(abi, f"{at}", lines, labels)
    return b"".join(
        struct.pack(
            "=HBBI",
            code,
            labels[yes] - here - 1 if yes else 0,
            labels[no] - here - 1 if no else 0,
            value,
        )
        for here, (code, value, yes, no) in enumerate(lines)
    )


def _one_abi(abi: Abi, at: str, lines: list[_Line], labels: dict[str, int]) -> None:
    lines.append((_LOAD, _NR, "", ""))
    if abi is _X86_64:
        lines.append((_AND, 0xFFFFFFFF ^ X32_BIT, "", ""))  # x32 calls are held to the same rules
    for nr, kind in abi.calls.items():
        lines.append((_EQUAL, nr, f"kind{kind}.{at}" if kind in _LOOKS else f"ask.{at}", ""))
    lines.append((_RETURN, RET_ALLOW, "", ""))
    for kind in sorted(set(abi.calls.values()) & set(_LOOKS)):
        argument, what = _LOOKS[kind]
        labels[f"kind{kind}.{at}"] = len(lines)
        # The low half of the argument: every machine in the table is little-endian.
        lines.append((_LOAD, _ARGS + 8 * argument, "", ""))
        if what == "mode":
            lines.append((_ANY, _READ_OR_WRITE, f"ask.{at}", f"pass.{at}"))
        else:
            lines.append((_ANY, abi.o_directory, f"pass.{at}", ""))
            lines.append((_ANY, _WANTS_A_TERMINAL, f"ask.{at}", ""))
            lines.append((_ANY, os.O_CLOEXEC, f"pass.{at}", f"ask.{at}"))
    labels[f"pass.{at}"] = len(lines)
    lines.append((_RETURN, RET_ALLOW, "", ""))
    labels[f"ask.{at}"] = len(lines)
    lines.append((_RETURN, RET_USER_NOTIF, "", ""))


# ---- system calls ----

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def prctl(option: int, value: int) -> int:
    """prctl(2) with one argument."""
    result: int = _libc.prctl(
        ctypes.c_int(option),
        ctypes.c_ulong(value),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    if result < 0:
        _raise("prctl")
    return result


def _seccomp(number: int, operation: int, flags: int, argument: object) -> int:
    result: int = _libc.syscall(
        ctypes.c_long(number), ctypes.c_uint(operation), ctypes.c_uint(flags), argument
    )
    if result < 0:
        _raise("seccomp")
    return result


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


def install() -> int:
    """Filter this thread and all it starts, for good; the listener's descriptor (close-on-exec).

    Sets no_new_privs: set-user-ID programs started from here on gain nothing.
    Raises Unsupported for an unknown machine; OSError EBUSY when a listener is there
    already (a second one is not allowed), EINVAL when the kernel is older than 5.0.
    """
    number, abis = machine()
    code = build_filter(abis)
    program = _SockFprog(len(code) // 8, code)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    # Killable: without it any signal handler of the program restarts the call, and the
    # port that was opened for the first try is in the way of the second.
    for flags in (FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV, FLAG_NEW_LISTENER):
        try:
            return _seccomp(number, SET_MODE_FILTER, flags, ctypes.byref(program))
        except OSError as error:
            if error.errno != errno.EINVAL or flags == FLAG_NEW_LISTENER:
                raise
    raise AssertionError("not reached")


def check_support() -> None:
    """Try all that `supervise` needs. Filters this very process: for a child that then ends.

    Raises Unsupported or OSError with the reason.
    """
    number, _ = machine()
    sizes = bytearray(6)
    buffer = (ctypes.c_char * 6).from_buffer(sizes)
    _seccomp(number, GET_NOTIF_SIZES, 0, ctypes.byref(buffer))
    if struct.unpack("=HHH", sizes) != SIZES:
        raise Unsupported("the kernel's notifications have a size this version does not know")
    listener = install()
    try:
        # No call has the id 0: ENOENT says that the request itself is understood.
        ioctl(listener, IOCTL_ADDFD, _ADDFD.pack(0, 0, listener, 0, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise Unsupported("the kernel cannot pass descriptors to a caller (Linux 5.9 can)")
    finally:
        os.close(listener)


# ---- the listener ----


class Notification:
    """One stopped system call. `pid` is the thread's id; `kind` is OPEN..FACCESSAT, -1 unknown."""

    __slots__ = ("args", "id", "kind", "o_directory", "pid")

    def __init__(self, raw: bytearray) -> None:
        self.id, self.pid, _, nr, arch, _, *self.args = _NOTIF.unpack(raw)
        abi = _ABI_OF.get(arch, _X86_64)
        self.kind = abi.calls.get(nr & ~X32_BIT, -1)
        self.o_directory = abi.o_directory


_ABI_OF = {abi.audit: abi for _, abis in MACHINES.values() for abi in abis}


def wake_in_step(listener: int) -> None:
    """Have the two sides wake each other on one CPU, where the kernel can: a quarter faster."""
    try:
        ioctl(listener, IOCTL_SET_FLAGS, FD_SYNC_WAKE_UP)
    except OSError:
        pass


def receive(listener: int) -> Notification:
    """Wait for the next call. OSError ENOENT: the caller was killed meanwhile, or none is left."""
    buffer = bytearray(_ZERO)
    ioctl(listener, IOCTL_RECV, buffer)
    return Notification(buffer)


def is_deserted(listener: int) -> bool:
    """Whether no process has the filter any more. (POLLHUP, 5.9.)"""
    poll = select.poll()
    poll.register(listener, 0)
    return bool(poll.poll(0))


def is_waiting(listener: int, call: int) -> bool:
    """Whether the call still waits, so that what was read about its thread was its own."""
    try:
        ioctl(listener, IOCTL_ID_VALID, struct.pack("=Q", call))
    except OSError:
        return False
    return True


def let_go_on(listener: int, call: int) -> None:
    """The kernel carries the call out, with the rights of its caller."""
    _send(listener, call, 0, 0, NOTIF_FLAG_CONTINUE)


def give_value(listener: int, call: int, value: int) -> None:
    """The call returns `value`."""
    _send(listener, call, value, 0, 0)


def refuse(listener: int, call: int, number: int) -> None:
    """The call fails with this errno."""
    _send(listener, call, 0, -number, 0)


def _send(listener: int, call: int, value: int, error: int, flags: int) -> None:
    try:
        ioctl(listener, IOCTL_SEND, _RESP.pack(call, value, error, flags))
    except OSError as failure:
        # ENOENT: the caller was killed, or a signal took it out of the call. Nobody to tell.
        if failure.errno != errno.ENOENT:
            raise


def put_fd(listener: int, call: int, fd: int, *, cloexec: bool) -> bool:
    """The call returns `fd`, which is the program's alone from then on: it is closed here in
    any case. False when the caller is gone. OSError EMFILE: the caller's table is full.

    Ours is closed before the call returns, because a program may close its port and open it
    again at once, and would find us in its way. That takes two steps, between which only a
    kernel with WAIT_KILLABLE_RECV keeps signals out; on an older one it is done after.
    """
    newfd_flags = os.O_CLOEXEC if cloexec else 0
    put = _put_in_two_steps if _kernel() >= (5, 19) else _put_in_one_step
    try:
        return put(listener, call, fd, newfd_flags)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise


def _kernel() -> tuple[int, ...]:
    version = os.uname().release.split("-")[0]
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _put_in_one_step(listener: int, call: int, fd: int, newfd_flags: int) -> bool:
    try:
        ioctl(listener, IOCTL_ADDFD, _ADDFD.pack(call, ADDFD_FLAG_SEND, fd, 0, newfd_flags))
    except OSError as error:
        if error.errno == errno.EINVAL:  # before 5.14
            return _put_in_two_steps(listener, call, fd, newfd_flags)
        os.close(fd)
        raise
    os.close(fd)
    return True


def _put_in_two_steps(listener: int, call: int, fd: int, newfd_flags: int) -> bool:
    try:
        # A bytearray, because for bytes ioctl() hands back the bytes and not the number.
        request = bytearray(_ADDFD.pack(call, 0, fd, 0, newfd_flags))
        number = ioctl(listener, IOCTL_ADDFD, request)
    finally:
        os.close(fd)
    give_value(listener, call, number)
    return True
