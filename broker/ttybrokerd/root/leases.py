"""Who is granted which port: from a request to its lease, and to the lease's end.

The table decides who has which port (`table`). This module does what the table asks for, and tells
it what came of that. Workers open the device (`opening`) and put it in order (`port`). The kernel
tells of the end of a lease (`ends`).

What ends a lease:

* `ends`: its last copy was closed, its device was unplugged, or somebody else hung it up
* `revoke`
* the table's time limit
* `end_inactive`: its user sits at the machine no more
* `_adopt`: nobody would hear of the end of an earlier broker's lease

Each calls `Table.end`, which leads to `_end`. When the device is in order, `_closed` follows.
"""

from __future__ import annotations

import errno
import os
import time

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, port
from ttybrokerd.root.answers import Answers
from ttybrokerd.root.ask import Ask
from ttybrokerd.root.connection import Connection, OpenRequest
from ttybrokerd.root.copies import DeadCopies, DeadCopy
from ttybrokerd.root.device import Devices, Seen
from ttybrokerd.root.effects import Effect, End, Lend, Refuse, Start, Tell, Warn
from ttybrokerd.root.ends import CLOSED, Ends
from ttybrokerd.root.holds import Holds
from ttybrokerd.root.inotify import Inotify
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.keeper import Keeper
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.log import ERROR, INFO, NOTICE
from ttybrokerd.root.loop import Loop
from ttybrokerd.root.opening import Opener
from ttybrokerd.root.order import Order
from ttybrokerd.root.others import Others
from ttybrokerd.root.refusal import Absent, Refusal
from ttybrokerd.root.report import Listed
from ttybrokerd.root.row import State
from ttybrokerd.root.sessions import Session, Sessions
from ttybrokerd.root.settings import Settings
from ttybrokerd.root.store import KeptCopy, Store
from ttybrokerd.root.table import NOWHERE, Table
from ttybrokerd.root.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybrokerd.root.store import Kept


INACTIVE = "its user is no longer active at the machine"
TIME_LIMIT = "its rule has a time limit (max_lease)"


class Leases:
    """All leases, and the table of who has and who waits."""

    def __init__(
        self,
        loop: Loop,
        inotify: Inotify,
        workers: Workers,
        devices: Devices,
        others: Others,
        store: Store,
        judge: Judge,
        answers: Answers,
    ) -> None:
        self.table = Table()
        self._workers = workers
        self._devices = devices
        self._locks = others.files
        self._others = others
        self._store = store
        self._judge = judge
        self._answers = answers
        self._all: dict[int, Lease] = {}  # by device number, like the table
        self._opener = Opener(judge, devices, others)
        self._ends = Ends(loop, inotify, self._over, self._sign)
        self.keeper = Keeper(store)
        self.order = Order(store, self.table)
        self.copies = DeadCopies(self.keeper)
        self.sessions = Sessions()
        self.holds = Holds()
        # by device number: what a session left on the port, until anybody has the port again
        self._left: dict[int, tuple[Session, Settings]] = {}

    # what requests ask for

    def ask(self, request: OpenRequest, seen: Seen) -> None:
        """Open the port for this request, or queue it, or refuse it. Takes `seen` over.

        Raises Refusal EBUSY if the port is kept from this user.
        """
        key = request.key = seen.rdev
        if (lease := self._all.get(key)) is not None:
            self._ends.look_after(lease)
        try:
            self.holds.check(key, request.uid)
        except Refusal:
            seen.close()
            raise
        if lease is not None and lease.session is request.session is not None and self._held(key):
            self._join(lease, request, seen)
            return
        if (claim := self._claim_of(key, request.session)) is not None:
            seen.close()
            request.left = claim.left
            if lease is not None and lease.ask is claim:  # it is ending, and will leave settings
                lease.ask = request
            self._do(self.table.renew(key, claim, request, time.monotonic()))
            return
        effects = self.table.ask(key, request, self.copies.of(request.uid))
        if effects and isinstance(effects[0], Start):
            self._start(key, request, seen)
            return
        seen.close()
        self._do(effects)

    def miss(self, request: OpenRequest) -> None:
        """Have a request wait until its device is there: arrivals.py."""
        self._do(self.table.miss(request, self.copies.of(request.uid)))

    def _join(self, lease: Lease, request: OpenRequest, seen: Seen) -> None:
        lease.joining += 1
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
        self.table.withdraw(request.key, request)  # guard: withdraw-a-lost-client

    def find(self, path: str, name: str) -> Lease | None:
        """Return the lease of the port with the node `path`; None if nobody has it now.

        If there is none, returns that of the port with this name. A device may have several nodes,
        one that is unplugged has none, and the policy may not know the name any more.
        """
        number = self._devices.number(path)
        for lease in self.held():
            if lease.key == number or lease.target.path == path:
                return lease
        named = (one for one in self.held() if name in (one.name, one.lock_name))
        return next(named, None)  # guard: revoke-what-no-rule-names

    def revoke(self, lease: Lease, client: Connection, hold: float = 0) -> None:
        """Take the port back. The client is answered when it is free.

        Keep the port from the holder's user for `hold` seconds from now on; 0: do not.
        """
        if hold:
            self.holds.add(lease.key, lease.uid, hold)
        by_admin = self._judge.is_admin(client.identity)
        for request in self._withdrawn_with(lease, by_admin=by_admin, all_of_them=hold > 0):
            what = "the port was taken back from you meanwhile"
            refusal = Refusal(errno.ECANCELED, what, advice="ask again")
            self._do(self.table.refuse(lease.key, request, refusal))
            lease.withdrawn += 1
        lease.revokers.append(client)
        self._do(self.table.end(lease.key, "revoked"))

    def _withdrawn_with(self, lease: Lease, *, by_admin: bool, all_of_them: bool) -> list[Ask]:
        """Return the requests that a revoke of this lease ends as well.

        They are of the holder's user, and wait for this port or have a claim on it. If not
        `all_of_them`, those that wait for other sessions which have ports are left out: they are of
        other programs. If an admin revokes, all users' claims are among them.
        """
        found: list[Ask] = []
        for ask in self.table.ports[lease.key].queue:
            if ask.uid != lease.uid and not (ask.claim and by_admin):  # guard: claims-of-others
                continue
            if ask.expected:  # no request yet
                continue
            mine = ask.session in (None, lease.session)
            if all_of_them or ask.claim or mine or (ask.session and not ask.session.leases):
                found.append(ask)
        return found

    def keys(self) -> frozenset[int]:
        """Return the numbers of the devices in the table. Their locks are no outsider's."""
        return frozenset(self.table.ports)

    def held(self) -> list[Lease]:
        """Return the leases of the ports that somebody has now."""
        return [lease for key, lease in self._all.items() if self._held(key)]

    def fill_in(self, rows: list[Listed]) -> None:
        """Put into the rows of a list what the table knows now."""
        for key, row in ((row.rdev, row.port) for row in rows):
            known = None if key is None else self.table.ports.get(key)
            if known is not None:
                row.state, row.holder, row.lent = known.state, known.holder(), known.lender()
                row.waiting = sum(not (ask.claim or ask.expected) for ask in known.queue)

    def say_kept(self, rows: list[Listed], uid: int) -> None:
        """Put into the rows of a list until when a port is kept from this user."""
        for row in rows:
            if (left := self.holds.left(row.rdev or NOWHERE, uid)) > 0:
                facts = {**dict(row.port.facts), wire.KEPT: round(time.time() + left)}
                state = "refused" if row.port.state == "free" else row.port.state
                row.port = row.port.replace(state=state, facts=tuple(facts.items()))

    def unlisted(self, rows: list[Listed], uid: int, everything: bool) -> list[Listed]:
        """Return rows for the leases that have none in `rows`: this user's, or all (`everything`).

        Such a port is one that no rule of the policy names any more.
        """
        known = {row.rdev for row in rows}
        names = {row.port.name for row in rows}  # a device that is gone has a row without number
        found = []
        for key, lease in self._all.items():
            listed = key in known or lease.name in names
            # guard: unlisted-for-holder-and-admins
            if not listed and (everything or lease.uid == uid):
                gone = wire.PortInfo(lease.lock_name, lease.target.path, "gone", lease.rule)
                found.append(Listed(key, gone))
        return found

    # what the server asks for

    def judge_again(self) -> None:
        """Refuse each request that waits and that the policy in force does not allow."""
        for key, ask in self.table.waiting():
            if (
                isinstance(ask, OpenRequest)
                and (refusal := self._judge.judge_waiting(ask)) is not None
            ):
                self._do(self.table.refuse(key, ask, refusal))

    def end_inactive(self) -> None:
        """End each lease that is for a user who sits at the machine, and does so no more."""
        for key, lease in list(self._all.items()):
            if lease.ask.active and not self._judge.sits(lease.uid):
                if isinstance(lease.ask, OpenRequest) and lease.ask.listens and self._held(key):
                    lease.ask.client.answer(wire.Ending(0, INACTIVE))
                self._do(self.table.end(key, INACTIVE))  # guard: end-while-active

    def adopt(self, kept: list[Kept | KeptCopy]) -> None:
        """Go on with what an earlier broker kept. Call it before anybody is served.

        A lease whose end was missed, or whose time is over, ends now, as any lease does. A dead
        copy that was closed meanwhile may have set something until then.
        """
        for one in kept:
            if isinstance(one, KeptCopy):
                copy = DeadCopy.adopted(one)
                self.copies.adopt(copy)
                if copy.owed is not None:
                    self._devices.debts.remember(copy.device, copy.owed)
            else:
                self._adopt(one)
        self.copies.forget_closed()  # guard: nothing-stays-of-a-closed-copy
        self.end_inactive()  # guard: adopted-while-active

    def idle(self) -> bool:
        """Return whether no port is leased, opened or put in order."""
        return not self.keys() - {NOWHERE}

    def leasing(self) -> bool:
        """Return whether anybody has a port."""
        return bool(self._all)

    def look_after_all(self) -> None:
        """Look which leases are over, although nobody has told of a close."""
        for lease in list(self._all.values()):
            self._ends.look_after(lease)

    def in_order(self) -> bool:
        """Return whether no port is being opened or put in order: each is free, or held."""
        self.look_after_all()
        settled = (State.HELD, State.OUTSIDE, State.ABSENT)
        return all(row.state in settled for row in self.table.ports.values())

    def tick(self) -> float | None:
        """Do what the clock asks for; return the seconds until it may ask again, if ever."""
        now = time.monotonic()
        look = self._ends.tick(now)
        self._do(self.table.tick(now))
        due = (look, self.table.next_alarm(), self.keeper.tick(now), self.order.tick(now))
        alarms = [when for when in due if when is not None]
        return max(0.0, min(alarms) - time.monotonic()) if alarms else None

    # what the table asks for

    def _do(self, effects: list[Effect]) -> None:
        """Carry out what the table says; tell it the outcome by `_opened` and `_closed`."""
        due = list(effects)
        while due:
            match due.pop(0):
                case Start(key, OpenRequest() as request):
                    due += self._start_waiting(key, request)
                case Refuse(OpenRequest() as request, refusal) if not request.client.gone:
                    self._answers.refuse(request.client, request.name, refusal, request.rule)
                case Refuse(Ask(session=Session() as session)):
                    self.sessions.tidy(session)
                case Lend(_, OpenRequest() as request, asker, grace):
                    self._answers.record("lend", request.holder, request.name, INFO,
                                         reason=f"asked for by {asker.holder}")  # fmt: skip
                    request.client.answer(wire.Lent(round(grace * 1000), asker.holder))
                case Warn(OpenRequest() as request, left):
                    request.client.answer(wire.Ending(round(left * 1000), TIME_LIMIT))
                case Tell(OpenRequest() as request, message):
                    self._answers.record("slow", request.client.who(), request.name, NOTICE,
                                         reason=message)  # fmt: skip
                    request.client.answer(wire.Waiting(message, wire.SLOW))
                case End(key, _, reason):
                    self._end(self._all[key], reason)

    def _start_waiting(self, key: int, request: OpenRequest) -> list[Effect]:
        """Open the port for a request that waited, if it still may have it."""
        request.client.look_up_groups()
        refusal = self._judge.judge_waiting(request)  # guard: judge-who-waited
        if refusal is None and request.claim:  # a claim was not counted while it waited
            # guard: dead-descriptors-of-claims
            refusal = self.table.too_many_leases(request.uid, self.copies.of(request.uid))
        if refusal is not None:
            return self.table.failed(key, refusal, time.monotonic())
        self._start(key, request, None)
        return []

    def _start(self, key: int, request: OpenRequest, seen: Seen | None) -> None:
        ghosts = self.copies.users(key)
        session, left = self._left.pop(key, (None, None))
        # guard: settings-of-its-session
        if session is request.session:
            request.left = left
        self._workers.soon(
            lambda: self._opener.open(key, request, seen, ghosts),
            lambda result: self._opened(key, request, result),
        )

    def _opened(self, key: int, request: OpenRequest, result: tuple[Lease, int] | Refusal) -> None:
        if isinstance(result, Refusal):
            if isinstance(result, Absent):
                request.key = NOWHERE
            self._do(self.table.failed(key, result, time.monotonic()))
            return
        lease, descriptor = result
        if not request.withdrawn:
            refusal = None
            if request.judged != self._judge.version:
                refusal = self._judge.judge_opened(request, lease)
            # Before the grant, so that the next broker knows of the lease or nobody gets the port.
            refusal = refusal or self._hear(lease, descriptor, lease.live_pid())
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
            self._grant(lease, request, descriptor)
        os.close(descriptor)
        self._do(effects)

    def _grant(self, lease: Lease, request: OpenRequest, descriptor: int) -> None:
        """Have systemd keep the lease, whose end is heard by now, and answer: in this order.

        So when the broker is killed at any point, the next one knows of the lease, or nobody got
        the port. It knows by the store, or by the lock file alone while `keeper` lets the lease
        wait.
        """
        client = request.client
        row = self.table.ports[lease.key]
        lease.lent_by = [(ask.uid, ask.session.number) for ask in row.queue
                         if ask.claim and ask.session and ask is not request]  # fmt: skip
        self.keeper.take(lease, row.expires)
        self._locks.confirm(lease.lock_name)
        if lease.replaced:
            reason = f"{self._locks.path}/LCK..{lease.lock_name} {lease.replaced}"
            self._record("lock-replaced", lease, NOTICE, reason=reason)
        if client.answer(_grant(lease, joined=False), descriptor):
            self._record("grant", lease, INFO, device=lease.target.path, rule=lease.rule)
        if not request.yields:
            _answered(request)

    def _joined(self, lease: Lease, request: OpenRequest, result: int | Refusal) -> None:
        """Answer a request for a port that its session has: it was opened once more, or not."""
        lease.joining -= 1
        self._ends.look_after(lease)  # if it is not, what was closed meanwhile was the last copy
        client = request.client
        refusal = None if lease.ask.yields else self.table.too_many_yield(request)
        # A slow open may end when the lease is over and another user has the port.
        # guard: join-of-the-very-lease
        if self._all.get(lease.key) is not lease or not self._held(lease.key):
            refusal = port.ended()
        if isinstance(result, int) and refusal is not None:  # guard: join-within-limits
            os.close(result)
            result = refusal
        if isinstance(result, Refusal):
            if not client.gone:
                self._answers.refuse(client, request.name, result)
            return
        if client.answer(_grant(lease, joined=True), result):
            # A session may open its port again thousands of times a second.
            # guard: fold-joins
            self._record("join", lease, INFO, folded=True, device=lease.target.path,
                         rule=lease.rule)  # fmt: skip
        os.close(result)
        if request.yields and (lease.ask.absent or not lease.ask.yields):
            request.holder, old, lease.ask = lease.holder, lease.ask, request
            self._do(self.table.renew(lease.key, old, request, time.monotonic()))
        else:
            _answered(request)

    def _end(self, lease: Lease, reason: str) -> None:
        self._ends.stop(lease)
        self.keeper.drop(lease)  # guard: nothing-kept-of-an-ended-lease
        lent = lease.ask.claim
        self._workers.submit(
            lambda: port.release(lease, self._devices, self._others, reason == CLOSED, lent),
            lambda copy: self._closed(lease, reason, copy),
        )

    def _closed(self, lease: Lease, reason: str, copy: DeadCopy | None) -> None:
        """Note that the device is in order again. The port goes to the next in the queue."""
        del self._all[lease.key]
        # Before the copy is kept: its watcher is the lease's, and systemd keeps an open file once.
        self._store.forget(lease.kept)  # guard: forget-the-kept-lease
        owed = self._devices.debts.of(lease.key)
        self.copies.owe(lease.key, owed)
        if copy is not None:
            copy.owed = owed
            self.copies.add(copy)
        if lease.session is not None:
            lease.session.leases -= 1
            if not lease.ask.claim:
                self.sessions.tidy(lease.session)
            if lease.left is not None and lease.session.connections:
                self._left[lease.key] = lease.session, lease.left
        self._record("release", lease, INFO, device=lease.target.path, rule=lease.rule,
                     reason=reason)  # fmt: skip
        self._say_what_is_not_put_back(lease)
        for what in lease.not_ended:
            self._record("release-failed", lease, ERROR, device=lease.target.path, reason=what)
        if lease.lock_left is not None:
            self._record("lock-failed", lease, ERROR, reason=lease.lock_left.reason)
        for client in lease.revokers:
            client.finish(wire.Done(lease.withdrawn))
        if lease.ask.claim:
            lease.ask.left = lease.left
        elif isinstance(lease.ask, OpenRequest):
            _answered(lease.ask)
        self._do(self.table.closed(lease.key, time.monotonic()))

    def _say_what_is_not_put_back(self, lease: Lease) -> None:
        for what in lease.not_put_back:
            self._record("settings-failed", lease, ERROR, device=lease.target.path,
                         reason=f"{what}; tried again at the next grant")  # fmt: skip
        lease.not_put_back = []

    # what an earlier broker granted

    def _adopt(self, kept: Kept) -> None:
        lease = Lease.adopted(kept, self._locks, time.monotonic())
        self._all[lease.key] = lease
        lease.session = self.sessions.adopt(kept.record.session, lease.uid)
        if lease.session is not None:
            lease.session.leases += 1
        lease.ask.session = lease.session
        claims = [self._adopt_claim(*claim) for claim in kept.record.claims]
        self.table.adopt(lease.key, lease.ask, kept.record.expires, claims)
        self._record("adopt", lease, INFO, device=lease.target.path, rule=lease.rule)
        if kept.record.locked:
            self._lock(lease, lease.lock_again)
        if self._hear(lease, lease.own_fd) is not None:
            self._over(lease, "cannot be watched")
        self._ends.look_after(lease)

    def _adopt_claim(self, uid: int, number: bytes) -> Ask:
        claim = Ask(uid, wire.Holder(uid), now=time.monotonic(), wait=0)
        claim.session = self.sessions.adopt(number, uid)
        return claim

    # what the kernel says

    def _hear(self, lease: Lease, descriptor: int, pid: int = 0) -> Refusal | None:
        """Hear from now on of the end of the lease.

        Returns None, or why that is not possible. Then there must be no such lease, because nobody
        would notice its end.
        """
        try:
            self._ends.hear(lease, descriptor, pid)
        except OSError as error:  # guard: refuse-an-unwatched-lease
            self._record("watch-failed", lease, ERROR, reason=error.strerror)
            return Refusal.out_of_means(error)
        return None

    def _over(self, lease: Lease, reason: str) -> None:
        self._do(self.table.end(lease.key, reason))

    def _sign(self, lease: Lease) -> None:
        """Have the lock file name this process, because the holder's process ended.

        A copy of its descriptor lives on, and the lock file needs a live pid.
        """
        self._lock(lease, lambda: lease.sign(os.getpid()))

    def _held(self, key: int) -> bool:
        row = self.table.ports.get(key)
        return row is not None and row.state is State.HELD

    def _lock(self, lease: Lease, step: Callable[[], None]) -> None:
        try:
            step()
        except Refusal as refusal:
            self._record("lock-failed", lease, ERROR, reason=refusal.reason)

    def _record(
        self, event: str, lease: Lease, level: int, *, folded: bool = False, **more: str | None
    ) -> None:
        self._answers.record(event, lease.holder, lease.name, level, folded=folded, **more)


def _grant(lease: Lease, *, joined: bool) -> wire.Grant:
    session = lease.session
    return wire.Grant(wire.NO_SESSION if session is None else session.number, joined)


def _answered(request: OpenRequest) -> None:
    """Listen to the client again, if this request is still the one that it waits for."""
    if request.client.request is request:
        request.client.request = None
        request.client.done()
