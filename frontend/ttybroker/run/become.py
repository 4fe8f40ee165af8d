"""Become the program: install the filter, hand over the listener, exec."""

from __future__ import annotations

import errno
import os

from ttybroker.called import call_us
from ttybroker.run.job import NOT_EXECUTABLE, NOT_FOUND, Failure

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.run.aside import Talk
    from ttybroker.run.job import LaunchJob

    Wanted = tuple[tuple[tuple[int, ...], str], ...]


# What a descriptor of the port itself cannot do where nothing answers opens: the kernel would open
# the node anew, and the user has no right to that. Said when there is such a descriptor.
NO_PATHS = (
    "the port does not open by the path of the program's descriptor (/dev/stdin, /dev/fd/N, "
    "/proc/self/fd/N)"
)


class Opened(list[tuple[int, tuple[int, ...]]]):
    """A list of (our descriptor, the numbers that the program wants), and the session.

    There is an entry for each port that is open when the program begins. If a port is only held,
    the program wants no numbers of it.
    """

    session = bytes(16)  # the session that has them; zero bytes for none


def become_program(job: LaunchJob, talk: Talk, opened: Opened, *, traced: bool) -> None:
    """Install the filter, let the supervisor take its listener, and become the program.

    opened: what `open_ports` returned for `at_start`. traced: whether a tracer answers first.
    Raises Failure.
    """
    from ttybroker.run import notify

    if job.brokered:
        plain = notify.PLAIN_ALWAYS
    else:
        plain = notify.PLAIN_TRACED if _mentions_device(job.argv) else notify.PLAIN_INHERITED
    try:
        listener = notify.install(plain=plain, traced=traced)
    except OSError as error:
        raise Failure(f"{job.argv[0]}: no seccomp filter: {error}")
    talk.send(b" ".join(b"%d" % fd for fd in [listener, *(fd for fd, _ in opened)]))
    talk.answer()
    talk.close()
    os.close(listener)
    exec_program(job, opened)


def _mentions_device(argv: list[str]) -> bool:
    """Return whether an argument has a path below /dev: the program may open it read-only."""
    return any("/dev/" in word for word in argv[1:])


def open_ports(job: LaunchJob, wanted: Wanted) -> Opened:
    """Open these ports before the program begins: `direct` or `at_start` of the job.

    They are blocking, as programs expect of inherited descriptors. Raises Failure.
    """
    if not wanted:
        return Opened()
    from ttybroker.run.broker import line_of, open_for_itself

    taken = {number for numbers, _ in wanted for number in numbers}
    call_us(os.path.basename(job.program))
    try:
        names = [name for _, name in wanted]
        fds, session = open_for_itself(job, names)
        opened = Opened()
        opened.session = session
        for fd, (numbers, _) in zip(fds, wanted, strict=True):
            os.set_blocking(fd, True)
            opened.append((_out_of(taken, fd), numbers))
        return opened
    except OSError as error:
        raise Failure(line_of(error))


def _out_of(taken: set[int], fd: int) -> int:
    """Return the descriptor, moved to a number that no port will need."""
    import fcntl

    passed = []
    while fd in taken:
        passed.append(fd)
        fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    for old in passed:
        os.close(old)
    return fd


def exec_program(job: LaunchJob, opened: Opened) -> None:
    """Become the program, and leave nothing of ours. Does not return. Raises Failure."""
    for fd, numbers in opened:
        for number in numbers:
            os.dup2(fd, number)
    if job.before_exec is None:
        from ttybroker.run.kernel import SIG_DFL, set_signal

        for ignored in (13, 25):  # SIGPIPE, SIGXFSZ: Python ignores them; programs rely on them
            set_signal(ignored, SIG_DFL)
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
    except FileNotFoundError as error:
        what = error.strerror
        if os.path.exists(job.program):
            what = f"the interpreter of its first line, or its loader: {what}"
        raise Failure(f"{job.argv[0]}: {what}", NOT_FOUND)
    except OSError as error:
        raise Failure(f"{job.argv[0]}: {error.strerror}", NOT_EXECUTABLE)
