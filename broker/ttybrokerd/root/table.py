"""Who has which port and who waits: the one table that is the truth. Pure data, no I/O, no clock.

A port (its key is the device number) is in one of these states; one nobody asks for is not
in the table at all:

    OPENING   it is being opened for `current`
    HELD      `current` has it
    CLOSING   its lease is over and a worker puts the device in order
    OUTSIDE   a program that is no client of ours has it; the head of the queue tries again

      ask            opened            end            closed
    -------> OPENING ------> HELD ----------> CLOSING ------> next in the queue, or gone
                |             ^
                |             +-- adopt, from a broker that is no more
                | failed (busy) and patient
                +--------> OUTSIDE --tick--> OPENING

Rule 1: everything that changes a state is in this file. Each method returns what has to be
done about it, as effects in order; the server does it and reports back by another method.
"""

from __future__ import annotations

import errno

from ttybroker.wire import Holder, Value
from ttybrokerd.root.counts import Counts
from ttybrokerd.root.refusal import Refusal, busy

OPEN_LIMIT = 40.0  # seconds; a UART's close blocks every open for 30 (closing_wait), then some
RETRY = 0.25  # seconds between looks at a port that an outsider has, while somebody waits
SLOW = 1.0  # seconds after which who waits for a device is told that it is the device
LEASES_PER_UID = 64  # guard: leases-per-user
WAITS_PER_UID = 32
SLOW_DEVICE = (
    "the device does not open yet: another program may be closing it, which takes up to 30 s "
    "with output that cannot go out"
)


class State:
    """See the module."""

    OPENING = "opening"
    HELD = "busy"
    CLOSING = "closing"
    OUTSIDE = "busy elsewhere"


class Ask:
    """One request for a port. `patient` is whether it asked to wait for a busy port; on the
    caller's clock, in seconds, it waits in the queue until `deadline`, and for a port that is
    being opened for it until `opens_by`: the wait is for others, not for the device. At `tell`
    it is told so, once."""

    __slots__ = ("deadline", "holder", "max_lease", "opens_by", "patient", "tell", "uid",
                 "withdrawn")  # fmt: skip

    def __init__(
        self, uid: int, holder: Holder, *, now: float, wait: float, max_lease: float | None = None
    ) -> None:
        self.uid = uid
        self.holder = holder
        self.patient = wait > 0
        self.deadline = now + (wait if wait > 0 else OPEN_LIMIT)
        self.opens_by = now + wait + OPEN_LIMIT
        self.tell: float | None = now + SLOW
        self.max_lease = max_lease
        self.withdrawn = False


class Start(Value):
    """Open the port for this request, then report `opened` or `failed`."""

    key: int
    ask: Ask


class Refuse(Value):
    """Tell the asker no."""

    ask: Ask
    refusal: Refusal


class Tell(Value):
    """Tell the asker why it waits; the answer is still to come."""

    ask: Ask
    message: str


class End(Value):
    """Put the port in order, then report `closed`."""

    key: int
    ask: Ask
    reason: str


Effect = Start | Refuse | Tell | End


class Row:
    """One port of the table."""

    __slots__ = ("current", "expires", "outsider", "queue", "retry", "state")

    def __init__(self, ask: Ask) -> None:
        self.state = State.OPENING
        self.current = ask
        self.queue: list[Ask] = []
        self.expires: float | None = None
        self.retry: float | None = None
        self.outsider: Refusal | None = None

    def holder(self) -> Holder | None:
        """Who has the port, or is about to; None while it is being put in order."""
        if self.state is State.OUTSIDE:
            return None if self.outsider is None else self.outsider.holder
        return None if self.state is State.CLOSING else self.current.holder

    def line_up(self) -> None:
        """Let users take turns: each user's first request, then each one's second, and so on.

        Between users with equally many in front, who stood first stays first.
        """
        before: dict[int, int] = {}
        turns: dict[Ask, int] = {}
        for ask in self.queue:
            turns[ask] = before.get(ask.uid, 0)
            before[ask.uid] = turns[ask] + 1
        self.queue.sort(key=turns.__getitem__)  # guard: users-take-turns

    def alarm(self) -> float | None:
        """When the port needs a `tick`, if ever."""
        times = [ask.deadline for ask in self.queue]
        if self.state is State.OPENING and not self.current.withdrawn:
            times.append(self.current.tell or self.current.opens_by)
        if self.expires is not None:
            times.append(self.expires)
        if self.retry is not None:
            times.append(self.retry)
        return min(times, default=None)


class Table:
    """All ports that anybody has or wants."""

    def __init__(self) -> None:
        self.ports: dict[int, Row] = {}
        self._alarms: dict[int, float] = {}
        self._waiting = Counts()
        self._leases = Counts()

    def ask(self, key: int, ask: Ask, ghosts: int = 0) -> list[Effect]:
        """Somebody wants the port. `ghosts` counts the revoked descriptions that this user
        still keeps open: they cost a descriptor here as a lease does."""
        refusal = self._over_limit(ask, ghosts) or self._unavailable(key, ask)
        if refusal is not None:
            return [Refuse(ask, refusal)]
        self._waiting.up(ask.uid)
        port = self.ports.get(key)
        if port is not None:
            port.queue.append(ask)  # guard: first-come-first-served
            port.line_up()
            self._settle(key)
            return []
        self.ports[key] = Row(ask)
        self._settle(key)
        return [Start(key, ask)]

    def opened(self, key: int, now: float) -> list[Effect]:
        """The port is open for `current`, who has it from now on."""
        port = self._port(key, State.OPENING)
        port.state = State.HELD
        self._answered(port.current)
        self._leases.up(port.current.uid)
        if port.current.max_lease is not None:  # guard: time-limit
            port.expires = now + port.current.max_lease
        self._settle(key)
        return self.end(key, "client gone") if port.current.withdrawn else []

    def adopt(self, key: int, ask: Ask, expires: float | None) -> None:
        """`ask` has the port already, from a broker that is no more: before anybody asks here.
        It may be one more than would be granted now."""
        assert key not in self.ports
        port = self.ports[key] = Row(ask)
        port.state = State.HELD
        port.expires = expires
        self._leases.up(ask.uid)
        self._settle(key)

    def failed(self, key: int, refusal: Refusal, now: float) -> list[Effect]:
        """The port could not be opened for `current`."""
        port = self._port(key, State.OPENING)
        ask = port.current
        if refusal.number == errno.EBUSY and ask.patient and not ask.withdrawn:
            port.state = State.OUTSIDE
            port.outsider = refusal
            port.retry = now + RETRY
            port.queue.insert(0, ask)
            port.line_up()
            self._settle(key)
            return []
        self._answered(ask)
        told: list[Effect] = [] if ask.withdrawn else [Refuse(ask, refusal)]
        return told + self._next(key, now)

    def end(self, key: int, reason: str) -> list[Effect]:
        """The lease is over, whatever the reason; the first one counts."""
        port = self.ports.get(key)
        if port is None or port.state is not State.HELD:
            return []
        port.state = State.CLOSING
        port.expires = None
        self._settle(key)
        return [End(key, port.current, reason)]

    def closed(self, key: int, now: float) -> list[Effect]:
        """The device is in order again."""
        port = self._port(key, State.CLOSING)  # guard: keep-the-queue
        self._leases.down(port.current.uid)
        return self._next(key, now)

    def withdraw(self, key: int, ask: Ask) -> list[Effect]:
        """The asker went away while it waited. (What it holds ends by the kernel's word.)"""
        port = self.ports.get(key)
        if port is None:
            return []
        if ask in port.queue:
            self._leave_queue(key, port, ask)
            return []
        if port.current is ask and port.state is State.OPENING:
            ask.withdrawn = True
            self._settle(key)
        return []

    def waiting(self) -> list[tuple[int, Ask]]:
        """Who waits in a queue, and for which port."""
        return [(key, ask) for key, port in self.ports.items() for ask in port.queue]

    def refuse(self, key: int, ask: Ask, refusal: Refusal) -> list[Effect]:
        """One that waits in the queue may not any more."""
        self._leave_queue(key, self.ports[key], ask)
        return [Refuse(ask, refusal)]

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: end what is over, refuse who waited long enough, try again."""
        effects: list[Effect] = []
        for key in [key for key, alarm in self._alarms.items() if alarm <= now]:
            effects += self._tick_port(key, self.ports[key], now)
        return effects

    def next_alarm(self) -> float | None:
        """When to `tick`, if ever."""
        return min(self._alarms.values(), default=None)

    def _tick_port(self, key: int, port: Row, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if port.expires is not None and port.expires <= now:
            effects += self.end(key, "time limit")
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

    def _timeout(self, port: Row, ask: Ask) -> Refusal:
        if port.state is State.CLOSING and port.queue[0] is ask:
            what = "waited in vain: it is still being put in order after its last lease"
            return Refusal(errno.ETIMEDOUT, what)
        now_busy = self._busy(port)
        cause = now_busy.cause.removeprefix("busy").removeprefix(": ")
        what = f"waited in vain: {cause}" if cause else "waited in vain"
        return Refusal(errno.ETIMEDOUT, what, now_busy.holder, advice=now_busy.advice)

    def _unavailable(self, key: int, ask: Ask) -> Refusal | None:
        """Why this request cannot even wait, if so. A port that is only being put in order
        after its last lease is worth waiting for by anybody: it is free for who asks now."""
        port = self.ports.get(key)
        if port is None or ask.patient or (port.state is State.CLOSING and not port.queue):
            return None
        return self._busy(port)

    def _busy(self, port: Row) -> Refusal:
        if port.state is State.OUTSIDE and port.outsider is not None:
            return port.outsider
        if port.state is State.CLOSING and port.queue:
            return busy(port.queue[0].holder)
        return busy(port.current.holder)

    def _over_limit(self, ask: Ask, ghosts: int) -> Refusal | None:
        if self._waiting.of(ask.uid) >= WAITS_PER_UID:  # guard: waits-per-user
            what = f"{WAITS_PER_UID} requests of yours are waiting already; withdraw some first"
            return Refusal(errno.EDQUOT, what)
        # guard: count-dead-descriptors
        if self._leases.of(ask.uid) + self._waiting.of(ask.uid) + ghosts >= LEASES_PER_UID:
            what = f"you have or want {LEASES_PER_UID} ports already; close some first"
            return Refusal(errno.EDQUOT, what)
        return None

    def _next(self, key: int, now: float) -> list[Effect]:
        """The port is nobody's: open it for the head of the queue, or forget it."""
        port = self.ports[key]
        port.retry = port.outsider = None
        if not port.queue:
            self._forget(key)
            return []
        port.state = State.OPENING
        port.current = port.queue.pop(0)
        port.line_up()
        if port.current.tell is not None:  # it is told once
            port.current.tell = now + SLOW  # what it waited for until now was no device
        self._settle(key)
        return [Start(key, port.current)]

    def _leave_queue(self, key: int, port: Row, ask: Ask) -> None:
        port.queue.remove(ask)
        port.line_up()
        self._answered(ask)
        self._settle(key)
        if port.state is State.OUTSIDE and not port.queue:
            self._forget(key)

    def _forget(self, key: int) -> None:
        del self.ports[key]
        self._alarms.pop(key, None)

    def _answered(self, ask: Ask) -> None:
        self._waiting.down(ask.uid)

    def _settle(self, key: int) -> None:
        alarm = self.ports[key].alarm()
        if alarm is None:
            self._alarms.pop(key, None)
        else:
            self._alarms[key] = alarm

    def _port(self, key: int, state: str) -> Row:
        port = self.ports[key]
        assert port.state is state, f"{port.state} where {state} was due"
        return port
