"""A process of ours beside the program: how it is started, what it keeps open, how both talk."""

from __future__ import annotations

import os
from fcntl import F_DUPFD_CLOEXEC, fcntl

from ttybroker.run.job import Failure
from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTH = 4  # bytes before each message
_REFUSED, _CANNOT = b"!", b"?"  # first bytes of a message that is no answer


class CannotWork(Exception):
    """This way of answering opens does not work here. `str()` is the reason."""


class Talk:
    """One end of a conversation between two processes: whole messages, through two pipes.

    Pipes, because loading `socket` costs a start 5 ms.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing

    @staticmethod
    def pair() -> tuple[Talk, Talk]:
        """Return both ends.

        None of their descriptors is 0, 1 or 2, even if those are closed.
        """
        (one_reads, other_writes), (other_reads, one_writes) = _pipe(), _pipe()
        return Talk(one_reads, one_writes), Talk(other_reads, other_writes)

    def send(self, message: bytes) -> None:
        """Send a message. Raises BrokenPipeError when the other end has gone."""
        data = memoryview(len(message).to_bytes(_LENGTH, "little") + message)
        while data:
            data = data[os.write(self._writing, data) :]

    def refuse(self, line: str) -> None:
        """Send a line to show: the other end raises Failure with it."""
        self.send(_REFUSED + line.encode(errors="surrogateescape"))

    def decline(self, reason: str) -> None:
        """Send why this way of answering cannot work: the other end raises CannotWork."""
        self.send(_CANNOT + reason.encode(errors="surrogateescape"))

    def receive(self) -> bytes | None:
        """Return the next message; None when the other end has gone."""
        head = self._read(_LENGTH)
        return None if head is None else self._read(int.from_bytes(head, "little"))

    def answer(self) -> bytes:
        """Return the next message.

        Raises Failure if the other end refuses or ends, CannotWork if it declines.
        """
        message = self.receive()
        if message is None:
            raise Failure("the supervisor ended before the program began; please report this")
        if message[:1] == _REFUSED:
            raise Failure(message[1:].decode(errors="surrogateescape"))
        if message[:1] == _CANNOT:
            raise CannotWork(message[1:].decode(errors="surrogateescape"))
        return message

    def fileno(self) -> int:
        """Return the descriptor to read from, to wait on."""
        return self._reading

    def close(self) -> None:
        """End the conversation."""
        os.close(self._reading)
        os.close(self._writing)

    def _read(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            more = os.read(self._reading, size - len(data))
            if not more:
                return None
            data += more
        return data


def _pipe() -> tuple[int, int]:
    """Return a pipe whose descriptors are above the standard ones."""
    made = []
    for fd in os.pipe():
        if fd <= 2:
            made.append(fcntl(fd, F_DUPFD_CLOEXEC, 3))
            os.close(fd)
        else:
            made.append(fd)
    return made[0], made[1]


def start_aside(work: Callable[[Talk], None]) -> Talk:
    """Run `work` in a process of its own session that is not our child.

    Returns our end of a talk with it. It is forked twice, so that the program that we become has no
    child that it does not know of. The process closes what the program inherits. Otherwise, the
    other end of a caller's pipe would wait for it for ever.
    """
    mine, its = Talk.pair()
    middle = os.fork()
    if middle == 0:
        try:
            if os.fork() == 0:
                mine.close()
                os.setsid()  # no key of the terminal reaches it
                run_aside(work, its)
        except OSError as error:
            its.refuse(f"no supervisor: {error.strerror}; try again later")
        finally:
            os._exit(0)
    its.close()
    reap(middle)
    return mine


def run_aside(work: Callable[[Talk], None], talk: Talk) -> None:
    """Do `work(talk)`, then end this process.

    An error before the program has started goes through the talk.
    """
    try:
        drop_inherited()
        _leave_directory()
        work(talk)
    except OSError as error:
        from ttybroker.run.broker import line_of

        try:
            talk.refuse(line_of(error))
        except OSError:
            pass
    except BaseException as error:
        from ttybroker.run.broker import Interrupted

        if not isinstance(error, Interrupted):  # the process that waited was ended, and knows why
            say(f"the supervisor failed: {error!r}")
    finally:
        os._exit(0)


def _leave_directory() -> None:
    """Go to /, to keep nobody from unmounting. A broker whose path begins here is still found."""
    socket = os.environ.get("TTYBROKER_SOCKET", "")
    if socket and not socket.startswith("/"):
        os.environ["TTYBROKER_SOCKET"] = f"{os.getcwd()}/{socket}"
    os.chdir("/")


def drop_inherited() -> None:
    """Close the descriptors that the program inherits.

    All of ours are marked close-on-exec. 2 stays, for complaints.
    """
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        os.fstat(2)
    except OSError:
        os.dup2(null, 2)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                os.close(fd)
        except OSError:
            pass  # the descriptor of the listing itself
    if null > 2:
        os.close(null)


def leave_terminal() -> None:
    """Close stderr: a pipe there would not end while the program's daemons live."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)


def reap(child: int) -> None:
    """Wait for the end of a child."""
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # SIGCHLD is ignored: the kernel did it


def take_fds(talk: Talk, process: int) -> list[int]:
    """Return copies of the descriptors that the process with this pidfd names.

    These are its listener, once it has installed the filter, and the ports that it has opened. The
    list is empty if the process ended first. Waits for an answer.
    """
    from ttybroker.run.kernel import take_fd

    numbers = talk.receive()
    if numbers is None:
        return []
    return [take_fd(process, int(number)) for number in numbers.split()]
