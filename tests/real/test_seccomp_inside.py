"""System calls that the confined root side does not make: each is the end of the process, tried in
a child that has confined itself and was a plain root before."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.children import Chat
from support.numbers import number_of
from support.processes import python_path
from support.rig import Rig
from ttybrokerd.prepare import filter, syscalls
from ttybrokerd.root import confine
from ttybrokerd.root.confine import Places

pytestmark = pytest.mark.root

Act = Callable[[], object]

FORBIDDEN = """
    execve execveat fork vfork ptrace process_vm_readv process_vm_writev pidfd_getfd
    pidfd_send_signal tgkill tkill rt_sigqueueinfo bpf perf_event_open userfaultfd
    io_uring_setup init_module finit_module delete_module kexec_load reboot mount umount2
    move_mount fsopen open_tree pivot_root chroot unshare setns setuid setgid setreuid
    setregid setresuid setresgid setgroups setfsuid setfsgid capset socket connect bind
    listen mknodat fchmodat fchown fchownat mkdirat symlinkat truncate ftruncate fallocate
    setxattr openat2 open_by_handle_at sendfile splice keyctl add_key request_key
    personality swapon sethostname settimeofday clock_settime setrlimit setpriority
    sched_setscheduler ioperm iopl modify_ldt quotactl syslog vhangup acct seccomp
    landlock_restrict_self pkey_mprotect shmat memfd_secret eventfd2 signalfd4
    timerfd_create inotify_init1 dup dup2 dup3 chdir umask getppid
"""


_libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int) -> None:
    """syscall(2) with whole registers."""
    _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))


def endings(rig: Rig, acts: dict[str, Act]) -> dict[str, int]:
    """How the confined processes ended that did these, each in one: 0, or minus a signal."""
    bounds = confine.bounds(Places(str(rig.locks)), *filter.build())
    found = {}
    for name, act in acts.items():
        if (pid := os.fork()) == 0:
            try:
                confine.confine(bounds)
                try:
                    act()
                except OSError:
                    pass
                os._exit(0)
            finally:
                os._exit(9)
        found[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    bounds.close()
    return found


def test_no_other_system_call_is_there(rig: Rig) -> None:
    acts: dict[str, Act] = {
        name: partial(call, number_of(name)) for name in FORBIDDEN.split() if number_of(name) >= 0
    }
    assert len(acts) > 60
    assert endings(rig, acts) == dict.fromkeys(acts, -signal.SIGSYS)


def test_what_is_there_is_there_for_what_it_is_for_alone(rig: Rig) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ioctl, clone = number_of("ioctl"), number_of("clone")
    thread = syscalls.CLONE_VM | syscalls.CLONE_THREAD
    acts: dict[str, Act] = {
        "TIOCSTI": partial(call, ioctl, null, 0x5412),
        "TIOCLINUX": partial(call, ioctl, null, 0x541C),
        "TIOCSCTTY": partial(call, ioctl, null, 0x540E),
        "TIOCCONS": partial(call, ioctl, null, 0x541D),
        "TIOCSERCONFIG": partial(call, ioctl, null, 0x5453),
        "FIOASYNC": partial(call, ioctl, null, 0x5452),
        "a signal": partial(call, number_of("kill"), os.getpid(), signal.SIGTERM),
        "a signal to oneself": lambda: os.kill(os.getpid(), signal.SIGCONT),
        "a process": partial(call, clone, signal.SIGCHLD),
        "a traced thread": partial(call, clone, thread | syscalls.CLONE_PTRACE),
        "a thread in a new user namespace": partial(call, clone, thread | 0x10000000),
        "a thread in a new time namespace": partial(call, clone, thread | 0x80),
        "TCP": partial(call, number_of("socketpair"), socket.AF_INET, socket.SOCK_STREAM, 0),
        "netlink": partial(call, number_of("socketpair"), socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "a socket filter": partial(call, number_of("setsockopt"), one.fileno(), 1, 26),
        "SO_PEEK_OFF": partial(call, number_of("setsockopt"), one.fileno(), 1, 42),
        "code": partial(call, number_of("mmap"), 0, 4096, mmap.PROT_EXEC, 0x22, -1, 0),
        "code later": partial(call, number_of("mprotect"), 0, 4096, mmap.PROT_EXEC),
        "a limit": partial(call, number_of("prlimit64"), 0, resource.RLIMIT_CORE, 4096, 0),
        "another's limit": partial(call, number_of("prlimit64"), 1, resource.RLIMIT_CORE, 0, 0),
        "PR_SET_DUMPABLE": partial(call, number_of("prctl"), 4, 1),
        "PR_SET_SECUREBITS": partial(call, number_of("prctl"), 28, 0),
        "PR_SET_NAME": partial(call, number_of("prctl"), 15, 0),
        "F_SETOWN": partial(call, number_of("fcntl"), one.fileno(), 8, 1),
        "F_SETFL": partial(call, number_of("fcntl"), one.fileno(), 4, 0),
    }
    assert endings(rig, acts) == dict.fromkeys(acts, -signal.SIGSYS)
    harmless: dict[str, Act] = {"nothing": lambda: None, "0": lambda: os.kill(os.getpid(), 0)}
    assert endings(rig, harmless) == {"nothing": 0, "0": 0}
    one.close()
    two.close()
    os.close(null)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="two ABIs that only x86-64 has")
def test_no_other_abi_is_a_way_round(rig: Rig) -> None:
    """int 0x80 with 20 is getpid of i386, and would be writev by the numbers of x86-64; x32 has a
    bit of its own."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000 cd80 c3"))  # mov eax, 20; int 0x80; ret
    i386 = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    acts: dict[str, Act] = {"i386": i386, "x32": partial(call, 0x40000000 | 39)}
    assert endings(rig, acts) == dict.fromkeys(acts, -signal.SIGSYS)


def test_developers_get_an_error_instead(rig: Rig) -> None:
    flags = SimpleNamespace(dev_mode=True)

    def run(_chat: Chat) -> int:
        developing = SimpleNamespace(flags=flags, modules=sys.modules, byteorder=sys.byteorder)
        vars(filter)["sys"] = vars(confine)["sys"] = developing
        confine.confine(confine.bounds(Places(str(rig.locks)), *filter.build()))
        call(number_of("execve"))
        return ctypes.get_errno()

    assert rig.child(0, run).result() == errno.EPERM


def test_without_libseccomp_it_does_not_start(rig: Rig) -> None:
    def none() -> None:
        raise OSError("libseccomp.so.2: cannot open shared object file")

    def run(_chat: Chat) -> None:
        vars(filter)["_bindings"] = none
        with pytest.raises(OSError, match=r"cannot filter system calls: libseccomp.*installed"):
            filter.build()

    rig.child(0, run).result()


def test_libseccomps_own_bindings_make_the_same_program() -> None:
    """python3-seccomp, which the Debian package depends on, where the tests have pyseccomp."""
    folder = Path("/usr/lib/python3/dist-packages")
    there = {path.name for path in folder.glob("seccomp.*")}
    assert there, "python3-seccomp is missing"
    if f"seccomp{EXTENSION_SUFFIXES[0]}" not in there:  # the release's own interpreters have it
        pytest.skip("python3-seccomp is not for this Python")
    code = "from ttybrokerd.prepare import filter as f; print(f.build(), f._bindings())"
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": f"{python_path()['PYTHONPATH']}:{more}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ("/nonexistent", str(folder))
    ]
    programs, bindings = zip(*(line.rsplit(" <", 1) for line in said), strict=True)
    assert "pyseccomp" in bindings[0] and "dist-packages/seccomp." in bindings[1]
    assert programs[0] == programs[1]
