"""Processes with other ids, in which a part of a test runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import pkgutil
import signal
import socket
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeVar

import serial.tools.list_ports_linux  # noqa: F401 (as `ttybroker list` does)

import ttybroker
from support.processes import PR_SET_PDEATHSIG, prctl
from support.users import NOBODY
from support.waiting import TIMEOUT, wait_readable

T = TypeVar("T")


ONLY_FOR = {"ttybroker.serialx"}  # programs that have that library; tests/matrix tries it


def load(package: ModuleType) -> None:
    """Import all of its modules: a child of another user may not be able to read the clone."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(".__main__") and module.name not in ONLY_FOR:
            importlib.import_module(module.name)


load(ttybroker)


class Chat:
    """One end of a conversation between the test and its child, in pickled words."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def say(self, word: object = None) -> None:
        """Say one word; the other side may be gone."""
        self.sock.send(pickle.dumps(word), socket.MSG_NOSIGNAL)

    def hear(self, timeout: float = TIMEOUT) -> Any:
        """Return the other side's next word. Raises EOFError if it is gone."""
        wait_readable(self.sock.fileno(), "a word", timeout)
        data = self.sock.recv(1 << 20)
        if not data:
            raise EOFError("the other side has ended")
        return pickle.loads(data)


class Child:
    """A forked process with other ids, in which `body` runs.

    It can use everything that this process has imported, even if it may not read the clone. That is
    all of ttybroker, and with a rig all of ttybrokerd. All descriptors except 0 to 2 are closed in
    it.
    """

    def __init__(
        self,
        body: Callable[[Chat], object],
        uid: int = NOBODY,
        groups: Iterable[int] = (),
        gid: int | None = None,
        keep: Iterable[int] = (),
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.chat = Chat(ours)
        self.ended = False
        self.pid = os.fork()
        if self.pid == 0:
            _be(Chat(theirs), body, uid, uid if gid is None else gid, list(groups), set(keep))
        theirs.close()
        self.pidfd = os.pidfd_open(self.pid)

    def hear(self, timeout: float = TIMEOUT) -> Any:
        """Return the next word of the child; raise what was raised in it."""
        kind, value = self.chat.hear(timeout)
        if kind == "raised":
            raise value
        return value

    def say(self, word: object = None) -> None:
        """Say a word to the child; if it has failed, raise its error."""
        try:
            self.chat.say(word)
        except BrokenPipeError:
            self.result()
            raise

    def result(self, timeout: float = TIMEOUT) -> Any:
        """Return what the body returned, or raise what it raised, after the child's end."""
        value = self.hear(timeout)
        self.wait()
        return value

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for the end, and return the exit status, or minus the signal."""
        wait_readable(self.pidfd, f"the end of process {self.pid}", timeout)
        _, status = os.waitpid(self.pid, 0)
        self.close()
        return os.waitstatus_to_exitcode(status)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; with SIGKILL, wait for the end."""
        if self.ended:
            return
        signal.pidfd_send_signal(self.pidfd, number)
        if number == signal.SIGKILL:
            self.wait()

    def close(self) -> None:
        """Let go of an ended child."""
        self.ended = True
        self.chat.sock.close()
        os.close(self.pidfd)


class _Side(Chat):
    """The child's end of the conversation, whose words are marked.

    It waits for a word as long as its test runs, which may be slow: the child ends with the test.
    """

    def hear(self, timeout: float = 3600) -> Any:
        return super().hear(timeout)

    def say(self, word: object = None) -> None:
        super().say(("word", word))


def _be(
    chat: Chat,
    body: Callable[[Chat], object],
    uid: int,
    gid: int,
    groups: list[int],
    keep: set[int],
) -> None:
    """Live the life of a child. Does not return."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) > 2 and int(entry) not in keep | {chat.sock.fileno()}:
                with contextlib.suppress(OSError):
                    os.close(int(entry))
        if os.geteuid() == 0:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        answer: tuple[str, object] = ("word", body(_Side(chat.sock)))
        status = 0
    except BaseException as error:
        # Python 3.15 looks for like names in folders that this user may not read.
        with contextlib.suppress(OSError):
            error.add_note("".join(traceback.format_exception(error)))
        answer = ("raised", error)
    try:
        try:
            chat.say(answer)
        except (pickle.PicklingError, AttributeError, TypeError):
            chat.say(("raised", RuntimeError(f"cannot be pickled: {answer!r}")))
    finally:
        os._exit(status)


def as_user(
    uid: int,
    groups: Iterable[int],
    function: Callable[[], T],
    gid: int | None = None,
    timeout: float = TIMEOUT,
) -> T:
    """Return what `function` returns, or raise what it raises, in a child with these ids."""
    child = Child(lambda _chat: function(), uid, groups, gid)
    try:
        result: T = child.result(timeout)
        return result
    finally:
        child.kill()


class Orphan:
    """A process that this process has inherited."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for its end, and return its exit status, or minus the signal."""
        try:
            wait_readable(self._pidfd, f"the end of {self.pid}", timeout)
        finally:
            os.close(self._pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
