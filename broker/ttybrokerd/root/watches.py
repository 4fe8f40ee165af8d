"""Lists that stay open: each is answered again when something has changed.

That is ten times a second at most. Events tell of changes in the table, and of nodes that come and
go. No event tells of the locks of others, so they are looked for every RENEW seconds, while
somebody watches.
"""

from __future__ import annotations

import errno
import time

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, report
from ttybrokerd.root.connection import Connection
from ttybrokerd.root.facts import Facts
from ttybrokerd.root.inotify import Inotify
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.leases import Leases
from ttybrokerd.root.paced import REST, TURN
from ttybrokerd.root.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

PER_UID = 8  # lists of one user that stay open
PACE = 0.1  # seconds between two answers
RENEW = 2.0  # seconds between two looks at all nodes and locks
SETTLE = 0.1  # seconds from a change until the next look, because a change seldom comes alone
LINES = 1.0  # seconds between two looks at the lines of leased ports (`facts`)
_NEVER = float("inf")


class Watch:
    """One list that stays open.

    `rows`: what the last look at all ports found, None before the first. `judged`: the version of
    the policy by which it looked. `looking`: a look is under way. `renew_at`: when another is due.
    `seen`: how many changes of the table the last answer has. `sent`: the ports of that answer.
    `rest`: those of them that are still to go out, None when all are. `due`: when more may be sent.
    `lines_at`: when the lines are to be looked at, None if they are not asked for.
    """

    __slots__ = ("client", "due", "everything", "judged", "lines_at", "looking", "renew_at",
                 "request", "rest", "rows", "seen", "sent")  # fmt: skip

    def __init__(self, client: Connection, request: wire.List) -> None:
        self.client = client
        self.request = request
        self.rows: list[report.Listed] | None = None
        self.everything = False
        self.judged = -1
        self.looking = False
        self.renew_at = 0.0
        self.seen = -1
        self.sent: list[wire.PortInfo] | None = None
        self.rest: list[wire.PortInfo] | None = None
        self.due = 0.0
        self.lines_at: float | None = 0.0 if request.flags & wire.DETAILS else None


class Watches:
    """All lists that stay open.

    `places` says in which directories names come and go with a port. `renew` begins a look at all
    ports. `renewed` is to be called with its rows.
    """

    def __init__(
        self,
        leases: Leases,
        judge: Judge,
        facts: Facts,
        inotify: Inotify,
        places: Callable[[], list[str]],
        renew: Callable[[Connection, wire.List], None],
    ) -> None:
        self._leases = leases
        self._judge = judge
        self._facts = facts
        self._inotify = inotify
        self._places = places
        self._watched: list[str] = []
        self._renew = renew
        self._all: dict[Connection, Watch] = {}
        self._rested = 0.0  # until when others have their turns

    def begin(self, client: Connection, request: wire.List) -> None:
        """Keep this list open. Raises OSError, or Refusal EDQUOT if its user has too many."""
        uid = client.identity.uid
        # guard: watches-per-user
        if sum(watching.identity.uid == uid for watching in self._all) >= PER_UID:
            what = f"{PER_UID} lists of yours are watched already; end some first"
            raise Refusal(errno.EDQUOT, what)
        if not self._all:
            self._hear()
        self._all[client] = Watch(client, request)

    def lost(self, client: Connection) -> None:
        """Forget a client that is gone."""
        if self._all.pop(client, None) is not None and not self._all:
            self._hear_no_more()

    def _hear(self) -> None:
        """Hear of names that come and go. Raises OSError, and then nothing is heard."""
        try:
            for place in self._places():
                self._inotify.names(place, self._on_names)
                self._watched.append(place)
        except OSError:
            self._hear_no_more()
            raise

    def _hear_no_more(self) -> None:
        while self._watched:
            self._inotify.forget_names(self._watched.pop())

    def renewed(
        self, client: Connection, rows: list[report.Listed], everything: bool, judged: int
    ) -> None:
        """Go on with these rows, by the policy of version `judged`.

        `everything`: the client may be told of the lines of all ports.
        """
        watch = self._all.get(client)
        if watch is not None:
            if watch.rest is not None and judged != watch.judged:
                watch.rest = []  # guard: no-rest-by-an-earlier-policy
            watch.rows, watch.everything, watch.judged = rows, everything, judged
            watch.looking, watch.seen = False, -1
            watch.renew_at = min(watch.renew_at, time.monotonic() + RENEW)
            if watch.lines_at is not None:
                watch.lines_at = 0.0

    def tick(self) -> float | None:
        """Do what is due; return the seconds until there may be more, None if never."""
        if not self._all:
            return None
        now = time.monotonic()
        if now < self._rested:  # guard: watches-leave-time
            return self._rested - now
        for watch in list(self._all.values()):
            self._tick(watch, now)
            if time.monotonic() - now >= TURN:  # guard: time-of-the-watches
                break
        end = time.monotonic()
        self._rested = end + REST * (end - now)
        times = [when for watch in self._all.values() for when in self._alarms(watch)]
        return max(self._rested, min(times)) - end if times else None

    def _tick(self, watch: Watch, now: float) -> None:
        stale = watch.judged != self._judge.version
        # guard: one-look-a-watch
        if not watch.looking and (stale or watch.renew_at <= now):
            watch.looking, watch.renew_at = True, _NEVER
            self._renew(watch.client, watch.request)
        if watch.rows is None or stale:  # guard: watched-by-the-policy-in-force
            return
        if watch.lines_at is not None and watch.lines_at <= now:
            watch.lines_at = now + LINES  # guard: paced-lines
            uid = watch.client.identity.uid
            self._facts.fill_in(watch.rows, uid, watch.everything, lambda: self._looked(watch))
        if watch.seen != self._leases.table.changes and watch.due <= now:  # guard: paced-watches
            self._show(watch, now)

    def _alarms(self, watch: Watch) -> list[float]:
        times = [None if watch.looking else watch.renew_at]
        if watch.rows is not None and watch.judged == self._judge.version:
            changed = watch.seen != self._leases.table.changes
            times += [watch.due if changed else None, watch.lines_at]
        return [when for when in times if when is not None]

    def _looked(self, watch: Watch) -> None:
        watch.seen = -1

    def _show(self, watch: Watch, now: float) -> None:
        """Go on with the last answer; if all of it is out, send another if something changed."""
        assert watch.rows is not None
        watch.due = now + PACE
        self._all[watch.client] = self._all.pop(watch.client)  # behind all others
        if watch.rest is None:
            watch.seen = self._leases.table.changes
            ports = self._ports(watch, watch.rows)
            if ports == watch.sent:
                return
            watch.sent = watch.rest = ports
        self._send(watch)

    def _ports(self, watch: Watch, rows: list[report.Listed]) -> list[wire.PortInfo]:
        """Return the ports of these rows, with what the table knows now."""
        keys, uid = self._leases.keys(), watch.client.identity.uid
        now = [row if row.rdev not in keys else row.replace(port=row.port.replace())
               for row in rows]  # fmt: skip
        self._leases.fill_in(now)
        for row in now:
            holder = row.port.holder
            # guard: facts-of-the-holder-in-a-watch
            if row.port.facts and (holder is None or not (watch.everything or holder.uid == uid)):
                row.port = row.port.replace(facts=())
        self._leases.say_kept(now, uid)
        return [row.port for row in now]

    def _send(self, watch: Watch) -> None:
        """Send what is left of an answer, in as many messages as it needs.

        A client that does not read gets the rest later. If it has got nothing of this answer, it
        gets a newer one instead.
        """
        while watch.rest is not None:
            part = report.part(watch.rest, 0, watch.client.version)
            if not watch.client.answer(part, patient=True):
                watch.seen = -1
                if watch.rest is watch.sent:
                    watch.sent = watch.rest = None
                return
            more = part.more and bool(part.ports)
            watch.rest = watch.rest[len(part.ports) :] if more else None

    def _on_names(self) -> None:
        soon = time.monotonic() + SETTLE
        for watch in self._all.values():  # a look under way may have missed the name
            watch.renew_at = min(watch.renew_at, soon)
