"""Find or fork the broker, stop being root, and go on as the caller: what ttyrun.c starts as root.

Until `start()` has returned, nothing of the caller's is read: neither arguments nor environment.
Then the caller's environment and settings come back from descriptor 3, in two steps: rights and
signals at once (`give_back_rights`, `give_back_signals`), the rest right before the program
(`give_back_rest`). A frontend under RLIMIT_NOFILE 3 or a small RLIMIT_AS could not get that far.
"""

from __future__ import annotations

import sys

# -I leaves out the script's own directory; last, so that nothing in it hides the library.
sys.path.append(__file__.rpartition("/")[0])

import os
import resource
import signal
import struct

KEPT_FD = 3
# `struct kept` of ttyrun.c: 7 limits of 3 numbers, 3 timers of 4, two signal sets, 4 numbers.
KEPT = struct.Struct("@" + 7 * "3q" + 3 * "4q" + "2Q" + "4q")
TIMERSLACK = 50_000  # what ttyrun.c set, the kernel's default (init/init_task.c)


class Kept:
    """What ttyrun took away from the caller's process."""

    def __init__(self, data: bytes) -> None:
        """Read a whole memfd; struct.error if it is not of this version's ttyrun."""
        numbers = KEPT.unpack_from(data)
        # resource, soft, hard; -1 is no limit, and to the resource module until Python 3.14
        no = resource.RLIM_INFINITY
        limits = [no if number == -1 else number for number in numbers[:21]]
        self.limits = list(zip(limits[::3], limits[1::3], limits[2::3], strict=True))
        # ITIMER_REAL, _VIRTUAL, _PROF: seconds to go, interval
        seconds = [numbers[i] + numbers[i + 1] / 1e6 for i in range(21, 33, 2)]
        self.timers = list(zip(seconds[::2], seconds[1::2], strict=True))
        self.blocked, self.ignored = (
            {number for number in signal.valid_signals() if bits >> (number - 1) & 1}
            for bits in numbers[33:35]
        )
        self.policy, self.nice, self.slack, self.umask = numbers[35:]
        self.process = os.getpid()
        self.env: dict[str, str] = {}
        for item in data[KEPT.size :].split(b"\0"):
            name, equals, value = item.partition(b"=")
            if name and equals:  # the first of two wins, as in getenv(3)
                self.env.setdefault(os.fsdecode(name), os.fsdecode(value))

    def give_back_rights(self) -> None:
        """Hard limits, scheduling, umask: no process of the caller's has more than he had."""
        for number, _soft, hard in self.limits:
            soft = resource.getrlimit(number)[0]
            if hard != resource.RLIM_INFINITY:
                soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
            resource.setrlimit(number, (soft, hard))
        if self.policy != os.sched_getscheduler(0):
            os.sched_setscheduler(0, self.policy, os.sched_param(0))
        if self.nice > 0:  # ttyrun leaves a raised priority alone
            os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        os.umask(self.umask)

    def give_back_signals(self) -> None:
        """Ignored and blocked signals, the real timer: nohup(1) covers a wait for a port, too.

        The program alone ignores SIGCHLD, which would take exit statuses from us, and has the
        timers of CPU time.
        """
        for number in self.ignored - {signal.SIGCHLD}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)
        signal.setitimer(signal.ITIMER_REAL, *self.timers[signal.ITIMER_REAL])

    def give_back_rest(self) -> None:
        """Soft limits, timers, signals: the last thing in the process that becomes the program."""
        if self.slack != TIMERSLACK:
            with open("/proc/self/timerslack_ns", "w") as file:
                file.write(str(self.slack))
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            ignored = number in self.ignored  # Python itself ignores SIGPIPE and SIGXFSZ
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)
        for which, (value, interval) in enumerate(self.timers):
            # The real one runs already, but for a program that is a child: fork(2).
            if which != signal.ITIMER_REAL or os.getpid() != self.process:
                signal.setitimer(which, value, interval)
        for number, soft, hard in self.limits:
            resource.setrlimit(number, (soft, hard))


def give_children_connections() -> None:
    """Make a connection before each fork, so that every child finds one of its own.

    To the backend a connection is one process (SCM_CREDENTIALS), and who asks it may be a child:
    the supervisor is one.
    """
    from ttybroker import client

    spare: list[client.Client] = []

    def before() -> None:
        try:
            spare.append(client.connect())
        except OSError:
            pass  # the backend has ended: whoever asks it will say so

    def in_parent() -> None:
        while spare:
            spare.pop().close()

    def in_child() -> None:
        for own in spare:
            client.adopt_pair(os.dup(own.fileno()))
        in_parent()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def main() -> int:
    """0 to 255, for exit(3)."""
    # Python makes Ctrl-C an exception that may come anywhere; here it had better end us.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getuid() == 0:  # guard: ttyrun-caller-is-not-root
        if sys.argv[1:] in (["--help"], ["-h"], ["--version"], ["-V"]):
            from ttybroker.run import main as run

            return run(sys.argv[1:], command="ttyrun")
        print(
            "ttyrun: started by root: there is no user to become; start ttyrun as the user "
            "whose program it is, or start the program alone",
            file=sys.stderr,
        )
        return 1
    try:
        from ttybrokerd.launched import start

        broker = start()
    except Exception as error:
        print(f"ttyrun: the broker did not start: {error}", file=sys.stderr)
        return 1
    with open(KEPT_FD, "rb") as file:
        file.seek(0)
        kept = Kept(file.read())
    kept.give_back_rights()  # guard: ttyrun-frontend-limits
    kept.give_back_signals()
    if broker is None:
        give_children_connections()
    from ttybroker.run import main as run

    return run(
        sys.argv[1:], broker, env=kept.env, before_exec=kept.give_back_rest, command="ttyrun"
    )


if __name__ == "__main__":
    sys.exit(main())
