"""Attacks on the setuid launcher: a caller gets a port by it, and not a bit of root.

What a caller can prepare before it starts (environment, descriptors, limits, signals, argc 0) and
who may trace it at which stage is in tests/launcher; here are the rest of what has been tried on
setuid programs, and everything that can be too full, too large or missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attack.libc import CLONE_NEWPID, PR_SET_DUMPABLE, call, own_mounts
from launcher.test_launcher_trace import attack
from launcher.test_launcher_whole import TALK, Port, children, orphans, port, wait_end
from support.children import Chat, Child
from support.processes import PR_SET_PDEATHSIG, prctl

if TYPE_CHECKING:
    from launcher.conftest import Launcher

__all__ = ["orphans", "port"]
pytestmark = pytest.mark.root

CLONE_FS, CLONE_FILES, CLONE_VFORK = 0x200, 0x400, 0x4000  # linux/sched.h
MNT_DETACH = 2  # sys/mount.h
SYS_CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
RESERVED_PIDS = 300  # kernel/pid.c: none below is given a second time
LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
KEPT = 312  # bytes of struct kept in the memfd, before the environment


def become(launcher: Launcher) -> None:
    """Be its caller."""
    os.setgroups([launcher.group])
    os.setresgid(*[launcher.gid] * 3)
    os.setresuid(*[launcher.uid] * 3)


def unlimited_stack() -> None:
    """As much room for arguments as the kernel gives: three quarters of 8 MB, fs/exec.c."""
    resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_two_megabytes_of_arguments_and_environment_arrive(launcher: Launcher) -> None:
    """Source: execve(2), limits on size of arguments and environment; CVE-2017-1000366 and its
    kin ("The Stack Clash", Qualys 2017) began with arguments of many megabytes.

    Promise: arguments and environment arrive whole, and what is too large is refused in a line.
    """
    piece = "x" * 100_000
    env = {f"V{n}": piece for n in range(10)}
    args = [piece] * 9
    report = launcher.seen(*args, env=env)
    assert report["argv"] == [arg.encode().hex() for arg in args]
    kept = bytes.fromhex(report["kept"])[KEPT:]
    assert kept == b"".join(f"{name}={value}\0".encode() for name, value in env.items())

    env = {f"V{n}": piece for n in range(40)}  # 4 MB, which no new program of it could take
    report = launcher.seen(*args, env=env, before=unlimited_stack)
    assert len(bytes.fromhex(report["kept"])) == KEPT + sum(len(n) + 100_002 for n in env)
    assert "Argument list too long" in launcher.refused(*[piece] * 40, before=unlimited_stack)


@pytest.mark.parametrize("flags", [CLONE_FILES, CLONE_FILES | CLONE_VFORK], ids=["fork", "vfork"])
def test_a_process_that_shares_its_descriptors_reaches_none_of_them(
    launcher: Launcher,
    flags: int,
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
) -> None:
    """Source: clone(2), CLONE_FILES; execve(2): the table is unshared there.

    Promise: whoever shares a caller's descriptors and changes them all the time has no part in
    those of the root half.
    """
    report_path = launcher.base / "report"

    def run(_chat: Chat) -> list[int]:
        become(launcher)
        secret = os.open("/dev/zero", os.O_RDONLY)
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        thrasher = call("syscall", SYS_CLONE, CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0)
        if thrasher == 0:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            while True:
                for number in range(20, 60):
                    os.dup2(secret, number)
                for number in range(20, 60):
                    os.close(number)
        statuses = []
        for _ in range(scale(5, 500)):
            pid = call("syscall", SYS_CLONE, flags | signal.SIGCHLD, 0, 0, 0, 0)
            if pid == 0:
                os.execve(launcher.program, ["ttyrun"], {})
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os.kill(thrasher, signal.SIGKILL)
        os.waitpid(thrasher, 0)
        return statuses

    report_path.unlink(missing_ok=True)
    child = Child(run, 0)
    try:
        assert child.result(3600) == [0] * scale(5, 500)
    finally:
        child.kill()
    fds = launcher.report()["fds"]
    assert sorted(fds) == ["0", "1", "2", "3"] and fds["3"][0].startswith("/memfd:ttyrun")
    count("starts with shared descriptors", scale(5, 500))


def test_a_process_that_shares_its_directory_costs_the_set_user_id_bit(launcher: Launcher) -> None:
    """Source: clone(2), CLONE_FS; fs/exec.c, check_unsafe_exec(): LSM_UNSAFE_SHARE. Umask and
    directory of the root half would be another process's to change.

    Promise: then it stays the caller's, and says what is wrong.
    """
    read, write = os.pipe()

    def run(_chat: Chat) -> int:
        become(launcher)
        os.dup2(write, 2)
        sharer = call("syscall", SYS_CLONE, CLONE_FS | signal.SIGCHLD, 0, 0, 0, 0)
        if sharer == 0:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pause()
        pid = call("syscall", SYS_CLONE, CLONE_FS | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            os.execve(launcher.program, ["ttyrun"], {})
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.kill(sharer, signal.SIGKILL)
        os.waitpid(sharer, 0)
        return status

    child = Child(run, 0, keep=[write])
    try:
        assert child.result() == 1
        os.close(write)
        with open(read) as pipe:
            assert "4755" in pipe.read()
    finally:
        child.kill()
    assert launcher.report() is None


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_nothing_ends_in_root_half_or_refusal(
    launcher: Launcher, name: str, value: int
) -> None:
    """Source: getrlimit(2), and setuid(2) on EAGAIN: a call that fails by a limit and is not
    looked at is a grave error of a set-user-ID program.

    Promise: under any limit the root half is reached as it must be, or nothing is started.
    """
    number = getattr(resource, name)

    def lower() -> None:
        lower = min(value, hard) if hard != resource.RLIM_INFINITY else value
        resource.setrlimit(number, (lower, lower))

    hard = resource.getrlimit(number)[1]
    try:
        done = launcher.run(before=lower)
    except OSError:  # the kernel does not start it at all
        assert launcher.report() is None
        return
    report = launcher.report()
    if report is None:
        assert done.returncode < 0 or (done.returncode == 1 and done.stderr.count("\n") == 1), done
        return
    assert done.returncode == 0
    assert report["status"]["Uid"].split() == [str(launcher.uid), "0", "0", "0"]
    assert sorted(report["fds"]) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGSEGV, signal.SIGABRT, signal.SIGTRAP])
def test_a_killed_root_half_leaves_no_core(launcher: Launcher, mine: Path, number: int) -> None:
    """Source: core(5), suid_dumpable of proc_sys_fs(5); CVE-2006-2451 (cores into cron's files).
    A caller may signal it: its real uid is his.

    Promise: no core, whatever the limit, in his directory or elsewhere.
    """
    no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    options = {
        "cwd": mine,
        "stdin": subprocess.PIPE,
        "before": lambda: resource.setrlimit(resource.RLIMIT_CORE, no_limit),
    }
    with launcher.popen("hold", **options) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        shot = f"import os; os.kill({process.pid}, {int(number)})"
        subprocess.run(["/usr/bin/python3", "-c", shot], user=launcher.uid, check=True)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = -number
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == number
    assert not os.WCOREDUMP(status)
    assert os.listdir(mine) == []


def test_what_was_opened_of_it_before_it_was_root_is_of_no_use(launcher: Launcher) -> None:
    """Source: CVE-2012-0056 (Mempodipper: /proc/PID/mem opened before the exec of su), proc(5).

    Promise: descriptors of the files in /proc of the caller's own process show what that was,
    and nothing of ttyrun.
    """
    names = ("environ", "maps", "mem", "auxv", "stack", "syscall")

    def look(descriptors: dict[str, int]) -> dict[str, bytes]:
        found = {}
        for name, descriptor in descriptors.items():
            with contextlib.suppress(OSError):
                found[name] = os.pread(descriptor, 4096, 0x400000 if name == "mem" else 0)
        return found

    def run(_chat: Chat) -> tuple[dict[str, bytes], dict[str, bytes], str]:
        become(launcher)
        prctl(PR_SET_DUMPABLE, 1)  # as one that was the caller's from the start
        ready, go = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(ready[1], b"r")
            os.read(go[0], 1)
            os.dup2(ready[1], 1)
            os.dup2(go[0], 0)
            os.execve(launcher.program, ["ttyrun", "hold"], {})
        os.read(ready[0], 1)
        files = {}
        for name in names:
            with contextlib.suppress(PermissionError):
                files[name] = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
        directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY)
        memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        before = look(files)
        os.write(go[1], b"g")
        assert os.read(ready[0], 6) == b"ready\n"
        reached = ""
        with contextlib.suppress(OSError):
            reached += os.readlink("3", dir_fd=directory)
        with contextlib.suppress(OSError):
            reached += "written" if os.pwrite(memory, b"\0", 0x400000) else ""
        after = look(files)
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        return before, after, reached

    child = Child(run, 0)
    try:
        before, after, reached = child.result()
    finally:
        child.kill()
    assert reached == ""
    assert {"environ", "maps", "auxv"} <= set(before)
    assert {name for name, data in after.items() if data not in (b"", before[name])} == set()


def stop_before_the_end_of_privilege(port: Port) -> subprocess.Popen[bytes]:
    """Start it; it stops itself between the fork of the backend and the end of privilege, as a
    caller's SIGSTOP could at any moment."""
    code = port.launcher.code / "ttybrokerd/user.py"
    text = code.read_text()
    begin = "def become(user: User) -> None:\n"
    stop = f"    os.kill(os.getpid(), {int(signal.SIGSTOP)})\n"
    assert text.count(begin) == 1
    code.write_text(text if stop in text else text.replace(begin, begin + stop))
    process = port.start("demo", "--", "/bin/sh", "-c", TALK)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    return process


def test_stopped_before_the_end_of_privilege_it_can_be_killed_and_not_entered(port: Port) -> None:
    """Source: signal(7), kill(2): its real uid is the caller's, who may stop it when he likes.
    CVE-2019-13272 (ptrace) and others before it needed such a moment.

    Promise: nothing of it can be reached while it is stopped, and it goes on as if nothing were;
    killed there, its backend ends with it and no lock and no process stays.
    """
    with stop_before_the_end_of_privilege(port) as process:
        assert attack(port.launcher, process.pid) == set()
        os.kill(process.pid, signal.SIGCONT)
        port.expect(b"up")
        port.say(b"on\n")
        port.expect(b"got on")
        assert process.wait(10) == 7
    for pid in children() - {process.pid}:
        wait_end(pid)
    before = children()
    with stop_before_the_end_of_privilege(port) as process:
        backends = children() - before - {process.pid}
        assert backends
        kill = f"import os; os.kill({process.pid}, {int(signal.SIGKILL)})"
        subprocess.run(["/usr/bin/python3", "-c", kill], user=port.launcher.uid, check=True)
        assert process.wait(10) == -signal.SIGKILL
    for pid in backends:
        wait_end(pid)
    assert children() <= before and os.listdir(port.locks) == []


def test_a_full_disk_is_told_and_leaves_nothing(port: Port) -> None:
    """Source: tmpfs(5), size=; CWE-252: a lock written by half would lock for nobody.

    Promise: without room for the lock there is no lease, a line says why, and no file stays.
    """
    words = [b"tmpfs", os.fsencode(port.locks), b"tmpfs", ctypes.c_ulong(0), b"size=4096,mode=755"]
    call("mount", *words)
    try:
        filler = port.locks / "filler"
        filler.write_bytes(bytes(4096))
        with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
            _, error = process.communicate(timeout=10)
        assert process.returncode not in (0, 7)
        assert b"is full" in error and b"No space left" in error, error
        assert os.listdir(port.locks) == ["filler"]
    finally:
        call("umount2", os.fsencode(port.locks), MNT_DETACH)  # the backend may be just ending


def per_namespace_pid_max() -> bool:
    """Linux 6.14; before, to change it would change it for the whole machine."""
    return tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 14)


@pytest.mark.skipif(not per_namespace_pid_max(), reason="needs pid_max of a namespace, Linux 6.14")
def test_a_full_process_table_is_told_and_leaves_nothing(port: Port) -> None:
    """Source: fork(2), EAGAIN; pid_namespaces(7).

    Promise: whichever fork fails, it is said and nothing more; the program runs once or not at
    all, never with privilege, and no process stays. (Where the filter is on and its supervisor
    gets no thread any more, the program finds that it cannot open anything.)
    """
    ran = 0
    for processes in range(1, 10):
        status, error, lines = with_so_many_processes(port, processes)
        assert len(lines) <= 1, lines
        assert all(line.split() == [str(port.launcher.uid)] * 2 for line in lines), lines
        assert (status == 0) == bool(lines), (processes, status, error)
        assert lines or error.count("\n") == 1 or "start new thread" in error, (processes, error)
        assert processes > 2 or "unavailable" in error, error
        assert "Traceback" not in error, error
        assert os.listdir(port.locks) == []
        assert not (ran and not lines), "more processes, and it did not run"
        ran += bool(lines)
    assert 0 < ran < 7


def with_so_many_processes(port: Port, processes: int) -> tuple[int, str, list[str]]:
    """Start it where no more than so many processes fit, itself one of them: exit status,
    standard error, and what the program has written."""
    marker = port.launcher.base / "ran"
    marker.write_text("")
    os.chmod(marker, 0o666)
    script = f'exec /usr/bin/python3 -ISc "import os; print(os.getuid(), os.geteuid())" >> {marker}'
    read, write = os.pipe()

    def run(_chat: Chat) -> int:
        own_mounts()
        call("unshare", CLONE_NEWPID)
        init = os.fork()
        if init != 0:
            return os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
        status = 99
        try:
            call("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None)
            Path("/proc/sys/kernel/pid_max").write_text(str(RESERVED_PIDS + processes))
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(RESERVED_PIDS - 1))
            pid = os.fork()
            if pid == 0:
                os.dup2(write, 2)
                become(port.launcher)
                command = ["ttyrun", "demo", "--", "/bin/sh", "-c", script]
                os.execve(port.launcher.program, command, {"PATH": "/usr/bin:/bin"})
            while True:
                ended, how = os.wait()
                if ended == pid:
                    status = os.waitstatus_to_exitcode(how)
        except ChildProcessError:  # no process is left
            pass
        finally:
            os._exit(status)

    child = Child(run, 0, keep=[write])
    os.close(write)
    try:
        status = child.result(30)
        with open(read) as pipe:
            error = pipe.read()
    finally:
        child.kill()
    return status, error, marker.read_text().splitlines()


def test_without_proc_nothing_is_started(launcher: Launcher) -> None:
    """Source: proc(5): a chroot or container without it.

    Promise: what cannot be looked at is not guessed; one line says what is missing.
    """
    read, write = os.pipe()

    def run(_chat: Chat) -> int:
        own_mounts()
        call("mount", b"tmpfs", b"/proc", b"tmpfs", ctypes.c_ulong(0), None)
        pid = os.fork()
        if pid == 0:
            os.dup2(write, 2)
            become(launcher)
            os.execve(launcher.program, ["ttyrun"], {})
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    child = Child(run, 0, keep=[write])
    try:
        assert child.result() == 1
    finally:
        child.kill()
    os.close(write)
    with open(read) as pipe:
        error = pipe.read()
    assert "is /proc mounted?" in error and error.count("\n") == 1, error
    assert launcher.report() is None
