"""From a command line to a running program that gets brokered ports.

Where ptrace(2) rules let a stranger of the same user look (no Yama, or 0), the launcher
becomes the program: same pid, same parent, so signals, job control and the exit status
need no code. The supervisor is a daemonised child, no child of the program:

    shell ---- launcher = program ---- its children     filter on all of these
    init  ---- supervisor -- broker                     answers, ends with the last of them

Under Yama 1 only an ancestor may look, so the supervisor goes in between (`tree`). Where
neither works a pty proxy takes the supervisor's place (`ptyproxy`), and says what is lost.

Whatever can fail is tried before the program starts, by a child that then ends: once the
filter is on, it stays on.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct

from ttybroker import seccomp, target
from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ttybroker.supervise import Connect

NOT_FOUND, NOT_EXECUTABLE, REFUSED = 127, 126, 1  # exit statuses: POSIX sh 2.8.2, and ours
YAMA = "/proc/sys/kernel/yama/ptrace_scope"  # Documentation/admin-guide/LSM/Yama.rst
_DEFAULT_PATH = "/bin:/usr/bin"  # confstr(3) _CS_PATH
_INTERPRETERS = 4  # BINPRM_MAX_RECURSION, linux/binfmts.h
_LINE_MAX = 4096  # bytes of one message between launcher and supervisor

LOST = "parity, 7-bit characters, modem lines and break do not work"


class Failure(Exception):
    """The program was not started: a line to show, and the exit status."""

    def __init__(self, line: str, status: int = REFUSED) -> None:
        super().__init__(line)
        self.status = status


class Job:
    """What to run and how.

    ports: names to broker, none for all that the user may use. direct: (descriptors, name)
    of the ports that the program finds open. wait: seconds to queue for a busy port, or None.
    before_exec: called last in the process that becomes the program.
    """

    def __init__(
        self,
        argv: Sequence[str],
        connect: Connect,
        *,
        ports: Sequence[str] = (),
        direct: Sequence[tuple[tuple[int, ...], str]] = (),
        wait: float | None = None,
        env: Mapping[str, str] | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self.argv = list(argv)
        self.connect = connect
        self.ports = tuple(ports)
        self.direct = tuple(direct)
        self.wait = wait
        self.env = our_environment() if env is None else dict(env)
        self.before_exec = before_exec
        self.program = find_program(self.argv[0], self.env.get("PATH", _DEFAULT_PATH))


def launch(job: Job, *, via: str = "auto", ptrace_scope: int | None = None) -> int:
    """Run the job; comes back with an exit status only where a launcher has to stay.

    via: "notify" or "pty" to insist on one. ptrace_scope: Yama's setting, read when None.
    Raises Failure when the program was not started.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends us, with no traceback
    if job.direct and not job.ports:
        exec_program(job, open_direct(job))
    if seccomp.prctl(seccomp.PR_GET_DUMPABLE, 0) != 1:
        # After a set-user-ID exec. The privilege is gone, so this process is no more than
        # its user's other ones, and the supervisor has to read the arguments of its calls.
        seccomp.prctl(seccomp.PR_SET_DUMPABLE, 1)
    scope = yama() if ptrace_scope is None else ptrace_scope
    why_not = "" if via == "pty" else obstacle(job.program, scope)
    if why_not and via == "notify":
        raise Failure(f"{job.argv[0]}: no seccomp notification: {why_not}; try --via pty")
    if via == "pty" or why_not:
        from ttybroker.ptyproxy import launch_with_ptys

        launch_with_ptys(job, why_not)
    if scope == 1:
        from ttybroker.tree import launch_in_tree

        return launch_in_tree(job)
    return _launch_and_become(job)


def _launch_and_become(job: Job) -> int:
    launcher = os.getpid()
    talk = start_aside(lambda theirs: _supervise(job, launcher, theirs))
    hear(talk)
    become_program(job, talk)
    return 0  # not reached


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
        _, abis = seccomp.machine()
    except seccomp.Unsupported as error:
        return str(error)
    return of_program(program, abis) or _try_in_a_child(scope)


def of_program(program: str, abis: tuple[seccomp.Abi, ...]) -> str:
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


def _try_in_a_child(scope: int) -> str:
    """Put a filter on a child that then ends, and look into a memory, as later on."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            mine.close()
            theirs.send(_trial(parent if scope == 0 else 0).encode() or b"+")
            theirs.recv(1)  # stay, to be looked at
        finally:
            os._exit(0)
    theirs.close()
    with mine:
        answer = mine.recv(_LINE_MAX)
        readable = scope == 0 or target.may_read(child)
    _reap(child)
    if answer != b"+":
        return answer.decode() or "the trial of it was killed"
    return "" if readable else _UNREADABLE


_UNREADABLE = "the memory of another process cannot be read here"


def _trial(parent: int) -> str:
    try:
        seccomp.check_support()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "another supervisor is there already"
        return str(error)
    return "" if not parent or target.may_read(parent) else _UNREADABLE


# ---- two processes ----


def start_aside(work: Callable[[socket.socket], None]) -> socket.socket:
    """Run `work` in a process of its own session that is not our child; a socket to it.

    Forked twice, so that the program we become has no child it does not know of. What the
    program would inherit, that process does not keep: a pipe of the caller's would never end.
    """
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    middle = os.fork()
    if middle == 0:
        try:
            if os.fork() == 0:
                mine.close()
                os.setsid()
                run_aside(work, theirs)
        except OSError as error:
            theirs.send(f"!no supervisor: {error.strerror}; try again later".encode())
        finally:
            os._exit(0)
    theirs.close()
    _reap(middle)
    return mine


def run_aside(work: Callable[[socket.socket], None], talk: socket.socket) -> None:
    """`work(talk)`, then end this process. An error before the program started is told there."""
    try:
        drop_inherited()
        os.chdir("/")
        work(talk)
    except OSError as error:
        from ttybroker.supervise import line_of

        try:
            talk.send(b"!" + line_of(error).encode()[: _LINE_MAX - 1])
        except OSError:
            pass
    except BaseException as error:
        say(f"the supervisor failed: {error!r}")
    finally:
        os._exit(0)


def drop_inherited() -> None:
    """Close the descriptors that are the program's: those it would inherit. Ours are marked
    close-on-exec, all of them. 2 stays, for complaints."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                os.close(fd)
        except OSError:
            pass  # the descriptor of the listing itself
    os.close(null)


def _reap(child: int) -> None:
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # SIGCHLD is ignored: the kernel did it


def hear(talk: socket.socket) -> bytes:
    """What the other process has ready for us; raises Failure with its line when it refused."""
    answer = talk.recv(_LINE_MAX)
    if answer[:1] == b"!":
        raise Failure(answer[1:].decode())
    if not answer:
        raise Failure("the supervisor ended before the program began; please report this")
    return answer[1:]


def _supervise(job: Job, program: int, talk: socket.socket) -> None:
    """The supervisor's whole life."""
    import select

    from ttybroker.supervise import Supervisor, reach

    broker, names = reach(job.connect, job.ports)
    leader = os.pidfd_open(program)
    talk.send(b"+")
    listener = take_listener(talk)
    if listener < 0:
        return  # the launcher gave up, and said why
    Supervisor(listener, broker, names, job.wait).start()
    poll = select.poll()
    poll.register(listener, 0)  # POLLHUP: no process has the filter any more
    poll.register(leader, select.POLLIN)  # the program has ended, perhaps not its children
    while True:
        ended = [fd for fd, _ in poll.poll()]
        if listener in ended:
            return
        if leader in ended:
            poll.unregister(leader)
            leave_terminal()


def leave_terminal() -> None:
    """Let go of stderr: a pipe there would not end while the program's daemons live."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)


def take_listener(talk: socket.socket) -> int:
    """The listener from the process that has installed the filter; -1 when it ended first."""
    data, ancillary, _, _ = talk.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    talk.close()
    if not data or not ancillary:
        return -1
    listener: int = struct.unpack("=i", ancillary[0][2])[0]
    return listener


# ---- becoming the program ----


def become_program(job: Job, talk: socket.socket) -> None:
    """Put the filter on, hand its listener to the supervisor, and become the program."""
    direct = open_direct(job)  # before the filter, after the fork: the supervisor keeps no copy
    try:
        listener = seccomp.install()
    except OSError as error:
        raise Failure(f"{job.argv[0]}: no seccomp filter: {error}")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", listener))]
    talk.sendmsg([b"L"], rights)
    talk.close()
    os.close(listener)
    exec_program(job, direct)


def open_direct(job: Job) -> list[tuple[int, tuple[int, ...]]]:
    """(our descriptor, where the program wants it) of every port it is to find open.

    Blocking, as programs expect of what they inherit. Raises Failure.
    """
    if not job.direct:
        return []
    import fcntl

    from ttybroker.supervise import line_of

    above = 1 + max(number for numbers, _ in job.direct for number in numbers)
    opened = []
    try:
        client = job.connect()
        for numbers, name in job.direct:
            fd = client.open(name, wait=job.wait, pid=os.getpid())
            os.set_blocking(fd, True)
            # Out of the way of the numbers that the others are to have.
            opened.append((fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above), numbers))
            os.close(fd)
        client.close()
    except OSError as error:
        raise Failure(line_of(error))
    return opened


def exec_program(job: Job, direct: list[tuple[int, tuple[int, ...]]]) -> None:
    """Become the program, with nothing of ours left: does not return. Raises Failure."""
    for fd, numbers in direct:
        for number in numbers:
            os.dup2(fd, number)
    if job.before_exec is None:
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; programs rely
            signal.signal(ignored, signal.SIG_DFL)
    else:
        job.before_exec()
    try:
        try:
            os.execve(job.program, job.argv, job.env)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without a first line: what execvp(3) and the shells do.
            os.execve("/bin/sh", ["/bin/sh", job.program, *job.argv[1:]], job.env)
    except OSError as error:
        status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        raise Failure(f"{job.argv[0]}: {error.strerror}", status)


def our_environment() -> dict[str, str]:
    """The environment this process was started with.

    In the C locale Python adds LC_CTYPE to it (PEP 538), which would change the program's.
    """
    env = dict(os.environ)
    if env.get("LC_CTYPE") == "C.UTF-8":
        with open("/proc/self/environ", "rb") as block:
            if b"\0LC_CTYPE=" not in b"\0" + block.read():
                del env["LC_CTYPE"]
    return env


def find_program(name: str, path: str) -> str:
    """The file that a shell would run for `name`; raises Failure with 127 or 126."""
    candidates = [name] if "/" in name else [f"{part or '.'}/{name}" for part in path.split(":")]
    found = ""
    for candidate in candidates:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
        if os.path.exists(candidate):
            found = found or candidate
    if not found:
        where = "no such file" if "/" in name else "not found in $PATH; is it installed?"
        raise Failure(f"{name}: {where}", NOT_FOUND)
    what = "is a directory" if os.path.isdir(found) else "may not be executed; see its mode"
    raise Failure(f"{name}: {found} {what}", NOT_EXECUTABLE)
