"""Names and numbers of users and groups: the name service, and where it is asked.

getpwnam(3) and the like run whatever nsswitch.conf(5) names: modules that read files all over
/etc and talk to LDAP, SSSD or systemd. That has no place in a process that stays root. `Names`
asks where it stands, for a process that is root anyway (starting up) or has ended being it;
`NamesProcess` has nameservice.py asked by a process without rights, which ends with the broker:
systemd's (ttybroker-names.socket), or a child, made before the broker is confined, that becomes
nobody for good. Should it die or hang, names are unknown, and that is all: a lease needs none.
"""

from __future__ import annotations

import _thread
import os
import struct

import prctl

from ttybrokerd.prepare.nameservice import GROUP_ID, MAX_MESSAGE, USER_ID, USER_NAME, look_up, serve
from ttybrokerd.root import confine, linux, locks
from ttybrokerd.root.lean import TYPE_CHECKING, signal, socket

if TYPE_CHECKING:
    from typing import NoReturn

NOBODY = 65534  # the kernel's overflow uid and gid
PATIENCE = 5  # seconds for an answer
STARTING = 1.0  # and for that about who waits while we start
MAX_NAME = 1024  # bytes; nobody has a longer one
KIND = (socket.AF_UNIX, socket.SOCK_SEQPACKET)
SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Unanswered(OSError):
    """The name service does not answer; the text says what became of it."""


class Names:
    """The name service. May block for as long as that likes."""

    def user_id(self, name: str) -> int | None:
        """The uid of a user, None if there is no such user. Raises Unanswered."""
        return _number(self._ask(USER_ID, name))

    def group_id(self, name: str) -> int | None:
        """The gid of a group, None if there is no such group. Raises Unanswered."""
        return _number(self._ask(GROUP_ID, name))

    def user_name(self, uid: int) -> str:
        """The name of a user as printable ASCII, "" if nobody has the uid. Raises Unanswered."""
        return locks.printable(self._ask(USER_NAME, str(uid)))

    def _ask(self, question: str, about: str) -> bytes:
        return look_up(question, about)


class NamesProcess(Names):
    """The same, asked in a process that has no rights: from any thread, and within PATIENCE."""

    def __init__(self, path: str | None = None) -> None:
        """Fork it, when no thread may run yet; or, with the path of its socket, `connect` later.
        Raises OSError if it does not start."""
        self._path = path
        self._sock = socket.socket(*KIND) if path is not None else _fork()
        timeout = struct.pack("ll", PATIENCE, 0)  # struct timeval
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._lock = _thread.allocate_lock()  # over the next two
        self._asked = 0  # the number of the last question
        self._answered = 0  # and of the last answer
        if path is None:
            self._receive()  # its word that it has become nobody

    def connect(self) -> None:
        """Have systemd start it, unless it is a child: as late as can be, for the first client
        waits for us and not for it. Raises OSError."""
        if self._path is None:
            return
        try:
            self._sock.connect(self._path)
        except OSError as error:
            what = f"no name service at {self._path}: {error.strerror}"
            raise OSError(error.errno, f"{what}; is ttybroker-names.socket active?") from None

    def fileno(self) -> int:
        """Our end of the socket."""
        return self._sock.fileno()

    def _ask(self, question: str, about: str) -> bytes:
        encoded = about.encode("utf-8", "replace")
        if len(encoded) > MAX_NAME or b"\0" in encoded:
            return b""
        with self._lock:
            if self._answered != self._asked:  # too late for who asked: it may have come by now
                self._receive(socket.MSG_DONTWAIT)
            self._asked += 1
            try:
                self._sock.send(f"{self._asked} {question} ".encode() + encoded, SEND)
            except OSError:
                raise Unanswered("the process that asks has ended: restart the broker") from None
            return self._receive()

    def _receive(self, flags: int = 0) -> bytes:
        try:
            message = self._sock.recv(MAX_MESSAGE, flags)
        except OSError:
            raise Unanswered("the name service does not answer; is its server up?") from None
        number, _, answer = message.partition(b" ")
        if number != b"%d" % self._asked:
            raise Unanswered("the process that asks has ended: restart the broker")
        self._answered = self._asked
        return answer


def name_while_starting(uid: int) -> str | None:
    """A user's name, asked by a child, which has STARTING seconds: who woke us shall not wait
    until systemd has started yet another process. None: no answer. No thread may run yet."""
    ours, theirs = socket.socketpair(*KIND)
    child = os.fork()
    if child == 0:
        try:
            # It ends itself: where SIGCHLD is ignored its pid may be another's by the time we know.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, STARTING)
            theirs.send(b"0 " + look_up(USER_NAME, str(uid)))
        finally:
            os._exit(0)
    theirs.close()
    try:
        asked, _, answer = ours.recv(MAX_MESSAGE).partition(b" ")
    finally:
        ours.close()
    linux.reap(child)
    return locks.printable(answer) if asked else None


def _number(answer: bytes) -> int | None:
    """A uid or gid; what is none is an answer of nobody's."""
    number = int(answer) if answer.isdigit() and len(answer) <= 10 else 0xFFFFFFFF
    return number if number < 0xFFFFFFFF else None


def _fork() -> socket.socket:
    ours, theirs = socket.socketpair(*KIND)
    if os.fork() == 0:
        _answer(theirs)
    theirs.close()
    return ours


def _answer(sock: socket.socket) -> NoReturn:
    """The child: become nobody, say so, answer until the broker is gone."""
    try:
        _leave_behind(sock.fileno())  # guard: names-child-has-no-descriptors
        confine.give_up_everything(NOBODY, NOBODY, ())  # guard: names-child-has-no-rights
        prctl.set_dumpable(0)  # what else runs as nobody shall not speak for it
        prctl.set_name("ttybroker-names")
        sock.send(b"0 ")
        serve(sock)
    finally:
        os._exit(1)


def _leave_behind(sock: int) -> None:
    """A session and descriptors of its own: the log, the listening socket and the terminal are
    the broker's."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, sock)
    os.closerange(sock + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
