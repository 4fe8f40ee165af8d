"""The usual layout: the supervisor is daemonised, and is no child of the program.

    shell ---- launcher = program ---- its children     filter on all of these
    init  ---- supervisor -- broker                     answers, ends with the last of them

The launcher becomes the program, with the same pid and the same parent. So signals, job control and
the exit status need no code.

If it may, the supervisor traces the program (`trace`). Otherwise only the listener answers. That
needs the right to read the program's memory: no Yama, or its level 0. A tracer only needs the
launcher to allow it once (PR_SET_PTRACER), so it works under Yama 1 too.
"""

from __future__ import annotations

import os

from ttybroker.run.aside import CannotWork, Talk, leave_terminal, start_aside, take_fds
from ttybroker.run.become import become_program, open_ports

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.run.job import LaunchJob

_READY = b"ready"
_TRACED, _LISTENED = b"traced", b"listened"
_ANY_TRACER = 2**64 - 1  # PR_SET_PTRACER_ANY


class Daemonised:
    """A supervisor that has been started and is getting ready.

    trace: whether it should trace. scope: Yama's setting.
    """

    def __init__(self, job: LaunchJob, *, trace: bool, scope: int) -> None:
        self._job = job
        self._scope = scope
        launcher = os.getpid()
        self._talk = start_aside(lambda talk: _supervise(job, launcher, trace, talk))

    def abandon(self) -> None:
        """Let it end."""
        self._talk.close()

    def become_program(self) -> None:
        """Become the program under this supervisor; does not return.

        Raises Failure, or CannotWork if the supervisor may not look into this process.
        """
        self._talk.answer()
        # Before it traces this process: a wait for a port is then interrupted as any other.
        opened = open_ports(self._job, self._job.at_start)
        if self._scope == 1:
            _allow_tracer(_ANY_TRACER)
        self._talk.send(opened.session)
        try:
            traced = self._talk.answer() == _TRACED
            if self._scope == 1:
                _allow_tracer(0)
                if not traced:
                    raise CannotWork("Yama's ptrace_scope is 1")
        except CannotWork:
            self.abandon()
            for fd, _ in opened:
                os.close(fd)
            raise
        become_program(self._job, self._talk, opened, traced=traced)


def _allow_tracer(pid: int) -> None:
    from ttybroker.run.kernel import PR_SET_PTRACER, prctl

    try:
        prctl(PR_SET_PTRACER, pid)
    except OSError:
        pass  # no Yama here: nothing to be allowed


def _supervise(job: LaunchJob, launcher: int, trace: bool, talk: Talk) -> None:
    """Live the supervisor's whole life."""
    from ttybroker.run.broker import reach
    from ttybroker.run.names import Names

    broker, ports = reach(job.connect, job.brokered)
    from ttybroker.run import target
    from ttybroker.run.kernel import outlive_signals
    from ttybroker.run.supervise import Supervisor
    from ttybroker.run.trace import Tracer, seize, serve_until_readable

    process = os.pidfd_open(launcher)
    talk.send(_READY)
    session = talk.receive()
    if session is None:
        return
    broker.session = session
    traced = trace and seize(launcher)
    if not traced and not target.may_read(launcher):
        talk.decline("the memory of another process cannot be read here")
        return
    outlive_signals()
    talk.send(_TRACED if traced else _LISTENED)
    if traced:
        serve_until_readable(talk.fileno())
    taken = take_fds(talk, process)
    if not taken:
        return  # the launcher gave up, and said why
    listener, *opened = taken
    supervisor = Supervisor(listener, broker, Names(job.brokered, ports), job)
    supervisor.start()
    supervisor.take_over([name for _, name in job.at_start], opened)
    talk.send(b"taken")
    if traced:
        Tracer(supervisor, launcher).run()
    watch(listener, process)


def watch(listener: int, leader: int) -> None:
    """Wait until no process has the filter any more.

    Let go of the terminal when the program has ended (its pidfd is `leader`), even if its children
    have not.
    """
    import select

    poll = select.poll()
    poll.register(listener, 0)  # POLLHUP: no process has the filter any more
    poll.register(leader, select.POLLIN)
    while True:
        ended = [fd for fd, _ in poll.poll()]
        if listener in ended:
            return
        if leader in ended:
            poll.unregister(leader)
            leave_terminal()
