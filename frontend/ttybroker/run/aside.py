"""A process of ours beside the program: how it is started, and what it keeps."""

from __future__ import annotations

import os
import socket
import struct

from ttybroker.run.job import Failure
from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

LINE_MAX = 4096  # bytes of one message between launcher and supervisor


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
    reap(middle)
    return mine


def run_aside(work: Callable[[socket.socket], None], talk: socket.socket) -> None:
    """`work(talk)`, then end this process. An error before the program started is told there."""
    try:
        drop_inherited()
        os.chdir("/")
        work(talk)
    except OSError as error:
        from ttybroker.run.supervise import line_of

        try:
            talk.send(b"!" + line_of(error).encode()[: LINE_MAX - 1])
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


def reap(child: int) -> None:
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # SIGCHLD is ignored: the kernel did it


def hear(talk: socket.socket) -> bytes:
    """What the other process has ready for us; raises Failure with its line when it refused."""
    answer = talk.recv(LINE_MAX)
    if answer[:1] == b"!":
        raise Failure(answer[1:].decode())
    if not answer:
        raise Failure("the supervisor ended before the program began; please report this")
    return answer[1:]


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
