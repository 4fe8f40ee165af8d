"""Which way the opens of a program are answered, and what may work here.

Where ptrace(2) rules let a stranger of the same user look (no Yama, or 0), the supervisor
is daemonised (`daemonised`). Under Yama 1 only an ancestor may look, so it goes in between
(`tree`). Where neither works a pty proxy takes its place (`ptyproxy`), and says what is lost.

Whatever can fail is tried before the program starts (`trial`).
"""

from __future__ import annotations

import os
import signal

from ttybroker.run import notify
from ttybroker.run.become import exec_program, open_direct
from ttybroker.run.job import Failure
from ttybroker.run.trial import try_in_a_child

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.run.job import LaunchJob

YAMA = "/proc/sys/kernel/yama/ptrace_scope"  # Documentation/admin-guide/LSM/Yama.rst
_INTERPRETERS = 4  # BINPRM_MAX_RECURSION, linux/binfmts.h


def launch(job: LaunchJob, *, via: str = "auto", ptrace_scope: int | None = None) -> int:
    """Run the job; comes back with an exit status only where a launcher has to stay.

    via: "notify" or "pty" to insist on one. ptrace_scope: Yama's setting, read when None.
    Raises Failure when the program was not started.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends us, with no traceback
    if job.direct and not job.ports:
        exec_program(job, open_direct(job))
    if notify.prctl(notify.PR_GET_DUMPABLE, 0) != 1:
        # After a set-user-ID exec. The privilege is gone, so this process is no more than
        # its user's other ones, and the supervisor has to read the arguments of its calls.
        notify.prctl(notify.PR_SET_DUMPABLE, 1)
    scope = yama() if ptrace_scope is None else ptrace_scope
    why_not = "" if via == "pty" else obstacle(job.program, scope)
    if why_not and via == "notify":
        raise Failure(f"{job.argv[0]}: no seccomp notification: {why_not}; try --via pty")
    if via == "pty" or why_not:
        from ttybroker.run.ptyproxy import launch_with_ptys

        launch_with_ptys(job, why_not)
    if scope == 1:
        from ttybroker.run.tree import launch_in_tree

        return launch_in_tree(job)
    from ttybroker.run.daemonised import launch_and_become

    return launch_and_become(job)


# ---- may it work? ----


def yama() -> int:
    """Yama's ptrace_scope; 0 where there is no Yama, or for root, whom it does not hold."""
    if os.geteuid() == 0:
        return 0
    try:
        with open(YAMA) as setting:
            return int(setting.read())
    except (FileNotFoundError, ValueError):
        return 0


def obstacle(program: str, scope: int) -> str:
    """Why the supervisor could not serve this program; "" when it can."""
    if scope > 1:
        return f"Yama's ptrace_scope is {scope}"
    try:
        _, abis = notify.machine()
    except notify.Unsupported as error:
        return str(error)
    return of_program(program, abis) or try_in_a_child(scope)


def of_program(program: str, abis: tuple[notify.Abi, ...]) -> str:
    """What about the file forbids a filter and a supervisor; "" when nothing does."""
    if not os.access(program, os.R_OK):
        return f"{program} is not readable, so nobody may look at what it asks for"
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
    """(class, machine) of the file that really runs, elf(5); None for a plain script."""
    try:
        with open(program, "rb", buffering=0) as file:
            head = file.read(256)
    except OSError:
        return (0, 0)
    if head.startswith(b"\x7fELF") and len(head) >= 20:
        return head[4], head[18] | head[19] << 8
    if head.startswith(b"#!") and depth:
        words = head[2:].split(b"\n", 1)[0].split()
        return _elf_of(os.fsdecode(words[0]), depth - 1) if words else None
    return None  # binfmt_misc or a shell has to know
