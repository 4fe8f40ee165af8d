"""Attacks on who a client is: a connection speaks for the process that made it and for no other.

The kernel says who connected (SO_PEERCRED: effective ids) and who sent each message
(SCM_CREDENTIALS: real ids), unix(7). Forged credentials, forked children and changes of the whole
process are in tests/real/test_identity.py; here are other people's connections, setuid programs,
threads, namespaces, chroots, and pids that come again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attack.libc import CLONE_NEWPID, PR_SET_DUMPABLE, call, own_mounts
from support.children import Chat, Child, Orphan
from support.daemon import RUN_DAEMON
from support.place import PLACE
from support.processes import children, prctl, python_path
from support.raw import LIST, answer, connect, cut_off, opening, refusal
from support.rig import Rig, lock_text
from support.users import ALICE, BOB
from support.waiting import IN_CREATE, Watch, wait_readable
from ttybroker import BrokerError, asking, client, open_fd, wire

pytestmark = pytest.mark.root

CLONE_NEWUSER = 0x10000000  # linux/sched.h
MS_BIND = 0x1000  # sys/mount.h
SYS_CLONE3 = 435  # asm-generic/unistd.h
SYS_SETRESUID = {"x86_64": 117, "aarch64": 147}[os.uname().machine]


def fork_as(pid: int, body: Callable[[], None]) -> int:
    """fork(2), but the child has this very pid: clone3(2), set_tid."""
    wanted = ctypes.c_int(pid)
    address = ctypes.addressof(wanted)
    arguments = struct.pack("11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, address, 1, 0)
    got = call("syscall", ctypes.c_long(SYS_CLONE3), arguments, ctypes.c_size_t(len(arguments)))
    if got == 0:
        try:
            body()
        finally:
            os._exit(1)
    return got


def end_orphans(rig: Rig) -> None:
    """End what the clients have forked."""
    for pid in rig.orphans():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def private_rules(rig: Rig) -> None:
    """ttyS0 is ALICE's, ttyS1 is BOB's, and root's is its own."""
    rig.port("ttyS0", f"allow = [{ALICE}]")
    rig.port("ttyS1", f"allow = [{BOB}]")
    rig.port("roots", "allow = [0]")


@pytest.mark.parametrize(("maker", "thief"), [(ALICE, BOB), (BOB, ALICE), (0, ALICE), (ALICE, 0)])
def test_a_connection_handed_to_another_user_is_cut_off(rig: Rig, maker: int, thief: int) -> None:
    """Source: unix(7), SCM_RIGHTS and SO_PEERCRED: a socket passed on keeps its maker's name.

    Promise: rights are not passed on with a connection, neither upwards nor downwards.
    """
    private_rules(rig)
    daemon = rig.daemon()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def make(_chat: Chat) -> None:
        sock = connect(rig)
        sock.send(LIST)
        answer(sock)
        socket.send_fds(socket.socket(fileno=ours.fileno()), [b"x"], [sock.fileno()])

    def steal(_chat: Chat) -> str:
        _, (descriptor,), _, _ = socket.recv_fds(socket.socket(fileno=theirs.fileno()), 1, 1)
        sock = socket.socket(fileno=descriptor)
        sock.send(opening("ttyS0"))
        return cut_off(sock)

    rig.child(maker, make, keep=[ours.fileno()]).result()
    word = rig.child(thief, steal, keep=[theirs.fileno()]).result()
    assert "identity changed" in word and f"uid {thief}" in word
    daemon.record("cut-off", uid=maker)
    ours.close()
    theirs.close()


@pytest.fixture
def setuid_programs() -> Iterator[Callable[[str], str]]:
    """Copies of programs, set-user-ID root."""

    def copy(program: str) -> str:
        found = shutil.which(program)
        assert found, program
        path = Path(base, program)
        shutil.copyfile(found, path)
        os.chmod(path, 0o4755)
        return str(path)

    with tempfile.TemporaryDirectory(dir=PLACE) as base:
        os.chmod(base, 0o755)
        yield copy


def through(rig: Rig, command: list[str], data: bytes, fork: bool) -> Callable[[Chat], bytes]:
    """A client that connects, becomes `command` with the connection as its standard output, and
    has it write `data`; a child that was there before hears the answers until the end."""

    def run(chat: Chat) -> bytes:
        sock = connect(rig)
        sock.send(LIST)
        answer(sock)
        read, write = os.pipe()
        os.write(write, data)
        os.close(write)
        pid = os.fork()
        if (pid == 0) == fork:
            os.dup2(read, 0)
            os.dup2(sock.fileno(), 1)
            os.execv(command[0], command)
        return sock.recv(65536)

    return run


@pytest.mark.parametrize("request_", ["open", "revoke"])
def test_a_setuid_program_on_a_connection_speaks_for_who_made_it(
    rig: Rig, setuid_programs: Callable[[str], str], request_: str
) -> None:
    """Source: CVE-2013-1979 (which ids SCM_CREDENTIALS has) and CVE-2014-0181 (a setuid program
    whose standard output is somebody's socket, netlink there); credentials(7).

    Promise: a client that becomes a setuid program, same pid, and has it write a request, gets
    what it would have got itself.
    """
    private_rules(rig)
    rig.daemon()
    holder = rig.holder(BOB, "ttyS1")
    data = opening("roots") if request_ == "open" else asking.encode_request(wire.Revoke("ttyS1"))
    cat = setuid_programs("cat")
    reply = asking.decode_reply(rig.child(ALICE, through(rig, [cat], data, fork=False)).result())
    assert isinstance(reply, wire.Refused) and reply.errno == errno.EACCES, reply
    end_orphans(rig)
    holder.say()
    holder.result()


@pytest.mark.parametrize("how", ["a child", "all root"])
def test_a_setuid_program_that_is_another_process_or_user_is_cut_off(
    rig: Rig, setuid_programs: Callable[[str], str], how: str
) -> None:
    """Source: as the last one; setpriv(1) sets the real uid too.

    Promise: what a privileged child or a process become root writes to it ends the connection.
    """
    private_rules(rig)
    rig.daemon()
    command = [setuid_programs("cat")]
    if how == "all root":
        command = [setuid_programs("setpriv"), "--reuid=0", *command]
    run = through(rig, command, opening("roots"), fork=how == "a child")
    reply = asking.decode_reply(rig.child(ALICE, run).result())
    assert isinstance(reply, wire.Refused) and reply.errno == errno.EPROTO, reply
    assert "identity changed" in reply.cause
    end_orphans(rig)


def test_a_thread_that_becomes_another_user_is_cut_off(rig: Rig) -> None:
    """Source: nptl(7) and credentials(7): to the kernel, ids are a thread's.

    Promise: the ids of the thread that sends are those that count.
    """
    private_rules(rig)
    rig.daemon()

    def run(_chat: Chat) -> str:
        sock = connect(rig)
        sock.send(LIST)
        answer(sock)

        def become_and_send() -> None:
            call("syscall", ctypes.c_long(SYS_SETRESUID), BOB, BOB, BOB)
            sock.send(opening("ttyS1"))

        thread = threading.Thread(target=become_and_send)
        thread.start()
        thread.join()
        assert os.getuid() == 0
        return cut_off(sock)

    assert f"uid {BOB}" in rig.child(0, run).result()


def enter_user_namespace(more: int = 0) -> None:
    """Be root of a user namespace of one's own: user_namespaces(7)."""
    prctl(PR_SET_DUMPABLE, 1)  # the change of uid has cleared it, and with it /proc/self
    uid, gid = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWUSER | more)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    assert os.getuid() == os.geteuid() == 0


def test_root_of_a_user_namespace_is_who_made_it(rig: Rig) -> None:
    """Source: user_namespaces(7); CVE-2013-1979 again. Inside, the kernel lets it claim uid 0.

    Promise: it gets what its maker gets: no other list, no root's port, no port taken back.
    """
    private_rules(rig)
    rig.daemon()
    holder = rig.holder(BOB, "ttyS1")

    def run(_chat: Chat) -> list[str]:
        enter_user_namespace()
        with client.connect(str(rig.socket)) as connection:
            for refused in (
                lambda: connection.open("roots"),
                lambda: connection.revoke("ttyS1"),
                lambda: connection.check("ttyS1", uid=BOB),
            ):
                with pytest.raises(BrokerError) as caught:
                    refused()
                assert caught.value.errno == errno.EACCES
            os.close(connection.open("ttyS0"))
            names = [port.name for port in connection.ports()]
        sock = connect(rig)
        ucred = struct.pack("iII", os.getpid(), 0, 0)
        sock.sendmsg([opening("roots")], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ucred)])
        assert refusal(sock).errno == errno.EACCES
        return names

    assert rig.child(ALICE, run).result() == ["ttyS0"]
    holder.say()
    holder.result()


def test_in_a_pid_namespace_of_ones_own_no_other_pid_can_be_claimed(rig: Rig) -> None:
    """Source: net/core/scm.c, scm_check_creds(): CAP_SYS_ADMIN over the pid namespace may claim
    any pid in it, and whoever makes one with a user namespace has that.

    Promise: what is claimed is compared with who connected; a pid that means somebody outside
    does not come to mean them here.
    """
    private_rules(rig)
    daemon = rig.daemon()

    def run(_chat: Chat) -> str:
        read, write = os.pipe()
        enter_user_namespace(CLONE_NEWPID)
        if os.fork() == 0:  # pid 1 of the new one
            try:
                sock = connect(rig)
                sock.send(LIST)
                answer(sock)
                other = os.fork()
                if other == 0:
                    signal.pause()
                ucred = struct.pack("iII", other, 0, 0)
                rights = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ucred)]
                sock.sendmsg([opening("ttyS0")], rights)
                os.write(write, cut_off(sock).encode())
            finally:
                os._exit(0)
        os.close(write)
        return os.read(read, 4096).decode()

    word = rig.child(ALICE, run).result()
    assert "identity changed" in word, word
    end_orphans(rig)
    daemon.record("cut-off", uid=ALICE)


@pytest.fixture
def far_daemon(rig: Rig) -> Iterator[int]:
    """A daemon in a pid namespace of its own, for which none of its clients has a pid; its pid
    there. (The rig knows nothing of it.)"""
    private_rules(rig)
    rig.write_policy()
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
    command += [RUN_DAEMON, "--hook=", "--", *rig.arguments]
    with (
        Watch(rig.base) as watch,
        subprocess.Popen(
            command, env={**os.environ, **python_path()}, stderr=subprocess.PIPE
        ) as process,
    ):
        watch.wait("socket", IN_CREATE)
        assert process.stderr
        while b" start " not in process.stderr.readline():
            assert process.poll() is None
        (first,) = children(process.pid)
        yield 1
        process.kill()
    Orphan(first).wait()
    rig.socket.unlink()
    for name in rig.lock_files():
        (rig.locks / name).unlink()


def test_clients_whose_pid_the_broker_cannot_see_are_who_they_are(
    rig: Rig, far_daemon: int
) -> None:
    """Source: pid_namespaces(7), unix(7): there SO_PEERCRED and SCM_CREDENTIALS say pid 0, for
    everybody.

    Promise: uid and gid still count with every message, and the broker signs for the lease.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def make(_chat: Chat) -> bytes:
        with client.connect(str(rig.socket)) as connection:
            held = connection.open("ttyS0", wait=5)
            signed = rig.lock("ttyS0").read_bytes()
            os.close(held)
            with pytest.raises(BrokerError) as caught:
                connection.open("roots")
            assert caught.value.errno == errno.EACCES
            socket.send_fds(socket.socket(fileno=ours.fileno()), [b"x"], [connection.fileno()])
        return signed

    def steal(_chat: Chat) -> str:
        _, (descriptor,), _, _ = socket.recv_fds(socket.socket(fileno=theirs.fileno()), 1, 1)
        sock = socket.socket(fileno=descriptor)
        sock.send(opening("ttyS0"))
        return cut_off(sock)

    assert rig.child(ALICE, make, keep=[ours.fileno()]).result() == lock_text(far_daemon)
    assert f"uid {BOB}" in rig.child(BOB, steal, keep=[theirs.fileno()]).result()
    ours.close()
    theirs.close()


def test_a_client_in_a_chroot_with_a_lookalike_dev_gets_the_real_port(rig: Rig) -> None:
    """Source: chroot(2), mount_namespaces(7): what a path means is the asker's own affair.

    Promise: a name means the broker's device, whatever stands in the client's /dev.
    """
    rig.port("ttyS0")
    rig.daemon()
    root = rig.base / "root"
    (root / "dev").mkdir(parents=True)
    os.mknod(root / "dev/ttyS0", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (root / "socket").touch()

    def run(_chat: Chat) -> tuple[int, int]:
        own_mounts()
        paths = [os.fsencode(path) for path in (rig.socket, root / "socket")]
        call("mount", *paths, None, ctypes.c_ulong(MS_BIND), None)
        os.chroot(root)
        os.chdir("/")
        os.setresgid(ALICE, ALICE, ALICE)
        os.setresuid(ALICE, ALICE, ALICE)
        descriptor = open_fd("ttyS0", broker="/socket")
        os.write(descriptor, b"here")
        return os.fstat(descriptor).st_rdev, os.stat("/dev/ttyS0").st_rdev

    got, lookalike = rig.child(0, run).result()
    assert got == rig.ports["ttyS0"].number != lookalike
    assert rig.ports["ttyS0"].read(4) == b"here"
    shutil.rmtree(root)


class Reused:
    """A client with a request for ttyS0 under way, whose process has ended and whose pid is
    another user's process by now; a child of it still has the connection, and its answer."""

    def __init__(self, rig: Rig, wait: int) -> None:
        ours, self.heard = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def ask(chat: Chat) -> None:
            sock = connect(rig)
            sock.send(opening("ttyS0", wait))
            if os.fork() == 0:
                out = socket.socket(fileno=os.dup(ours.fileno()))
                os.dup2(os.open("/dev/null", os.O_RDWR), chat.sock.fileno())
                data, _, _, _ = socket.recv_fds(sock, 65536, 1)
                out.send(data)
                signal.pause()

        asker = rig.child(ALICE, ask, keep=[ours.fileno()])
        ours.close()
        self.pid = asker.pid
        asker.result()

    def come_again(self, body: Callable[[], None]) -> int:
        """The pid is another process's from now on."""
        return fork_as(self.pid, body)

    def answer(self) -> wire.Reply:
        """What the broker said in the end."""
        wait_readable(self.heard.fileno(), "the broker's answer")
        return asking.decode_reply(self.heard.recv(65536))


def test_a_lock_is_not_taken_for_ones_own_because_a_pid_came_again(rig: Rig) -> None:
    """Source: CVE-2019-6133 (polkit took a process for the one that it had authorized, by pid and
    start time); pidfd_open(2) names the problem. Programs that lock before they open are let in
    by the pid in their lock file.

    Promise: an outsider's lock file is respected, also where its pid was a client's once.
    """
    rig.port("ttyS0")
    daemon = rig.daemon()
    outsider = Child(lambda chat: chat.hear(), BOB)
    rig.children.append(outsider)
    rig.lock().write_bytes(lock_text(outsider.pid))
    gone = Reused(rig, 2500)
    with client.connect(str(rig.socket)) as connection:
        assert connection.ports()[0].waiting == 1

    def victim() -> None:
        os.setresuid(BOB, BOB, BOB)
        signal.pause()

    victim_pid = gone.come_again(victim)
    try:
        temporary = rig.locks / "mine"
        temporary.write_bytes(lock_text(victim_pid))
        temporary.rename(rig.lock())
        reply = gone.answer()
        assert isinstance(reply, wire.Refused), f"{reply}: two have the port"
        assert reply.holder is not None and reply.holder.pid == victim_pid
    finally:
        os.kill(victim_pid, signal.SIGKILL)
        os.waitpid(victim_pid, 0)
        end_orphans(rig)
    rig.lock().unlink()
    daemon.settled()
    outsider.kill()


def test_a_lock_does_not_name_who_got_a_dead_clients_pid(rig: Rig) -> None:
    """Source: as the last one; a lock's pid is what uucp programs send signals to.

    Promise: a lease whose process has ended while it waited is signed by the broker.
    """
    rig.port("ttyS0")
    daemon = rig.daemon()
    holder = rig.holder(BOB)
    gone = Reused(rig, 60_000)
    with client.connect(str(rig.socket)) as connection:
        assert connection.ports()[0].waiting == 1
    victim_pid = gone.come_again(lambda: select.select([], [], []))  # type: ignore[arg-type]
    try:
        holder.say()
        holder.result()
        assert isinstance(gone.answer(), wire.Grant)
        daemon.record("grant", uid=ALICE)
        assert rig.lock().read_bytes() == lock_text(daemon.pid)
    finally:
        os.kill(victim_pid, signal.SIGKILL)
        os.waitpid(victim_pid, 0)
        end_orphans(rig)
