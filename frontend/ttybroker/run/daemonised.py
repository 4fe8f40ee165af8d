"""The layout for no Yama, or Yama 0: the supervisor is daemonised, and no child of the program.

    shell ---- launcher = program ---- its children     filter on all of these
    init  ---- supervisor -- broker                     answers, ends with the last of them

The launcher becomes the program: same pid, same parent, so signals, job control and the exit
status need no code.
"""

from __future__ import annotations

import os

from ttybroker.run.aside import hear, leave_terminal, start_aside, take_listener
from ttybroker.run.become import become_program

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    import socket

    from ttybroker.run.job import LaunchJob


def launch_and_become(job: LaunchJob) -> int:
    launcher = os.getpid()
    talk = start_aside(lambda theirs: _supervise(job, launcher, theirs))
    hear(talk)
    become_program(job, talk)
    return 0  # not reached


def _supervise(job: LaunchJob, program: int, talk: socket.socket) -> None:
    """The supervisor's whole life."""
    import select

    from ttybroker.run.supervise import Supervisor, reach

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
