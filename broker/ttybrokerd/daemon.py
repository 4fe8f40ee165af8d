"""`ttybrokerd`: the broker as a daemon on a listening socket."""

from __future__ import annotations

import errno
import gc
import os
import stat
import sys
import time

from ttybroker.wire import SOCKET
from ttybrokerd import start
from ttybrokerd.root import TYPE_CHECKING, confine, fresh, locks
from ttybrokerd.root.clients import BACKLOG
from ttybrokerd.root.linux import signal, socket
from ttybrokerd.root.log import ERROR, NOTICE, Log
from ttybrokerd.root.loop import READ
from ttybrokerd.root.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

# Seconds: a client that waits has systemd start us again at once, and a socket unit whose service
# it starts more than 20 times in two of them fails: systemd.socket(5), TriggerLimitBurst=.
PAUSE = 1.0
OPTIONS = ("--policy", "--socket", "--lock-dir")  # those with an argument
LISTEN_FDS_START = 3  # sd_listen_fds(3)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class CannotStart(Exception):
    """Why the daemon cannot start, and what to do about it."""


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit status: 0 ended by SIGTERM, 1 could not start, 2 usage."""
    options, others = _options(sys.argv[1:] if argv is None else argv)
    if others:
        # These end by themselves. A process that serves loads nothing that they need.
        from ttybrokerd.prepare import usage

        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])  # of entry.py
        return usage.main(options, others)
    try:
        _serve(options)
    except (CannotStart, confine.NotConfined, OSError) as error:
        print(f"ttybrokerd: {start.in_words(error)}", file=sys.stderr)
        if "NOTIFY_SOCKET" in os.environ:
            time.sleep(PAUSE)
        return 1


def _options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options that have an argument, and all other words.

    By hand, because getopt brings gettext into a root process, and argparse compression libraries
    too.
    """
    options: dict[str, str] = {}
    others: list[str] = []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        argument = value if equals or option not in OPTIONS else next(words, None)
        if option not in OPTIONS or argument is None:
            others.append(word)
        elif option == "--lock-dir":
            options[option] = argument
        else:  # absolute, for we go to / before these are used again
            try:
                options[option] = os.path.abspath(argument)
            except OSError as error:
                why = f"the working directory: {error.strerror}; write a path that begins with /"
                raise SystemExit(f"ttybrokerd: {option} {argument}: {why}") from None
    return options, others


def _serve(options: dict[str, str]) -> NoReturn:
    if os.geteuid() != 0:
        raise CannotStart("needs root: start it by systemd, or with sudo")
    # Until the handlers are there: SIGHUP would end a daemon that listens already.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    sockets, stored = _passed()
    named, path = options.get("--policy"), options.get("--socket", SOCKET)
    directory = os.path.dirname(path)
    if not sockets:
        os.makedirs(directory, 0o755, exist_ok=True)
    log = Log()
    plan = start.plan_for(named, directory, log, keep=True)
    systemd = os.environ.get("NOTIFY_SOCKET", "")
    plan.ends = systemd != ""
    lock_dir = options.get("--lock-dir", locks.DIRECTORY)
    server = Server(plan, lock_dir, log, systemd)  # may fail: no socket yet
    listener, own_path = _listener(path, sockets)
    made = _inode(own_path) if own_path is not None else None
    _own_session()
    kept_plan = fresh.kept_at(directory, plan.policy)
    places = server.places().replace(plan=kept_plan, socket=own_path)
    bounds = confine.bounds(places, plan.seccomp, plan.filter)

    def reload() -> None:
        try:
            server.use(start.read_again(named, directory, plan))
        except start.NotPrepared as error:
            log("reload-failed", ERROR, reason=f"{error}; the old plan stays")

    asked = _hear_signals(server, reload)
    server.clients.listen(listener)
    kept = server.store.take_back(server.order.take_back(stored, log))
    confine.confine(bounds)

    def finish(status: int) -> NoReturn:
        if listener.fileno() >= 0:
            server.store.tell("STOPPING=1")
            server.loop.remove(listener.fileno())
            listener.close()
            if own_path is not None:
                _remove(own_path, made)
        server.last_words(leases=False)
        if status == 0:
            log("stop", NOTICE, reason="asked to")
        os._exit(status)

    def ready() -> None:
        server.store.tell(f"READY=1\nMAINPID={os.getpid()}")
        server.report_plan("start")

    server.adopt_leases(kept, ready)
    gc.freeze()  # no collection goes through what stays for ever
    gc.enable()  # entry.py had put it off
    server.run(lambda: bool(asked), finish)


def _own_session() -> None:
    try:
        os.setsid()
    except PermissionError:  # a leader already, as under systemd
        pass


def _hear_signals(server: Server, reload: Callable[[], None]) -> list[int]:
    """Make SIGHUP reload. SIGTERM and SIGINT fill the list that is returned.

    They come through a pipe, because Python runs handlers only in the main thread, and a device may
    block that thread.
    """
    asked: list[int] = []
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def on_signals() -> None:
        numbers = os.read(read, 65536)
        asked.extend(number for number in numbers if number != signal.SIGHUP)
        if signal.SIGHUP in numbers:  # one for all that came meanwhile
            reload()

    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    server.loop.add(read, READ, on_signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return asked


def _passed() -> tuple[list[int], list[tuple[int, str]]]:
    """Return what systemd passed: the sockets, and the rest with its names: sd_listen_fds(3).

    The rest is from the descriptor store.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return [], []
    sockets, others = [], []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    try:
        for number in range(int(os.environ.get("LISTEN_FDS", "0"))):
            descriptor = LISTEN_FDS_START + number
            os.set_inheritable(descriptor, False)
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                sockets.append(descriptor)
            else:
                others.append((descriptor, names[number] if number < len(names) else ""))
    except (ValueError, OSError) as error:
        raise CannotStart(f"LISTEN_FDS does not match what was passed: {error}") from None
    return sockets, others


def _listener(path: str, sockets: list[int]) -> tuple[socket.socket, str | None]:
    """Return the listening socket, and its path if the socket is ours to remove."""
    if not sockets:
        return _bind(path), path
    if len(sockets) > 1:
        what = f"expected one socket from systemd, not {len(sockets)}: see ttybroker.socket"
        raise CannotStart(what)
    listener = socket.socket(fileno=sockets[0])
    if (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        raise CannotStart("the socket from systemd must be ListenSequentialPacket= with a path")
    listener.setblocking(False)
    return listener, None


def _bind(path: str) -> socket.socket:
    """Listen at `path`.

    The socket of a dead daemon there is replaced, and that of a live one is refused. Anything that
    is not a socket is left alone.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        listener.bind(path)
        os.chmod(path, 0o666)  # the kernel says who asks, and the policy decides
        listener.listen(BACKLOG)
    except OSError as error:
        raise CannotStart(f"cannot listen at {path}: {error.strerror or error}") from None
    return listener


def _inode(path: str) -> tuple[int, int] | None:
    """Return which file is at this path, None if none is there."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _remove(path: str, made: tuple[int, int] | None) -> None:
    """Remove the socket that we made. Another daemon may have made one in its place."""
    try:
        if _inode(path) == made:  # guard: own-socket-only
            os.unlink(path)
    except OSError:  # gone, or in a directory that is everybody's: `confine` does not leave us that
        pass


def _clear(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):  # guard: foreign-file
        raise CannotStart(f"{path} exists and is no socket: name another path (--socket)")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    probe.setblocking(False)
    result = probe.connect_ex(path)
    probe.close()
    if result != errno.ECONNREFUSED:  # guard: live-socket
        raise CannotStart(f"a daemon is listening at {path} already: stop it, or name another path")
    os.unlink(path)


if __name__ == "__main__":
    sys.exit(main())
