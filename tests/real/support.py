"""What the end-to-end tests are made of: ptys, daemons, children with real ids, and events.

Nothing here waits for time to pass: it waits for a word of a child, a line of the log, a file
that comes or goes, the end of a process; TIMEOUT is only when to give up on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pickle
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import tty
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from ttybroker import client
from ttybrokerd import backend, init_backend
from ttybrokerd.root.log import Log

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOBODY = 65534
ALICE, BOB, CAROL = 60101, 60102, 60103  # uids that no account has
TIMEOUT = 15.0

IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO = 0x8, 0x40, 0x80  # sys/inotify.h
IN_CREATE, IN_DELETE = 0x100, 0x200
TIOCNXCL = 0x540D  # asm-generic/ioctls.h
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36  # sys/prctl.h

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_record = re.compile(r'(\w+)=(?:"([^"]*)"|(\S*))')


def prctl(option: int, value: int | bytes) -> None:
    """prctl(2) with one argument."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def wait_readable(descriptor: int, what: str, timeout: float = TIMEOUT) -> None:
    """Wait until there is something to read, or the end of it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(timeout * 1000):
        raise AssertionError(f"waited {timeout} s for {what}")


def descriptors(pid: int) -> dict[int, str]:
    """The open descriptors of a process, and what they are."""
    found = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
    return found


def watches(pid: int) -> int:
    """How many inotify watches a process has: proc_pid_fdinfo(5)."""
    found = 0
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += file.read_text().count("inotify wd:")
    return found


def children(of: int | None = None) -> set[int]:
    """The children of this process, with what it inherited as a subreaper, or of another."""
    with open(f"/proc/{of}/task/{of}/children" if of else "/proc/thread-self/children") as file:
        return {int(pid) for pid in file.read().split()}


def name_of(pid: int) -> str:
    """The name of a process, "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def lock_text(pid: int) -> bytes:
    """A lock file's whole content."""
    return b"%10d\n" % pid


class Pty:
    """A pty: `path` is the port, and this object the device behind it.

    A `far` one has a high number, which no other program is given as soon as it is unplugged.
    """

    def __init__(self, far: bool = False) -> None:
        below = [end for _ in range(32 if far else 0) for end in os.openpty()]
        self.master, slave = os.openpty()
        for end in below:
            os.close(end)
        self.path = os.ttyname(slave)
        self.number = os.fstat(slave).st_rdev
        tty.setraw(slave)
        os.close(slave)

    def write(self, data: bytes) -> None:
        """Send to whoever has the port."""
        while data:
            data = data[os.write(self.master, data) :]

    def read(self, size: int, timeout: float = TIMEOUT) -> bytes:
        """Exactly `size` bytes of what was written to the port."""
        data = b""
        while len(data) < size:
            wait_readable(self.master, f"{size} bytes, got {len(data)}", timeout)
            data += os.read(self.master, size - len(data))
        return data

    def forget_exclusive(self) -> None:
        """What the last close of a real port does: a pty's TIOCEXCL lasts while the master does."""
        slave = os.open(self.path, os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(slave, TIOCNXCL)
        os.close(slave)

    def close(self) -> None:
        """Unplug it."""
        if self.master >= 0:
            master, self.master = self.master, -1
            os.close(master)


class Watch:
    """News of the files in a directory, from the moment this is made: inotify(7)."""

    def __init__(self, directory: Path | str) -> None:
        self._fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        mask = IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM
        if _libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) < 0:
            raise OSError(ctypes.get_errno(), f"inotify_add_watch {directory}")
        self._events: list[tuple[str, int]] = []

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def wait(self, name: str, mask: int, timeout: float = TIMEOUT) -> float:
        """Wait for the next such event of the file `name`; the time at which it was told."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if event[0] == name and event[1] & mask:
                    return time.monotonic()
            wait_readable(self._fd, f"event {mask:#x} of {name}", timeout)
            self._read()

    def gone(self, name: str, timeout: float = TIMEOUT) -> float:
        """Wait until the file is deleted; the time at which that was told."""
        return self.wait(name, IN_DELETE, timeout)

    def _read(self) -> None:
        data, at = os.read(self._fd, 65536), 0
        while at < len(data):
            _watch, mask, _cookie, size = struct.unpack_from("iIII", data, at)
            name = data[at + 16 : at + 16 + size].rstrip(b"\0").decode()
            self._events.append((name, mask))
            at += 16 + size


class Chat:
    """One end of a conversation between the test and its child, in pickled words."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def say(self, word: object = None) -> None:
        """Say one word; the other side may be gone."""
        self.sock.send(pickle.dumps(word), socket.MSG_NOSIGNAL)

    def hear(self, timeout: float = TIMEOUT) -> Any:
        """The other side's next word. Raises EOFError when it is gone."""
        wait_readable(self.sock.fileno(), "a word", timeout)
        data = self.sock.recv(1 << 20)
        if not data:
            raise EOFError("the other side has ended")
        return pickle.loads(data)


class Child:
    """A forked process with ids of its own, in which `body` runs; it can do all that this one
    has imported, wherever the checkout lies. All descriptors but 0 to 2 are closed in it."""

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
        """The next word of the child; raises what was raised in it."""
        kind, value = self.chat.hear(timeout)
        if kind == "raised":
            raise value
        return value

    def say(self, word: object = None) -> None:
        """Say a word to the child."""
        self.chat.say(word)

    def result(self, timeout: float = TIMEOUT) -> Any:
        """What the body returned (or raised), after the child's end."""
        value = self.hear(timeout)
        self.wait()
        return value

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for the end; the exit status, or minus the signal."""
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
    """The child's end: its words are marked as such."""

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
    """The life of a child. Does not return."""
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
    uid: int, groups: Iterable[int], function: Callable[[], T], gid: int | None = None
) -> T:
    """What `function` returns, or raises, in a child with these ids."""
    child = Child(lambda _chat: function(), uid, groups, gid)
    try:
        result: T = child.result()
        return result
    finally:
        child.kill()


class Orphan:
    """A process that this one has inherited."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for its end; its exit status, or minus the signal."""
        try:
            wait_readable(self._pidfd, f"the end of {self.pid}", timeout)
        finally:
            os.close(self._pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Record(NamedTuple):
    """One line of the daemon's log."""

    event: str
    fields: dict[str, str]
    text: str


def parse_record(line: str) -> Record:
    """`ttybrokerd: grant port=ttyS0 user="a b"` taken apart."""
    event, _, rest = line.removeprefix("ttybrokerd: ").partition(" ")
    fields = {m[1]: m[2] if m[2] is not None else m[3] for m in _record.finditer(rest)}
    return Record(event, fields, line)


class Manager(Protocol):
    """What starts daemons, if not the test itself: see systemd.py."""

    address: str
    notify: socket.socket

    def ready(self, pid: int) -> bool: ...


class Daemon:
    """A running ttybrokerd; made only when it says that it is ready."""

    def __init__(
        self,
        rig: Rig,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        hook: str = "",
        pass_fds: tuple[int, ...] = (),
        systemd: Manager | None = None,
    ) -> None:
        self.rig = rig
        self.ended = False
        self.records: list[Record] = []
        self._seen = 0
        self._partial = b""
        self._log, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)  # room for the log of a whole test
        os.set_blocking(self._log, False)
        address = str(rig.base / f"notify-{len(rig.daemons)}")
        if systemd is None:
            notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            notify.bind(address)
        else:
            address, notify = systemd.address, systemd.notify
        command = [sys.executable, str(HERE / "run_daemon.py"), f"--hook={hook}", "--"]
        command += arguments or rig.arguments
        command = [*rig.tracer(), *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            env={**os.environ, **python_path(), "NOTIFY_SOCKET": address, **(env or {})},
            pass_fds=pass_fds,
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        os.close(write)
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)
        rig.daemons.append(self)
        if systemd is None:
            with notify:
                self._wait_for(notify)
                self.notified = notify.recv(4096).decode()
            os.unlink(address)
        else:
            while not systemd.ready(self.pid):
                self._wait_for(notify)
        self.baseline = descriptors(self.pid)

    def _wait_for(self, notify: socket.socket) -> None:
        poll = select.poll()
        poll.register(notify, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(TIMEOUT * 1000)]
        assert notify.fileno() in ready, f"the daemon did not start: {self.output()}"

    def output(self) -> str:
        """All that it has written so far."""
        self._read()
        return "\n".join(record.text for record in self.records)

    def record(self, event: str, timeout: float = TIMEOUT, **fields: object) -> Record:
        """Wait for the next record of this event with these fields; those before it are past."""
        wanted = {key: str(value) for key, value in fields.items()}
        while True:
            while self._seen < len(self.records):
                record = self.records[self._seen]
                self._seen += 1
                if record.event == event and wanted.items() <= record.fields.items():
                    return record
            what = f"log record {event} {wanted}; there is:\n{self.output()}"
            if self._seen == len(self.records):
                wait_readable(self._log, what, timeout)
                if not self._read():
                    raise AssertionError(f"the daemon ended before {what}")

    def _read(self) -> bool:
        """Read what there is; False at the end of it."""
        while self._log >= 0:
            try:
                data = os.read(self._log, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._partial = (self._partial + data).split(b"\n")
            self.records += [parse_record(line.decode("ascii")) for line in lines]
        return False

    def settled(self) -> None:
        """Go round with the daemon until it has no descriptor more than at its start, and no
        lock; fails if that does not come."""
        end = time.monotonic() + TIMEOUT
        extra: dict[int, str] = {}
        while time.monotonic() < end:
            with client.connect(str(self.rig.socket)) as connection:
                connection.ports()
                now = descriptors(self.pid)
                extra = {n: what for n, what in now.items() if n not in self.baseline}
                if len(now) <= len(self.baseline) + 1 and not self.rig.lock_files():
                    return
        locks = self.rig.lock_files()
        raise AssertionError(f"left over: {extra}, locks {locks}; log:\n{self.output()}")

    def stop(self, settled: bool = True) -> int:
        """Check that nothing is left over, end it by SIGTERM; its exit status."""
        if self.ended:
            return self.process.returncode
        try:
            if settled:
                self.settled()
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
            return self.wait()
        finally:
            self.kill()

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for its end; its exit status."""
        wait_readable(self.pidfd, f"the daemon's end; log:\n{self.output()}", timeout)
        status = self.process.wait()
        self._close()
        return status

    def kill(self) -> None:
        """End it by SIGKILL, if it still runs."""
        if not self.ended:
            self.process.kill()
            self.process.wait()
            self._close()

    def _close(self) -> None:
        self._read()
        self.ended = True
        os.close(self.pidfd)
        os.close(self._log)
        self._log = -1


class Rig:
    """A directory that only root writes, with ports, a policy and locks of its own, and all
    that a test starts in it; `close` demands that nothing of it is left."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(dir="/run", prefix="ttybroker-test-"))
        os.chmod(self.base, 0o755)
        self.locks = self.base / "lock"
        self.locks.mkdir()
        os.chmod(self.locks, 0o1777)
        self.policy = self.base / "policy.toml"
        self.socket = self.base / "socket"
        self.ports: dict[str, Pty] = {}
        self.rules: list[str] = []
        self.admins = "[]"
        self.children: list[Child] = []
        self.daemons: list[Daemon] = []
        self.traces: list[Path] | None = None  # where each daemon's system calls are written
        self.expected_locks: set[str] = set()  # left on purpose: by a killed daemon, an outsider
        self._mounts = self._mounted()
        self._before = children()
        self._open = len(descriptors(os.getpid()))

    @property
    def arguments(self) -> list[str]:
        """The daemon's command line."""
        return ["--policy", str(self.policy), "--socket", str(self.socket),
                "--lock-dir", str(self.locks)]  # fmt: skip

    def _mounted(self) -> set[str]:
        """What is mounted where a test mounts; elsewhere somebody else may do so meanwhile."""
        places = ("/", "/dev", "/etc", "/proc", "/run", "/run/lock", "/sys", "/tmp")
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = ((line, line.split()[4]) for line in lines)
        return {line for line, at in points if at in places or at.startswith(str(self.base))}

    def port(
        self, name: str, who: str = 'allow = ["*"]', extra: str = "", far: bool = False
    ) -> Pty:
        """A pty under this name, and a rule that gives it to `who`."""
        pty = self.ports.get(name) or Pty(far)
        self.ports[name] = pty
        rule = f'[[rule]]\nport = "{name}"\ndevice = "{pty.path}"\nclass = "pty"\n{who}\n{extra}\n'
        self.rules.append(rule)
        return pty

    def write_policy(self, text: str | None = None) -> None:
        """Write the policy: `text`, or the rules of all ports."""
        whole = f"admins = {self.admins}\n" + "\n".join(self.rules)
        self.policy.write_text(whole if text is None else text)
        os.chmod(self.policy, 0o644)

    def daemon(self, *arguments: str, **options: Any) -> Daemon:
        """Start a daemon on these ports (or with these arguments) and wait until it is ready."""
        if not arguments:
            self.write_policy()
        return Daemon(self, *arguments, **options)

    def tracer(self) -> list[str]:
        """What to start a root side with: strace(1), if this rig traces, as its grandchild."""
        if self.traces is None:
            return []
        trace = Path(f"{self.base}.trace-{len(self.traces)}")
        self.traces.append(trace)
        return ["strace", "-D", "-f", "-qq", "-X", "raw", "-s0", "-o", str(trace)]

    def traced(self) -> list[str]:
        """The traces, whole: every tracer has ended, as those it traced have."""
        for pid in children() - self._before:
            if name_of(pid) == "strace":
                Orphan(pid).wait()
        return [trace.read_text() for trace in self.traces or []]

    def child(self, uid: int, body: Callable[[Chat], object], **options: Any) -> Child:
        """A child that is gone when the test is."""
        child = Child(body, uid, **options)
        self.children.append(child)
        return child

    def holder(self, uid: int, name: str = "ttyS0", **options: Any) -> Child:
        """A child that has the port (and said so); any word to it makes it close it."""

        def hold(chat: Chat) -> float:
            with client.connect(str(self.socket)) as connection:
                descriptor = connection.open(name, wait=options.get("wait"))
            chat.say(descriptor)
            chat.hear()
            before = time.monotonic()
            os.close(descriptor)
            return before

        child = self.child(uid, hold, groups=options.get("groups", ()))
        if options.get("wait") is None:
            child.hear()
        return child

    def backend(self, **options: Any) -> None:
        """In a child: become the user half of a program with a forked backend on these ports."""
        vars(backend)["Log"] = partial(Log, journal="/nonexistent")
        given = {"policy": str(self.policy), "lock_dir": str(self.locks), "user": "nobody"}
        init_backend(**{**given, **options})

    def orphans(self) -> set[int]:
        """Processes that have lost the parent that made them, such as forked backends."""
        known = {child.pid for child in self.children if not child.ended}
        known |= {daemon.pid for daemon in self.daemons if not daemon.ended}
        return children() - self._before - known

    def orphan(self) -> Orphan:
        """The only one of them."""
        (pid,) = self.orphans()
        return Orphan(pid)

    def lock(self, name: str = "ttyS0") -> Path:
        """The lock file of a port."""
        return self.locks / f"LCK..{name}"

    def lock_files(self) -> list[str]:
        """What is in the lock directory and should not be."""
        return sorted(set(os.listdir(self.locks)) - self.expected_locks)

    def close(self) -> None:
        """End everything; raises AssertionError if anything is left."""
        problems: list[str] = []
        for child in self.children:
            child.kill()
        for daemon in self.daemons:
            if not daemon.ended:
                try:
                    status = daemon.stop()
                    if status != 0:
                        problems.append(f"the daemon ended with {status}:\n{daemon.output()}")
                except (AssertionError, OSError) as error:
                    problems.append(str(error))
        for pty in self.ports.values():
            pty.close()
        for pid in children() - self._before:
            if name_of(pid) == "strace":  # of a daemon that did not get ready
                Orphan(pid).wait()
            else:
                problems.append(f"process left: {pid}")
        for trace in self.traces or []:
            trace.unlink(missing_ok=True)
        problems += [f"a mount is left: {line}" for line in self._mounted() - self._mounts]
        left = set(os.listdir(self.base)) - {"lock", "policy.toml"}
        problems += [f"file left: {name}" for name in left] if self.daemons else []
        problems += [f"lock left: {name}" for name in self.lock_files()]
        shutil.rmtree(self.base)
        mine = descriptors(os.getpid())
        if len(mine) > self._open:
            problems.append(f"descriptors left in the test: {mine}")
        assert not problems, "\n".join(problems)


def python_path() -> dict[str, str]:
    """The environment in which the tests' interpreter finds both source roots."""
    return {"PYTHONPATH": f"{ROOT / 'broker'}:{ROOT / 'frontend'}"}
