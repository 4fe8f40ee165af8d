"""The forked backend: a program started as root becomes two, and only the child stays root.

    root program ── init_backend() ──┬── child: confined, serves the pair, ends with it
                                     └── parent: the user, for good; returns

The child is forked twice, so that the program has no child it did not make and nobody has to
wait for it.
"""

from __future__ import annotations

import errno
import gc
import os
import pwd

from ttybroker.wire import SOCKET, Value
from ttybrokerd import start
from ttybrokerd.root import TYPE_CHECKING, confine, linux, locks
from ttybrokerd.root.linux import signal, socket
from ttybrokerd.root.log import ERROR, INFO, WARNING, Log
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.plan import PolicyError
from ttybrokerd.root.server import Server

if TYPE_CHECKING:
    from typing import NoReturn

READY = b"ready"


class _User(Value):
    uid: int
    gid: int
    groups: tuple[int, ...]


def init_backend(
    *,
    policy: str | None = None,
    lock_dir: str = locks.DIRECTORY,
    user: str | int | None = None,
    quiet: bool = False,
) -> None:
    """Fork the broker's root half and give up root in this process, for good.

    To be called first of all: before threads, before anything of the caller's is read. From
    then on `ttybroker.open_tty` and `open_fd` in this process use that backend, which ends when
    the last copy of the socket to it and of every port is closed, however this process ends.

    policy: the policy's file, or None for /etc/ttybroker/policy.toml if there is one and the
    shipped default if not. lock_dir: where UUCP lock files are. user: whom to become,
    name or uid; by default the real user of a setuid program, with the groups it has. quiet: log
    to the journal or to syslog alone, for standard error is the screen of somebody's program.

    Raises PermissionError without root, RuntimeError if threads run, ValueError if there is
    nobody to become; PolicyError or OSError if the backend cannot start, and then privilege is
    given up all the same. Ends the process if privilege could be got back.
    """
    # The user side, here because the daemon has no use for it; all of it, because afterwards
    # its files may be out of this process's reach (a clone in a home of mode 0700).
    from ttybroker import client, errors, port, urls  # noqa: F401

    _check_caller()
    become = _whom(user)
    try:
        pair = _fork_backend(policy, lock_dir, become, quiet)
    finally:
        _become(become)  # guard: give-up-after-a-failed-start
    _hear(pair)
    client.adopt_pair(pair.detach())


def _fork_backend(
    policy: str | None, lock_dir: str, become: _User, quiet: bool
) -> socket.socket:
    """Our end of the pair. What can be made before the fork is: its memory stays shared."""
    log = Log(quiet=quiet)

    def warn(reason: str) -> None:
        log("plan", WARNING, reason=reason)

    path = None if policy is None else os.path.abspath(policy)
    plan = start.plan_for(path, os.path.dirname(SOCKET), keep=False, warn=warn)
    if plan.mistake:
        raise PolicyError(plan.mistake)
    server = Server(plan, lock_dir, log)
    bounds = confine.bounds(server.places(), plan.seccomp, plan.filter)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.collect()
    gc.freeze()  # no collection, in either half, touches what is here now
    middle = os.fork()
    if middle == 0:
        _leave(theirs)
        _serve(theirs, server, log, become, bounds)
    theirs.close()
    server.close()
    log.close()
    bounds.close()
    linux.reap(middle)
    return ours


def _leave(pair: socket.socket) -> None:
    """Go on in a child of this process, which ends; also if it cannot: the program is the
    parent's, and must not run twice."""
    try:
        if os.fork() == 0:
            return
    except OSError as error:
        pair.send(str(error).encode())  # guard: child-never-returns
    os._exit(0)


def _become(user: _User) -> None:
    try:
        confine.give_up_everything(user.uid, user.gid, user.groups)
    except BaseException as error:
        os.write(2, f"ttybroker: privilege could not be given up: {error}\n".encode())
        os._exit(70)


def _check_caller() -> None:
    if os.geteuid() != 0:  # guard: backend-needs-root
        what = "init_backend() needs root: start the program as root or setuid root, or use the "
        raise PermissionError(errno.EPERM, f"{what}daemon (ttybrokerd) and no backend of your own")
    if len(os.listdir("/proc/self/task")) > 1:  # guard: backend-before-threads
        what = "init_backend() comes too late: threads are running; call it first of all"
        raise RuntimeError(what)


def _whom(user: str | int | None) -> _User:
    if user is None:
        if os.getuid() == 0:
            raise ValueError("started as root itself: say whom to become, init_backend(user=...)")
        return _User(os.getuid(), os.getgid(), tuple(os.getgroups()))
    try:
        entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except KeyError:
        raise ValueError(f"no such user: {user}") from None
    if entry.pw_uid == 0:  # guard: frontend-is-not-root
        raise ValueError("the frontend must not stay root: name another user")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return _User(entry.pw_uid, entry.pw_gid, groups)


def _hear(pair: socket.socket) -> None:
    """Wait for the child's word that it serves. Raises OSError with what it says instead."""
    word = pair.recv(4096)
    if word != READY:
        pair.close()
        what = word.decode("utf-8", "replace") or "it ended; its reason is in the log"
        raise OSError(errno.ECONNREFUSED, f"the backend did not start: {what}")


def _serve(
    pair: socket.socket, server: Server, log: Log, become: _User, bounds: confine.Bounds
) -> NoReturn:
    """The child. Never returns, and never runs the program's own exit handlers."""
    try:
        os.setsid()  # no terminal's Ctrl-C, and no hang-up with it
        keep = {pair.fileno(), bounds.files.descriptor}
        # guard: close-the-parents-files
        _forget_parent(keep | server.descriptors | log.descriptors)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setgroups([])  # guard: drop-the-parents-groups
        confine.confine(bounds)
        groups = frozenset(become.groups) | {become.gid}
        server.adopt(pair, Identity(become.uid, become.gid, groups, pid=0))
        pair.send(READY)
        log("start", INFO, uid=become.uid, reason="forked backend")
        server.run(lambda: server.deserted, lambda _: _end(server))
    except BaseException as error:
        try:
            log("failed", ERROR, reason=f"{type(error).__name__}: {error}")
            pair.send(str(error)[:1024].encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BaseException:
            pass
    finally:
        os._exit(1)


def _end(server: Server) -> NoReturn:
    server.last_words(leases=True)
    os._exit(0)


def _forget_parent(keep: set[int]) -> None:
    """Signals and descriptors as a fresh process has them; 0 to 2 are /dev/null, standard error
    unless the log goes there: who waits for the end of a program's output must not wait for us."""
    signal.set_wakeup_fd(-1)
    status = confine.status()
    handled = int(status["SigCgt"], 16) | int(status["SigIgn"], 16)  # bit 0 is signal 1
    for number in range(1, 65):
        if handled >> number - 1 & 1 and number not in (32, 33):  # these are the C library's own
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.setitimer(signal.ITIMER_REAL, 0)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in {0, 1, 2} - keep:
        os.dup2(null, number)
    for entry in os.listdir("/proc/self/fd"):
        descriptor = int(entry)
        if descriptor > 2 and descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:  # the descriptor of the listing itself
                pass
