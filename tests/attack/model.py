"""The oracle: what a broker has to answer, as plain data, written from the protocol's and the
policy's words and not from the broker's code. It knows no socket, no device and no clock.

The fuzzer (conversation.py) tells it what happened outside, in the order in which it happened:
`connect`, `send`, `leave`, `close_copy`, `unplug`, `clock`. What the broker would give to a thread
lies in `jobs`, in order, until `run` is told that one of them ran. What each connection must
receive lies in its `answers`.
"""

from __future__ import annotations

import errno
import struct
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

NEVER = float("inf")
NO_PROCESS = 0x7FFFFFFF  # a pid that none ever has
OPEN_LIMIT = 40.0  # seconds that a port may take to open
WARNING = 5.0  # seconds before the end of a time limit at which a session that listens is told
SLOW = 1.0  # seconds after which who waits for it is told that it is the device
GRACE = 1.0  # seconds that who yields has to let go
HANG_UPS = 8  # in a row, until who yields has no claim any more
USER, ALL, KEEP, PROGRESS = 0x10, 0x20, 0x40, 0x80  # flags of OPEN
RETRY = 0.25  # seconds between tries at a port that an outsider has
FIRST = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
REST = FIRST | frozenset(b"0123456789_-")


class Who(NamedTuple):
    """A holder as an answer names it: `since` None if it has no lease, or not by us."""

    uid: int | None
    pid: int | None
    how: str = "lease"
    since: float | None = None


class Answer(NamedTuple):
    """One message to a client. `kind`: grant, done, running, refused, cut, ports, verdict, lent,
    waiting, ending."""

    kind: str
    number: int = 0
    holder: Who | None = None
    facts: object = None


class Rule(NamedTuple):
    """What the policy says of a port: whom it denies, then whom it allows (None: everybody)."""

    allow: frozenset[int] | None
    deny: frozenset[int] = frozenset()
    max_lease: float | None = None

    def decide(self, uid: int) -> bool:
        """Whether this user may have the port."""
        return uid not in self.deny and (self.allow is None or uid in self.allow)


class Connection:
    """One client. `inbox` is what it sent and the broker has not read."""

    def __init__(self, uid: int, gid: int, pid: int | None, forked: bool) -> None:
        self.uid, self.gid, self.pid = uid, gid, pid
        self.forked = forked
        self.number = -1  # the place among all that were accepted
        self.inbox: deque[tuple[bytes, tuple[int, int, int], bool]] = deque()
        self.answers: deque[Answer] = deque()
        self.busy = False
        self.paused = False  # the broker has seen that more lies in the inbox
        self.shut = ""  # it sends no more: "writing", takes no more: "reading", or "all"
        self.reset = False  # it left answers unread
        self.alive = True
        self.asking: tuple[Port, Want] | None = None


class Want:
    """A request for a port."""

    def __init__(self, by: Connection, pid: int, wait: float, now: float, flags: int) -> None:
        self.flags = flags
        self.yields = flags & (USER | ALL) != 0
        self.listens = self.yields and flags & PROGRESS != 0
        self.claim = False  # it lent the port
        self.absent = False  # its client is gone
        self.asked = now
        self.ends = NEVER  # of the chain that began with its lease
        self.hung = 0
        self.since: float | None = None
        self.by = by
        self.uid = by.uid
        self.pid = pid
        self.patient = wait > 0
        self.looked = False  # its port was looked at when it asked, and not again
        self.until = now + (wait if wait > 0 else OPEN_LIMIT)
        self.open_by = now + wait + OPEN_LIMIT
        self.told_at: float | None = now + SLOW
        self.given_up = False

    def who(self) -> Who:
        """As an answer names it."""
        return Who(self.uid, self.pid or None, "lease", self.since)

    def lets_pass(self, other: Want) -> bool:
        """Whether it yields to another."""
        if other.flags & KEEP or other.claim:
            return False
        return bool(self.flags & ALL) or (bool(self.flags & USER) and self.uid == other.uid)


class Lease:
    """Who has a port. `copies` of its descriptor exist; `dead`: it was hung up."""

    def __init__(self, port: Port, want: Want, since: float) -> None:
        self.port, self.want, self.since = port, want, since
        self.copies = 0
        self.dead = False


class Port:
    """One port. `stage`: free, opening, held, closing, outside."""

    def __init__(self, name: str, rule: Rule) -> None:
        self.name, self.rule = name, rule
        self.plugged = True
        self.stage = "free"
        self.current: Want | None = None
        self.lease: Lease | None = None
        self.queue: list[Want] = []
        self.ends: float | None = None
        self.warned = False
        self.grace: float | None = None
        self.retry: float | None = None
        self.outsider: Who | None = None
        self.revokers: list[Connection] = []
        self.lock: int | None = None  # the pid in its lock file; 0: it is a directory
        self.signed: int | None = None  # what we wrote into it

    def shown(self) -> Who | None:
        """Whom a list names."""
        if self.stage == "outside":
            return self.outsider
        if self.stage == "opening":
            assert self.current is not None
            return self.current.who()
        return None if self.lease is None or self.stage == "closing" else self.named()

    def named(self) -> Who:
        """The holder."""
        assert self.lease is not None
        return self.lease.want.who()

    def lender(self) -> Who | None:
        """Who lent it to the one who has it."""
        has = None if self.lease is None else self.lease.want
        claims = [want.who() for want in self.queue if want.claim and want is not has]
        return claims[0] if claims and self.stage != "outside" else None

    def place(self, want: Want) -> int:
        """Where a request stands: before the first claim that lets it pass."""
        passes = [one.claim and one.lets_pass(want) for one in self.queue]
        return passes.index(True) if True in passes else len(passes)

    def claims_last(self) -> None:
        """The time of all that was lent is over: claims stand behind those who wait, and those as
        they asked."""
        for want in self.queue:
            want.ends = NEVER
        waiting = sorted((one for one in self.queue if not one.claim), key=lambda one: one.asked)
        self.queue = waiting + [one for one in self.queue if one.claim]
        take_turns(self)

    def soon(self, want: Want) -> bool:
        """Whether the port is free, or this request has it next and need not wait for it."""
        if self.stage == "free":
            return True
        if self.stage == "opening" or (self.stage == "held" and self.grace is None):
            has = self.current if self.lease is None else self.lease.want
            return has is not None and has.lets_pass(want)
        return self.stage in ("held", "closing") and self.place(want) == 0

    def busy(self) -> Who | None:
        """Who is in the way of somebody who asks."""
        if self.grace is not None and self.queue:
            return self.queue[0].who()
        if self.stage == "closing":
            return self.queue[0].who() if self.queue else self.named()
        return self.shown()


class Limits(NamedTuple):
    """What one user may have."""

    waits: int
    leases: int
    clients: int
    yielders: int


class Job(NamedTuple):
    """What a thread has to do: open, release, list, name."""

    kind: str
    port: Port | None = None
    want: Want | None = None
    by: Connection | None = None
    facts: object = None


class Model:
    """Everything that the broker should know."""

    def __init__(
        self, rules: dict[str, Rule], admins: set[int], limits: Limits, own_pid: int
    ) -> None:
        self.ports = {name: Port(name, rule) for name, rule in rules.items()}
        self.admins = admins
        self.waits, self.leases, self.clients, self.yielders = limits
        self.own_pid = own_pid
        self.owners: dict[int, int] = {}  # live processes and their users
        self.connections: list[Connection] = []
        self.accepted = 0
        self.jobs: list[Job] = []
        self.lists: list[tuple[Connection, tuple[Any, ...]]] = []  # that wait to be made
        self.list_turns: list[int] = []  # their users, the next first
        self.ready: list[Connection] = []  # whose inbox the broker looks into next, in order
        self.asked: Counter[int] = Counter()  # requests for ports under way, by user
        self.had: Counter[int] = Counter()  # leases, by user
        self.dead: list[Lease] = []  # hung up, and still open somewhere
        self.now = 0.0
        self.absent: list[tuple[Port, Want]] = []  # that wait for a port that is not plugged in
        self.holds: dict[tuple[Port, int], float] = {}  # until when a user is kept from a port
        self.granted = 0

    # what happens outside

    def connect(self, who: Connection) -> None:
        """A connection was accepted."""
        who.number, self.accepted = self.accepted, self.accepted + 1
        self.connections.append(who)

    def send(
        self, who: Connection, data: bytes, sender: tuple[int, int, int], passes: bool
    ) -> None:
        """It sent a message, with these credentials, and with descriptors if `passes`."""
        who.inbox.append((data, sender, passes))
        if who not in self.ready:
            self.ready.append(who)

    def leave(self, who: Connection, how: str) -> None:
        """It closed its end ("all"), or a half of it."""
        if how == "reading":
            who.shut = "all" if who.shut == "writing" else "reading"
        elif how == "writing":
            who.shut = "all" if who.shut == "reading" else "writing"
        else:
            who.shut, who.reset = "all", bool(who.answers)
        told = who.shut == "all" or (who.shut == "writing" and not who.paused)
        if told and who not in self.ready:
            self.ready.append(who)

    def close_copy(self, lease: Lease) -> None:
        """A copy of a holder's descriptor was closed."""
        lease.copies -= 1
        if lease.copies == 0 and not lease.dead:
            self.end(lease.port)

    def unplug(self, port: Port) -> None:
        """The device is gone."""
        port.plugged = False
        if port.stage == "held":
            self.end(port)

    def exit(self, pid: int) -> None:
        """A process ended; its lock is signed again if the lease lives on."""
        del self.owners[pid]
        for port in self.ports.values():
            if port.stage == "held" and port.lease is not None and port.lease.want.pid == pid:
                self.sign(port, pid)

    def arrive(self) -> None:
        """The broker looks for the ports of those who wait for one that is not there."""
        for port, want in [one for one in self.absent if one[0].plugged]:
            self.absent.remove((port, want))
            self.asked[want.uid] -= 1
            want.asked = self.now
            self.enter(port, want)

    def clock(self, now: float, order: list[str]) -> None:
        """It is now that late; of ports with something due those in `order` come first; "" stands
        for those that are not there."""
        self.now = now
        for name in order:
            if name:
                self.tick(self.ports[name])
                continue
            for port, want in [one for one in self.absent if one[1].until <= now]:
                self.refuse(want.by, errno.ETIMEDOUT)
                self.withdraw(port, want)

    def turn(self) -> None:
        """The broker looks once at each connection with news."""
        batch, self.ready = self.ready, []
        self.look_at_all(in_turns(batch))

    def follow(self, numbers: list[int]) -> None:
        """The broker looked at the connections with these numbers: the order is its own."""
        for number in numbers:
            for who in [who for who in self.connections if who.number == number]:
                if who in self.ready:
                    self.ready.remove(who)
                self.look_at_all([who])

    def look_at_all(self, batch: Iterable[Connection]) -> None:
        """Look once at each of these."""
        for who in batch:
            if who.alive:
                self.look_at(who)
                left = who.inbox or who.shut in ("writing", "all")
                if who.alive and not who.paused and left and who not in self.ready:
                    self.ready.append(who)

    def run(self, number: int) -> None:
        """A thread did this job."""
        job = self.jobs.pop(number)
        if job.kind == "open":
            assert job.port is not None and job.want is not None
            self.opened(job.port, job.want)
        elif job.kind == "release":
            assert job.port is not None
            self.released(job.port)
        else:
            assert job.by is not None
            self.listed(job.by, job.facts)

    # connections

    def look_at(self, who: Connection) -> None:
        """News of one connection."""
        if who.reset:
            self.drop(who)
            return
        if who.busy:
            if who.shut == "all" or (who.shut == "writing" and not who.inbox and not who.paused):
                self.drop(who)
            elif who.inbox and not who.paused and who.inbox[0][2]:
                self.cut(who)
            elif who.inbox:
                who.paused = True
            return
        if not who.inbox:
            if who.shut in ("writing", "all"):
                self.drop(who)
            return
        data, sender, passes = who.inbox.popleft()
        if who.forked and who.pid is None:
            who.pid = sender[0]
        if passes or sender != (who.pid, who.uid, who.gid):
            self.cut(who)
            return
        request = parse(data)
        if request is None:
            self.cut(who)
            return
        who.busy = True
        self.serve(who, *request)

    def answer(self, who: Connection, answer: Answer, lease: Lease | None = None) -> bool:
        """Send it, if there is anybody; a descriptor beside it is one more copy."""
        if not who.alive:
            return False
        if who.shut in ("reading", "all"):
            self.drop(who)
            return False
        who.answers.append(answer._replace(facts=lease) if lease is not None else answer)
        if lease is not None:
            lease.copies += 1
        return True

    def done(self, who: Connection) -> None:
        """Its request is answered: what it sent meanwhile is next."""
        who.busy = False
        if who.paused and who.alive:
            who.paused = False
            self.ready.append(who)

    def cut(self, who: Connection) -> None:
        """It broke a rule."""
        if who.shut not in ("reading", "all"):
            who.answers.append(Answer("cut", errno.EPROTO))
        self.drop(who)

    def drop(self, who: Connection) -> None:
        """It is gone, and does not want any more what it waited for."""
        who.alive = False
        self.connections.remove(who)
        self.lists = [one for one in self.lists if one[0] is not who]
        if all(one[0].uid != who.uid for one in self.lists) and who.uid in self.list_turns:
            self.list_turns.remove(who.uid)
        if who.asking is not None:
            port, want = who.asking
            who.asking = None
            self.withdraw(port, want)

    def refuse(self, who: Connection, number: int, holder: Who | None = None) -> None:
        """Say no."""
        who.asking = None
        if self.answer(who, Answer("refused", number, holder)):
            self.done(who)

    # requests

    def serve(self, who: Connection, kind: str, name: bytes, numbers: tuple[Any, ...]) -> None:
        """One request that is whole."""
        if kind == "open":
            self.open(who, name, *numbers)
        elif kind == "list":
            self.lists.append((who, numbers))
            if who.uid not in self.list_turns:
                self.list_turns.append(who.uid)
            self.make_lists()
        elif kind == "watch":
            pass  # it is under way until it leaves; nobody has the broker look here
        elif kind == "revoke":
            self.revoke(who, name, *numbers)
        elif kind == "check":
            self.check(who, name, *numbers)
        elif kind == "status":
            if self.answer(who, Answer("running")):
                self.done(who)
        elif not who.forked:
            self.refuse(who, errno.EPROTO)
        elif sum(other.uid == who.uid for other in self.connections) >= self.clients:
            self.refuse(who, errno.EDQUOT)
        else:
            more = Connection(who.uid, who.gid, None, True)
            if self.answer(who, Answer("grant", facts=more)):
                self.connect(more)
                self.done(who)
            else:
                self.accepted += 1  # and ended at once

    def open(self, who: Connection, name: bytes, wait: int, pid: int, own: int = 0,
             joins: bool = False, flags: int = 0) -> None:  # fmt: skip
        """OPEN; `own` is the pid by which the client knows itself; `joins` a session that nobody
        has."""
        if own not in (0, who.pid):
            pid = 0
        if not named_well(name):
            return self.refuse(who, errno.EINVAL)
        port = self.ports.get(name.decode())
        if port is None or not port.rule.decide(who.uid):
            return self.refuse(who, errno.EACCES)
        if pid not in (0, who.pid) and self.owners.get(pid) != who.uid:
            return self.refuse(who, errno.EACCES)
        if joins:
            return self.refuse(who, errno.ESTALE)
        want = Want(who, pid or who.pid or 0, wait / 1000, self.now, flags)
        if not port.plugged and not want.patient:
            return self.refuse(who, errno.ENOENT)
        return self.enter(port, want)

    def enter(self, port: Port, want: Want) -> None:
        """It stands in the queue, or in that for ports that are not there, if that is within
        limits."""
        who = want.by
        if port.plugged and self.holds.get((port, who.uid), self.now) > self.now:
            return self.refuse(who, errno.EBUSY)
        if self.asked[who.uid] >= self.waits or self.too_many(who.uid):
            return self.refuse(who, errno.EDQUOT)
        if want.yields and self.count_yielders(who.uid) >= self.yielders:
            return self.refuse(who, errno.EDQUOT)
        if port.plugged and not want.patient and not port.soon(want):
            return self.refuse(who, errno.EBUSY, port.busy())
        self.asked[who.uid] += 1
        who.asking = port, want
        if not port.plugged:
            self.absent.append((port, want))
            return None
        port.queue.insert(port.place(want), want)
        take_turns(port)
        if port.stage == "free":
            want.looked = True
            self.next(port)
        elif self.lend(port):
            self.tell(port)
        return None

    def count_yielders(self, uid: int) -> int:
        """How many requests and leases of this user yield."""
        wants = {want for _, want in self.absent}
        for port in self.ports.values():
            wants.update(port.queue)
            if port.current is not None and port.stage not in ("free", "outside"):
                wants.add(port.current)
        return sum(want.yields and want.uid == uid for want in wants)

    def revoke(self, who: Connection, name: bytes, hold: int) -> None:
        """REVOKE."""
        if not named_well(name):
            return self.refuse(who, errno.EINVAL)
        port = self.ports.get(name.decode())
        held = port is not None and port.stage == "held"
        own = held and port is not None and port.lease is not None and (
            port.lease.want.uid == who.uid)  # fmt: skip
        if not own and who.uid not in self.admins:
            return self.refuse(who, errno.EACCES)
        if port is None or not held:
            return self.refuse(who, errno.ESRCH)
        if hold > 86_400_000:
            return self.refuse(who, errno.EDQUOT)
        assert port.lease is not None
        admin = who.uid in self.admins
        if hold:
            self.holds[port, port.lease.want.uid] = self.now + hold / 1000
        for want in [want for want in port.queue
                     if want.uid == port.lease.want.uid or (admin and want.claim)]:  # fmt: skip
            self.refuse(want.by, errno.ECANCELED)  # of a session without a port, or a claim
            self.withdraw(port, want)
        port.revokers.append(who)
        self.end(port)
        return None

    def check(self, who: Connection, name: bytes, uid: int) -> None:
        """CHECK; a uid of -1 is the asker."""
        if uid not in (-1, who.uid) and who.uid not in self.admins:
            return self.refuse(who, errno.EACCES)
        if not named_well(name):
            return self.refuse(who, errno.EINVAL)
        port = self.ports.get(name.decode())
        allowed = port is not None and port.rule.decide(who.uid if uid == -1 else uid)
        if self.answer(who, Answer("verdict", facts=(allowed, port is not None))):
            self.done(who)
        return None

    def make_lists(self) -> None:
        """At most two lists at once, one a user; whose turn was longest ago, or never, is next."""
        while True:
            busy = [job.by.uid for job in self.jobs if job.by is not None]
            turns = [uid for uid in self.list_turns if uid not in busy]
            if len(busy) == 2 or not turns:
                return
            self.list_turns.remove(turns[0])
            mine = [one for one in self.lists if one[0].uid == turns[0]]
            self.lists.remove(mine[0])
            if len(mine) > 1:
                self.list_turns.append(turns[0])
            ours = {port.name for port in self.ports.values() if port.stage != "free"}
            self.forget_dead()
            self.jobs.append(Job("list", by=mine[0][0], facts=(*mine[0][1], ours)))

    def listed(self, who: Connection, facts: object) -> None:
        """LIST: what the table knows now, and else what the thread saw of ports not in it then."""
        assert isinstance(facts, tuple)
        start, names, ours = facts
        rows: list[tuple[object, ...]] = []
        for port in self.ports.values():
            if not port.rule.decide(who.uid) and who.uid not in self.admins:
                continue
            kept = self.holds.get((port, who.uid), self.now) > self.now
            free = "refused" if kept else "free"
            if not port.plugged:
                rows.append((port.name, "gone", 0, None))
            elif port.stage != "free":
                waiting = sum(not want.claim for want in port.queue)
                shown = port.shown()
                if port.stage == "opening" and shown is not None:
                    shown = shown._replace(since=None)
                rows.append((port.name, STATES[port.stage], waiting, shown))
            elif port.name in ours:
                rows.append((port.name, free, 0, None))
            else:
                locked, outsider = self.locked_by(port, 0)
                unnamed = Who(None, None, "lock file") if locked else None
                rows.append((port.name, "busy" if locked else free, 0, outsider or unnamed))
        rows = [row for row in rows if not names or row[0] in names]
        if self.answer(who, Answer("ports", facts=tuple(rows[start:]))):
            self.done(who)
        self.make_lists()

    # ports

    def next(self, port: Port) -> None:
        """Nobody has it: open it for the first in the queue."""
        port.retry = port.outsider = None
        if any(want.ends <= self.now for want in port.queue):
            port.claims_last()
        while port.queue and port.queue[0].absent:
            port.queue.pop(0)
        if not port.queue:
            port.stage, port.current = "free", None
            return None
        port.stage, port.current = "opening", port.queue.pop(0)
        take_turns(port)
        if port.current.claim:
            port.current.open_by, port.current.looked = self.now + OPEN_LIMIT, False
            if self.too_many(port.current.uid):
                return self.failed(port, port.current, errno.EDQUOT)
        if port.current.told_at is not None:
            port.current.told_at = self.now + SLOW
        self.jobs.append(Job("open", port, port.current))
        return None

    def too_many(self, uid: int) -> bool:
        """Whether a user has or waits for as many ports as anybody may, dead ones counted."""
        self.forget_dead()
        dead = sum(lease.want.uid == uid for lease in self.dead)
        return self.asked[uid] + self.had[uid] + dead >= self.leases

    def opened(self, port: Port, want: Want) -> None:
        """The thread tried to open it."""
        assert port.stage == "opening" and port.current is want
        if not port.plugged and not want.looked:
            waits = want.patient and not want.given_up and not want.claim
            if not waits or self.now >= want.until:
                return self.failed(port, want, errno.ENOENT)
            self.next(port)
            self.absent.append((port, want))
            return None
        pid = want.pid if self.owners.get(want.pid) == want.uid else 0  # it may have ended
        locked, outsider = self.locked_by(port, pid)
        if locked:
            return self.failed(port, want, errno.EBUSY, outsider)
        if not port.plugged:
            if port.lock is not None and self.stale(port.lock):
                port.lock = NO_PROCESS  # root's still: a copy may be left that was not hung up
            return self.failed(port, want, errno.ENODEV)
        if port.lock is None or self.stale(port.lock):
            port.lock = port.signed = pid or self.own_pid
        else:
            port.signed = pid  # root's file in a user's name: a killed broker's, so it is ours
        self.asked[want.uid] -= not want.claim
        want.claim, want.since = False, self.now
        self.had[want.uid] += 1
        port.stage = "held"
        port.lease = Lease(port, want, self.now)
        chain = [want, *(one for one in port.queue if one.claim and one.lets_pass(want))]
        limit = NEVER if port.rule.max_lease is None else self.now + port.rule.max_lease
        for one in chain:
            one.ends = min(one.ends, limit)
        want.ends = min(one.ends for one in chain)
        port.ends, port.warned = None if want.ends == NEVER else want.ends, False
        if want.given_up:
            return self.end(port)
        asks = self.lend(port)
        if not want.yields:
            want.by.asking = None
        if self.answer(want.by, Answer("grant"), port.lease):
            self.granted += 1
        if not want.yields:
            self.done(want.by)
        if port.lease.want.pid and port.lease.want.pid not in self.owners:
            self.sign(port, port.lease.want.pid)
        if port.lease.copies == 0:
            self.end(port)
        if asks:
            self.tell(port)
        return None

    def lend(self, port: Port) -> bool:
        """Whether who has it is asked to let go, for those whom it lets pass; it stands behind
        them from now on."""
        if port.stage != "held" or port.grace is not None:
            return False
        assert port.lease is not None
        want = port.lease.want
        first = [one for one in port.queue if want.lets_pass(one)]
        if not first:
            return False
        port.queue = [*first, want, *(one for one in port.queue if one not in first)]
        want.claim = want.patient = True
        want.until = NEVER
        take_turns(port)
        port.queue[0].until = max(port.queue[0].until, self.now + OPEN_LIMIT)
        port.grace = self.now + GRACE
        return True

    def tell(self, port: Port) -> None:
        """Say so."""
        assert port.lease is not None
        self.answer(port.lease.want.by, Answer("lent", holder=port.queue[0].who()))

    def failed(self, port: Port, want: Want, number: int, outsider: Who | None = None) -> None:
        """It could not be opened."""
        if number == errno.EBUSY and want.patient and not want.given_up:
            want.looked = False
            port.stage, port.outsider, port.retry = "outside", outsider, self.now + RETRY
            port.queue.insert(0, want)
            take_turns(port)
            return
        self.asked[want.uid] -= not want.claim
        want.claim = False
        if not want.given_up:
            self.refuse(want.by, number, outsider)
        self.next(port)

    def end(self, port: Port) -> None:
        """The lease is over."""
        assert port.stage == "held" and port.lease is not None
        port.lease.dead = True
        port.stage, port.ends, port.grace = "closing", None, None
        port.lease.want.hung = 0
        self.jobs.append(Job("release", port))

    def released(self, port: Port) -> None:
        """The device is in order again."""
        lease = port.lease
        assert port.stage == "closing" and lease is not None
        if lease.copies:
            self.dead.append(lease)
        if port.signed is not None and port.lock == port.signed:
            port.lock = None
        port.lease = port.signed = None
        self.had[lease.want.uid] -= 1
        for who in port.revokers:
            if self.answer(who, Answer("done")):
                self.done(who)
        port.revokers = []
        if not lease.want.claim and lease.want.by.asking == (port, lease.want):
            lease.want.by.asking = None
            self.done(lease.want.by)
        self.next(port)

    def withdraw(self, port: Port, want: Want) -> None:
        """Who wanted it left."""
        want.absent = not want.by.alive
        if (port, want) in self.absent:
            self.absent.remove((port, want))
            self.asked[want.uid] -= 1
        elif want in port.queue:
            port.queue.remove(want)
            take_turns(port)
            for one in port.queue:
                if want.claim and want.lets_pass(one):
                    one.ends = min(one.ends, want.ends)
            self.asked[want.uid] -= not want.claim
            want.claim = False
            if port.stage == "outside" and not port.queue:
                self.next(port)
        elif port.current is want and port.stage == "opening":
            want.given_up = True

    def tick(self, port: Port) -> None:
        """What is due at this moment."""
        if port.ends is not None and port.ends - WARNING <= self.now < port.ends:
            assert port.lease is not None
            if port.lease.want.listens and not port.warned:
                port.warned = True
                self.answer(port.lease.want.by, Answer("ending"))
        if port.ends is not None and port.ends <= self.now:
            port.claims_last()
            self.end(port)
        if port.grace is not None and port.grace <= self.now:
            self.hang_up(port)
        if port.stage == "opening":
            assert port.current is not None
            told_at = port.current.told_at
            if not port.current.given_up and told_at is not None and told_at <= self.now:
                port.current.told_at = None
                self.answer(port.current.by, Answer("waiting"))
            if not port.current.given_up and port.current.open_by <= self.now:
                port.current.given_up = True
                self.refuse(port.current.by, errno.EIO)
        for want in list(port.queue):
            if want.until <= self.now:
                moment = port.stage == "closing" or port.grace is not None
                holder = None if moment and port.queue[0] is want else port.busy()
                self.refuse(want.by, errno.ETIMEDOUT, holder)
                self.withdraw(port, want)
        if port.retry is not None and port.retry <= self.now and port.queue:
            self.next(port)

    def hang_up(self, port: Port) -> None:
        """Who yields did not let go."""
        assert port.lease is not None
        want = port.lease.want
        hung = want.hung + 1
        if hung == HANG_UPS and want.claim:
            self.withdraw(port, want)
            self.refuse(want.by, errno.EDQUOT)
        self.end(port)
        want.hung = hung

    # locks

    def locked_by(self, port: Port, pid: int) -> tuple[bool, Who | None]:
        """Whether somebody but the process `pid` has it by a lock file, and who."""
        if port.lock is None or self.stale(port.lock) or (pid and port.lock == pid):
            return False, None
        if port.lock == 0:
            return True, None
        return True, Who(self.owners[port.lock], port.lock, "lock file")

    def stale(self, pid: int) -> bool:
        """Whether a lock with this pid means nothing."""
        return pid == self.own_pid or (pid != 0 and pid not in self.owners)

    def sign(self, port: Port, pid: int) -> None:
        """The broker vouches for the lock of a process that ended."""
        if port.signed is not None and port.signed != self.own_pid:
            if port.lock == pid:
                port.lock = self.own_pid
            port.signed = self.own_pid

    def forget_dead(self) -> None:
        """Those that are closed by now count no more."""
        self.dead = [lease for lease in self.dead if lease.copies]


STATES = {"opening": "opening", "held": "busy", "closing": "closing", "outside": "busy elsewhere"}


def in_turns(batch: list[Connection]) -> list[Connection]:
    """One connection of each user, then one more of each that has another, and so on."""
    lines: dict[int, list[Connection]] = {}
    for who in batch:
        lines.setdefault(who.uid, []).append(who)
    longest = max(map(len, lines.values()), default=0)
    return [line[at] for at in range(longest) for line in lines.values() if at < len(line)]


def take_turns(port: Port) -> None:
    """The queue goes in rounds: in each, every user has one turn, in the order of standing. Claims
    stay where they are, and nobody passes one by this."""
    queue, port.queue = port.queue, []
    part: list[Want] = []
    for want in [*queue, None]:
        if want is not None and not want.claim:
            part.append(want)
            continue
        port.queue += in_rounds(part)
        part = []
        if want is not None:
            port.queue.append(want)


def in_rounds(left: list[Want]) -> list[Want]:
    """These in rounds."""
    line: list[Want] = []
    while left:
        users: set[int] = set()
        later: list[Want] = []
        for want in left:
            (later if want.uid in users else line).append(want)
            users.add(want.uid)
        left = later
    return line


def named_well(name: bytes) -> bool:
    """[A-Za-z][A-Za-z0-9_-]{0,63}"""
    return 0 < len(name) <= 64 and name[0] in FIRST and REST.issuperset(name)


def parse(data: bytes) -> tuple[str, bytes, tuple[Any, ...]] | None:
    """A request by docs/protocol.md: kind, name, the rest; None: malformed."""
    if len(data) < 4 or len(data) > 2048 or data[0] not in (1, 2) or data[2] or data[3]:
        return None
    kind, body, second = data[1], data[4:], data[0] == 2

    def u32(at: int) -> int:
        return int.from_bytes(body[at : at + 4], "little")

    if kind == 1 and second:
        return parse_open(body)
    if kind == 1 and len(body) >= 8:
        return "open", body[8:], (u32(0), u32(4))
    if kind == 2 and second:
        return parse_list(body)
    if kind == 2 and len(body) == 4:
        return "list", b"", (u32(0), ())
    if kind == 3 and not second:
        return "revoke", body, (0,)
    if kind == 3 and len(body) >= 4:
        return "revoke", body[4:], (u32(0),)
    if kind == 4 and len(body) >= 6:
        count = int.from_bytes(body[4:6], "little")
        if count <= 256 and len(body) >= 6 + 4 * count:
            uid = u32(0)
            return "check", body[6 + 4 * count :], (-1 if uid == 0xFFFFFFFF else uid,)
    if kind in (5, 6) and not body:
        return "connect" if kind == 5 else "status", b"", ()
    return None


def parse_open(body: bytes) -> tuple[str, bytes, tuple[Any, ...]] | None:
    """The body of an OPEN of version 2."""
    if len(body) < 32:
        return None
    wait, pid, own, flags, session, size = struct.unpack_from("<IIIH16sH", body)
    label, name = body[32 : 32 + size], body[32 + size :]
    if len(label) != size or flags > 0xFF or (text := as_text(label)) is None or len(text) > 80:
        return None
    return "open", name, (wait, pid, own, session != bytes(16), flags)


def parse_list(body: bytes) -> tuple[str, bytes, tuple[Any, ...]] | None:
    """The body of a LIST of version 2. Details are asked of nobody here: they are left out."""
    if len(body) < 6:
        return None
    start, flags, count = struct.unpack_from("<IBB", body)
    names, rest = [], body[6:]
    for _ in range(count):
        size = int.from_bytes(rest[:2], "little")
        names.append(as_text(rest[2 : 2 + size]))
        if len(rest) < 2 + size:
            return None
        rest = rest[2 + size :]
    if rest or flags > 3 or count > 30 or None in names:
        return None
    return ("watch", b"", ()) if flags & 2 else ("list", b"", (start, tuple(names)))


def as_text(raw: bytes) -> str | None:
    """The text, None if it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
