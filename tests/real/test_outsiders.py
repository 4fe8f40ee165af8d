"""What people who are not asked can do to a port, and to the directory of its lock file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.children import Chat, Child, Orphan, as_user
from support.daemon import RUN_DAEMON, Daemon
from support.processes import python_path
from support.ptys import Pty
from support.rig import Rig, lock_text
from support.users import ALICE, BOB, NOBODY
from ttybroker import BrokerError, PortBusy, client, open_fd, open_tty, wire

pytestmark = pytest.mark.root

TIOCEXCL = 0x540C  # asm-generic/ioctls.h
MNT_DETACH = 2  # sys/mount.h
WITHOUT_UTMP = """
from ttybrokerd.root import logins, others
logins.AMBIGUOUS = ()
others.Others.__init__.__defaults__ = ('/nonexistent',)
"""
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def mounted(where: Path, kind: str, options: str) -> Iterator[None]:
    """A file system of this kind on a directory or a file."""
    if _libc.mount(b"none", bytes(where), kind.encode(), 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {kind} on {where}")
    try:
        yield
    finally:
        _libc.umount2(bytes(where), MNT_DETACH)


@contextlib.contextmanager
def fuse(where: Path, uid: int) -> Iterator[None]:
    """What fusermount3(1) does for a user who has a file in a sticky directory: from then on the
    kernel tells nobody else about it, root neither."""
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={device},rootmode=100000,user_id={uid},group_id={uid}"
        with mounted(where, "fuse", options):
            yield
    finally:
        os.close(device)


def take(rig: Rig, uid: int = BOB, wait: float | None = None) -> None:
    """Lease and give back."""
    as_user(uid, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket), wait=wait)))


def refused(rig: Rig, uid: int = BOB) -> BrokerError:
    """Why this user does not get it."""
    with pytest.raises(BrokerError) as caught:
        take(rig, uid)
    return caught.value


def row(rig: Rig) -> wire.Port:
    """What a list says of it."""
    with client.connect(str(rig.socket)) as connection:
        return {port.name: port for port in connection.ports()}["ttyS0"]


# the lock directory


def test_a_lock_file_that_nobody_believes_is_in_nobodys_way(rig: Rig, daemon: Daemon) -> None:
    as_user(ALICE, (), lambda: rig.lock().write_bytes(lock_text(1)))
    assert row(rig).state == "free"
    take(rig)
    told = daemon.record("lock-replaced", port="ttyS0", uid=BOB).fields["reason"]
    assert told == f"{rig.lock()} forged by uid {ALICE}: names pid 1 of uid 0"


def test_a_users_own_lock_file_is_believed_and_named(rig: Rig, daemon: Daemon) -> None:
    rig.expected_locks.add("LCK..ttyS0")

    def lock(chat: Chat) -> None:
        rig.lock().write_bytes(lock_text(os.getpid()))
        chat.say("locked")
        chat.hear()

    alice = rig.child(ALICE, lock)
    alice.hear()
    error = refused(rig)
    assert isinstance(error, PortBusy) and error.holder is not None
    assert (error.holder.pid, error.holder.how) == (alice.pid, "lock file")
    assert f"does not use the port, remove {rig.lock()}" in str(error)
    alice.say()
    alice.result()
    take(rig)
    daemon.record("release", uid=BOB)
    assert not rig.lock().exists()


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere"), listener]
)
def test_what_is_no_file_in_a_locks_place_is_said_to_be_none_and_whose_it_is(
    rig: Rig, daemon: Daemon, make: Callable[[Path], object]
) -> None:
    """Not that the broker lacks a permission, or that there are many links."""
    as_user(ALICE, (), lambda: (make(rig.lock()), None)[1])
    wrong = f"busy: {rig.lock()}: not a regular file, made by uid {ALICE}: not a lock file"
    error = refused(rig)
    assert isinstance(error, PortBusy) and error.holder is None
    assert str(error) == f"ttyS0: {wrong}; the administrator must remove it"
    assert daemon.record("refuse", port="ttyS0").fields["reason"].startswith(wrong)
    assert row(rig).state == "busy"
    rig.lock().rmdir() if rig.lock().is_dir() else rig.lock().unlink()
    take(rig)


def test_a_full_directory_is_said_to_be_full_and_no_device_to_be_gone(rig: Rig) -> None:
    rig.port("ttyS0")
    with mounted(rig.locks, "tmpfs", "mode=1777,size=16k"):
        daemon = rig.daemon()
        full = rig.locks / "full"
        with contextlib.suppress(OSError):
            as_user(ALICE, (), lambda: full.write_bytes(bytes(1 << 20)))
        error = refused(rig)
        assert error.errno == errno.ENOSPC
        assert type(error) is BrokerError
        assert f"the lock directory {rig.locks} is full" in str(error)
        full.unlink()
        take(rig)
        assert daemon.stop() == 0


@pytest.mark.parametrize("name", [".ttybroker.999999.0123456789abcdef", "LCK..ttyS0"])
def test_a_file_of_which_the_kernel_tells_root_nothing_ends_no_daemon(rig: Rig, name: str) -> None:
    rig.port("ttyS0")
    path = rig.locks / name
    as_user(ALICE, (), path.touch)
    with fuse(path, ALICE):
        with pytest.raises(PermissionError):
            path.stat()
        rig.expected_locks.add(name)
        daemon = rig.daemon()
        if name == "LCK..ttyS0":
            error = refused(rig)
            assert error.errno == errno.EBUSY and str(path) in str(error)
            assert row(rig).state == "busy"
        else:
            take(rig)
        assert daemon.stop() == 0
    path.unlink()


def test_a_directory_of_100_000_names_keeps_no_daemon_from_starting(rig: Rig) -> None:
    rig.port("ttyS0")

    def crowd() -> None:
        directory = os.open(rig.locks, os.O_RDONLY)
        for number in range(50_000):
            os.mknod(f".ttybroker.{4_000_000 + number}.0123456789abcdef", dir_fd=directory)
            os.mknod(f"LCK..ttyS{number + 1}", dir_fd=directory)

    with mounted(rig.locks, "tmpfs", "mode=1777"):
        as_user(ALICE, (), crowd)
        daemon = rig.daemon()
        take(rig)
        assert daemon.stop(settled=False) == 0


def test_a_missing_directory_is_named_and_what_to_do(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    rig.locks.rmdir()
    command = [sys.executable, RUN_DAEMON, "--hook=", "--", *rig.arguments]
    done = subprocess.run(command, env={**os.environ, **python_path()}, capture_output=True,
                          text=True, timeout=30)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        f"ttybrokerd: the lock directory {rig.locks} does not exist: create it, or name another "
        "with --lock-dir\n"
    )
    rig.locks.mkdir()


# a login


def test_a_login_is_seen_without_utmp_and_waited_for(rig: Rig) -> None:
    """By a confined daemon. Who waits gets the port when systemd has hung it up."""
    pty = rig.port("ttyS0")
    rig.daemon(hook=WITHOUT_UTMP)

    def log_in(chat: Chat) -> None:
        os.setsid()
        terminal = os.open(pty.path, os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        chat.say("logged in")
        chat.hear()

    os.chmod(pty.path, 0o666)
    alice = rig.child(ALICE, log_in)
    alice.hear()
    error = refused(rig)
    assert isinstance(error, PortBusy) and error.holder is not None
    assert (error.holder.pid, error.holder.uid, error.holder.how) == (alice.pid, ALICE, "login")
    seen = row(rig).holder
    assert seen is not None and (seen.pid, seen.how) == (alice.pid, "login")
    bob = rig.holder(BOB, wait=30)
    while row(rig).waiting != 1:
        pass
    alice.say()
    alice.result()
    ended = time.monotonic()
    bob.hear()
    assert time.monotonic() - ended > 0.2
    bob.say()
    bob.result()


# dead copies


def cling(rig: Rig, undo: bool) -> Child:
    """Alice, whose lease was taken back, and who keeps a dead copy; `undo`: without its flock."""

    def keep(chat: Chat) -> None:
        descriptor = open_fd("ttyS0", broker=str(rig.socket))
        chat.say("held")
        chat.hear()
        if undo:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        chat.say("dead")
        chat.hear()

    alice = rig.child(ALICE, keep)
    alice.hear()
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")
    alice.say()
    alice.hear()
    return alice


@pytest.mark.parametrize("how", ["flock", "exclusive"])
def test_an_outsiders_lock_beside_a_dead_copy_is_believed(
    rig: Rig, daemon: Daemon, how: str
) -> None:
    pty = rig.ports["ttyS0"]
    alice = cling(rig, undo=True)

    def lock(chat: Chat) -> None:
        terminal = os.open(pty.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        if how == "flock":
            fcntl.flock(terminal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.ioctl(terminal, TIOCEXCL)
        chat.say("locked")
        chat.hear()
        assert os.write(terminal, b"still there") == 11

    outsider = rig.child(0, lock)
    outsider.hear()
    error = refused(rig)
    assert isinstance(error, PortBusy) and error.holder is not None
    assert error.holder.how == how
    if how == "flock":  # the kernel does not tell who set the other
        assert error.holder.pid == outsider.pid
        seen = row(rig)
        assert seen.state == "busy" and seen.holder is not None
        assert seen.holder.pid == outsider.pid
    outsider.say()
    outsider.result()
    if how == "exclusive":
        pty.forget_exclusive()
    take(rig)
    alice.say()
    alice.result()


def test_a_dead_copys_own_flock_is_in_nobodys_way(rig: Rig, daemon: Daemon) -> None:
    alice = cling(rig, undo=False)
    assert row(rig).state == "free"
    take(rig)
    alice.say()
    alice.result()


@pytest.mark.parametrize("yields", [False, True])
def test_the_lease_is_the_lock_that_pyserial_is_asked_for(
    rig: Rig, daemon: Daemon, yields: bool
) -> None:
    """Beside a dead copy; and to be asked for none undoes none of the broker's."""
    alice = cling(rig, undo=False)
    with open_tty("ttyS0", broker=str(rig.socket), exclusive=True, yields=yields) as port:
        assert port.exclusive is True
    alice.say()
    alice.result()
    with open_tty("ttyS0", broker=str(rig.socket), exclusive=False, yields=yields) as port:
        assert port.exclusive is False
        outsider = os.open(rig.ports["ttyS0"].path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        with open(outsider, "wb", 0), pytest.raises(BlockingIOError):
            fcntl.flock(outsider, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Heir:
    """A process of alice's that has a copy of her descriptor, and outlives her: what it is told
    to do with it, it says what came of it."""

    def __init__(self, rig: Rig) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(15)
        theirs.set_inheritable(True)

        def lease(chat: Chat) -> None:
            descriptor = open_fd("ttyS0", broker=str(rig.socket))
            if (heir := os.fork()) == 0:
                self._live(theirs, descriptor)
            chat.say(heir)
            chat.hear()

        self.alice = rig.child(ALICE, lease, keep=[theirs.fileno()])
        self.pid = self.alice.hear()
        theirs.close()

    def _live(self, sock: socket.socket, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        fcntl.ioctl(descriptor, 0x540D)  # TIOCNXCL
        sock.send(b"unlocked")
        while sock.recv(1):
            try:
                os.write(descriptor, b"INTRUDER")
                sock.send(b"wrote")
            except OSError as error:
                sock.send(os.strerror(error.errno or 0).encode())
        os._exit(0)

    def unlocked(self) -> None:
        """Wait until it has undone what locks it could."""
        assert self._ours.recv(64) == b"unlocked"

    def write(self) -> str:
        """Have it write to the port."""
        self._ours.send(b"!")
        return self._ours.recv(64).decode()

    def end(self) -> None:
        """Have it end."""
        self._ours.close()
        Orphan(self.pid).wait()


def read_all(far: Pty) -> bytes:
    """What came out at the other end so far."""
    os.set_blocking(far.master, False)
    try:
        return os.read(far.master, 4096)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("in_between", [False, True])
def test_a_copy_that_outlived_its_lease_and_its_broker_is_dead_when_the_next_has_the_port(
    rig: Rig, daemon: Daemon, in_between: bool
) -> None:
    """Without a store nothing tells a new daemon of it but the lock file, root's and stale; that
    is told once more if the first who asks is refused for another reason, and after a kill."""
    far = rig.ports["ttyS0"]
    heir = Heir(rig)
    heir.unlocked()
    daemon.kill()
    heir.alice.kill()
    assert rig.lock().read_bytes() == lock_text(heir.alice.pid)
    assert heir.write() == "wrote"
    assert far.read(8) == b"INTRUDER"
    rig.socket.unlink()
    again = rig.daemon(*rig.arguments)
    if in_between:
        terminal = os.open(far.path, os.O_RDWR | os.O_NOCTTY)
        fcntl.flock(terminal, fcntl.LOCK_EX)
        assert isinstance(refused(rig), PortBusy)
        assert os.write(terminal, b"not hung up") == 11
        assert far.read(11) == b"not hung up"
        os.close(terminal)
        again.kill()
        rig.socket.unlink()
        rig.daemon(*rig.arguments)

    def use(chat: Chat) -> None:
        descriptor = open_fd("ttyS0", broker=str(rig.socket))
        os.write(descriptor, b"mine")
        chat.say("have it")
        chat.hear()
        os.close(descriptor)

    bob = rig.child(BOB, use)
    bob.hear()
    assert heir.write() == os.strerror(errno.EIO)
    assert far.read(4) == b"mine"
    assert read_all(far) == b""
    bob.say()
    bob.result()
    heir.end()
    take(rig, NOBODY)


def test_a_port_that_an_open_found_exclusive_is_listed_so_until_the_next_open(
    rig: Rig, daemon: Daemon
) -> None:
    pty = rig.ports["ttyS0"]

    def lock(chat: Chat) -> None:
        terminal = os.open(pty.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        fcntl.ioctl(terminal, TIOCEXCL)
        chat.say("locked")
        chat.hear()

    outsider = rig.child(0, lock)
    outsider.hear()
    assert row(rig).state == "free"  # no lock is seen
    before = time.time()
    error = refused(rig)
    assert isinstance(error, PortBusy)
    assert str(error).endswith(", or have root see who has it open (ttybroker list PORT --copies)")
    seen = row(rig)
    assert seen.state == "exclusive" and seen.holder is not None
    assert (seen.holder.how, seen.holder.uid) == ("exclusive", None)
    assert seen.holder.since is not None and before <= seen.holder.since <= time.time()
    outsider.say()
    outsider.result()
    pty.forget_exclusive()
    take(rig)
    daemon.settled()
    assert (row(rig).state, row(rig).holder) == ("free", None)
