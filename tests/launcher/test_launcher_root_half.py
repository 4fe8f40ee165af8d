"""Nothing that a caller can prepare reaches the root half of `ttyrun`."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
from pathlib import Path
from resource import RLIM_INFINITY
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from launcher.conftest import Launcher

pytestmark = pytest.mark.root

CAP_SYS_RESOURCE = 24  # linux/capability.h
PR_SET_TIMERSLACK = 29  # linux/prctl.h
SCHED_BATCH_ON_FORK = os.SCHED_BATCH | os.SCHED_RESET_ON_FORK


def may_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd"))
    return bool(int(bounding.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


# --- the environment ------------------------------------------------------------------


def test_environment_is_fresh(launcher: Launcher) -> None:
    assert launcher.seen(env={"A": "1"})["environ"] == (
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin\0LANG=C.UTF-8\0"
    )


@pytest.mark.parametrize(
    "name",
    ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "LD_PRELOAD", "LD_LIBRARY_PATH"]
    + ["LD_AUDIT", "PATH", "LANG", "LC_ALL", "LOCPATH", "TMPDIR", "HOME", "GCONV_PATH", "IFS"]
    + ["GLIBC_TUNABLES", "PYTHONINSPECT", "PYTHONWARNINGS", "PYTHONPYCACHEPREFIX", "BASH_ENV"],
)
@pytest.mark.parametrize("user", [True, False], ids=["caller", "root"])
def test_hostile_variable_changes_nothing(
    launcher: Launcher, mine: Path, name: str, user: bool
) -> None:
    """The caller's directory holds a module, a sitecustomize, a .pth, a library: none is loaded.

    Root is in it because libc and kernel guard a set-user-ID program only.
    """
    trap = "open('/proc/self/comm', 'w').write('trapped')\nraise SystemExit(66)\n"
    user_site = mine / ".local/lib/python3.11/site-packages"
    for directory in (mine, mine / "encodings", user_site):
        directory.mkdir(parents=True, exist_ok=True)
    for file in ("os.py", "json.py", "sitecustomize.py", "usercustomize.py", "encodings/x.py"):
        (mine / file).write_text(trap)
    (user_site / "usercustomize.py").write_text(trap)
    (user_site / "trap.pth").write_text("import sys; sys.exit(66)\n")
    library = mine / "library.so"
    library.write_bytes(b"not an ELF file")
    value = str(library) if name in ("LD_PRELOAD", "LD_AUDIT") else str(mine)
    if name == "GLIBC_TUNABLES":
        value = "glibc.malloc.check=3:glibc.malloc.mxfast=glibc.malloc.mxfast=" + "A" * 4000
    if name == "PYTHONSTARTUP":
        value = str(mine / "os.py")

    plain = launcher.seen()
    hostile = launcher.seen(env={name: value}, cwd=mine, user=user)

    for fact in ("environ", "path", "flags", "modules", "encoding"):
        assert hostile[fact] == plain[fact], fact
    assert str(mine) not in str(hostile["modules"]) + str(hostile["path"])


def test_python_is_isolated(launcher: Launcher) -> None:
    report = launcher.seen()
    wanted = ["isolated=1", "ignore_environment=1", "no_user_site=1", "no_site=1"]
    wanted += ["safe_path=True", "dont_write_bytecode=1", "utf8_mode=1"]
    assert set(wanted) <= set(report["flags"])
    assert "site" not in report["modules"]
    assert report["encoding"][:2] == ["utf-8", "utf-8"]
    assert not [path for path in report["path"] if "site-packages" in path or "dist-" in path]


def test_libc_runs_in_secure_mode(launcher: Launcher) -> None:
    """AT_SECURE (23 in linux/auxvec.h) also holds for the interpreter: real and effective differ"""
    vector = launcher.seen()["secure"]
    assert dict(zip(vector[::2], vector[1::2], strict=True))[23] == 1


def test_arguments_arrive_as_they_are(launcher: Launcher) -> None:
    args = [b"-c", b"import os", b"--", b"", b"\xff\xfe\x80", "zażółć".encode(), b"-I", b"a\nb"]
    assert launcher.seen(*args)["argv"] == [arg.hex() for arg in args]


# --- descriptors ------------------------------------------------------------------


@pytest.mark.parametrize("user", [True, False], ids=["caller", "root"])
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_closed_standard_descriptors_are_filled(
    launcher: Launcher, closed: tuple[int, ...], user: bool
) -> None:
    """Root is in it because libc fills them only for a set-user-ID program."""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    fds = launcher.seen(before=close, user=user)["fds"]
    assert sorted(fds) == ["0", "1", "2", "3"]
    assert fds["3"][0].startswith("/memfd:ttyrun")
    for fd in closed:
        path, flags = fds[str(fd)]
        if not user:
            assert (path, flags & os.O_ACCMODE) == ("/dev/null", os.O_WRONLY if fd else os.O_RDONLY)
        assert path in ("/dev/null", "/dev/full")


def test_callers_other_descriptors_are_closed(launcher: Launcher) -> None:
    def leave_open() -> None:
        secret = os.open("/dev/zero", os.O_RDONLY)
        for fd in (3, 4, 9, 63, 255, 1000):
            os.dup2(secret, fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))  # 255 is above it now

    fds = launcher.seen(before=leave_open, close_fds=False)["fds"]
    assert sorted(fds) == ["0", "1", "2", "3"]
    assert fds["3"][0].startswith("/memfd:ttyrun")


def test_kept_data_cannot_be_changed(launcher: Launcher) -> None:
    assert launcher.seen()["seals"] & 15 == 15  # SEAL, SHRINK, GROW, WRITE of linux/fcntl.h


# --- limits ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "soft", "expected"),
    [
        ("NOFILE", 3, 1024),
        ("FSIZE", 0, RLIM_INFINITY),
        ("STACK", 65536, 8 << 20),
        ("CORE", 1 << 20, 0),
        ("CPU", 1000, RLIM_INFINITY),
        ("AS", 1 << 23, RLIM_INFINITY),
        ("DATA", 1 << 20, RLIM_INFINITY),
    ],
)
def test_soft_limit_is_set_to_a_known_value(
    launcher: Launcher, name: str, soft: int, expected: int
) -> None:
    number = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(number)[1]
    if name == "CORE" and hard != RLIM_INFINITY:
        soft = min(soft, hard)
    report = launcher.seen(before=lambda: resource.setrlimit(number, (soft, hard)))
    assert report["limits"][f"RLIMIT_{name}"] == [expected, hard]


@pytest.mark.parametrize(("name", "value"), [("NOFILE", 3), ("FSIZE", 0), ("STACK", 65536)])
def test_hard_limit_is_raised_or_said_to_be_too_low(
    launcher: Launcher, name: str, value: int
) -> None:
    number = getattr(resource, f"RLIMIT_{name}")

    def lower() -> None:
        resource.setrlimit(number, (value, value))

    if may_raise_limits():
        assert launcher.seen(before=lower)["limits"][f"RLIMIT_{name}"][0] != value
    else:
        line = launcher.refused(before=lower)
        assert f"hard limit RLIMIT_{name} " in line and "Operation not permitted" in line


def test_no_right_over_scheduling_is_lent(launcher: Launcher) -> None:
    """The caller may renice a process of his real uid as far as *its* limit allows."""
    names = ("RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_SIGPENDING", "RLIMIT_MEMLOCK")
    wanted = {name: list(resource.getrlimit(getattr(resource, name))) for name in names}
    limits = launcher.seen()["limits"]
    assert {name: limits[name] for name in names} == wanted


# --- signals, timers, scheduling ------------------------------------------------------


def test_everything_ignored_and_blocked_is_reset(launcher: Launcher) -> None:
    def prepare() -> None:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    status = launcher.seen(before=prepare)["status"]
    # Python itself ignores these two and catches SIGINT.
    python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    library = 3 << 31  # signals 32 and 33: nptl(7); make starts its children with them ignored
    assert int(status["SigIgn"], 16) & ~library == python
    assert int(status["SigCgt"], 16) & 0x7FFFFFFF == 1 << signal.SIGINT - 1
    assert int(status["SigBlk"], 16) == 0


def test_ignored_sigchld_is_reset(launcher: Launcher) -> None:
    """Ignored, it would make wait(2) of the root half fail and the exit status vanish."""
    report = launcher.seen(before=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN) and None)
    assert not int(report["status"]["SigIgn"], 16) >> signal.SIGCHLD - 1 & 1


def test_pending_signals_do_not_kill_the_root_half(launcher: Launcher) -> None:
    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN):
            os.kill(os.getpid(), number)

    status = launcher.seen(before=prepare)["status"]
    assert int(status["SigPnd"], 16) | int(status["ShdPnd"], 16) == 0


@pytest.mark.parametrize("which", [signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF])
def test_timers_are_stopped(launcher: Launcher, which: int) -> None:
    report = launcher.seen(before=lambda: signal.setitimer(which, 50, 60) and None)
    assert report["timers"] == [[0, 0]] * 3


def test_umask_nice_policy_and_slack_are_reset(launcher: Launcher) -> None:
    def prepare() -> None:
        os.umask(0o777)
        os.nice(15)
        os.sched_setscheduler(0, SCHED_BATCH_ON_FORK, os.sched_param(0))
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(10**15))

    report = launcher.seen(before=prepare)
    assert report["umask"] == 0o022
    assert report["nice"] == 0
    assert report["policy"] == os.SCHED_OTHER
    assert report["slack"] == 50_000


@pytest.mark.parametrize("user", [True, False], ids=["caller", "root"])
def test_parent_death_signal_is_cleared(launcher: Launcher, user: bool) -> None:
    """By execve(2) for a set-user-ID program, by ttyrun for root."""
    report = launcher.seen(
        before=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL) and None, user=user
    )
    assert report["pdeathsig"] == 0


# --- the current directory ------------------------------------------------------


def test_deleted_directory_is_no_obstacle(launcher: Launcher, mine: Path) -> None:
    def vanish() -> None:
        os.mkdir(mine / "gone")
        os.chdir(mine / "gone")
        os.rmdir(mine / "gone")

    report = launcher.seen(before=vanish)
    assert report["cwd"] == "No such file or directory"


def test_unreadable_directory_is_no_obstacle(launcher: Launcher, mine: Path) -> None:
    def lock_out() -> None:
        os.chdir(mine)
        os.chmod(mine, 0)

    assert launcher.seen(before=lock_out)["cwd"] == str(mine)


# --- who it is ------------------------------------------------------


def test_ids_say_whose_request_it_is(launcher: Launcher) -> None:
    status = launcher.seen()["status"]
    uid, gid, group = launcher.uid, launcher.gid, launcher.group
    assert status["Uid"].split() == [str(uid), "0", "0", "0"]
    assert status["Gid"].split() == [str(gid)] * 4
    assert status["Groups"].split() == [str(group)]


def test_root_half_is_not_dumpable(launcher: Launcher) -> None:
    policy = Path("/proc/sys/fs/suid_dumpable").read_text().strip()
    assert launcher.seen()["dumpable"] == int(policy)


def test_command_line_shows_nothing_of_the_environment(launcher: Launcher) -> None:
    """/proc/PID/cmdline is for everybody, an environment may hold passwords."""
    report = launcher.seen("ttyS0", env={"SECRET": "sesame"})
    assert b"sesame" not in bytes.fromhex(report["cmdline"])
    assert b"SECRET=sesame\0" in bytes.fromhex(report["kept"])


def test_large_environment_is_kept_whole(launcher: Launcher) -> None:
    env = {f"V{i}": "x" * 100_000 for i in range(12)}
    report = launcher.seen(env=env)
    wanted = b"".join(f"{name}={value}\0".encode() for name, value in env.items())
    assert bytes.fromhex(report["kept"])[312:] == wanted


def test_standard_error_is_the_callers(launcher: Launcher) -> None:
    done = launcher.run(stderr=subprocess.STDOUT)
    assert (done.returncode, done.stdout) == (0, "")
