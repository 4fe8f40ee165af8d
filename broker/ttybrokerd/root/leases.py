"""What becomes of each lease: granted, watched, ended, taken back, adopted.

The table decides who has which port (`table`). The device is touched in workers (`port`). Here
is what happens in between: each step that the table asks for, and what the kernel says of a lease.

Where a lease ends: `_look_after` (its last copy was closed), `_on_hangup` (unplugged, or hung up
by somebody else), `revoke`, the table's time limit, `end_inactive` (its user sits at the machine
no more), and `_watch` (it cannot be watched). Each comes by `Table.end` to `_end`, and when the
device is in order to `_closed`.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import time

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, linux, peer, port
from ttybrokerd.root.answers import Answers
from ttybrokerd.root.connection import Connection, OpenRequest
from ttybrokerd.root.copies import DeadCopies
from ttybrokerd.root.device import Devices, Seen
from ttybrokerd.root.facts import Facts
from ttybrokerd.root.holds import Holds
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.keeper import Keeper
from ttybrokerd.root.lease import LOOK_AGAIN, Lease
from ttybrokerd.root.log import ERROR, INFO, NOTICE
from ttybrokerd.root.loop import NOTHING, READ, Loop
from ttybrokerd.root.others import Others
from ttybrokerd.root.refusal import Absent, Refusal
from ttybrokerd.root.sessions import Session, Sessions
from ttybrokerd.root.settings import Settings
from ttybrokerd.root.store import Store
from ttybrokerd.root.table import (
    NOWHERE,
    Ask,
    Effect,
    End,
    Lend,
    Refuse,
    Start,
    State,
    Table,
    Tell,
)
from ttybrokerd.root.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybrokerd.root.report import Row
    from ttybrokerd.root.store import Kept


CLOSED, HUNG_UP = "closed", "hung up or unplugged"  # how a lease ended
INACTIVE = "its user has the active session no more"
RESERVE = 32  # descriptors that no user's lease takes: what root asks for needs some


class Leases:
    """All leases, and the table of who has and who waits."""

    def __init__(
        self,
        loop: Loop,
        workers: Workers,
        devices: Devices,
        others: Others,
        store: Store,
        judge: Judge,
        sessions: Sessions,
        answers: Answers,
    ) -> None:
        self.table = Table()
        self._loop = loop
        self._workers = workers
        self._devices = devices
        self._locks = others.files
        self._others = others
        self._store = store
        self._judge = judge
        self._sessions = sessions
        self._answers = answers
        self._all: dict[int, Lease] = {}  # by device number, like the table
        self._watched: dict[int, Lease] = {}  # by inotify watch
        self._looking: dict[Lease, None] = {}  # those with `looks`, in order
        self._keeper = Keeper(store)
        self._copies = DeadCopies()
        self.holds = Holds()
        self._facts = Facts(workers)
        # what a session left on a port, until anybody has the port again: by device number
        self._left: dict[int, tuple[Session, Settings]] = {}
        self._heard: dict[str, tuple[int, Callable[[], None]]] = {}  # inotify watch, who listens
        self._inotify = linux.inotify()
        loop.add(self._inotify, READ, self._on_closes)

    def fileno(self) -> int:
        """Return the inotify descriptor."""
        return self._inotify

    def close(self) -> None:
        """Give the inotify descriptor back, where nothing was ever leased."""
        os.close(self._inotify)

    # what requests ask for

    def ask(self, request: OpenRequest, seen: Seen) -> None:
        """Open the port for this request, or queue it, or refuse it. Takes `seen` over.

        Raises Refusal EBUSY if the port is kept from this user.
        """
        key = request.key = seen.rdev
        self._look_after(key)
        try:
            self.holds.check(key, request.uid)
        except Refusal:
            seen.close()
            raise
        lease = self._all.get(key)
        if lease is not None and lease.session is request.session is not None and self._held(key):
            self._join(lease, request, seen)
            return
        if (claim := self._claim_of(key, request.session)) is not None:
            seen.close()
            request.left = claim.left
            if lease is not None and lease.ask is claim:  # it ends, and what it leaves is to come
                lease.ask = request
            self._do(self.table.renew(key, claim, request, time.monotonic()))
            return
        effects = self.table.ask(key, request, self._copies.of(request.uid))
        if effects and isinstance(effects[0], Start):
            self._start(key, request, seen)
            return
        seen.close()
        self._do(effects)

    def miss(self, request: OpenRequest) -> None:
        """Have a request wait until its device is there: arrivals.py."""
        self._do(self.table.miss(request, self._copies.of(request.uid)))

    def _join(self, lease: Lease, request: OpenRequest, seen: Seen) -> None:
        self._workers.soon(
            lambda: port.join(lease, self._devices, seen, request.mode),
            lambda result: self._joined(lease, request, result),
        )

    def _claim_of(self, key: int, session: Session | None) -> Ask | None:
        """Return the claim of this session, if its client has not come back to it yet."""
        row = self.table.ports.get(key)
        queue = [] if row is None or session is None else row.queue
        return next((ask for ask in queue if ask.absent and ask.session is session), None)

    def withdraw(self, request: OpenRequest) -> None:
        """Forget a request whose client is gone."""
        self._do(self.table.withdraw(request.key, request))  # guard: withdraw-a-lost-client

    def find(self, path: str) -> Lease | None:
        """Return the lease of the port with this node, if somebody has it now."""
        for key, lease in self._all.items():
            if lease.target.path == path and self._held(key):
                return lease
        return None

    def revoke(self, lease: Lease, client: Connection, hold: float = 0) -> None:
        """Take the port back; the client is answered when it is free. Keep it from the holder's
        user for `hold` seconds from now on."""
        if hold:
            self.holds.add(lease.key, lease.uid, hold)
        by_admin = self._judge.is_admin(client.identity)
        for request in self._withdrawn_with(lease, by_admin=by_admin, all_of_them=hold > 0):
            refusal = Refusal(errno.ECANCELED, "the port was taken back from you meanwhile")
            self._do(self.table.refuse(lease.key, request, refusal))
            lease.withdrawn += 1
        lease.revokers.append(client)
        self._do(self.table.end(lease.key, "revoked"))

    def _withdrawn_with(self, lease: Lease, *, by_admin: bool, all_of_them: bool) -> list[Ask]:
        """Return what the holder's user waits for on this port; if not `all_of_them`, but for his
        other sessions that have ports: those are other programs of his. And his claims; with an
        admin's revoke all."""
        found: list[Ask] = []
        for ask in self.table.ports[lease.key].queue:
            if ask.uid != lease.uid and not (ask.claim and by_admin):  # guard: claims-of-others
                continue
            mine = ask.session in (None, lease.session)
            if all_of_them or ask.claim or mine or (ask.session and not ask.session.leases):
                found.append(ask)
        return found

    def keys(self) -> frozenset[int]:
        """Return the devices in the table: their locks are no outsider's."""
        return frozenset(self.table.ports)

    def keep_all(self) -> None:
        """Have systemd keep what it does not yet: this daemon ends."""
        self._keeper.keep_all()

    def ghosts(self) -> dict[int, frozenset[int]]:
        """Return by device which users' revoked holders still keep a descriptor of it."""
        return self._copies.users()

    def copies(self) -> dict[int, tuple[wire.Holder, ...]]:
        """Return by device the revoked holders whose descriptors of it are still open."""
        return self._copies.holders()

    def look_at(
        self, rows: list[Row], uid: int, everything: bool, then: Callable[[], None]
    ) -> None:
        """Put the facts of their lines into the rows of ports that this user has (or each one, if
        `everything`), and `then` do that."""
        keys = {row.rdev for row in rows if row.rdev is not None and self._held(row.rdev)}
        # guard: facts-are-for-holder-and-admins
        leases = [self._all[key] for key in keys if everything or self._all[key].uid == uid]

        def found(facts: dict[int, tuple[tuple[int, int], ...]]) -> None:
            for row in rows:
                row.port.facts = () if row.rdev is None else facts.get(row.rdev, ())
            then()

        self._facts.look(leases, found)

    def hear(self, directory: str, handler: Callable[[], None]) -> None:
        """Call `handler` when names in a directory come and go. Raises OSError."""
        self._heard[directory] = linux.watch_names(self._inotify, directory), handler

    def hear_of_nodes(self, handler: Callable[[], None]) -> None:
        """Call `handler` when devices come and go. Raises OSError."""
        self.hear(self._devices.directory, handler)

    def deaf_to_nodes(self) -> None:
        """Call it no more."""
        if (heard := self._heard.pop(self._devices.directory, None)) is not None:
            linux.unwatch(self._inotify, heard[0])

    def fill_in(self, rows: list[Row]) -> None:
        """Put into the rows of a list what the table knows now."""
        for key, row in ((row.rdev, row.port) for row in rows):
            known = None if key is None else self.table.ports.get(key)
            if known is not None:
                row.state, row.holder, row.lent = known.state, known.holder(), known.lender()
                row.waiting = sum(not ask.claim for ask in known.queue)

    # what the server asks for

    def judge_again(self) -> None:
        """Refuse all that waits and that the policy in force does not allow."""
        for key, ask in self.table.waiting():
            if isinstance(ask, OpenRequest) and (refusal := self.judge_waiting(ask)) is not None:
                self._do(self.table.refuse(key, ask, refusal))

    def end_inactive(self) -> None:
        """End the leases that are for users who sit at the machine, and who do so no more."""
        for key, lease in list(self._all.items()):
            if lease.ask.active and not self._judge.sits(lease.uid):
                self._do(self.table.end(key, INACTIVE))  # guard: end-while-active

    def judge_waiting(self, request: OpenRequest) -> Refusal | None:
        """Go by the policy in force, with its rule's limits; return why it says no, if it does."""
        try:
            decision = self._judge.allowed(request.client.identity, request.name)
        except Refusal as refusal:
            return refusal
        rule = decision.rule
        assert rule is not None  # a rule allows it
        request.rule, request.max_lease, request.active = str(rule), rule.max_lease, rule.active
        request.target = request.target.replace(
            alias=decision.device, pty=rule.pty, console=rule.console
        )
        request.judged = self._judge.version
        return None

    def _judge_opened(self, request: OpenRequest, lease: Lease) -> Refusal | None:
        """As `judge_waiting`, for a port that was opened while an earlier policy was in force."""
        refusal = self.judge_waiting(request)
        if refusal is not None:
            return refusal
        lease.rule, now, was = request.rule, request.target, lease.target
        # guard: same-device-by-the-new-policy
        if (now.alias, now.pty, now.console) != (was.alias, was.pty, was.console):
            return Refusal(errno.ENODEV, "the policy says something else of it now; ask again")
        try:
            # guard: every-name-by-the-new-policy
            self._judge.check_device(request.client.identity, was, lease.lock_name, lease.rule)
        except Refusal as denied:
            return denied
        return None

    def adopt(self, kept: list[Kept]) -> None:
        """Go on with leases that an earlier broker granted, before anybody is served. One whose
        end was missed, or whose time is over, ends now, as any lease does."""
        for one in kept:
            self._adopt(one)
        self.end_inactive()  # guard: adopted-while-active

    def idle(self) -> bool:
        """Return whether no port is leased, opened or put in order."""
        return not self.keys() - {NOWHERE}

    def leasing(self) -> bool:
        """Return whether anybody has a port."""
        return bool(self._all)

    def in_order(self) -> bool:
        """Return whether no port is being opened or put in order: each is free, or held."""
        for key in list(self._all):
            self._look_after(key)
        settled = (State.HELD, State.OUTSIDE, State.ABSENT)
        return all(row.state in settled for row in self.table.ports.values())

    def tick(self) -> float | None:
        """Do what the clock asks for; return the seconds until it may ask again, if ever."""
        now = time.monotonic()
        for lease in [lease for lease in self._looking if lease.looks[0] <= now]:
            self._look_again(lease)
        alarm = self.table.next_alarm()
        if alarm is not None and alarm <= now:
            self._do(self.table.tick(now))
            alarm = self.table.next_alarm()
        alarms = [lease.looks[0] for lease in self._looking]
        more = (alarm, self._keeper.tick(now), self._facts.tick(now))
        alarms += [when for when in more if when is not None]
        return max(0.0, min(alarms) - time.monotonic()) if alarms else None

    # what the table asks for

    def _do(self, effects: list[Effect]) -> None:
        """Carry out what the table says; the outcome comes back to it by `_opened`, `_closed`."""
        due = list(effects)
        while due:
            match due.pop(0):
                case Start(key, OpenRequest() as request):
                    due += self._start_waiting(key, request)
                case Refuse(OpenRequest() as request, refusal) if not request.client.gone:
                    self._answers.refuse(request.client, request.name, refusal, request.rule)
                case Refuse(Ask(session=Session() as session)):
                    self._sessions.tidy(session)
                case Lend(_, OpenRequest() as request, asker, grace):
                    self._answers.record("lend", None, request.name, INFO, holder=request.holder,
                                         reason=f"asked for by {asker.holder}")  # fmt: skip
                    request.client.answer(wire.Lent(round(grace * 1000), asker.holder))
                case Tell(OpenRequest() as request, message):
                    self._answers.record("slow", request.client, request.name, NOTICE,
                                         reason=message)  # fmt: skip
                    request.client.answer(wire.Waiting(message, wire.SLOW))
                case End(key, _, reason):
                    self._end(self._all[key], reason)

    def _start_waiting(self, key: int, request: OpenRequest) -> list[Effect]:
        """Open the port for one that waited, if it still may have it."""
        request.client.look_up_groups()
        refusal = self.judge_waiting(request)  # guard: judge-who-waited
        if refusal is None and request.claim:  # it does not count as one that waits
            # guard: dead-descriptors-of-claims
            refusal = self.table.too_many_leases(request.uid, self._copies.of(request.uid))
        if refusal is not None:
            return self.table.failed(key, refusal, time.monotonic())
        self._start(key, request, None)
        return []

    def _start(self, key: int, request: OpenRequest, seen: Seen | None) -> None:
        ghosts = self.ghosts().get(key, frozenset())
        session, left = self._left.pop(key, (None, None))
        # guard: settings-of-its-session
        resumed = left if session is request.session else request.left
        request.left = None
        self._workers.soon(
            lambda: self._acquire(key, request, seen, ghosts, resumed),
            lambda result: self._opened(key, request, result),
        )

    def _acquire(
        self,
        key: int,
        request: OpenRequest,
        seen: Seen | None,
        ghosts: frozenset[int],
        resumed: Settings | None,
    ) -> tuple[Lease, int] | Refusal:
        """Open the port, in a worker. Who waited gets a fresh look: the node may be another."""
        try:
            if seen is None:
                seen = self._judge.look(request.client.identity, request.target, request.rule)
        except Refusal as refusal:
            return refusal
        except OSError as error:
            return Refusal.out_of_means(error)
        if seen.rdev != key:  # guard: renamed-device
            seen.close()
            return Absent(errno.ENODEV, "another device has this name now; ask again")
        try:
            most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        except OSError as error:
            seen.close()
            return Refusal.out_of_means(error)
        # guard: descriptors-for-root
        if request.uid != 0 and seen.node >= most - RESERVE:  # the kernel gives the lowest
            seen.close()
            what = "the broker has no descriptor left for it"
            return Refusal(errno.EMFILE, what, advice="try later")
        lease = Lease(key, request, seen.target, request.rule, request.pid, seen.kernel_name,
                      self._locks, self._inotify)  # fmt: skip
        lease.session = request.session
        return port.acquire(
            lease,
            self._devices,
            seen,
            self._others,
            _live(lease),
            ghosts,
            mode=request.mode,
            resumed=resumed,
        )

    def _opened(self, key: int, request: OpenRequest, result: tuple[Lease, int] | Refusal) -> None:
        if isinstance(result, Refusal):
            if isinstance(result, Absent):
                request.key = NOWHERE
            self._do(self.table.failed(key, result, time.monotonic()))
            return
        lease, descriptor = result
        if request.judged != self._judge.version and not request.withdrawn:
            refusal = self._judge_opened(request, lease)
            if refusal is not None:
                request.withdrawn = True
                self._answers.refuse(request.client, request.name, refusal)
        lease.holder.since = time.time()
        self._all[key] = lease
        if lease.session is not None:
            lease.session.leases += 1
        self._say_what_is_not_put_back(lease)
        effects = self.table.opened(key, time.monotonic())
        if self._held(key):
            effects = self._grant(lease, request, descriptor) + effects
        os.close(descriptor)
        self._do(effects)

    def _grant(self, lease: Lease, request: OpenRequest, descriptor: int) -> list[Effect]:
        """Hear of the lease's end, have systemd keep it, and answer: in this order.

        Whenever the broker is killed, the next one knows of the lease, or nobody got the port. By
        the store, or by the lock file alone if `keeper` lets the lease wait.
        """
        client, live = request.client, _live(lease)
        effects = self._watch(lease, lambda: lease.listen(descriptor, live))
        if self._held(lease.key):
            row = self.table.ports[lease.key]
            lease.lent_by = [(ask.uid, ask.session.number) for ask in row.queue
                             if ask.claim and ask.session and ask is not request]  # fmt: skip
            self._keeper.take(lease, row.expires)
        lease.finish_lock()
        if lease.replaced:
            reason = f"{self._locks.path}/LCK..{lease.lock_name} {lease.replaced}"
            self._record("lock-replaced", client, lease, NOTICE, reason=reason)
        if client.answer(_grant(lease, joined=False), descriptor):
            self._record("grant", client, lease, INFO, device=lease.target.path, rule=lease.rule)
        if not request.yields:
            _over(request)
        return effects

    def _joined(self, lease: Lease, request: OpenRequest, result: int | Refusal) -> None:
        """The port is open once more for the session that has it."""
        client = request.client
        refusal = None if lease.ask.yields else self.table.too_many_yield(request)
        if not self._held(lease.key):
            refusal = Refusal(errno.EIO, port.ENDED)
        if isinstance(result, int) and refusal is not None:  # guard: join-within-limits
            os.close(result)
            result = refusal
        if isinstance(result, Refusal):
            if not client.gone:
                self._answers.refuse(client, request.name, result)
            return
        if client.answer(_grant(lease, joined=True), result):
            self._record("join", client, lease, INFO, device=lease.target.path, rule=lease.rule)
        os.close(result)
        if request.yields and (lease.ask.absent or not lease.ask.yields):
            request.holder, old, lease.ask = lease.holder, lease.ask, request
            self._do(self.table.renew(lease.key, old, request, time.monotonic()))
        else:
            _over(request)

    def _end(self, lease: Lease, reason: str) -> None:
        self._deaf_to_hangup(lease)
        if lease.exit_fd >= 0:
            self._loop.remove(lease.exit_fd)
        self._looking.pop(lease, None)
        self._keeper.drop(lease)  # guard: nothing-kept-of-an-ended-lease
        lent = lease.ask.claim
        self._workers.submit(
            lambda: port.release(lease, self._devices, self._others, reason == CLOSED, lent),
            lambda watcher: self._closed(lease, reason, watcher),
        )

    def _closed(self, lease: Lease, reason: str, watcher: select.epoll | None) -> None:
        """The device is in order again: the port goes to the next in the queue."""
        del self._all[lease.key]
        if lease.watch is not None:
            self._watched.pop(lease.watch, None)
        if watcher is not None:
            self._copies.add(lease.key, lease.uid, lease.holder, watcher)
        if lease.session is not None:
            lease.session.leases -= 1
            if not lease.ask.claim:
                self._sessions.tidy(lease.session)
            if lease.left is not None and lease.session.connections:
                self._left[lease.key] = lease.session, lease.left
        self._store.forget(lease.kept)  # guard: forget-the-kept-lease
        self._record("release", None, lease, INFO, device=lease.target.path, rule=lease.rule,
                     reason=reason)  # fmt: skip
        self._say_what_is_not_put_back(lease)
        if lease.lock_left is not None:
            self._record("lock-failed", None, lease, ERROR, reason=lease.lock_left.reason)
        for client in lease.revokers:
            client.finish(wire.Done(lease.withdrawn))
        if lease.ask.claim:
            lease.ask.left = lease.left
        elif isinstance(lease.ask, OpenRequest):
            _over(lease.ask)
        self._do(self.table.closed(lease.key, time.monotonic()))

    def _say_what_is_not_put_back(self, lease: Lease) -> None:
        for what in lease.not_put_back:
            self._record("settings-failed", None, lease, ERROR, device=lease.target.path,
                         reason=f"{what}; tried again at the next grant")  # fmt: skip
        lease.not_put_back = []

    # what the kernel says

    def _adopt(self, kept: Kept) -> None:
        lease = Lease.adopted(kept, self._locks, self._inotify, time.monotonic())
        self._all[lease.key] = lease
        lease.session = self._sessions.adopt(kept.record.session, lease.uid)
        if lease.session is not None:
            lease.session.leases += 1
        lease.ask.session = lease.session
        claims = [self._adopt_claim(*claim) for claim in kept.record.claims]
        self.table.adopt(lease.key, lease.ask, kept.record.expires, claims)
        self._record("adopt", None, lease, INFO, device=lease.target.path, rule=lease.rule)
        if kept.record.locked:
            self._lock(lease, lease.lock_again)
        self._do(self._watch(lease, lease.listen_again))
        self._look_after(lease.key)

    def _adopt_claim(self, uid: int, number: bytes) -> Ask:
        claim = Ask(uid, wire.Holder(uid), now=time.monotonic(), wait=0)
        claim.session = self._sessions.adopt(number, uid)
        return claim

    def _watch(self, lease: Lease, listen: Callable[[], None]) -> list[Effect]:
        """Hear from now on what the kernel says of the lease. A lease whose end would not be
        heard must not be: it is over at once."""
        try:
            listen()
            # guard: watch-for-unplugging
            self._loop.add(lease.guard, NOTHING, lambda: self._on_hangup(lease))
            # guard: watch-for-unplugging, hang-up-under-any-discipline
            self._loop.add(lease.hangup_fd, READ, lambda: self._on_hangup(lease))
            if lease.exit_fd >= 0:
                self._loop.add(lease.exit_fd, READ, lambda: self._on_exit(lease))
        except OSError as error:  # guard: end-an-unwatched-lease
            self._record("watch-failed", None, lease, ERROR, reason=error.strerror)
            return self.table.end(lease.key, "cannot be watched")
        if lease.watch is not None:
            self._watched[lease.watch] = lease
        if lease.exit_fd < 0 and lease.pid:  # it ended while the port was being opened
            self._on_exit(lease)
        return []

    def _on_closes(self) -> None:
        """Somebody closed a leased node: if it was the holder's last copy, the lease is over."""
        woken, overflow = linux.read_watches(self._inotify)
        heard = {handler for watch, handler in self._heard.values() if overflow or watch in woken}
        for handler in heard:
            handler()
        leases = [self._watched[watch] for watch in woken if watch in self._watched]
        now = time.monotonic()
        for lease in list(self._all.values()) if overflow else leases:
            self._look_after(lease.key)
            if self._held(lease.key):
                lease.looks = [now + pause for pause in LOOK_AGAIN]
                self._looking[lease] = None

    def _look_again(self, lease: Lease) -> None:
        lease.looks.pop(0)
        if not lease.looks:
            self._looking.pop(lease, None)
        self._look_after(lease.key)

    def _held(self, key: int) -> bool:
        row = self.table.ports.get(key)
        return row is not None and row.state is State.HELD

    def _look_after(self, key: int) -> None:
        """End the lease of this port if the holder's last copy is closed."""
        if self._held(key) and not (lease := self._all[key]).held():
            hung_up = linux.hung_up(lease.guard)  # its holder may have been faster than the loop
            self._do(self.table.end(key, HUNG_UP if hung_up else CLOSED))

    def _on_hangup(self, lease: Lease) -> None:
        """The port is hung up: unplugged, or somebody else's vhangup."""
        self._deaf_to_hangup(lease)
        self._do(self.table.end(lease.key, HUNG_UP))

    def _deaf_to_hangup(self, lease: Lease) -> None:
        self._loop.remove(lease.guard)
        self._loop.remove(lease.hangup_fd)

    def _on_exit(self, lease: Lease) -> None:
        """The holder's process ended. If a copy of its descriptor lives on, so does the lease,
        and the lock file needs a live pid."""
        if lease.exit_fd >= 0:
            self._loop.remove(lease.exit_fd)
        self._look_after(lease.key)
        if self._held(lease.key):
            self._lock(lease, lambda: lease.sign(os.getpid()))

    def _lock(self, lease: Lease, step: Callable[[], None]) -> None:
        try:
            step()
        except Refusal as refusal:
            self._record("lock-failed", None, lease, ERROR, reason=refusal.reason)

    def _record(
        self,
        event: str,
        client: Connection | None,
        lease: Lease,
        level: int,
        *,
        device: str | None = None,
        rule: str | None = None,
        reason: str | None = None,
    ) -> None:
        self._answers.record(event, client, lease.name, level, device=device, rule=rule,
                             holder=lease.holder, reason=reason)  # fmt: skip


def _grant(lease: Lease, *, joined: bool) -> wire.Grant:
    session = lease.session
    return wire.Grant(wire.NO_SESSION if session is None else session.number, joined)


def _over(request: OpenRequest) -> None:
    """Listen to its client again, if it still is under way."""
    if request.client.request is request:
        request.client.request = None
        request.client.done()


def _live(lease: Lease) -> int:
    """Return the pid that the lock is to name, 0 for nobody's: the process may have ended while
    it waited, and then its pid may be another's, with a lock of his own."""
    # guard: pid-at-the-grant
    return lease.pid if lease.pid and peer.owns(lease.uid, lease.pid) else 0
