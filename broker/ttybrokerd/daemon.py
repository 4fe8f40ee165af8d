"""`ttybrokerd`: the broker as a daemon on a listening socket."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

from ttybroker.version import VERSION
from ttybroker.wire import SOCKET, Value
from ttybrokerd import start
from ttybrokerd.root import TYPE_CHECKING, confine, fresh, locks
from ttybrokerd.root.clients import BACKLOG
from ttybrokerd.root.linux import signal, socket
from ttybrokerd.root.log import ERROR, NOTICE, WARNING, Log
from ttybrokerd.root.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

# Seconds: a client that waits has systemd start us again at once, and a socket unit whose service
# it starts more than 20 times in two of them fails: systemd.socket(5), TriggerLimitBurst=.
PAUSE = 1.0
LISTEN_FDS_START = 3  # sd_listen_fds(3)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Options(Value):
    """The parsed command line."""

    policy: str | None
    socket: str
    lock_dir: str
    action: str  # "serve", "prepare", "check", "udev-rules", "version" or "help"


class Usage(Exception):
    """A mistake in the command line."""


class CannotStart(Exception):
    """Why the daemon cannot start, and what to do about it."""


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit status: 0 ended by SIGTERM, 1 could not start, 2 usage."""
    try:
        options = _parse(sys.argv[1:] if argv is None else argv)
    except Usage as error:
        from ttybrokerd.prepare.usage import USAGE

        print(f"ttybrokerd: {error}\n{USAGE}", file=sys.stderr)
        return 2
    if options.action == "help":
        from ttybrokerd.prepare.usage import HELP

        print(HELP)
        return 0
    if options.action == "version":
        print(f"ttybrokerd {VERSION}")
        return 0
    try:
        if options.action == "serve":
            _serve(options)
        return _judge(options)
    except (CannotStart, confine.NotConfined, OSError) as error:
        print(f"ttybrokerd: {error}", file=sys.stderr)
        if options.action == "serve" and "NOTIFY_SOCKET" in os.environ:
            time.sleep(PAUSE)
        return 1


def _parse(argv: list[str]) -> Options:
    """Read the command line. Raises Usage.

    By hand, because getopt brings gettext into a root process, and argparse compression libraries
    too.
    """
    options: dict[str, str] = {}
    action = "serve"
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--policy", "--socket", "--lock-dir"):
            argument = value if equals else next(words, None)
            if argument is None:
                raise Usage(f"{option}: its argument is missing")
            options[option] = argument
        elif word in ("--prepare", "--check", "--udev-rules", "--version", "--help", "-h"):
            action = "help" if word == "-h" else word[2:]
        else:
            raise Usage(f"{word}: not an option")
    policy = options.get("--policy")
    return Options(
        # absolute, for we go to / before these are used again
        None if policy is None else os.path.abspath(policy),
        os.path.abspath(options.get("--socket", SOCKET)),
        options.get("--lock-dir", locks.DIRECTORY),
        action,
    )


def _judge(options: Options) -> int:
    """Do the commands that end by themselves. A serving process loads nothing that this needs."""
    from ttybrokerd.prepare import command

    if options.action == "check":
        return command.check(options.policy)
    if options.action == "udev-rules":
        return command.udev_rules(options.policy)
    if os.geteuid() != 0:
        raise CannotStart(
            "--prepare needs root, because the plan must belong to root; --check does not"
        )
    return command.prepare(options.policy, os.path.dirname(options.socket))


def _serve(options: Options) -> NoReturn:
    if os.geteuid() != 0:
        raise CannotStart("needs root: start it by systemd, or with sudo")
    # Until the handlers are there: SIGHUP would end a daemon that listens already.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    sockets, kept = _passed()
    directory = os.path.dirname(options.socket)
    if not sockets:
        os.makedirs(directory, 0o755, exist_ok=True)
    log = Log()

    def warn(reason: str) -> None:
        log("plan", WARNING, reason=reason)

    policy = start.plan_for(options.policy, directory, keep=True, warn=warn)
    systemd = os.environ.get("NOTIFY_SOCKET", "")
    policy.ends = systemd != ""
    server = Server(policy, options.lock_dir, log, systemd)  # may fail: no socket yet
    listener, own_path = _listener(options.socket, sockets)
    _own_session()
    kept_plan = fresh.kept_at(directory, policy.policy)
    places = server.places().replace(plan=kept_plan, socket=own_path)
    bounds = confine.bounds(places, policy.seccomp, policy.filter)

    def reload() -> None:
        try:
            server.use(start.read_again(options.policy, directory, policy))
        except start.NotPrepared as error:
            log("reload-failed", ERROR, reason=f"{error}; the old plan stays")

    asked = _hear_signals(server, reload)
    server.listen(listener)
    confine.confine(bounds)

    def finish(status: int) -> NoReturn:
        if listener.fileno() >= 0:
            server.store.tell("STOPPING=1")
            server.deaf(listener.fileno())
            listener.close()
            if own_path is not None:
                _remove(own_path)
        server.last_words(leases=False)
        if status == 0:
            log("stop", NOTICE, reason="asked to")
        os._exit(status)

    def ready() -> None:
        server.store.tell(f"READY=1\nMAINPID={os.getpid()}")
        server.report_plan("start")

    server.adopt_leases(kept, ready)
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
        for number in os.read(read, 64):
            if number == signal.SIGHUP:
                reload()
            else:
                asked.append(number)

    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    server.hear(read, on_signals)
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
        raise CannotStart(f"cannot listen at {path}: {error.strerror}") from None
    return listener


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except PermissionError:  # in a directory that is everybody's: `confine` does not leave us that
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
