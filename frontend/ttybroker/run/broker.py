"""The broker, as the processes beside a program ask it.

They ask several questions at once, and can break off a wait. Every open of a port by a launched
program goes through `Broker.open`.
"""

from __future__ import annotations

import errno
import os
import select
import time
from _thread import LockType, allocate_lock

from ttybroker.run.kernel import peer_pid
from ttybroker.say import printable

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol, TypeVar

    from ttybroker.client import RetryBudget
    from ttybroker.run.job import LaunchJob
    from ttybroker.waiting import WaitingLine
    from ttybroker.wire import Holder, PortInfo, Verdict, Waiting

    class BrokerClient(Protocol):
        """The part of `ttybroker.client.Client` that is needed."""

        session: bytes

        def ask_open(
            self,
            name: str,
            *,
            wait: float | None = None,
            pid: int = 0,
            flags: int = 0,
            session: bytes = b"",
            tell: Callable[[Waiting], None] | None = None,
        ) -> None: ...
        def take_answer(self) -> int | None: ...
        def come_back(self, budget: RetryBudget) -> Iterator[float]: ...
        def time_left(self) -> float: ...
        def fileno(self) -> int: ...
        def check(self, name: str) -> Verdict: ...
        def ports(self) -> list[PortInfo]: ...
        def close(self) -> None: ...

    Connect = Callable[[], BrokerClient]
    T = TypeVar("T")

_ENOUGH_IDLE = 2  # connections that are kept without a question
_DEAD = (errno.ECONNREFUSED, errno.EPROTO)  # what BrokerUnavailable and ProtocolError have
_TELL_AFTER = 0.3  # seconds of waiting before it is shown
_LOOK = 0.1  # seconds between two looks whether the caller still wants its port
_NO_SESSION = bytes(16)


class Interrupted(Exception):
    """The caller does not wait any longer: a signal, or it was killed."""


class Patience:
    """What to do while a request waits.

    gone: whether the caller has given up. line: shows who has the port, None: show nothing.
    """

    def __init__(self, gone: Callable[[], bool], line: WaitingLine | None) -> None:
        self._gone = gone
        self.line = line
        self._show_at = time.monotonic() + _TELL_AFTER

    def check(self) -> None:
        """Raise Interrupted when the caller does not wait any longer."""
        if self._gone():
            raise Interrupted

    def look(self, ports: Callable[[], list[PortInfo]] | None = None) -> None:
        """Do as `check`, and show who has the port. ports: as for `WaitingLine.draw`."""
        self.check()
        if self.line is not None and time.monotonic() >= self._show_at:
            self.line.draw(ports)


class Turn:
    """Let one thread at a time ask for a port. The others wait, first come, first served.

    They join the lease that it is granted. So the broker has one waiting request, not a thousand.
    """

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._free = True
        self._waiting: list[LockType] = []

    def take(self, patience: Patience) -> None:
        """Wait for a turn. Raises Interrupted, as `patience` does."""
        with self._lock:
            if self._free:
                self._free = False
                return
            mine = allocate_lock()
            mine.acquire()
            self._waiting.append(mine)
        # A look costs 50 µs: a thousand threads look less often.
        while not mine.acquire(timeout=_LOOK * (1 + len(self._waiting) // 100)):
            try:
                patience.check()  # the thread whose turn it is shows who has the port
            except Interrupted:
                self._leave(mine)
                raise

    def _leave(self, mine: LockType) -> None:
        with self._lock:
            waits = mine in self._waiting
            if waits:
                self._waiting.remove(mine)
        if not waits:  # its turn came in this moment
            self.give_back()

    def give_back(self) -> None:
        """End a turn."""
        with self._lock:
            if self._waiting:
                self._waiting.pop(0).release()
            else:
                self._free = True


class Broker:
    """Ask for several threads, with one connection for each question at a time."""

    def __init__(self, connect: Connect, first: BrokerClient) -> None:
        self._connect = connect
        self._spare = [first]
        self._turns: dict[str, Turn] = {}
        self._sessions: dict[str, bytes] = {}  # port -> the session that has it
        self.session = _NO_SESSION  # the last one, which further ports join
        self._claims = _sees_our_pids(first)

    def check(self, name: str) -> Verdict:
        """Return what the policy says about the port. Raises OSError, as `ports` and `open` do."""
        return self._ask(lambda client: client.check(name))

    def ports(self) -> list[PortInfo]:
        """Return the ports that the user may use."""
        return self._ask(lambda client: client.ports())

    def open(
        self, name: str, wait: float | None, pid: int, patience: Patience, flags: int = 0
    ) -> int:
        """Return an open descriptor of the port, the caller's own.

        If this run has the port already, the open joins its lease.

        wait: seconds to queue for a busy port, or None. pid: the process that will have it. The
        broker gets it only if both are in one pid namespace. flags: READ and others of
        `ttybroker.wire`. Raises OSError, or Interrupted, which withdraws the request.
        """
        end = time.monotonic() + (wait or 0)
        turn = self._turns.setdefault(name, Turn())
        turn.take(patience)
        try:
            left = None if wait is None else max(end - time.monotonic(), 0.001)
            try:
                return self._open(name, left, pid, patience, flags, self._session_of(name))
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
            self._sessions.clear()  # its last lease and its last connection have ended
            self.session = _NO_SESSION
            return self._open(name, left, pid, patience, flags, _NO_SESSION)
        finally:
            if patience.line is not None:
                patience.line.erase()
            turn.give_back()

    def _session_of(self, name: str) -> bytes:
        return self._sessions.get(name, self.session)

    def _open(
        self,
        name: str,
        wait: float | None,
        pid: int,
        patience: Patience,
        flags: int,
        session: bytes,
    ) -> int:
        def ask(client: BrokerClient) -> int:
            what = {"pid": pid if self._claims else 0, "flags": flags, "session": session}
            if patience.line is not None:
                what["tell"] = patience.line.hear
            fd = _open(client, name, wait, lambda: patience.look(self.ports), what)
            self._sessions[name] = self.session = client.session
            return fd

        return self._ask(ask)

    def take_connection(self) -> Any:
        """Return the last connection that answered, which the caller must close."""
        return self._spare.pop()

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._spare:
            self._spare.pop().close()

    def _ask(self, question: Callable[[BrokerClient], T]) -> T:
        try:
            client = self._spare.pop()
        except IndexError:
            client = self._connect()
        keep = False
        try:
            answer = question(client)
            keep = True
            return answer
        except OSError as error:
            keep = error.errno not in _DEAD
            raise
        finally:
            if keep and len(self._spare) < _ENOUGH_IDLE:
                self._spare.append(client)
            else:
                client.close()


def _open(
    client: BrokerClient,
    name: str,
    wait: float | None,
    look: Callable[[], None],
    what: dict[str, Any],
) -> int:
    """Ask and wait; ask again if the broker was restarted meanwhile, as `Client.open` does.

    look: called meanwhile. what: further arguments of `ask_open`.
    """
    from ttybroker.client import BrokenOff, RetryBudget

    budget = RetryBudget(wait)
    while True:
        try:
            client.ask_open(name, wait=wait, **what)
            poll = select.poll()
            poll.register(client.fileno(), select.POLLIN)
            while True:
                while client.time_left() and not poll.poll(_LOOK * 1000):
                    look()
                if (fd := client.take_answer()) is not None:
                    return fd
        except BrokenOff:
            for pause in client.come_back(budget):
                look()
                time.sleep(pause)
            wait = budget.left()


def _sees_our_pids(client: BrokerClient) -> bool:
    """Return whether a pid means the same process here and to the broker.

    That is so if both are in one pid namespace. Otherwise the number might be that of another
    process. The broker's own pid reads 0 if it is in a namespace outside of ours. If it is in one
    below ours, its NSpid line in /proc/PID/status has more than one number: proc_pid_status(5),
    pid_namespaces(7).
    """
    pid = peer_pid(client.fileno())
    if pid == 0:
        return False
    try:
        if int(os.readlink("/proc/self")) != os.getpid():
            return False  # /proc is another namespace's
        with open(f"/proc/{pid}/status", "rb") as file:
            status = file.read()
    except (OSError, ValueError):
        return False
    at = status.find(b"\nNSpid:")
    return at >= 0 and len(status[at + 7 :].split(b"\n", 1)[0].split()) == 1


def reach(connect: Connect, wanted: tuple[str, ...]) -> tuple[Broker, list[PortInfo]]:
    """Return the broker and its list of ports.

    Raises OSError if one of `wanted` would be refused.
    """
    client = connect()
    ports = client.ports()
    for name in wanted:
        verdict = client.check(name)
        if not verdict.allowed:
            from ttybroker.names import did_you_mean

            hint = "" if verdict.known else did_you_mean(name, [port.name for port in ports])
            raise PermissionError(errno.EACCES, f"{name}: {verdict.message}{hint}")
    return Broker(connect, client), ports


def line_of(error: OSError) -> str:
    """Return the line to show: a BrokerError's own words, a plain OSError's without the number."""
    line = str(error)
    if type(error).__module__ == "builtins":
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        line = f"{where}{error.strerror}"
    if (advice := getattr(error, "advice", "")) and (step := _step(error)):
        if error.errno == errno.ETIMEDOUT:
            step = step.replace("wait for it", "wait longer")
        line = line.removesuffix(advice) + step
    if error.errno != errno.EACCES or getattr(error, "meant", False):
        return line
    from ttybroker.login import too_old

    return line + too_old()


def _step(error: OSError) -> str:
    """Return what to do when the user may take the port back, "" where only others may."""
    holder: Holder | None = getattr(error, "holder", None)
    if holder is None or holder.how != "lease" or os.getuid() not in (0, holder.uid):
        return ""
    from ttybroker.holding import has_ended

    back = f"take it back (ttybroker revoke {getattr(error, '_port', '')})"
    if holder.uid != os.getuid():
        return f"wait for it (--wait SECONDS), or {back}"
    if has_ended(holder):  # a process that it started has the port, and lends nothing
        return f"it is yours: wait for it (--wait SECONDS), or {back}"
    lend = "have it lend the port next time (ttybroker run --yield, ttybroker term)"
    return f"it is yours: wait for it (--wait SECONDS), {back}, or {lend}"


def line_for(job: LaunchJob, name: str, pid: int = 0) -> WaitingLine | None:
    """Return what shows that a process waits for this port, None if the run does not wait.

    `pid` is the process, 0 for this one.
    """
    if job.wait is None:
        return None
    from ttybroker.waiting import WaitingLine

    return WaitingLine(name, job.quiet, job.wait, pid)


def open_for_itself(job: LaunchJob, names: list[str]) -> tuple[list[int], bytes]:
    """Return descriptors of these ports for the process that asks, and the session that has them.

    That process is their holder. Raises OSError, also if one of them is gone already.
    """
    from ttybroker.loan import alive

    broker = Broker(job.connect, job.connect())
    opened: list[int] = []
    try:
        for name in names:
            patience = Patience(lambda: False, line_for(job, name))
            opened.append(alive(broker.open(name, job.wait, 0, patience), name))
    except BaseException:
        for fd in opened:
            os.close(fd)
        raise
    finally:
        broker.close()
    return opened, broker.session


def program_of(pid: int) -> str:
    """Return a text like "picocom (pid 71)"."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read().decode(errors="replace").strip()
    except OSError:
        name = "process"
    return f"{printable(name)} (pid {pid})"
