"""Choose how the opens of a program are answered, and find out what can work here.

    traced     a tracer decides, a listener answers (`daemonised`, `trace`)
    listened   only the listener: for debuggers, which trace by themselves, and --via notify
    tree       the same under Yama 1, where only an ancestor may look (`tree`)
    pty        where no filter works: every byte is copied, and what is lost is said (`ptyproxy`)

The supervisor is started first. It gets ready while this process finds out whether it may work.
"""

from __future__ import annotations

import os

from ttybroker.run import notify  # before the fork: both processes need it
from ttybroker.run.aside import CannotWork
from ttybroker.run.daemonised import Daemonised
from ttybroker.run.job import DEFAULT_PATH, Failure, is_program
from ttybroker.run.kernel import (
    PR_GET_DUMPABLE,
    PR_SET_DUMPABLE,
    SIG_DFL,
    SIG_IGN,
    SIGINT,
    prctl,
    set_signal,
    signal_action,
)
from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.run.job import LaunchJob

YAMA = "/proc/sys/kernel/yama/ptrace_scope"  # Documentation/admin-guide/LSM/Yama.rst
_CAP_SYS_PTRACE = 19  # linux/capability.h
_INTERPRETERS = 4  # BINPRM_MAX_RECURSION, linux/binfmts.h
_FEW = 16  # descriptors; with fewer the supervisor does not get far
# Programs that trace others: a process has one tracer at most, and here it is to be theirs.
_TRACERS = frozenset(
    ("strace", "ltrace", "gdb", "gdb-multiarch", "gdbserver", "lldb", "lldb-server", "dlv", "rr")
    + ("uftrace", "proot", "wine", "wine64")
)
_TRACES = (
    "traces by itself, so opens are answered as with --via notify: "
    "a signal can make that of a file for writing fail with EINTR"
)
# Programs that become another one, which their arguments name after options and values.
_BECOMES_ANOTHER = frozenset(
    ("env", "nice", "nohup", "setsid", "timeout", "time", "stdbuf", "ionice", "taskset", "chrt")
    + ("setarch", "xvfb-run")
)


def launch(job: LaunchJob, *, via: str = "auto", ptrace_scope: int | None = None) -> int:
    """Run the job. Returns an exit status only where a launcher has to stay.

    via: "notify" for the listener alone, or "pty". ptrace_scope: Yama's setting, read if it is
    None. Raises Failure if the program was not started.
    """
    _end_by_ctrl_c()
    _show_memory()
    if 0 < (limit := os.sysconf("SC_OPEN_MAX")) < _FEW:
        what = f"only {limit} open files are allowed (ulimit -n); {_FEW} are needed"
        raise Failure(f"nothing was started: {what}")
    if via == "pty" or job.yields:
        return _without_filter(job, via, "")
    scope = yama() if ptrace_scope is None else ptrace_scope
    if scope > 1:
        return _without_filter(job, via, f"Yama's ptrace_scope is {scope}")
    tracer = own_tracer(job.argv, job.env.get("PATH", DEFAULT_PATH)) if via == "auto" else ""
    trace = via == "auto" and not tracer
    supervisor = Daemonised(job, trace=trace, scope=scope) if trace or scope == 0 else None
    why_not = obstacle(job.program)
    if why_not:
        if supervisor is not None:
            supervisor.abandon()
        return _without_filter(job, via, why_not)
    if tracer:
        say(f"{tracer} {_TRACES}")
    try:
        if supervisor is not None:
            supervisor.become_program()
    except CannotWork as error:
        if scope == 0:
            return _without_filter(job, via, str(error))
    from ttybroker.run.tree import launch_in_tree

    return launch_in_tree(job)


def _without_filter(job: LaunchJob, via: str, why_not: str) -> int:
    """Start a program without a filter.

    If all of its ports are open when it starts, it needs nothing more. Other programs get a pty.
    """
    if job.direct and not job.ports:
        from ttybroker.run.become import NO_PATHS, exec_program, open_ports

        opened = open_ports(job, job.direct)
        if job.held:
            from ttybroker.run.hold import hold_beside

            hold_beside([fd for fd, _ in opened])
        say(f"opens are not answered ({why_not or '--via pty'}): {NO_PATHS}")
        exec_program(job, opened)
    if via == "notify":
        raise Failure(f"{job.argv[0]}: no seccomp notification: {why_not}; try --via pty")
    return _copy(job, why_not)


def _copy(job: LaunchJob, why: str) -> int:
    from ttybroker.run.ptyproxy import launch_with_ptys

    launch_with_ptys(job, why)


def _end_by_ctrl_c() -> None:
    """Let Ctrl-C end this process, with no traceback, unless the caller ignores it."""
    if signal_action(SIGINT) != SIG_IGN:
        set_signal(SIGINT, SIG_DFL)


def _show_memory() -> None:
    """Let other processes of the user read this process's memory again.

    A set-user-ID exec hides it. The privilege is gone, so this process is like any other of its
    user. The supervisor has to read the arguments of its calls.
    """
    if prctl(PR_GET_DUMPABLE, 0) != 1:
        prctl(PR_SET_DUMPABLE, 1)


def own_tracer(argv: list[str], path: str) -> str:
    """Return the tracer that these words start, perhaps by another program: `env -i strace ...`.

    It is "" if they start none.

    An argument that only has a tracer's name, as in `make gdb`, is none: such a program needs what
    only our tracer can do. path: where programs are looked for.
    """
    for at, word in enumerate(argv):
        name = os.path.basename(word)
        if name in _TRACERS and (at == 0 or is_program(word, path)):
            return name
        if name not in _BECOMES_ANOTHER and (at == 0 or is_program(word, path)):
            return ""
    return ""


# ---- may it work? ----


def yama() -> int:
    """Return Yama's ptrace_scope, as far as it binds this process.

    It is 0 without Yama. Up to 2 it does not bind a process with CAP_SYS_PTRACE. Root has that,
    but not in most containers. 3 binds everybody.
    """
    try:
        with open(YAMA) as setting:
            scope = int(setting.read())
    except (FileNotFoundError, ValueError):
        return 0
    return 0 if scope in (1, 2) and _may_trace_all() else scope


def _may_trace_all() -> bool:
    """Return whether this process has CAP_SYS_PTRACE: CapEff in proc_pid_status(5)."""
    with open("/proc/self/status", "rb") as file:
        effective = file.read().partition(b"\nCapEff:\t")[2].split(b"\n", 1)[0]
    return bool(int(effective or b"0", 16) >> _CAP_SYS_PTRACE & 1)


def obstacle(program: str) -> str:
    """Return why the supervisor could not serve this program; "" if it can."""
    from ttybroker.run import trial

    try:
        _, abis = notify.machine()
    except notify.Unsupported as error:
        return str(error)
    return of_program(program, abis) or trial.obstacle_here()


def of_program(program: str, abis: tuple[notify.Abi, ...]) -> str:
    """Return what about the file prevents a filter and a supervisor, "" if nothing does."""
    if not os.access(program, os.R_OK):
        return f"{program} is not readable, so its opens cannot be answered"
    info = os.stat(program)
    gains = (info.st_mode & 0o4000 and info.st_uid != os.geteuid()) or (
        info.st_mode & 0o2010 == 0o2010 and info.st_gid != os.getegid()
    )
    if gains or "security.capability" in os.listxattr(program):
        return f"{program} gains privilege when it starts, which a filter would take from it"
    elf = _elf_of(program, _INTERPRETERS)
    if elf is not None and elf not in {pair for abi in abis for pair in abi.elf}:
        return f"{program} is for another kind of machine"
    return ""


def _elf_of(program: str, depth: int) -> tuple[int, int] | None:
    """Return (class, machine) of the file that will really run, elf(5); None for a plain script."""
    try:
        with open(program, "rb", buffering=0) as file:
            head = file.read(256)
    except FileNotFoundError:
        return None  # the exec will say so
    except OSError:
        return (0, 0)
    if head.startswith(b"\x7fELF") and len(head) >= 20:
        return head[4], head[18] | head[19] << 8
    if head.startswith(b"#!") and depth:
        words = head[2:].split(b"\n", 1)[0].split()
        return _elf_of(os.fsdecode(words[0]), depth - 1) if words else None
    return None  # binfmt_misc or a shell has to know
