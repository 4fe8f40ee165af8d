"""One root side, put together: the same for the daemon and for the forked backend."""

from __future__ import annotations

import os
import time
from types import TracebackType

from ttybrokerd.root import TYPE_CHECKING, linux, seats
from ttybrokerd.root.answers import Answers
from ttybrokerd.root.arrivals import Arrivals
from ttybrokerd.root.clients import Clients
from ttybrokerd.root.confine import Places
from ttybrokerd.root.device import Devices
from ttybrokerd.root.inotify import Inotify
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.leases import Leases
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.log import ERROR, NOTICE, WARNING, Log
from ttybrokerd.root.loop import READ, Loop
from ttybrokerd.root.memory import Memory
from ttybrokerd.root.others import Others
from ttybrokerd.root.plan import Mended, Plan
from ttybrokerd.root.requests import Requests
from ttybrokerd.root.store import Kept, KeptCopy, Store
from ttybrokerd.root.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

FAILED = 70  # EX_SOFTWARE, sysexits.h
AGAIN = 75  # EX_TEMPFAIL: the unit lists it, so that systemd then starts us again
PAUSE = 0.01  # seconds after a turn that had no memory
LAST_WORDS = 2.0  # seconds for ports that are being put in order when all is over


class Server:
    """Serves clients until whoever made it says that it is over."""

    def __init__(
        self, plan: Plan, lock_dir: str, log: Log, systemd: str = "", *, alone: bool = False
    ) -> None:
        """Make all parts. `systemd` is $NOTIFY_SOCKET. `alone` as in Judge.

        Raises OSError if the lock directory cannot be used. No thread runs and no client is served
        before the first `turn`, so the process may be forked until then.
        """
        self.loop = Loop()
        self._log = log
        self._memory = Memory()
        self._short_of_memory = False
        self._inotify = Inotify(self.loop)
        self._workers = Workers(self._short_of_threads)
        self._devices = Devices()
        self._locks = LockFiles(lock_dir)
        self.store = Store(self.loop, log, systemd)
        self._judge = Judge(plan, self._devices, alone)
        answers = Answers(log)
        self._fold = answers.fold
        others = Others(self._locks)
        self._leases = Leases(
            self.loop,
            self._inotify,
            self._workers,
            self._devices,
            others,
            self.store,
            self._judge,
            answers,
        )
        self.order = self._leases.order
        requests = Requests(
            self._judge,
            self._devices,
            others,
            self._leases,
            answers,
            self._workers,
            self._inotify,
        )
        self._facts, self._watches = requests.facts, requests.watches
        self._progress = requests.progress
        self._arrivals = Arrivals(self.loop, self._devices, self._judge, self._leases, answers)
        self.clients = Clients(
            self.loop,
            answers,
            requests.serve,
            requests.lost,
            self._judge.has_place,
            self._memory.room,
        )
        self.loop.add(self._workers.fileno(), READ, self._workers.finish)
        if plan.seats:
            seats.make_place()
            self._on_seats()

    @property
    def descriptors(self) -> set[int]:
        """The descriptors that must stay open for it to work, before it serves anybody."""
        return {part.fileno() for part in self._parts()}

    def close(self) -> None:
        """Close its descriptors, in a process that is not to serve."""
        for part in self._parts():
            part.close()

    def _parts(self) -> tuple[Loop | Workers | LockFiles | Inotify | Arrivals, ...]:
        return self.loop, self._workers, self._locks, self._inotify, self._arrivals

    def places(self) -> Places:
        """Return where in the file system the server does its job."""
        return Places(self._locks.path, self._devices.nodes(self._judge.plan.aliases))

    def adopt_leases(self, kept: list[Kept | KeptCopy], then: Callable[[], None]) -> None:
        """Go on with the leases, copies and order from systemd's store, and then call `then`.

        Both happen in the first turn, because a lease that is over already needs a worker. That is
        before anybody is served.
        """

        def adopt(_: None) -> None:
            self._leases.adopt(kept)
            self.order.expect_back()
            then()

        self._workers.soon(lambda: None, adopt)

    def use(self, plan: Plan) -> None:
        """Decide by another plan from now on. Leases that are held stay."""
        self._judge.replace(plan)
        if plan.seats:
            self._on_seats()
        self._leases.judge_again()  # guard: judge-what-waits-at-a-reload
        self._arrivals.look_soon()
        self.report_plan("reload")

    def report_plan(self, event: str) -> None:
        """Log what the plan says of the policy."""
        plan = self._judge.plan
        if plan.mistake:
            self._log("policy", ERROR, reason=plan.mistake)
        for warning in plan.warnings:
            self._log("policy", WARNING, reason=warning)
        self._log(event, NOTICE, reason=f"rules: {len(plan.rules)}")

    def _on_seats(self) -> None:
        """Look who sits where: somebody came to a seat, or left one, or logind came."""
        users = seats.look(lambda directory: self._inotify.names(directory, self._on_seats))
        if self._judge.seat(users):
            self._leases.judge_again()  # guard: judge-what-waits-for-a-seat
            self._leases.end_inactive()

    def _short_of_threads(self) -> None:
        what = "the system gives no further thread (TasksMax=, RLIMIT_NPROC), so requests wait"
        self._log("threads-failed", WARNING, reason=what)

    @property
    def deserted(self) -> bool:
        """Whether no client is connected and nobody has a port."""
        return len(self.clients) == 0 and not self._leases.leasing()

    def run(self, over: Callable[[], bool], finish: Callable[[int], NoReturn]) -> NoReturn:
        """Serve until `over()`, and then call `finish(0)`, which ends the process by os._exit().

        Call `finish(AGAIN)` instead when a mistake in the policy may have been mended. Both are
        called in whichever thread leads: workers.py. If `finish` calls `last_words` and a device
        keeps its thread, `finish` may be called once more in another.
        """

        def turn() -> None:
            try:
                if over():
                    finish(0)
                self._turn(None)
            except Mended:
                self._log("stop", NOTICE, reason="the policy has changed")
                finish(AGAIN)
            except MemoryError:
                self._out_of_memory()
                time.sleep(PAUSE)
            except Exception as error:  # ours: no client can raise one here
                reason = f"{type(error).__name__} at {_place(error.__traceback__)}: {error}"
                self._log("failed", ERROR, reason=reason)
                os._exit(FAILED)

        # After `adopt_leases`.
        self._workers.soon(lambda: None, lambda _: self._locks.remove_leftovers())
        linux.one_arena()
        self._workers.lead(turn)

    def last_words(self, *, leases: bool) -> None:
        """Let ports that are being put in order get there, within LAST_WORDS seconds.

        With `leases`, wait also for those that are held, because their holder is just ending. A
        holder keeps what it still has: descriptor, flock, and the lock file with its pid.
        """
        over = self._leases.idle if leases else self._leases.in_order
        end = time.monotonic() + LAST_WORDS
        self._leases.copies.forget_closed()
        while True:
            self._leases.keeper.keep_all()  # guard: keep-young-leases-at-the-end
            self.order.keep()  # guard: keep-the-order-at-the-end
            if (over() and self.store.settled) or (left := end - time.monotonic()) <= 0:
                break
            self._turn(left)
        self._fold.end()  # guard: last-count-of-refusals
        self._locks.drop_unconfirmed()

    def _out_of_memory(self) -> None:
        if not self._short_of_memory:
            self._short_of_memory = True
            what = "no memory is left (MemoryMax=, RLIMIT_AS), so what is new is refused"
            self._fold("memory-failed", ERROR, None, reason=what)

    def _turn(self, timeout: float | None) -> None:
        """Do what is due, wait for news, for `timeout` seconds at most, and deal with it."""
        if not self._memory.room():
            self._out_of_memory()
        elif self._short_of_memory:
            self._short_of_memory = False
            self._leases.look_after_all()  # an end may have been missed
            self.clients.listen_again()
        self._workers.run_soon()
        due = (self._arrivals.tick(), self._leases.tick(), self._watches.tick(),
               self._facts.tick(), self._progress.tick(), self.clients.tick(),
               self._fold.tick(), self._workers.retry, timeout)  # fmt: skip
        times = [seconds for seconds in due if seconds is not None]
        if self._workers.eager or self.clients.eager:
            times.append(0)
        self.loop.turn(min(times, default=None))
        self.clients.serve()


def _place(trace: TracebackType | None) -> str:
    """Return FILE:LINE where an exception came from."""
    at = "?"
    while trace is not None:
        at = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return at
