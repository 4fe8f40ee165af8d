"""One port of the table: who has it, and in which order others have it next."""

from __future__ import annotations

import errno

from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.ask import NEVER, Ask
from ttybrokerd.root.refusal import Refusal

if TYPE_CHECKING:
    from ttybroker.wire import Holder

WARNING = 5.0  # seconds before its time is over at which a session that listens is told


class State:
    """The states of a port. table.py says what each means."""

    OPENING = "opening"
    HELD = "busy"
    CLOSING = "closing"
    OUTSIDE = "busy elsewhere"
    ABSENT = "absent"


class Row:
    """One port of the table."""

    __slots__ = ("current", "expires", "grace", "outsider", "queue", "retry", "state", "warned")

    def __init__(self, ask: Ask, state: str = State.OPENING) -> None:
        self.state = state
        self.current = ask
        self.queue: list[Ask] = []
        self.expires: float | None = None
        self.warned = False  # `current` was told that its time is nearly over
        self.grace: float | None = None  # when `current` must have let go
        self.retry: float | None = None
        self.outsider: Refusal | None = None

    def holder(self) -> Holder | None:
        """Return who has the port, or is about to; None while it is being put in order."""
        if self.state is State.OUTSIDE:
            return None if self.outsider is None else self.outsider.holder
        return None if self.state is State.CLOSING else self.current.holder

    def lender(self) -> Holder | None:
        """Return who lent the port and has it next; None if it is not lent."""
        claims = (one for one in self.queue if one.claim and one is not self.current)
        lent = self.state is not State.OUTSIDE
        return next((one.holder for one in claims if lent), None)

    def place(self, ask: Ask) -> int:
        """Return where a request stands in the queue: before the first claim that yields to it."""
        places = (at for at, one in enumerate(self.queue) if one.claim and one.yields_to(ask))
        return next(places, len(self.queue))

    def line(self) -> list[Ask]:
        """Return who waits or has a claim, in order, with the request that it is opened for."""
        first = self.state is State.OPENING and not self.current.withdrawn
        return [self.current, *self.queue] if first else self.queue

    def take_place(self, ask: Ask) -> bool:
        """Put a request where its process stood before the broker was restarted.

        Returns whether it stood anywhere. It has asked since then, and no other request.
        """
        for at, one in enumerate(self.queue):
            # guard: place-of-its-process
            if one.expected and (one.uid, one.process) == (ask.uid, ask.process) and ask.patient:
                self.queue[at] = ask
                if self.retry is not None:
                    self.retry = ask.asked  # it may be the first
                ask.asked = one.asked
                return True
        return False

    def keep(self) -> None:
        """Have the port free for the first place, as long as its client may come back."""
        what = "busy: kept for who waited for it before the broker was restarted"
        self.outsider = Refusal(errno.EBUSY, what, advice="ask again in 2 s")
        self.state, self.retry = State.OUTSIDE, self.queue[0].deadline

    def comes_free(self, ask: Ask) -> bool:
        """Return whether this request has the port next, in a moment."""
        if self.state in (State.OPENING, State.HELD) and self.grace is None:
            return self.current.yields_to(ask)
        return self.state in (State.HELD, State.CLOSING) and self.place(ask) == 0

    def line_up(self) -> None:
        """Let users take turns: each user's first request, then each one's second, and so on.

        Between users with equally many in front, the first to stand there stays first. A claim
        stays where it is, between those before it and those behind it.
        """
        claims, before = 0, dict[int, int]()
        turns: dict[Ask, tuple[int, int]] = {}
        for ask in self.queue:
            if ask.claim:
                claims, before = claims + 1, {}
            else:
                before[ask.uid] = before.get(ask.uid, 0) + 1
            turns[ask] = claims, before.get(ask.uid, 0)
        self.queue.sort(key=turns.__getitem__)  # guard: users-take-turns

    def to_the_back(self) -> None:
        """Put all claims behind the requests that wait: the time of all that was lent is over.

        Requests stand in the order in which they asked. Then users take turns.
        """
        for one in self.queue:
            one.ends = NEVER
        # guard: nobody-let-in-after-the-time
        self.queue.sort(key=lambda one: (one.claim, 0.0 if one.claim else one.asked))
        self.line_up()

    def warning(self) -> float | None:
        """Return when to tell `current` that its time is nearly over; None if never."""
        if self.expires is None or self.warned or not self.current.listens:
            return None
        return self.expires - WARNING

    def alarm(self) -> float | None:
        """Return when the port needs a `tick`; None if never."""
        times = [ask.deadline for ask in self.queue if not ask.claim]
        if self.state is State.OPENING and not self.current.withdrawn:
            times.append(self.current.tell or self.current.opens_by)
        if self.expires is not None:
            times.append(self.expires)
        times += [when for when in (self.grace, self.retry, self.warning()) if when is not None]
        return min(times, default=None)
