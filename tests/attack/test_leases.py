"""Attacks on leases: every way to keep a port after its lease is over, or to get it meanwhile.

A holder may do with its descriptor what it likes: copy it, hide it where no descriptor table shows
it (unix(7), io_uring_register(2)), have another process take it (pidfd_getfd(2)), make the port
its controlling terminal (tty_ioctl(4)), stop itself, ignore the hang-up. After the lease no copy
works. And while it lasts nobody else gets the port, from the broker or around it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
from collections.abc import Callable

import pytest

from attack import uring
from real.test_lease import AT_ONCE, TIOCNXCL, TIOCSCTTY, fetch
from support.children import Chat, Child, as_user
from support.daemon import Daemon
from support.processes import descriptors, prctl
from support.rig import Rig
from support.waiting import TIMEOUT, Watch
from ttybroker import PortBusy, client

pytestmark = pytest.mark.root

ALICE, BOB = 60401, 60402  # not those of other tests, whose descriptors may be in flight
PIDFD_GETFD = 438  # asm-generic/unistd.h
PR_SET_DUMPABLE = 4  # sys/prctl.h
Use = Callable[[bytes], object]  # write through what was hidden; raises OSError
_libc = ctypes.CDLL(None, use_errno=True)


def duplicate(descriptor: int) -> Use:
    """dup(2), at the far end of the descriptor table."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 200)
    return lambda data: os.write(copy, data)


def in_flight(descriptor: int) -> Use:
    """In a socket, received when it is used."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    socket.send_fds(ours, [b"x"], [descriptor])

    def use(data: bytes) -> None:
        _, received, _, _ = socket.recv_fds(theirs, 1, 1)
        os.write(received[0], data)

    return use


def in_io_uring(descriptor: int) -> Use:
    """A registered file, which no descriptor table shows."""
    return uring.Ring(descriptor).write


def by_helper(body: Callable[[int], Use]) -> Callable[[int], Use]:
    """In a child of the holder, which has a copy of its own."""

    def hide(descriptor: int) -> Use:
        prctl(PR_SET_DUMPABLE, 1)  # or nobody may take anything from it: ptrace(2)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if (pid := os.fork()) == 0:
            try:
                use = body(descriptor)
                theirs.send(b"hidden")
                data = theirs.recv(4096)
                try:
                    use(data)
                    theirs.send(b"0")
                except OSError as error:
                    theirs.send(str(error.errno).encode())
            finally:
                os._exit(0)
        assert ours.recv(16) == b"hidden"

        def ask(data: bytes) -> None:
            ours.send(data)
            number = int(ours.recv(16))
            os.waitpid(pid, 0)
            if number:
                raise OSError(number, os.strerror(number))

        return ask

    return hide


@by_helper
def in_a_child(descriptor: int) -> Use:
    """fork(2)."""
    return lambda data: os.write(descriptor, data)


@by_helper
def taken_by_another(descriptor: int) -> Use:
    """pidfd_getfd(2): from the holder's table, not inherited."""
    os.close(descriptor)
    pidfd = os.pidfd_open(os.getppid())
    taken = _libc.syscall(PIDFD_GETFD, pidfd, descriptor, 0)
    assert taken >= 0, os.strerror(ctypes.get_errno())
    return lambda data: os.write(taken, data)


@by_helper
def by_the_controlling_terminal(descriptor: int) -> Use:
    """TIOCSCTTY, /dev/tty, and deaf to SIGHUP: a description of its own that no epoll sees."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fcntl.ioctl(descriptor, TIOCNXCL)
    fcntl.ioctl(descriptor, TIOCSCTTY, 0)
    hidden = os.open("/dev/tty", os.O_RDWR)
    os.close(descriptor)
    return lambda data: os.write(hidden, data)


@by_helper
def by_a_stopped_process(descriptor: int) -> Use:
    """One that is not running when the lease ends, and goes on afterwards."""
    return lambda data: os.write(descriptor, data)


HIDING = [duplicate, in_flight, in_io_uring, in_a_child, taken_by_another,
          by_the_controlling_terminal]  # fmt: skip
names = pytest.mark.parametrize("hide", HIDING, ids=[
    "dup", "in flight", "io_uring", "fork", "pidfd_getfd", "controlling terminal"])  # fmt: skip


def skip_without(hide: object) -> None:
    """io_uring may be switched off (kernel.io_uring_disabled), and then it hides nothing."""
    if hide is in_io_uring and (why := as_user(ALICE, (), uring.missing)):
        pytest.skip(why)


def hider(hide: Callable[[int], Use], rig: Rig, chat: Chat) -> str:
    """Get the port, hide a copy of it, close the descriptor itself if told; use the copy."""
    descriptor = fetch(rig.socket)
    use = hide(descriptor)
    if chat.hear_first() == "close":
        os.close(descriptor)
        chat.say("closed")
        chat.hear()
    try:
        use(b"stolen")
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "it works"


class Ear:
    """A chat in which the child says that it is ready before it hears the first word."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.say, self.hear = chat.say, chat.hear

    def hear_first(self) -> object:
        """The first word."""
        self.chat.say("hidden")
        return self.chat.hear()


def start(rig: Rig, hide: Callable[[int], Use]) -> Child:
    """ALICE, with a copy hidden."""
    child = rig.child(ALICE, lambda chat: hider(hide, rig, Ear(chat)))  # type: ignore[arg-type]
    assert child.hear() == "hidden"
    return child


def nobody_else_gets_it(rig: Rig) -> None:
    """Not from the broker."""
    with pytest.raises(PortBusy) as caught:
        as_user(BOB, (), lambda: fetch(rig.socket))
    assert caught.value.holder is not None and caught.value.holder.uid == ALICE


def only_bob_is_heard(rig: Rig, child: Child) -> None:
    """BOB has the port from now on, and what was hidden is dead, whoever uses it."""
    bob = rig.child(BOB, lambda chat: use_port(rig, chat))
    assert bob.hear() == "has it"
    child.say("use it")
    assert child.result() == "EIO"
    bob.say()
    assert rig.ports["ttyS0"].read(4) == b"bobs"
    bob.result()


def use_port(rig: Rig, chat: Chat) -> None:
    """Have it, and write when told."""
    descriptor = fetch(rig.socket, wait=5)
    chat.say("has it")
    chat.hear()
    os.write(descriptor, b"bobs")
    select.select([], [], [], 0.05)  # a pty's far end gets it
    os.close(descriptor)


@names
def test_what_is_hidden_is_dead_when_the_port_is_taken_back(
    rig: Rig, daemon: Daemon, hide: Callable[[int], Use]
) -> None:
    skip_without(hide)
    child = start(rig, hide)
    nobody_else_gets_it(rig)
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")
    only_bob_is_heard(rig, child)


@pytest.mark.parametrize("hide", [h for h in HIDING if h is not by_the_controlling_terminal])
def test_what_is_hidden_is_the_lease_and_nobody_else_gets_the_port_meanwhile(
    rig: Rig, daemon: Daemon, hide: Callable[[int], Use]
) -> None:
    """Its own descriptor closed, the copy alone keeps it; with the process's end it is over."""
    skip_without(hide)
    child = start(rig, hide)
    child.say("close")
    assert child.hear() == "closed"
    nobody_else_gets_it(rig)
    with Watch(rig.locks) as watch:
        child.say("use it")
        assert child.result() == "it works"
        watch.gone("LCK..ttyS0")
    assert rig.ports["ttyS0"].read(6) == b"stolen"
    os.close(fetch(rig.socket, wait=5))


def test_a_stopped_holder_loses_its_port_and_finds_out_when_it_goes_on(
    rig: Rig, daemon: Daemon
) -> None:
    child = start(rig, duplicate)
    child.kill(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    nobody_else_gets_it(rig)
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")
    with contextlib.closing(contextlib.ExitStack()):
        descriptor = fetch(rig.socket)  # at once
        os.close(descriptor)
    child.kill(signal.SIGCONT)
    only_bob_is_heard(rig, child)


def test_a_descriptor_queued_in_a_socket_of_which_both_ends_are_closed_is_no_lease(
    rig: Rig, daemon: Daemon
) -> None:
    def lose(chat: Chat) -> None:
        descriptor = fetch(rig.socket)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        socket.send_fds(ours, [b"x"], [descriptor])
        os.close(descriptor)
        chat.say("queued")
        chat.hear()
        ours.close()
        theirs.close()
        chat.say("closed")
        chat.hear()

    child = rig.child(ALICE, lose)
    child.hear()
    nobody_else_gets_it(rig)
    with Watch(rig.locks) as watch:
        child.say()
        child.hear()
        watch.gone("LCK..ttyS0")
    child.say()
    child.result()


def test_a_descriptor_in_a_socket_that_holds_itself_is_a_lease_until_the_kernel_collects_it(
    rig: Rig, daemon: Daemon
) -> None:
    """net/unix/garbage.c: a cycle of sockets in flight is found when some unix socket closes;
    each connection to the broker that ends is one."""

    def knot(chat: Chat) -> None:
        descriptor = fetch(rig.socket)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        socket.send_fds(ours, [b"x"], [descriptor, theirs.fileno(), ours.fileno()])
        for end in (descriptor, ours.detach(), theirs.detach()):
            os.close(end)
        chat.say("gone")
        chat.hear()

    child = rig.child(ALICE, knot)
    with Watch(rig.locks) as watch:
        child.hear()
        if rig.lock().exists():
            with client.connect(str(rig.socket)) as connection:
                connection.check("ttyS0")
            watch.gone("LCK..ttyS0")
    os.close(fetch(rig.socket, wait=5))
    child.say()
    child.result()


def test_the_nodes_owner_cannot_open_a_leased_port_around_the_broker(
    rig: Rig, daemon: Daemon
) -> None:
    """TIOCEXCL keeps out whoever lacks CAP_SYS_ADMIN, the node's owner too: tty_ioctl(4)."""
    node = rig.ports["ttyS0"].path
    os.chown(node, BOB, BOB)
    os.chmod(node, 0o666)
    holder = rig.holder(ALICE)

    def around(path: str) -> str:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "open"

    assert as_user(BOB, (), lambda: around(node)) == "EBUSY"
    assert as_user(ALICE, (), lambda: around(node)) == "EBUSY"
    descriptor = next(n for n, what in descriptors(holder.pid).items() if what == node)
    again = f"/proc/{holder.pid}/fd/{descriptor}"
    assert as_user(ALICE, (), lambda: around(again)) in ("EBUSY", "EACCES")
    holder.say()
    holder.result()
    os.close(fetch(rig.socket, wait=5))


def test_whom_a_holder_lets_in_is_out_when_the_lease_is_over(rig: Rig, daemon: Daemon) -> None:
    """TIOCNXCL by the holder: the node's owner may open it then, which is between those two; at
    the end of the lease the hang-up is for both."""
    os.chown(rig.ports["ttyS0"].path, BOB, BOB)
    os.chmod(rig.ports["ttyS0"].path, 0o600)

    def let_in(chat: Chat) -> None:
        descriptor = fetch(rig.socket)
        fcntl.ioctl(descriptor, TIOCNXCL)
        chat.say("open to all")
        chat.hear()
        os.close(descriptor)

    def come_in(chat: Chat) -> str:
        descriptor = os.open(rig.ports["ttyS0"].path, os.O_RDWR | os.O_NOCTTY)
        chat.say("in")
        chat.hear()
        try:
            os.write(descriptor, b"still in")
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "still in"

    holder = rig.child(ALICE, let_in)
    holder.hear()
    guest = rig.child(BOB, come_in)
    guest.hear()
    nobody_else_gets_it(rig)
    with Watch(rig.locks) as watch:
        holder.say()
        watch.gone("LCK..ttyS0")
    descriptor = fetch(rig.socket, wait=5)
    guest.say()
    assert guest.result() == "EIO"
    os.close(descriptor)


def test_a_read_that_waits_when_the_lease_ends_ends_too(rig: Rig, daemon: Daemon) -> None:
    """Also in poll(2), and in a process that shares the description."""

    def wait(chat: Chat) -> str:
        descriptor = fetch(rig.socket)
        if (pid := os.fork()) == 0:
            os.set_blocking(descriptor, True)
            os._exit(0 if os.read(descriptor, 1) == b"" else 1)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        chat.say("waiting")
        assert poll.poll(TIMEOUT * 1000)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    child = rig.child(ALICE, wait)
    child.hear()
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")
    assert child.result(AT_ONCE * 20) == "0"
