"""Seccomp user notification: the filter, the listener, and the answers to it.

Everything here is a thin function over seccomp(2) or an ioctl(2) of the listener; which
call gets which answer is decided in `supervise` and `trace`. libseccomp is not used: 2.5
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

from ttybroker.run.kernel import MACHINE, PR_SET_NO_NEW_PRIVS, fail, libc, prctl

# linux/seccomp.h
SET_MODE_FILTER = 1  # 3.17
GET_NOTIF_SIZES = 3  # 5.0
FLAG_NEW_LISTENER = 1 << 3  # 5.0
FLAG_WAIT_KILLABLE_RECV = 1 << 5  # 5.19
RET_USER_NOTIF = 0x7FC00000  # 5.0
RET_TRACE = 0x7FF00000  # 3.5; the low 16 bits are for the tracer
RET_ERRNO = 0x00050000  # 3.5; the low 16 bits are the errno
RET_ALLOW = 0x7FFF0000  # 3.5
NOTIF_FLAG_CONTINUE = 1 << 0  # 5.5
ADDFD_FLAG_SEND = 1 << 1  # 5.14
IOCTL_RECV = 0xC0502100  # _IOWR('!', 0, struct seccomp_notif), 5.0
IOCTL_SEND = 0xC0182101  # _IOWR('!', 1, struct seccomp_notif_resp), 5.0
IOCTL_ID_VALID = 0x40082102  # _IOW('!', 2, __u64), 5.0 (the direction was put right in 5.8)
IOCTL_ADDFD = 0x40182103  # _IOW('!', 3, struct seccomp_notif_addfd), 5.9
IOCTL_SET_FLAGS = 0x40082104  # _IOW('!', 4, __u64), 6.6
FD_SYNC_WAKE_UP = 1 << 0  # 6.6

ERESTARTSYS = 512  # linux/errno.h: not for programs; the kernel makes it EINTR or calls again

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
OPEN, OPENAT, OPENAT2, CREAT, ACCESS, FACCESSAT, PTRACE, INOTIFY, IO_URING, VIEW, FLOCK = range(11)

# VIEW is chroot(), pivot_root(), unshare() and setns(): paths may lead elsewhere after it.

# Which plain read-only opens are asked about: those without O_NOCTTY and O_NONBLOCK. The tracer's
# are those that it can mark. Only the listener could look at others, and signals interrupt that.
PLAIN_INHERITED = 0  # the tracer's without O_CLOEXEC: `cat PORT` and `< PORT`, not the loader's
PLAIN_TRACED = 1  # all of the tracer's: Python's open(PORT, "rb"), Go's os.Open, fopen(PORT, "re")
PLAIN_ALWAYS = 2  # all

# In the unused upper half of an int argument: the tracer has found that this call means a port.
MARK = 0x74747962


class Unsupported(OSError):
    """This kernel or machine cannot do it. `str()` says what is missing. errno is ENOSYS."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ENOSYS, reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Abi:
    """One system call convention: its AUDIT_ARCH, its numbers, its ELF machines."""

    def __init__(
        self,
        audit: int,
        calls: dict[int, int],
        o_directory: int,
        elf: tuple[tuple[int, int], ...],
        registers: dict[int, int],
    ) -> None:
        self.audit = audit
        self.calls = calls  # system call number -> OPEN..FLOCK
        self.o_directory = o_directory
        self.elf = elf  # (EI_CLASS, e_machine) of the programs that use it: linux/elf-em.h
        # argument -> its place in struct user_regs_struct, for those that a tracer can mark
        self.registers = registers

    def markable(self, kind: int) -> bool:
        """Return whether a tracer can send such a call on to the listener."""
        return MARKED.get(kind) in self.registers


# openat2 5.6, faccessat2 5.8, io_uring_setup 5.1: the same everywhere
_FROM_5_1 = {437: OPENAT2, 439: FACCESSAT, 425: IO_URING}

# AUDIT_ARCH_*: linux/audit.h. The x32 numbers are those of x86-64 with X32_BIT set.
_X86_64 = Abi(  # asm/unistd_64.h
    0xC000003E,
    {
        2: OPEN,
        257: OPENAT,
        85: CREAT,
        21: ACCESS,
        269: FACCESSAT,
        **_FROM_5_1,
        101: PTRACE,
        254: INOTIFY,
        161: VIEW,
        155: VIEW,
        272: VIEW,
        308: VIEW,
        73: FLOCK,
    },
    0o200000,
    ((2, 62), (1, 62)),
    {0: 14, 1: 13, 2: 12},  # asm/user_64.h: rdi, rsi, rdx
)
_I386 = Abi(  # asm/unistd_32.h
    0x40000003,
    {
        5: OPEN,
        295: OPENAT,
        8: CREAT,
        33: ACCESS,
        307: FACCESSAT,
        **_FROM_5_1,
        26: PTRACE,
        292: INOTIFY,
        143: FLOCK,
    },
    0o200000,
    ((1, 3),),
    {},  # its registers have no upper half
)
# asm-generic/unistd.h
_GENERIC = {
    56: OPENAT,
    48: FACCESSAT,
    **_FROM_5_1,
    117: PTRACE,
    27: INOTIFY,
    51: VIEW,
    41: VIEW,
    97: VIEW,
    268: VIEW,
    32: FLOCK,
}
# arm64 has its own O_DIRECTORY. The first argument is not to be marked on either: what a tracer
# writes there is the call's result. asm/ptrace.h: x1 and x2; pc, ra, ... a0, a1, a2.
_AARCH64 = Abi(0xC00000B7, _GENERIC, 0o40000, ((2, 183),), {1: 1, 2: 2})
_RISCV64 = Abi(0xC00000F3, _GENERIC, 0o200000, ((2, 243),), {1: 11, 2: 12})

# uname(2) machine -> (seccomp(2)'s own number, the conventions its programs can use)
MACHINES: dict[str, tuple[int, tuple[Abi, ...]]] = {
    "x86_64": (317, (_X86_64, _I386)),
    "aarch64": (277, (_AARCH64,)),
    "riscv64": (277, (_RISCV64,)),
}


def machine() -> tuple[int, tuple[Abi, ...]]:
    """Return seccomp(2)'s number and the conventions of this machine.

    Raises Unsupported if the table does not have the machine, or if this interpreter is a 32-bit
    one.
    """
    if MACHINE not in MACHINES or sys.maxsize < 2**32:
        raise Unsupported(f"no system call table for {MACHINE}")
    return MACHINES[MACHINE]


# ---- the filter: classic BPF, linux/bpf_common.h and linux/filter.h ----

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_ANY = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each

# (code, value, label to go to when true, label when false); "" goes to the next line
_Line = tuple[int, int, str, str]
# kind -> the argument with the flags or the mode
_LOOKS = {OPEN: 1, OPENAT: 2, ACCESS: 1, FACCESSAT: 2}
# kind -> the int argument whose upper half carries MARK
MARKED = {**_LOOKS, OPENAT2: 0, CREAT: 1, FLOCK: 1}
# What only a tracer wants to see: it lets them go on.
_TRACER_S = {PTRACE, INOTIFY, VIEW}
_LOCKS = (1, 2, 5, 6)  # LOCK_SH, LOCK_EX, each with LOCK_NB too: asm-generic/fcntl.h
_NEW_FILE = os.O_CREAT | os.O_EXCL  # both: no port can be meant, because it must not exist


class Filter:
    """Write the filter for the given conventions, as an array of struct sock_filter.

    It asks about an open that may be one of a terminal: one that reads and writes, or has O_NOCTTY
    or O_NONBLOCK. `plain` says which plain read-only opens it asks about: PLAIN_INHERITED and so
    on. It never asks about the open of a directory, with O_PATH, or of a file that must be new. It
    asks about access() for reading or writing. It always asks about openat2() and creat(), because
    a filter cannot see the flags of the one, and the other has none. It asks about flock() that
    locks, because a filter cannot see what the descriptor is, and the lease answers the lock of a
    leased port. It answers io_uring_setup() with ENOSYS, because a ring opens files unseen.

    traced: a tracer is asked first (RET_TRACE), and sends only marked calls to the listener. But an
    open with O_RDWR and O_NOCTTY goes to the listener at once. These flags mean a terminal, and
    nearly every program that knows of serial ports uses them. A convention that is not given passes
    untouched: a program of that kind has no brokered ports, and loses nothing else.
    """

    def __init__(self, abis: tuple[Abi, ...], *, plain: int, traced: bool) -> None:
        self._plain = plain
        self._traced = traced
        self._lines: list[_Line] = [(_LOAD, _ARCH, "", "")]
        self._labels: dict[str, int] = {}
        self._lines += [(_EQUAL, abi.audit, f"abi{at}", "") for at, abi in enumerate(abis)]
        self._lines.append((_RETURN, RET_ALLOW, "", ""))
        for at, abi in enumerate(abis):
            self._one_abi(abi, f"{at}")

    def code(self) -> bytes:
        """Return the array; 8 bytes each."""
        labels = self._labels
        return b"".join(
            struct.pack(
                "=HBBI",
                code,
                labels[yes] - here - 1 if yes else 0,
                labels[no] - here - 1 if no else 0,
                value,
            )
            for here, (code, value, yes, no) in enumerate(self._lines)
        )

    def _one_abi(self, abi: Abi, at: str) -> None:
        self._labels[f"abi{at}"] = len(self._lines)
        self._add(_LOAD, _NR)
        if abi is _X86_64:
            self._add(_AND, 0xFFFFFFFF ^ X32_BIT)  # x32 calls are held to the same rules
        kinds = set(abi.calls.values())
        if not (self._traced and abi.registers):
            kinds -= _TRACER_S
        for nr, kind in abi.calls.items():
            if kind in kinds:
                self._add(_EQUAL, nr, f"kind{kind}.{at}")
        self._add(_RETURN, RET_ALLOW)
        for kind in sorted(kinds):
            self._labels[f"kind{kind}.{at}"] = len(self._lines)
            self._one_kind(abi, kind, at)
        self._labels[f"pass.{at}"] = len(self._lines)
        self._add(_RETURN, RET_ALLOW)
        self._labels[f"notify.{at}"] = len(self._lines)
        self._add(_RETURN, RET_USER_NOTIF)

    def _one_kind(self, abi: Abi, kind: int, at: str) -> None:
        if kind == IO_URING:
            self._add(_RETURN, RET_ERRNO | errno.ENOSYS)
            return
        traced = self._traced and (abi.markable(kind) or kind in _TRACER_S)
        if traced and kind in MARKED:
            self._add(_LOAD, _ARGS + 8 * MARKED[kind] + 4)
            self._add(_EQUAL, MARK, f"notify.{at}")
        if kind in _LOOKS:
            # The low half of the argument: every machine in the table is little-endian.
            self._add(_LOAD, _ARGS + 8 * _LOOKS[kind])
            if kind in (ACCESS, FACCESSAT):
                self._add(_ANY, _READ_OR_WRITE, "", f"pass.{at}")
            else:
                self._flags(abi, kind, at)
        elif kind == FLOCK:
            self._add(_LOAD, _ARGS + 8)
            for operation in _LOCKS[:-1]:
                self._add(_EQUAL, operation, f"ask{kind}.{at}")
            self._add(_EQUAL, _LOCKS[-1], "", f"pass.{at}")
        self._labels[f"ask{kind}.{at}"] = len(self._lines)
        self._add(_RETURN, RET_TRACE | kind if traced else RET_USER_NOTIF)

    def _flags(self, abi: Abi, kind: int, at: str) -> None:
        self._add(_ANY, abi.o_directory | os.O_PATH, f"pass.{at}")
        self._add(_AND, _NEW_FILE)
        self._add(_EQUAL, _NEW_FILE, f"pass.{at}")
        traced = self._traced and abi.markable(kind)
        if traced:
            self._add(_LOAD, _ARGS + 8 * _LOOKS[kind])
            self._add(_AND, O_ACCMODE | os.O_NOCTTY | os.O_CREAT)
            self._add(_EQUAL, os.O_RDWR | os.O_NOCTTY, f"notify.{at}")
        self._add(_LOAD, _ARGS + 8 * _LOOKS[kind])
        if self._plain < (PLAIN_TRACED if traced else PLAIN_ALWAYS):
            self._add(_ANY, _WANTS_A_TERMINAL, f"ask{kind}.{at}")
            if traced and self._plain == PLAIN_INHERITED:
                self._add(_ANY, os.O_CLOEXEC, f"pass.{at}")
            else:
                self._add(_RETURN, RET_ALLOW)

    def _add(self, code: int, value: int, yes: str = "", no: str = "") -> None:
        self._lines.append((code, value, yes, no))


# ---- system calls ----


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(number: int, operation: int, flags: int, argument: object) -> int:
    result: int = libc.syscall(
        ctypes.c_long(number), ctypes.c_uint(operation), ctypes.c_uint(flags), argument
    )
    if result < 0:
        raise fail("seccomp")
    return result


def install(*, plain: int = PLAIN_INHERITED, traced: bool = False) -> int:
    """Filter this thread and all it starts, for good, and return the listener's descriptor.

    The descriptor is close-on-exec. plain, traced: as for `Filter`. Sets no_new_privs: set-user-ID
    programs started from here on gain nothing. Raises Unsupported for an unknown machine; OSError
    EBUSY if there is a listener already (a second one is not allowed), EINVAL if the kernel is
    older than 5.0.
    """
    number, abis = machine()
    code = Filter(abis, plain=plain, traced=traced).code()
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


def check_kernel() -> None:
    """Raise Unsupported with the reason if the kernel cannot do what `supervise` needs.

    This checks only what can be seen without a filter.
    """
    number, _ = machine()
    if _kernel() < (5, 9):
        raise Unsupported("the kernel cannot pass descriptors to a caller (Linux 5.9 can)")
    sizes = bytearray(6)
    buffer = (ctypes.c_char * 6).from_buffer(sizes)
    try:
        _seccomp(number, GET_NOTIF_SIZES, 0, ctypes.byref(buffer))
    except OSError as error:
        raise Unsupported(f"the kernel has no seccomp notification ({error.strerror})") from None
    if struct.unpack("=HHH", sizes) != SIZES:
        raise Unsupported("the kernel's notifications have a size this version does not know")


def try_here() -> None:
    """Try all that `supervise` needs.

    It filters this very process, so call it in a child that then ends. Raises Unsupported or
    OSError with the reason.
    """
    check_kernel()
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
    """One stopped system call. `pid` is the thread's id; `kind` is OPEN..FLOCK, -1 unknown."""

    __slots__ = ("args", "id", "kind", "o_directory", "pid")

    def __init__(self, raw: bytearray) -> None:
        self.id, self.pid, _, nr, arch, _, *self.args = _NOTIF.unpack(raw)
        abi = ABI_OF.get(arch, _X86_64)
        self.kind = abi.calls.get(nr & ~X32_BIT, -1)
        self.o_directory = abi.o_directory


ABI_OF = {abi.audit: abi for _, abis in MACHINES.values() for abi in abis}


def wake_in_step(listener: int) -> None:
    """Let the two sides wake each other on one CPU, where the kernel can: a quarter faster."""
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
    """Return whether no process has the filter any more: POLLHUP, Linux 5.9."""
    poll = select.poll()
    poll.register(listener, 0)
    return bool(poll.poll(0))


def is_waiting(listener: int, call: int) -> bool:
    """Return whether the call still waits. If so, what was read about its thread was its own."""
    try:
        ioctl(listener, IOCTL_ID_VALID, struct.pack("=Q", call))
    except OSError:
        return False
    return True


def let_go_on(listener: int, call: int) -> None:
    """Let the kernel carry out the call, with the rights of its caller."""
    _send(listener, call, 0, 0, NOTIF_FLAG_CONTINUE)


def give_value(listener: int, call: int, value: int) -> None:
    """Make the call return `value`."""
    _send(listener, call, value, 0, 0)


def refuse(listener: int, call: int, number: int) -> None:
    """Make the call fail with this errno."""
    _send(listener, call, 0, -number, 0)


def _send(listener: int, call: int, value: int, error: int, flags: int) -> None:
    try:
        ioctl(listener, IOCTL_SEND, _RESP.pack(call, value, error, flags))
    except OSError as failure:
        # ENOENT: the caller was killed, or a signal took it out of the call. Nobody to tell.
        if failure.errno != errno.ENOENT:
            raise


def put_fd(listener: int, call: int, fd: int, *, cloexec: bool) -> bool:
    """Make the call return `fd`, which belongs only to the program from then on.

    It is closed here in any case. Returns False if the caller is gone. Raises OSError EMFILE if the
    caller's table is full.

    Our copy is closed before the call returns. Otherwise, a program that closes its port and opens
    it again at once would find our copy in its way. That takes two steps. Only a kernel with
    WAIT_KILLABLE_RECV keeps signals out between them. On an older kernel our copy is closed after
    the call.
    """
    newfd_flags = os.O_CLOEXEC if cloexec else 0
    put = _put_in_two_steps if _TWO_STEPS else _put_in_one_step
    try:
        return put(listener, call, fd, newfd_flags)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise


def _kernel() -> tuple[int, ...]:
    version = os.uname().release.split("-")[0]
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


_TWO_STEPS = _kernel() >= (5, 19)


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
