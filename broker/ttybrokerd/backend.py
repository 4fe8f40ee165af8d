"""The forked backend: a program started as root becomes two, and only the child stays root.

    root program ── init_backend() ──┬── child: confined, serves the pair, ends with it
                                     └── parent: the user, for good; returns

The child is forked twice. So the program has no child that it did not make, and nobody has to wait
for the backend.
"""

from __future__ import annotations

import errno
import gc
import os

from ttybroker.wire import SOCKET
from ttybrokerd import allowance, start
from ttybrokerd.root import TYPE_CHECKING, confine, linux, locks
from ttybrokerd.root.linux import signal, socket
from ttybrokerd.root.log import ERROR, INFO, Log
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.server import Server
from ttybrokerd.user import User, become, whom

if TYPE_CHECKING:
    from typing import NoReturn

READY = b"ready"


def init_backend(
    *,
    policy: str | None = None,
    lock_dir: str = locks.DIRECTORY,
    user: str | int | None = None,
    quiet: bool = False,
) -> None:
    """Fork the broker's root half and give up root in this process, for good.

    Call it first: before threads, and before the program reads anything that a caller controls.
    From then on `ttybroker.open_tty` and `open_fd` in this process use that backend. The backend
    ends when the last copy of its socket and of every port is closed, however this process ends.

    policy: the policy's file. None: /etc/ttybroker/policy.toml, or the shipped policy if that file
    is missing. lock_dir: the directory of the UUCP lock files. user: the user to become, a name or
    a uid. None: the real user of a setuid program, with its groups. quiet: log only to the journal
    or to syslog, where standard error is the screen of the program.

    Raises PermissionError without root, RuntimeError if threads run, and ValueError if there is no
    user to become. Raises PolicyError or OSError if the backend cannot start; root is given up in
    that case too. Ends the process if root could be regained.
    """
    # The user side, here because the daemon has no use for it; all of it, because afterwards
    # its files may be out of this process's reach (a clone in a home of mode 0700).
    from ttybroker import client, copies, errors, holding, lending, names, port, urls, users  # noqa: F401

    _check_caller()
    _start(whom(user), policy, lock_dir, quiet=quiet, alone=False)


def start_alone(caller: User, policy: str | None, lock_dir: str) -> None:
    """Do as `init_backend`, for `ttyrun`. A caller may have a limited number (allowance.py).

    A caller can kill a process in its cgroup. So the backend leases no port that it would have to
    take back.
    """
    _start(caller, policy, lock_dir, quiet=True, alone=True)


def _start(user: User, policy: str | None, lock_dir: str, *, quiet: bool, alone: bool) -> None:
    from ttybroker import client

    try:
        taken = allowance.take(user.uid) if alone else -1
        pair = _fork_backend(policy, lock_dir, user, Log(quiet=quiet), taken)
    finally:
        become(user)  # guard: give-up-after-a-failed-start
    _hear(pair)
    client.adopt_pair(pair.detach())


def _fork_backend(
    policy: str | None, lock_dir: str, user: User, log: Log, taken: int
) -> socket.socket:
    """Return our end of the pair.

    What can be made before the fork is made before it, so that its memory stays shared. `taken` is
    the descriptor of the caller's allowance for a backend of `ttyrun`, else -1.
    """
    path = None if policy is None else os.path.abspath(policy)
    plan = start.plan_for(path, os.path.dirname(SOCKET), log, keep=False)
    if plan.mistake:
        from ttybrokerd.prepare.policy import PolicyError  # no process that serves has it

        raise PolicyError(plan.mistake)
    server = Server(plan, lock_dir, log, alone=taken >= 0)
    bounds = confine.bounds(server.places(), plan.seccomp, plan.filter)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.collect()
    gc.freeze()  # no collection, in either half, touches what is here now
    middle = os.fork()
    if middle == 0:
        _leave(theirs)
        _serve(theirs, server, log, user, bounds, taken)
    theirs.close()
    if taken >= 0:
        os.close(taken)
    server.close()
    log.close()
    bounds.close()
    linux.reap(middle)
    return ours


def _leave(pair: socket.socket) -> None:
    """Continue in a child of this process, and end this process.

    This process ends also if it cannot fork: the program is the parent's, and must not run twice.
    """
    try:
        if os.fork() == 0:
            return
    except OSError as error:
        pair.send(str(error).encode())  # guard: child-never-returns
    os._exit(0)


def _check_caller() -> None:
    if os.geteuid() != 0:  # guard: backend-needs-root
        what = "init_backend() needs root: start the program as root or setuid root, or use the "
        raise PermissionError(errno.EPERM, f"{what}daemon (ttybrokerd) and no backend of your own")
    if len(os.listdir("/proc/self/task")) > 1:  # guard: backend-before-threads
        what = "init_backend() comes too late: threads are running; call it before you start any"
        raise RuntimeError(what)


def _hear(pair: socket.socket) -> None:
    """Wait until the child says that it serves. Raises OSError with what it says instead."""
    word = pair.recv(4096)
    if word != READY:
        pair.close()
        what = word.decode("utf-8", "replace") or "it ended; its reason is in the log"
        raise OSError(errno.ECONNREFUSED, f"the backend did not start: {what}")


def _serve(
    pair: socket.socket, server: Server, log: Log, user: User, bounds: confine.Bounds, taken: int
) -> NoReturn:
    """Be the child. Never returns, and never runs the program's own exit handlers."""
    try:
        os.setsid()  # no terminal's Ctrl-C, and no hang-up with it
        keep = {pair.fileno(), bounds.files.descriptor, taken}
        # guard: close-the-parents-files
        _forget_parent(keep | server.descriptors | log.descriptors)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setgroups([])  # guard: drop-the-parents-groups
        confine.confine(bounds)
        groups = frozenset(user.groups) | {user.gid}
        server.clients.adopt(pair, Identity(user.uid, user.gid, groups, pid=0))
        pair.send(READY)
        log("start", INFO, uid=user.uid, reason="forked backend")
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
    """Reset signals and descriptors to those of a fresh process.

    0 to 2 become /dev/null, except standard error if the log goes there. Whoever waits for the end
    of a program's output must not wait for the backend.
    """
    signal.set_wakeup_fd(-1)
    status = confine.status()
    handled = int(status["SigCgt"], 16) | int(status["SigIgn"], 16)  # bit 0 is signal 1
    for number in range(1, 65):
        if handled >> number - 1 & 1 and number not in (32, 33):  # these are the C library's own
            signal.signal(number, signal.SIG_DFL)
    # systemd ends a service by SIGTERM to all of its processes. The program may have work to save
    # through its port, and the backend ends with it.
    for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
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
