"""The layout for Yama 1, under which only an ancestor may look into a process's memory.

    shell ---- launcher -- supervisor -- program -- its children
                                  `----- daemons the program left behind

PR_SET_PTRACER would do for the program itself, but children do not inherit it. So the supervisor is
the program's parent. It is also a subreaper: the program's daemons become its children, and it
stays their ancestor.

The program is in the launcher's process group, and gets what the terminal sends. To the shell, the
launcher stands for the program. It forwards signals that others send to it, and ends as the program
ended. The supervisor stops it when the program has stopped, and continues it with the program.

The supervisor is in a session of its own. So the kernel asks the launcher's parent alone whether
their group is orphaned, as it would without us. An orphaned group with a stopped process is hung up
when the exit of a process made it so.

If the supervisor is killed, the program goes on. The launcher waits for it, but cannot know how it
ended. If the launcher is killed, the program is killed too, as if it were the launcher.
"""

from __future__ import annotations

import os
import select
import signal

from ttybroker.run.aside import Talk, drop_inherited, leave_terminal, run_aside, take_fds
from ttybroker.run.become import become_program, open_ports
from ttybroker.run.job import REFUSED, Failure
from ttybroker.run.kernel import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    outlive_signals,
    prctl,
)
from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ttybroker.run.job import LaunchJob

_OURS = {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL}
_OURS |= {signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}  # not to be forwarded
_SI_KERNEL = 0x80  # asm-generic/siginfo.h: from the terminal, and so to the whole group
_AGAIN = 0.1  # seconds between two looks for the end of a program whose supervisor is dead


def launch_in_tree(job: LaunchJob) -> int:
    """Run the job with its supervisor in between. Return the program's exit status.

    Ends this process by the same signal when a signal ended the program. Raises Failure.
    """
    watched = signal.valid_signals() - _OURS
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    mine, theirs = Talk.pair()
    launcher = os.getpid()
    supervisor = os.fork()
    if supervisor == 0:
        mine.close()
        _supervisor(job, launcher, theirs, mask)
    theirs.close()
    drop_inherited()  # they are the program's, and it must be able to close them
    program = os.pidfd_open(int(mine.answer()))
    mine.send(b"known")  # before that it must not end: its number would be nobody's
    status = _stand_for(program, supervisor, mine, watched)
    os.close(program)
    mine.close()
    if os.WIFSIGNALED(status):
        _end_by(os.WTERMSIG(status))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return os.waitstatus_to_exitcode(status)


# ---- the launcher ----


def _stand_for(program: int, supervisor: int, talk: Talk, watched: Iterable[int]) -> int:
    """Stand for the program towards the shell until it ends. Return its wait status."""
    poll = select.poll()
    poll.register(talk.fileno(), select.POLLIN)
    while True:
        info = signal.sigwaitinfo(watched)
        if info.si_signo == signal.SIGCHLD:
            if poll.poll(0):
                told = talk.receive()
                return int(told) if told else _without_supervisor(program, watched)
        elif info.si_pid != supervisor:
            _forward(program, info)


def _forward(program: int, info: signal.struct_siginfo) -> None:
    """Forward a signal that somebody sent to us. The program gets those of the terminal itself."""
    if info.si_code != _SI_KERNEL:
        try:
            signal.pidfd_send_signal(program, info.si_signo)
        except (ProcessLookupError, PermissionError):
            pass


def _without_supervisor(program: int, watched: Iterable[int]) -> int:
    """Wait for the end of a program that is no longer anybody's child. Its status is unknown."""
    poll = select.poll()
    poll.register(program, select.POLLIN)
    while not poll.poll(0):
        info = signal.sigtimedwait(watched, _AGAIN)
        if info is not None and info.si_signo != signal.SIGCHLD:
            _forward(program, info)
    raise Failure("the supervisor was killed, so the program's exit status is unknown")


def _end_by(number: int) -> None:
    """End this process by this signal, without a core dump. Returns if that is impossible."""
    prctl(PR_SET_DUMPABLE, 0)
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


# ---- the supervisor ----


def _supervisor(job: LaunchJob, launcher: int, talk: Talk, mask: set[int]) -> None:
    """Live the whole life of the process between launcher and program; does not return."""
    try:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        ours, its = Talk.pair()
        program = os.fork()
        if program == 0:
            talk.close()
            ours.close()
            _program(job, its, mask)
        its.close()
        os.setsid()  # no key of the terminal reaches it, and it is no parent that a group counts
        outlive_signals()
        run_aside(lambda _: _supervise(job, launcher, program, ours, talk, mask), talk)
    finally:
        os._exit(REFUSED)


def _program(job: LaunchJob, talk: Talk, mask: set[int]) -> None:
    """Become the program, when the supervisor is ready for it."""
    status = REFUSED
    try:
        if talk.receive():
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            opened = open_ports(job, job.at_start)
            talk.send(opened.session)
            become_program(job, talk, opened, traced=False)
    except Failure as error:
        say(error)
        status = error.status
    finally:
        os._exit(status)


def _supervise(
    job: LaunchJob,
    launcher: int,
    program: int,
    ours: Talk,
    talk: Talk,
    mask: set[int],
) -> None:
    from ttybroker.run.broker import reach
    from ttybroker.run.names import Names
    from ttybroker.run.supervise import Supervisor

    children, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    broker, ports = reach(job.connect, job.brokered)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask - {signal.SIGCHLD})
    talk.send(b"%d" % program)
    if talk.receive() is None:
        return
    ours.send(b"+")
    broker.session = ours.receive() or broker.session
    handle = os.pidfd_open(program)
    listener, *opened = take_fds(ours, handle) or [-1]
    os.close(handle)
    if listener >= 0:
        supervisor = Supervisor(listener, broker, Names(job.brokered, ports), job)
        supervisor.start()
        supervisor.take_over([name for _, name in job.at_start], opened)
        ours.send(b"taken")
    _watch(listener, children, program, talk, launcher)


def _watch(listener: int, children: int, program: int, talk: Talk, launcher: int) -> None:
    """Wait until no process has the filter any more. Tell the launcher of the program's end."""
    poll = select.poll()
    poll.register(children, select.POLLIN)
    poll.register(talk.fileno(), 0)  # POLLHUP: the launcher is dead
    if listener >= 0:
        poll.register(listener, 0)  # POLLHUP: no process has the filter any more
    while True:
        ended = _reap(children, program, talk, launcher)
        if ended:
            poll.unregister(talk.fileno())
            talk.close()
            leave_terminal()
            program = 0
            if listener < 0:
                return
        events = {fd for fd, _ in poll.poll()}
        if listener in events and not program:
            return
        if listener in events:
            poll.unregister(listener)  # its end is still to be told
            listener = -1
        if program and talk.fileno() in events:
            os.kill(program, signal.SIGKILL)
            poll.unregister(talk.fileno())


def _reap(children: int, program: int, talk: Talk, launcher: int) -> bool:
    """Collect what ended, and have the launcher do as the program. Return whether that ended."""
    try:
        os.read(children, 4096)
    except BlockingIOError:
        pass
    ended = False
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        except ChildProcessError:
            return ended
        if child == 0:
            return ended
        if child != program:
            continue
        if os.WIFSTOPPED(status):
            _signal(launcher, signal.SIGSTOP)  # the shell sees it; `fg` continues both
        elif os.WIFCONTINUED(status):
            _signal(launcher, signal.SIGCONT)
        else:
            ended = True
            _tell(talk, launcher, b"%d" % status)


def _tell(talk: Talk, launcher: int, word: bytes) -> None:
    try:
        talk.send(word)
    except OSError:
        return  # the launcher is dead
    _signal(launcher, signal.SIGCHLD)  # it waits for signals, not for words
    _signal(launcher, signal.SIGCONT)  # it may have been stopped with the program


def _signal(launcher: int, number: int) -> None:
    if os.getppid() == launcher:
        os.kill(launcher, number)
