"""What a root side could do that a hostile client has taken over: each act is tried by a process
that has confined itself, and was a plain root before."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import prctl
import pytest

from support.children import Chat
from support.rig import Rig
from ttybroker import landlock
from ttybrokerd.prepare import filter
from ttybrokerd.root import confine, linux
from ttybrokerd.root.confine import NotConfined, Places

pytestmark = pytest.mark.root

Act = Callable[[], object]


def confined(rig: Rig, act: Act, before: Act = lambda: None) -> object:
    """What `act` returns, or its OSError's number, in a process that has shrunk itself: as a
    daemon with the rig's lock directory, policy and socket does. Minus the signal that ended it,
    if one did. `before` is done while it still is root."""

    def run(_chat: Chat) -> object:
        os.dup2(os.open("/dev/null", os.O_RDWR), 2)
        before()
        plan, socket = str(rig.base / "plan.0"), str(rig.base / "s/socket")
        places = Places(str(rig.locks), plan=plan, socket=socket)
        confine.confine(confine.bounds(places, *filter.build()))
        try:
            return act()
        except OSError as error:
            return OSError, error.errno

    child = rig.child(0, run)
    try:
        return child.result()
    except EOFError:
        return child.wait()


def opening(path: object, flags: int = os.O_RDONLY) -> Act:
    """Open, and give back."""
    return lambda: os.close(os.open(str(path), flags))


def read_only(path: object) -> bool:
    """Whether the file system there takes no writing from anybody, as /sys in a container."""
    there = Path(str(path))
    mount = os.statvfs(there if there.exists() else there.parent)
    return bool(mount.f_flag & os.ST_RDONLY)


# by renameat and linkat, as the broker: an absolute path does not care for the directory
rename = partial(os.rename, src_dir_fd=0, dst_dir_fd=0)
link = partial(os.link, src_dir_fd=0, dst_dir_fd=0, follow_symlinks=False)


# files


def test_the_places_of_the_job_are_open_to_it(rig: Rig) -> None:
    rig.write_policy()
    (rig.base / "plan.0").write_text("the plan")
    (rig.base / "s").mkdir()
    (rig.base / "s/socket").touch()

    def work() -> str:
        lock, other = rig.locks / "LCK..ttyS0", rig.locks / ".ttybroker.0"
        descriptor = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(descriptor, b"       123\n")
        os.close(descriptor)
        link(other, lock)
        os.unlink(other)
        rename(lock, other)
        os.unlink(other)
        os.unlink(rig.base / "s/socket")
        opening("/dev/null", os.O_RDWR)()
        os.listdir("/dev")
        opening("/proc/tty/drivers")()
        opening("/proc/locks")()
        opening("/proc/1/status")()
        opening("/sys/class/tty/console/active")()
        return linux.read_file(f"{rig.base}/plan.0").decode()

    assert confined(rig, work) == "the plan"
    (rig.base / "s").rmdir()


READ = ("/etc/shadow", "/etc/passwd", "/root", "/", "/etc", "/home", "/usr/bin/python3", "/sys")


@pytest.mark.parametrize("path", READ)
def test_no_other_file_can_be_read(rig: Rig, path: str) -> None:
    assert confined(rig, opening(path)) == (OSError, errno.EACCES)


def test_nothing_can_be_written_but_locks_and_devices(rig: Rig) -> None:
    rig.write_policy()
    writing, making = os.O_WRONLY, os.O_WRONLY | os.O_CREAT
    (rig.base / "s").mkdir()
    for path, flags in (
        (rig.policy, writing),
        (rig.base / "new", making),
        (rig.base / "s/new", making),
        ("/dev/new", making),
        ("/run/new", making),
        ("/proc/self/oom_score_adj", writing),
        ("/proc/sys/kernel/hostname", writing),
        ("/proc/sys/kernel/core_pattern", writing),
        ("/sys/devices/virtual/tty/console/uevent", writing),
        ("/etc/shadow", writing),
    ):
        told = errno.EROFS if read_only(path) else errno.EACCES  # the mount is asked first
        assert confined(rig, opening(path, flags)) == (OSError, told), path
    (rig.base / "s").rmdir()


def test_nothing_can_be_moved_into_or_out_of_the_lock_directory(rig: Rig) -> None:
    rig.write_policy()
    (rig.base / "plan.0").write_text("the plan")
    (rig.base / "s").mkdir()
    lock = rig.lock()
    lock.touch()
    (rig.base / "s/file").touch()
    away: tuple[tuple[Act, int], ...] = (
        (lambda: rename(lock, rig.base / "s/away"), errno.EACCES),
        (lambda: link(rig.policy, rig.locks / "LCK..policy"), errno.EXDEV),
        (lambda: link(lock, rig.base / "s/away"), errno.EACCES),
        (lambda: os.unlink(rig.policy), errno.EACCES),
    )
    for act, why in away:
        assert confined(rig, act) in ((OSError, why), (OSError, errno.EXDEV)), act
    lock.unlink()
    (rig.base / "s/file").unlink()
    (rig.base / "s").rmdir()


@pytest.mark.parametrize("what", ["mem", "root/etc/shadow", "cwd/etc/shadow", "exe", "fd/0"])
def test_no_other_process_can_be_looked_into(rig: Rig, what: str) -> None:
    """(`maps` and `environ` are open to CAP_SYS_ADMIN since Linux 6.14: mm_access().)"""
    other = rig.child(0, lambda chat: chat.hear())
    path = f"/proc/{other.pid}/{what}"
    assert confined(rig, opening(path)) in ((OSError, errno.EACCES), (OSError, errno.EPERM))
    other.say()
    other.result()


def test_no_process_can_be_signalled(rig: Rig) -> None:
    """To see whether it lives is all: kill(2) with 0 says EPERM, and ESRCH when it has ended."""
    other = rig.child(0, lambda chat: chat.hear())
    for pid in (1, os.getpid(), other.pid):
        assert confined(rig, partial(os.kill, pid, 0)) == (OSError, errno.EPERM)
    assert confined(rig, partial(os.kill, 0x3FFFFFFF, 0)) == (OSError, errno.ESRCH)
    other.say()
    other.result()


def test_no_abstract_socket_can_be_reached(rig: Rig) -> None:
    address = f"\0ttybroker-{rig.base.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outside:
        outside.bind(address)
        made: list[socket.socket] = []

        def before() -> None:
            made.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))

        def send() -> None:
            made[0].sendmsg([b"x"], [], 0, address)

        assert confined(rig, send, before) == (OSError, errno.EPERM)


# a step that the kernel did not take is the end


def nothing(*_: object, **__: object) -> None:
    """Instead of a step."""


@pytest.mark.parametrize(
    ("where", "step", "why"),
    [
        (linux, "set_securebits", "securebits"),
        (confine, "cut_bounding_set", "CapBnd"),
        (confine, "cut_sets", "Cap(Prm|Eff)"),
        (prctl, "set_no_new_privs", "no_new_privs"),
        (prctl, "set_dumpable", "dumpable"),
        (resource, "setrlimit", "resource limit"),
        (landlock, "enforce", "/etc can still be read"),
        (linux, "seccomp", "system calls are not filtered"),
    ],
)
def test_a_step_that_did_not_take_is_the_end(rig: Rig, where: object, step: str, why: str) -> None:
    def run(_chat: Chat) -> None:
        setattr(where, step, nothing)
        bounds = confine.bounds(Places(str(rig.locks)), *filter.build())
        with pytest.raises(NotConfined, match=why):
            confine.confine(bounds)

    rig.child(0, run).result()


def test_threads_that_would_stay_free_are_the_end(rig: Rig) -> None:
    def run(_chat: Chat) -> None:
        bounds = confine.bounds(Places(str(rig.locks)), *filter.build())
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        with pytest.raises(NotConfined, match="threads are running"):
            confine.confine(bounds)
        end.set()
        thread.join()

    rig.child(0, run).result()


# directories that are everybody's are not given for the sake of one file


def test_beside_a_plan_in_run_nothing_of_run_is_open() -> None:
    rules = Places("/run/lock", ("/etc/tty", "/dev/ttyS0"), "/run/plan.0").rules()
    assert not {"/etc", "/run", "/"} & set(rules)
    assert rules["/run/plan.0"] == confine.READ
    assert rules["/etc/tty"] == confine.DEVICES


def test_a_socket_in_run_gives_no_right_over_run() -> None:
    assert "/run" not in Places("/run/lock", socket="/run/ttybroker.socket").rules()
