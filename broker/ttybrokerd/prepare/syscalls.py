"""The system calls that the confined root side makes, each with its reason: plain data.

The list is what the tests were seen to call. A test fails if an entry is no longer called. An entry
that no test can provoke is marked `unseen`, and its reason says who makes the call. A call that
only some versions of Python or of the C library make has a version: `since`, and `until` for the
first version that does not make it.
"""

from __future__ import annotations

import fcntl
import mmap
import termios

from ttybroker.wire import Value
from ttybrokerd.root import linux
from ttybrokerd.root.linux import socket

# include/uapi/linux/sched.h
CLONE_VM, CLONE_THREAD, CLONE_PTRACE = 0x100, 0x10000, 0x2000
CLONE_NEW = 0x7E020080  # each kind of namespace


class Is(Value):
    """What an argument must be: `value` in the bits of `mask`."""

    argument: int
    value: int
    mask: int = 0xFFFFFFFF


class Call(Value):
    """One allowed call. All of `needs` must be true of its arguments."""

    name: str
    why: str
    needs: tuple[Is, ...] = ()
    unseen: bool = False
    since: str = ""
    until: str = ""


def _ioctl(number: int, why: str, *, unseen: bool = False) -> Call:
    return Call("ioctl", why, (Is(1, number),), unseen)  # guard: ioctl-arguments


NO_CODE = Is(2, 0, mmap.PROT_EXEC)  # guard: no-executable-memory

CALLS = (
    # clients
    Call("accept4", "a client connects"),
    Call("getsockopt", "who it is", (Is(1, socket.SOL_SOCKET),)),
    Call("getsockname", "Python looks at each socket that it makes an object of"),
    # guard: setsockopt-arguments
    Call("setsockopt", "have it sign what it sends", (Is(2, socket.SO_PASSCRED),)),
    Call("setsockopt", "and send no descriptors", (Is(2, linux.SO_PASSRIGHTS),)),
    _ioctl(0x5421, "FIONBIO: do not wait for it"),
    # guard: socketpair-arguments
    Call("socketpair", "a further connection of a forked frontend", (Is(0, socket.AF_UNIX),)),
    Call("recvmsg", "a request and its sender"),
    Call("sendmsg", "an answer, maybe with a descriptor"),
    Call("sendto", "the log, systemd, a last word"),
    # the loop
    Call("epoll_wait", "wait for news"),
    Call("epoll_pwait", "the same where there is no epoll_wait: aarch64", unseen=True),
    Call("epoll_ctl", "what to wait for"),
    Call("read", "signals, wake-ups, closes, small files"),
    Call("write", "wake-ups, the log, a lock's pid"),
    Call("close", "everything ends"),
    # files: which of them is for Landlock to say
    Call("openat", "devices, locks, /proc, /sys, the plan"),
    Call("newfstatat", "what was opened, and what is to be"),
    Call("fstat", "the same", since="glibc 2.39"),
    Call("readlink", "a device's kernel name, an alias, the plan's path"),
    Call("readlinkat", "the same where there is no readlink: aarch64", unseen=True),
    Call("getdents64", "which ports there are; which threads"),
    Call("fchmod", "a lock is for others to read"),
    Call("linkat", "take a lock"),
    Call("renameat", "put a stale lock aside, sign a lock again"),
    Call("renameat2", "the same where there is no renameat: riscv64", unseen=True),
    Call("unlinkat", "give a lock back"),
    Call("unlink", "the daemon's own socket, at its end"),
    Call("fcntl", "a copy: of a port, of standard error", (Is(1, fcntl.F_DUPFD_CLOEXEC),)),
    # systemd's descriptor store
    Call("memfd_create", "what a lease is, for the next daemon"),
    Call("fcntl", "and sealed", (Is(1, fcntl.F_ADD_SEALS),)),  # guard: fcntl-arguments
    Call("poll", "has the holder's process ended?", until="Python 3.15"),
    Call("ppoll", "the same; aarch64 has neither poll nor pause", since="Python 3.15"),
    # a port
    _ioctl(linux.TIOCEXCL, "TIOCEXCL: nobody else"),
    _ioctl(linux.TIOCNXCL, "TIOCNXCL: anybody again"),
    _ioctl(linux.TIOCGEXCL, "TIOCGEXCL: is somebody there?"),
    _ioctl(termios.TIOCGETD, "TIOCGETD: has somebody attached a line discipline?"),
    _ioctl(termios.TIOCSETD, "TIOCSETD: the usual one again, or nothing else works"),
    _ioctl(termios.TCXONC, "TCXONC: output goes on that was stopped"),
    _ioctl(linux.TCGETS2, "TCGETS2: the terminal's settings, with any speed"),
    _ioctl(linux.TCSETS2, "TCSETS2: put them back"),
    _ioctl(termios.TIOCGWINSZ, "TIOCGWINSZ: the window's size"),
    _ioctl(termios.TIOCSWINSZ, "TIOCSWINSZ: put it back"),
    _ioctl(linux.TIOCGSERIAL, "TIOCGSERIAL: low_latency, spd_*, the divisor"),
    _ioctl(linux.TIOCSSERIAL, "TIOCSSERIAL: put them back; no pty has any", unseen=True),
    _ioctl(linux.TIOCGRS485, "TIOCGRS485: is it an RS-485 port?"),
    _ioctl(linux.TIOCSRS485, "TIOCSRS485: put that back; few drivers have it", unseen=True),
    _ioctl(termios.TIOCMGET, "TIOCMGET: loop and OUT1; and for `list --details`"),
    _ioctl(termios.TIOCMBIC, "TIOCMBIC: no loop in the chip, no OUT1"),
    _ioctl(termios.TIOCMBIS, "TIOCMBIS: OUT1 where it was found; no pty has it", unseen=True),
    _ioctl(linux.TIOCGICOUNT, "TIOCGICOUNT: bytes and errors, for `list --details`"),
    _ioctl(linux.TIOCCBRK, "TIOCCBRK: no break"),
    _ioctl(linux.TIOCOUTQ, "TIOCOUTQ: is all sent?"),
    _ioctl(linux.TIOCSERGETLSR, "TIOCSERGETLSR: by the chip too?"),
    _ioctl(termios.TCFLSH, "TCFLSH: forget the rest"),
    _ioctl(linux.TIOCVHANGUP, "TIOCVHANGUP: the end of it for everybody"),
    Call("flock", "the lock of some programs"),
    # its holder
    Call("epoll_create1", "the weak reference to its descriptor"),
    Call("inotify_add_watch", "hear of its close"),
    Call("inotify_rm_watch", "no more"),
    Call("pidfd_open", "hear of its process's end"),
    # guard: kill-arguments
    Call("kill", "does the process in a lock file live? A signal it is not", (Is(1, 0),)),
    # time, signals, threads
    Call("setitimer", "watch over a job that may block"),
    Call("rt_sigtimedwait", "the thread that watches"),
    Call("rt_sigprocmask", "which thread hears a signal"),
    Call("rt_sigaction", "the C library's own, at the first thread"),
    Call("rt_sigreturn", "after SIGHUP, SIGTERM"),
    Call("restart_syscall", "the kernel's own, after SIGSTOP and SIGCONT", unseen=True),
    Call("pause", "a main thread that was left behind has nothing to do"),
    Call("clock_nanosleep", "between two looks"),
    Call("clock_gettime", "a thread's use of the processor; any clock that is not in the vDSO"),
    # guard: clone-arguments
    Call("clone", "a thread, and no process or namespace: clone3 is not there",
         (Is(0, CLONE_VM | CLONE_THREAD, CLONE_VM | CLONE_THREAD | CLONE_PTRACE | CLONE_NEW),)),
    Call("set_robust_list", "a thread begins"),
    Call("rseq", "a thread begins"),
    Call("gettid", "a thread begins"),
    Call("sched_getaffinity", "a thread begins: where is its stack?", since="Python 3.14"),
    Call("futex", "threads wait for one another"),
    Call("exit", "a thread ends"),
    Call("exit_group", "the end"),
    # memory
    Call("brk", "the heap, whenever it happens to be full", unseen=True),
    Call("mmap", "memory that holds no code", (NO_CODE,)),
    # Later C libraries call madvise for it, where the kernel is Linux 6.13 or later.
    Call("mprotect", "a thread's stack, which holds no code", (NO_CODE,), until="glibc 2.42"),
    Call("mremap", "a large buffer grows or shrinks, whenever it happens to", unseen=True),
    Call("munmap", "memory given back"),
    Call("madvise", "memory given back: a thread's stack"),
    # itself
    Call("getpid", "whose lock a lock is"),
    Call("geteuid", "is a temporary lock that was left behind ours?"),
    Call("getrandom", "a temporary lock's name"),
    # guard: prlimit64-arguments
    Call("prlimit64", "how many clients fit; no limit is set", (Is(0, 0), Is(2, 0, 2**64 - 1))),
    # guard: prctl-arguments
    Call("prctl", "`ttybroker check --broker`: dumpable?", (Is(0, linux.PR_GET_DUMPABLE),)),
)  # fmt: skip
# The C library then uses clone, whose flags can be seen: clone3 has them in memory.
ABSENT = "clone3"
