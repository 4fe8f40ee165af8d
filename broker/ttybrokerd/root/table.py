"""Who has which port and who waits: the one table that is the truth. Pure data, no I/O, no clock.

A port (its key is the device number) is in one of these states. A port that nobody asks for is not
in the table at all.

    OPENING   it is being opened for `current`
    HELD      `current` has it
    CLOSING   its lease is over and a worker puts the device in order
    OUTSIDE   a program that is no client of ours has it; the head of the queue tries again
              Or, after a restart, it is free, and kept for the head of the queue (see below)
    ABSENT    one row, with the key NOWHERE, has all who wait for a device that is not there

      ask            opened            end            closed
    -------> OPENING ------> HELD ----------> CLOSING ------> next in the queue, or gone
                |             ^
                |             +-- adopt, from a broker that is no more
                | failed (busy) and patient
                +--------> OUTSIDE --tick--> OPENING

For a request that waits in ABSENT, whoever looks for devices calls `found`, and then `ask`.

A session may yield its port to some others. When one of them asks, the session is told (`Lend`) and
has GRACE to let go. From then on it stands in the queue with a claim: right behind those to whom it
yields, before all others. A claim asks nobody to yield. What a session lends has the time limit of
its own lease.

After a restart of the broker the places of those who waited stand in the queues for a moment
(`expect`). Who asks again has his place. Nobody behind it is granted the port meanwhile. A place
counts for nothing else: it asks nobody to yield, and it is no request.

Everything that changes a state is in this file. Each method returns what has to be done about it,
as effects in order. `leases` does that and reports back by another method. Requests, ports with the
order of their queues, and effects are in ask.py, row.py and effects.py.
"""

from __future__ import annotations

import errno

from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.ask import NEVER, OPEN_LIMIT, SLOW, Ask
from ttybrokerd.root.counts import Counts
from ttybrokerd.root.effects import Effect, End, Lend, Refuse, Start, Tell, Warn
from ttybrokerd.root.refusal import Absent, Refusal, busy
from ttybrokerd.root.row import WARNING, Row, State

if TYPE_CHECKING:
    from collections.abc import Sequence

RETRY = 0.25  # seconds between looks at a port that an outsider has, while somebody waits
LEASES_PER_UID = 64  # guard: leases-per-user
WAITS_PER_UID = 32
YIELDERS_PER_UID = 32
GRACE = 1.0  # seconds that a session which yields has to let go of its port
HANG_UPS = 8  # in a row, then who does not let go loses its claim; each may leave a dead copy
NOWHERE = 0  # no device has this number: makedev(3)
LENT = "lent"  # why a lease ended: its session did not let go in time
SLOW_DEVICE = (
    "the device does not open yet: another program may be closing it, which takes up to 30 s "
    "with output that cannot go out"
)


class Table:
    """All ports that anybody has or wants.

    `now` and all other moments are in seconds of time.monotonic().
    """

    def __init__(self) -> None:
        self.ports: dict[int, Row] = {}
        self.changes = 0  # counts the changes that a list shows
        self.misses = 0  # counts the requests that began to wait for an absent device
        self._alarms: dict[int, float] = {}
        self._waiting = Counts()
        self._leases = Counts()

    def ask(self, key: int, ask: Ask, ghosts: int = 0) -> list[Effect]:
        """Deal with a request for the port.

        `ghosts` counts the revoked descriptions that this user still keeps open. Each costs a
        descriptor here, as a lease does.
        """
        refusal = self._over_limit(ask, ghosts) or self._unavailable(key, ask)
        if refusal is not None:
            return [Refuse(ask, refusal)]
        self._waiting.up(ask.uid)
        port = self.ports.get(key)
        if port is not None:
            now = ask.asked
            if not port.take_place(ask):
                port.queue.insert(port.place(ask), ask)  # guard: first-come-first-served
            port.line_up()
            effects = self._lend(key, port, now)
            self._settle(key)
            return effects
        self.ports[key] = Row(ask)
        self._settle(key)
        return [Start(key, ask)]

    def miss(self, ask: Ask, ghosts: int = 0) -> list[Effect]:
        """Have this request wait for a device that is not there. `ghosts` as in `ask`."""
        refusal = self._over_limit(ask, ghosts)
        if refusal is not None:
            return [Refuse(ask, refusal)]
        self._waiting.up(ask.uid)
        self._miss(ask)
        return []

    def found(self, ask: Ask, now: float) -> None:
        """Take a request out of the row of absent devices: its device is there, or will not be had.

        The caller then calls `ask` for it, or refuses it.
        """
        self._leave_queue(NOWHERE, self.ports[NOWHERE], ask)
        ask.asked, ask.tell = now, now + SLOW  # until now no device was slow

    def missing(self) -> list[Ask]:
        """Return who waits for a device that is not there, in the order in which they came."""
        row = self.ports.get(NOWHERE)
        return [] if row is None else [one for one in row.queue if not one.expected]

    def opened(self, key: int, now: float) -> list[Effect]:
        """Note that the port is open for `current`, who has it from now on."""
        port = self._port(key, State.OPENING)
        ask = port.current
        port.state, port.warned = State.HELD, False
        self._answered(ask)
        ask.claim = False
        self._leases.up(ask.uid)
        lenders = [one for one in port.queue if one.claim and one.yields_to(ask)]
        for one in (ask, *lenders):
            limit = NEVER if one.max_lease is None else now + one.max_lease  # guard: time-limit
            one.ends = min(one.ends, limit)  # guard: one-time-limit-a-chain
        ask.ends = min(one.ends for one in (ask, *lenders))
        port.expires = None if ask.ends == NEVER else ask.ends
        effects = self.end(key, "client gone") if ask.withdrawn else self._lend(key, port, now)
        self._settle(key)
        return effects

    def adopt(self, key: int, ask: Ask, expires: float | None, claims: Sequence[Ask] = ()) -> None:
        """Take `ask` for the holder of a port that an earlier broker granted to it.

        Call it before anybody asks here. There may be one lease more than would be granted now.
        `claims` are those who lent the port. `expires` is None if the lease has no time limit.
        """
        assert key not in self.ports
        port = self.ports[key] = Row(ask)
        port.state = State.HELD
        port.expires = expires
        port.queue = list(claims)
        for one in (ask, *claims):
            one.absent = True
            one.ends = NEVER if expires is None else expires
        for one in claims:
            _claim(one)
        self._leases.up(ask.uid)
        self._settle(key)

    def expect(self, key: int, places: Sequence[Ask | None], until: float) -> None:
        """Keep the places of those who waited for the port, in this order, `until` then.

        None stands for a claim. Call it after `adopt`, before anybody asks here.
        """
        mine = [one for one in places if one is not None]
        for one in mine:
            one.expected, one.patient, one.deadline = True, True, until
        port = self.ports.get(key) or Row(mine[0], State.ABSENT)
        claims = iter(port.queue)
        line = [next(claims, None) if one is None else one for one in places]
        port.queue = [one for one in (*line, *claims) if one is not None]
        port.line_up()
        if key not in self.ports and key != NOWHERE:
            port.keep()
        self.ports[key] = port
        self._settle(key)

    def places(self) -> list[tuple[int, Ask]]:
        """Return who waits, with the key of the port, in the order of each queue.

        The first of all queues come first, then the second ones. Claims are among them.
        """
        found: list[tuple[int, int, Ask]] = []
        for key, port in self.ports.items():
            line = [one for one in port.line() if one.patient]
            if not all(one.claim for one in line):
                found += [(at, key, one) for at, one in enumerate(line)]
        found.sort(key=lambda one: one[0])
        return [(key, ask) for _, key, ask in found]

    def renew(self, key: int, old: Ask, ask: Ask, now: float) -> list[Effect]:
        """Put `ask` in the place of `old`, an earlier request of its session.

        It takes over what `old` had or claimed.
        """
        port = self.ports[key]
        ask.ends, ask.hung = old.ends, old.hung
        if port.current is not old or port.state is not State.HELD:
            _claim(ask)
            port.queue = [ask if one is old else one for one in port.queue]
            self._settle(key)
            return []
        port.current, port.warned = ask, False
        port.queue = [one for one in port.queue if one is not old]
        port.line_up()  # the claim is gone that stood between some of them
        until, port.grace = port.grace, None  # it is told anew, if anybody still asks
        effects = self._lend(key, port, now, NEVER if until is None else until)
        self._settle(key)
        return effects

    def failed(self, key: int, refusal: Refusal, now: float) -> list[Effect]:
        """Note that the port could not be opened for `current`, which waits on or is refused."""
        port = self._port(key, State.OPENING)
        ask = port.current
        waits = ask.patient and not ask.withdrawn and not ask.claim
        if isinstance(refusal, Absent) and waits and now < ask.deadline:
            effects = self._next(key, now)
            self._miss(ask)
            return effects
        if refusal.number == errno.EBUSY and ask.patient and not ask.withdrawn:
            port.state = State.OUTSIDE
            port.outsider = refusal
            port.retry = now + RETRY
            port.queue.insert(0, ask)
            port.line_up()
            self._settle(key)
            return []
        self._answered(ask)
        ask.claim = False
        told: list[Effect] = [] if ask.withdrawn else [Refuse(ask, refusal)]
        return told + self._next(key, now)

    def end(self, key: int, reason: str) -> list[Effect]:
        """Note that the lease is over. The first reason counts."""
        port = self.ports.get(key)
        if port is None or port.state is not State.HELD:
            return []
        port.state = State.CLOSING
        port.expires = port.grace = None
        port.current.hung = 0
        self._settle(key)
        return [End(key, port.current, reason)]

    def closed(self, key: int, now: float) -> list[Effect]:
        """Note that the device is in order again. The port goes to the next in the queue."""
        port = self._port(key, State.CLOSING)  # guard: keep-the-queue
        self._leases.down(port.current.uid)
        return self._next(key, now)

    def withdraw(self, key: int, ask: Ask) -> None:
        """Note that the client of this request went away.

        What it waits for or claims ends at once. What it holds ends when the kernel says so.
        """
        port = self.ports.get(key)
        if port is None:
            return
        ask.absent = True
        if ask in port.queue:
            self._leave_queue(key, port, ask)
        elif port.current is ask and port.state is State.OPENING:
            ask.withdrawn = True
            self._settle(key)

    def waiting(self) -> list[tuple[int, Ask]]:
        """Return each request in a queue, with the key of its port."""
        return [(key, ask) for key, port in self.ports.items() for ask in port.queue]

    def refuse(self, key: int, ask: Ask, refusal: Refusal) -> list[Effect]:
        """Refuse a request in the queue, which may not wait any more."""
        self._leave_queue(key, self.ports[key], ask)
        return [Refuse(ask, refusal)]

    def tick(self, now: float) -> list[Effect]:
        """Do what is due: end what is over, refuse who waited long enough, try again."""
        effects: list[Effect] = []
        for key in [key for key, alarm in self._alarms.items() if alarm <= now]:
            effects += self._tick_port(key, self.ports[key], now)
        return effects

    def next_alarm(self) -> float | None:
        """Return when to `tick`; None if never."""
        return min(self._alarms.values(), default=None)

    def _tick_port(self, key: int, port: Row, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if (due := port.warning()) is not None and due <= now < due + WARNING:
            port.warned = True
            effects.append(Warn(port.current, due + WARNING - now))
        if port.expires is not None and port.expires <= now:
            port.to_the_back()
            effects += self.end(key, "time limit")
        if port.grace is not None and port.grace <= now:
            effects += self._hang_up(key, port)
        current = port.current
        opening = port.state is State.OPENING and not current.withdrawn
        if opening and current.tell is not None and current.tell <= now:
            current.tell = None
            effects.append(Tell(current, SLOW_DEVICE))
        if opening and current.opens_by <= now:
            current.withdrawn = True
            what = "the device does not open; is it plugged in?"
            effects.append(Refuse(current, Refusal(errno.EIO, what)))
        for ask in [ask for ask in port.queue if ask.deadline <= now]:
            refusal = self._timeout(port, ask)
            effects.append(Refuse(ask, refusal))
            self._leave_queue(key, port, ask)
        if port.retry is not None and port.retry <= now and port.queue:
            effects += self._next(key, now)
        if key in self.ports:
            self._settle(key)
        return effects

    def _lend(self, key: int, port: Row, now: float, until: float = NEVER) -> list[Effect]:
        """Ask the holder to let go, if it yields to somebody in the queue.

        It has GRACE for that, but not beyond `until`. Those to whom it yields come first in the
        queue, then its claim, then all others.
        """
        current = port.current
        first = [one for one in port.queue if current.yields_to(one)]
        asks = any(not one.expected for one in first)  # guard: a-place-asks-nobody-to-yield
        if not asks or port.state is not State.HELD or port.grace is not None:
            return []
        port.queue = [*first, current, *(one for one in port.queue if one not in first)]
        _claim(current)
        port.line_up()
        # From now on the first waits for no lease, but only until the port is in order.
        asker = next(one for one in port.queue if not one.expected)
        asker.deadline = max(asker.deadline, now + OPEN_LIMIT)
        grace = min(GRACE, max(0.0, until - now))
        port.grace = now + grace
        return [Lend(key, current, asker, grace)]

    def _hang_up(self, key: int, port: Row) -> list[Effect]:
        """End the lease of a session that did not let go in time."""
        ask, hung = port.current, port.current.hung + 1
        effects: list[Effect] = []
        if hung == HANG_UPS and ask.claim:  # guard: bounded-hang-ups
            what = f"it was hung up {HANG_UPS} times in a row, because it did not let go in time"
            effects = self.refuse(key, ask, Refusal(errno.EDQUOT, what, advice="ask again"))
        effects += self.end(key, LENT)
        ask.hung = hung
        return effects

    def _timeout(self, port: Row, ask: Ask) -> Refusal:
        if port.state is State.ABSENT:
            return Refusal(errno.ETIMEDOUT, "timed out: absent", advice="is it plugged in?")
        moment = port.state is State.CLOSING or port.grace is not None
        if moment and port.queue[0] is ask:
            what = "timed out: the port is still being reset after its last lease"
            return Refusal(errno.ETIMEDOUT, what, advice="ask again")
        now_busy = self._busy(port)
        cause = now_busy.cause.removeprefix("busy").removeprefix(": ")
        what = f"timed out: {cause}" if cause else "timed out"
        advice = now_busy.advice.replace("wait for it", "wait longer", 1)
        return Refusal(errno.ETIMEDOUT, what, now_busy.holder, advice=advice)

    def _unavailable(self, key: int, ask: Ask) -> Refusal | None:
        """Return why this request is refused at once; None if it is not.

        Anybody may wait for a port that is only being put in order after its last lease: it is free
        for the next.
        """
        port = self.ports.get(key)
        if port is None or ask.patient or port.comes_free(ask):
            return None
        refusal = self._busy(port)
        holder = refusal.holder
        if ask.keep and holder is port.current.holder and port.current.lends_to(ask.uid):
            return busy(holder, or_else="borrow it (ttybroker term --take)")
        return refusal

    def _busy(self, port: Row) -> Refusal:
        if port.state is State.OUTSIDE and port.outsider is not None:
            return port.outsider
        if port.queue and (port.state is State.CLOSING or port.grace is not None):
            return busy(port.queue[0].holder)
        return busy(port.current.holder)

    def _over_limit(self, ask: Ask, ghosts: int) -> Refusal | None:
        if self._waiting.of(ask.uid) >= WAITS_PER_UID:  # guard: waits-per-user
            what = f"{WAITS_PER_UID} of your requests are waiting already; end some of them first"
            return Refusal(errno.EDQUOT, what)
        return self.too_many_leases(ask.uid, ghosts) or self.too_many_yield(ask)

    def too_many_leases(self, uid: int, ghosts: int) -> Refusal | None:
        """Return why this user gets no further lease; None if one more is allowed.

        `ghosts` as in `ask`.
        """
        # guard: count-dead-descriptors
        if self._leases.of(uid) + self._waiting.of(uid) + ghosts >= LEASES_PER_UID:
            what = f"you have or wait for {LEASES_PER_UID} ports already; close some first"
            return Refusal(errno.EDQUOT, what)
        return None

    def too_many_yield(self, ask: Ask) -> Refusal | None:
        """Return why this session may not yield, None if it may or does not want to.

        A user may have YIELDERS_PER_UID sessions that yield.
        """
        if ask.yields and self._yielders(ask.uid) >= YIELDERS_PER_UID:  # guard: yielders-per-user
            what = f"{YIELDERS_PER_UID} of your sessions yield already; end some first"
            return Refusal(errno.EDQUOT, what)
        return None

    def _yielders(self, uid: int) -> int:
        """Return how many sessions of this user yield, or would, or have a claim."""
        asks: set[Ask] = set()
        for port in self.ports.values():
            asks.update(port.queue)
            if port.state not in (State.OUTSIDE, State.ABSENT):  # there `current` has no port
                asks.add(port.current)
        return sum(one.yields != 0 and one.uid == uid for one in asks)

    def _next(self, key: int, now: float) -> list[Effect]:
        """Open the port for the head of the queue. If nobody waits, forget the port."""
        port = self.ports[key]
        port.retry = port.outsider = None
        if any(one.ends <= now for one in port.queue):  # guard: no-grant-after-its-time
            port.to_the_back()
        effects: list[Effect] = []
        while port.queue and port.queue[0].absent:
            gone = Refusal(errno.ESTALE, "its client is gone")
            effects.append(Refuse(port.queue.pop(0), gone))
        if not port.queue:
            self._forget(key)
            return effects
        if port.queue[0].expected:  # guard: kept-for-who-comes-back
            port.keep()
            self._settle(key)
            return effects
        port.state = State.OPENING
        port.current = port.queue.pop(0)
        port.line_up()
        if port.current.claim:
            port.current.opens_by = now + OPEN_LIMIT
        if port.current.tell is not None:  # it is told once
            port.current.tell = now + SLOW  # until now it did not wait for the device
        self._settle(key)
        return [*effects, Start(key, port.current)]

    def _leave_queue(self, key: int, port: Row, ask: Ask) -> None:
        port.queue.remove(ask)
        if port.state is not State.ABSENT:  # in that row each waits for another device
            port.line_up()
        for one in port.queue if ask.claim else ():
            if ask.yields_to(one):  # guard: a-lender-leaves-its-limit
                one.ends = min(one.ends, ask.ends)
        self._answered(ask)
        ask.claim = False
        self._settle(key)
        if port.state in (State.OUTSIDE, State.ABSENT) and not port.queue:
            self._forget(key)

    def _miss(self, ask: Ask) -> None:
        row = self.ports.setdefault(NOWHERE, Row(ask, State.ABSENT))
        if not row.take_place(ask):
            row.queue.append(ask)
        self.misses += 1
        self._settle(NOWHERE)

    def _forget(self, key: int) -> None:
        self.changes += 1
        del self.ports[key]
        self._alarms.pop(key, None)

    def _answered(self, ask: Ask) -> None:
        """Count a request as one that no longer waits.

        A claim was not counted, because its request was answered once. Nor was a place.
        """
        if not ask.claim and not ask.expected:
            self._waiting.down(ask.uid)

    def _settle(self, key: int) -> None:
        self.changes += 1
        alarm = self.ports[key].alarm()
        if alarm is None:
            self._alarms.pop(key, None)
        else:
            self._alarms[key] = alarm

    def _port(self, key: int, state: str) -> Row:
        port = self.ports[key]
        assert port.state is state, f"{port.state} where {state} was due"
        return port


def _claim(ask: Ask) -> None:
    """Have this request wait for the port that it lent, for as long as that takes."""
    ask.claim = ask.patient = True
    ask.deadline = NEVER
