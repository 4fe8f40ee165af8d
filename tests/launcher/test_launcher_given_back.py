"""What `ttyrun` took away for the root half, its program gets back: all of it, and no more.

Here ttyrun_main.py is the real one; the two functions that it calls are stand-ins.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from launcher.conftest import Launcher

root = pytest.mark.root

START = """
import os
def start():
    os.setresgid(*[os.getgid()] * 3)
    os.setresuid(*[os.getuid()] * 3)
"""
RUN = """
import os
def main(argv, broker, *, env, before_exec, command):
    if argv[0] == "hold":
        os.write(1, b"ready\\n")
        os.read(0, 1)
    before_exec()
    os.execve(argv[0], argv, env)
"""
# What a program can see of itself that it has from the process before it. Its timers have run on
# meanwhile, so they are rounded to ten seconds.
FACTS = """
import json, os, resource, signal
umask = os.umask(0)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([
    sorted(os.environb.items()).__repr__(),
    [(n, resource.getrlimit(getattr(resource, n))) for n in dir(resource) if n[:7] == "RLIMIT_"],
    [[round(x, -1) for x in signal.getitimer(which)] for which in range(3)],
    umask, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0),
    open("/proc/self/timerslack_ns").read(), os.getcwd(), sorted(os.listdir("/proc/self/fd")),
    [status[key] for key in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapInh", "CapAmb")],
]))
"""
PYTHON = ["/usr/bin/python3", "-I", "-S", "-c", FACTS]
SIGNALS = ["/bin/grep", "^Sig[BI]", "/proc/self/status"]  # Python ignores two of its own accord


@pytest.fixture
def real(own: Launcher) -> Launcher:
    """The real ttyrun_main.py between the stand-ins."""
    source = Path(__file__).parents[2] / "packaging/launcher/ttyrun_main.py"
    shutil.copyfile(source, own.code / "ttyrun_main.py")
    for package, module, text in (
        ("ttybrokerd", "__init__", ""),
        ("ttybrokerd", "launched", START),
        ("ttybroker", "__init__", ""),
        ("ttybroker", "client", "Client = None\n"),
        ("ttybroker/run", "__init__", RUN),
    ):
        (own.code / package).mkdir(mode=0o755, exist_ok=True)
        (own.code / package / f"{module}.py").write_text(text)
    return own


def both(launcher: Launcher, command: list[str], **options: Any) -> tuple[str, str]:
    """What `command` prints under ttyrun, and what it prints without."""
    under = launcher.run(*command, **options)
    plain = launcher.run(*command[1:], program=command[0], **options)
    for done in (under, plain):
        assert done.returncode == 0, done
    return under.stdout, plain.stdout


def no_preparation() -> None:
    pass


def limits() -> None:
    for name, soft in (("NOFILE", 40), ("FSIZE", 4096), ("CPU", 50), ("STACK", 1 << 20)):
        number = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 2000))


def other_settings() -> None:
    os.umask(0o27)
    os.nice(7)
    os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))
    ctypes.CDLL(None).prctl(29, ctypes.c_ulong(70_000))  # PR_SET_TIMERSLACK, linux/prctl.h
    signal.setitimer(signal.ITIMER_REAL, 5000, 4000)
    signal.setitimer(signal.ITIMER_PROF, 3000)


@root
@pytest.mark.parametrize("before", [no_preparation, limits, other_settings])
def test_program_sees_what_it_would_see_without_ttyrun(
    real: Launcher, before: Callable[[], None]
) -> None:
    env = {"HOME": "/", "EMPTY": "", "TMPDIR": "/x", "LD_LIBRARY_PATH": "/y", "LOCPATH": "/z"}
    odd = {b"ODD": b"\xff=\n"}
    under, plain = both(real, PYTHON, env={**env, **odd}, before=before, cwd="/usr")
    assert json.loads(under) == json.loads(plain)


@root
def test_signals_come_back(real: Launcher) -> None:
    def prepare() -> None:
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP, signal.SIGRTMAX):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGALRM, 64])

    for before in (no_preparation, prepare):
        under, plain = both(real, SIGNALS, before=before)
        assert under == plain


@root
def test_tiny_soft_limits_reach_the_program_alone(real: Launcher) -> None:
    """Python could not even start with four descriptors."""

    def lower() -> None:
        for name, soft in (("NOFILE", 4), ("FSIZE", 0), ("STACK", 1 << 16)):
            number = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))

    done = real.run("/bin/sh", "-c", "ulimit -n; ulimit -f; ulimit -s", before=lower)
    assert done.stdout.split() == ["4", "0", "64"], done


@root
def test_first_of_two_variables_wins(real: Launcher) -> None:
    """execve(2) takes anything; getenv(3) and shells find the first."""
    libc = ctypes.CDLL(None)
    argv = (ctypes.c_char_p * 3)(b"ttyrun", b"/usr/bin/env", None)
    environment = (ctypes.c_char_p * 5)(b"A=1", b"", b"A=2", b"no equals sign", None)
    done = real.run(before=lambda: libc.execve(bytes(real.program), argv, environment) and None)
    assert done.stdout == "A=1\n", done


@root
def test_frontend_can_be_neither_traced_nor_read(real: Launcher) -> None:
    """Between the end of privilege and the program it has soft limits that the caller had not."""

    nice = os.getpriority(os.PRIO_PROCESS, 0)

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 2000))
        os.nice(3)

    with real.popen("hold", before=prepare, stdin=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        proc = Path(f"/proc/{process.pid}")
        limit = next(
            line for line in (proc / "limits").read_text().splitlines() if "open files" in line
        )
        assert limit.split()[3:5] == ["1024", "2000"]
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == nice + 3
        assert "\t".join(["Uid:"] + [str(real.uid)] * 4) in (proc / "status").read_text()
        probe = subprocess.run(["cat", proc / "environ"], user=real.uid, stderr=subprocess.PIPE)
        assert b"Permission denied" in probe.stderr
        process.kill()


def test_no_limit_is_what_this_python_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is -1 in ttyrun.c, and until Python 3.14."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "packaging/launcher")
    main = importlib.import_module("ttyrun_main")
    monkeypatch.setattr(resource, "RLIM_INFINITY", (1 << 64) - 1)
    kept = main.Kept(main.KEPT.pack(*[7, 40, -1] * 7, *[0] * 18))
    assert kept.limits == [(7, 40, resource.RLIM_INFINITY)] * 7


def test_hard_limits_come_back_with_the_end_of_privilege() -> None:
    """What ttyrun raised; the numbers are made up, so nothing has to be raised for it."""
    script = """
import resource, ttyrun_main as t
limits = [(n, *resource.getrlimit(n)) for n in (0, 1, 2, 3, 4, 9)] + [(7, 5, 20)]
resource.setrlimit(7, (30, 40))
no = resource.RLIM_INFINITY
numbers = [-1 if n == no else n for limit in limits for n in limit]
numbers += [0] * 12 + [0, 0] + [0, 0, 50000, 0o22]
kept = t.Kept(t.KEPT.pack(*numbers) + b"A=1\\0")
kept.give_back_rights()
print(resource.getrlimit(7), kept.env)
kept.give_back_rest()
print(resource.getrlimit(7))
"""
    source = Path(__file__).parents[2] / "packaging/launcher"
    done = subprocess.run(
        ["/usr/bin/python3", "-B", "-c", script], cwd=source, capture_output=True, text=True
    )
    assert done.stdout == "(20, 20) {'A': '1'}\n(5, 20)\n", done


def test_real_timer_runs_from_the_end_of_privilege_on() -> None:
    """The program is not given it anew, unless it is a child, which has none: fork(2)."""
    script = """
import os, signal, ttyrun_main as t
numbers = [7, 50, 50] * 7
numbers += [5000, 0, 4000, 0] + [0] * 8 + [0, 0] + [0, 0, 50000, 0o22]
kept = t.Kept(t.KEPT.pack(*numbers))
def show(): print([round(x, -1) for x in signal.getitimer(signal.ITIMER_REAL)], flush=True)
kept.give_back_signals()
show()
signal.setitimer(signal.ITIMER_REAL, 3000)
if os.fork():
    os.wait()
kept.give_back_rest()
show()
"""
    source = Path(__file__).parents[2] / "packaging/launcher"
    done = subprocess.run(
        ["/usr/bin/python3", "-B", "-c", script], cwd=source, capture_output=True, text=True
    )
    lines = ["[5000.0, 4000.0]", "[5000.0, 4000.0]", "[3000.0, 0.0]"]  # at once; child; parent
    assert done.stdout.splitlines() == lines, done


@root
@pytest.mark.parametrize("error", ["PermissionError('no root')", "RuntimeError('threads')"])
def test_broker_that_does_not_start_is_one_line(real: Launcher, error: str) -> None:
    code = f"def start():\n    raise {error}\n"
    (real.code / "ttybrokerd/launched.py").write_text(code)
    done = real.run("/bin/true")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ttyrun: the broker did not start: ")
    assert done.stderr.count("\n") == 1


@root
def test_root_is_told_that_there_is_nobody_to_become(real: Launcher) -> None:
    done = real.run("/bin/true", user=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ttyrun: started by root: ") and done.stderr.count("\n") == 1


@root
def test_nothing_of_the_caller_is_read_before_privilege_is_gone(real: Launcher) -> None:
    """Neither argument nor descriptor 3: `start` sees the fresh environment and no signals only."""

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        signal.alarm(1000)

    checks = """
    import signal, sys
    assert signal.getsignal(signal.SIGHUP) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert os.lseek(3, 0, os.SEEK_CUR) == os.stat(3).st_size, "descriptor 3 was read"
    assert sorted(os.environ) == ["LANG", "PATH"], os.environ
    assert os.geteuid() == 0 and "ttybroker.run" not in sys.modules
"""
    (real.code / "ttybrokerd/launched.py").write_text(
        START.replace("def start():\n", f"def start():{checks}")
    )
    done = real.run("/bin/true", env={"A": "1"}, before=prepare)
    assert (done.returncode, done.stderr) == (0, ""), done
