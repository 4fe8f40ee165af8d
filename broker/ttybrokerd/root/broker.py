"""The broker: what each request means, and what becomes of a lease.

The decisions are elsewhere (`policy`, `device`, `lease`), and so is what touches a device
(`port`); here they are put in order, and everything that happens is logged.
"""

from __future__ import annotations

import errno
import os
import select
import time

from ttybroker import wire
from ttybrokerd.prepare.policy import Decision, Policy
from ttybrokerd.root import confine, linux, peer, port, report
from ttybrokerd.root.clients import Client, Clients
from ttybrokerd.root.device import Devices, Seen, Target
from ttybrokerd.root.lean import TYPE_CHECKING, defaultdict, partial
from ttybrokerd.root.lease import Ask, Effect, End, Refuse, Start, State, Table, Tell
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.log import ERROR, INFO, NOTICE, Log
from ttybrokerd.root.loop import NOTHING, READ, Loop
from ttybrokerd.root.peer import Users
from ttybrokerd.root.port import OpenPort
from ttybrokerd.root.record import Record
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.store import Kept, Store
from ttybrokerd.root.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds after a close at which to look again whether it was the holder's last: the kernel tells
# of a close just before it forgets the description (fs/file_table.c, __fput), and who closes may
# lose its processor in between.
LOOK_AGAIN = (0.002, 0.02, 0.2, 2.0)  # guard: look-again-for-a-close


class Job(Ask):
    """A client's request for a port, and after the grant its lease; `client` is None for one
    that was granted by an earlier broker."""

    __slots__ = ("client", "pid", "rule", "target")

    def __init__(
        self,
        client: Client | None,
        uid: int,
        holder: wire.Holder,
        target: Target,
        rule: str,
        *,
        wait: float = 0,
        max_lease: float | None = None,
    ) -> None:
        super().__init__(uid, holder, now=time.monotonic(), wait=wait, max_lease=max_lease)
        self.client = client
        self.target = target
        self.rule = rule
        self.pid = holder.pid or 0  # the process that the lock file names, if it can be named

    @property
    def name(self) -> str:
        """The port's, as it was asked for."""
        return self.target.name


class Broker:
    """The root side's state: the table, and what each lease holds."""

    def __init__(
        self,
        loop: Loop,
        workers: Workers,
        clients: Clients,
        users: Users,
        policy: Policy,
        devices: Devices,
        locks: LockFiles,
        store: Store,
        log: Log,
    ) -> None:
        self.policy = policy
        self.table = Table()
        self._loop = loop
        self._workers = workers
        self._clients = clients
        self._users = users
        self._devices = devices
        self._locks = locks
        self._store = store
        self._log = log
        self._jobs: dict[Client, tuple[int, Job]] = {}  # requests for a port under way
        self._leases: dict[int, tuple[Job, OpenPort]] = {}  # by device number, like the table
        self._watches: dict[int, int] = {}  # inotify watch to device number
        self._ghosts: list[tuple[int, int, select.epoll]] = []  # device, uid, dead description
        self._revokers: defaultdict[int, list[Client]] = defaultdict(list)
        self._looks: dict[int, list[float]] = {}  # when to look again at ports somebody closed
        self._inotify = linux.inotify()
        loop.add(self._inotify, READ, self._on_closes)
        clients.serve = self.serve
        clients.lost = self.lost

    def fileno(self) -> int:
        """The inotify descriptor."""
        return self._inotify

    def close(self) -> None:
        """Give the inotify descriptor back, where nothing was ever leased."""
        os.close(self._inotify)

    def adopt(self, leases: list[Kept]) -> None:
        """Go on with leases that an earlier broker granted; before anybody is served. One whose
        end was missed, or whose time is over, ends now, as any lease does."""
        for lease in leases:
            self._adopt(lease)

    def _adopt(self, lease: Kept) -> None:
        was = lease.record
        holder = wire.Holder(was.uid, was.user, was.pid or None, was.program, was.since)
        target = Target(was.name, was.path, was.pty, was.console)
        job = Job(None, was.uid, holder, target, was.rule)
        held = OpenPort(target, was.lock_name, self._locks, self._inotify)
        held.guard, held.watcher, held.exit_fd = lease.guard, lease.watcher, lease.exit_fd
        held.settings = was.settings
        self._leases[was.rdev] = job, held
        self.table.adopt(was.rdev, job, was.expires)
        self._record("adopt", None, was.name, INFO, device=was.path, rule=was.rule, holder=holder)
        if was.locked:
            try:
                held.lock_again(was.pid)
            except Refusal as refusal:
                self._record("lock-failed", None, was.name, ERROR, holder=holder,
                             reason=refusal.reason)  # fmt: skip
        self._do(self._listen(was.rdev, job, held, held.listen_again))
        self._look_after(was.rdev)

    def serve(self, client: Client, request: wire.Request) -> None:
        """Do what a client asks; what is refused at once is answered and logged here."""
        name = getattr(request, "name", "")
        try:
            match request:
                case wire.Open():
                    self._open(client, request)
                case wire.List():
                    self._list(client, request.start)
                case wire.Revoke():
                    self._revoke(client, request.name)
                case wire.Check():
                    self._check(client, request)
                case wire.Connect():
                    refusal = self._clients.connect(client)
                    if refusal is not None:
                        raise refusal
                    self._clients.done(client)
                case wire.Status():
                    self._clients.answer(client, confine.account())
                    self._clients.done(client)
        except Refusal as refusal:
            self._refuse(client, name, refusal)
        except OSError as error:  # out of descriptors, say
            self._refuse(client, name, _out_of_means(error))

    def lost(self, client: Client) -> None:
        """A client is gone: what it waited for it does not want any more."""
        if client in self._jobs:
            key, job = self._jobs.pop(client)
            self._do(self.table.withdraw(key, job))  # guard: withdraw-a-lost-client

    def idle(self) -> bool:
        """Whether no port is leased, opened or put in order."""
        return not self.table.ports

    def leasing(self) -> bool:
        """Whether anybody has a port."""
        return bool(self._leases)

    def in_order(self) -> bool:
        """Whether no port is being opened or put in order: each is free, or its holder's."""
        for key in list(self._leases):
            self._look_after(key)
        return all(row.state in (State.HELD, State.OUTSIDE) for row in self.table.ports.values())

    def tick(self) -> float | None:
        """Do what the clock asks for; returns the seconds until it may ask again, if ever."""
        now = time.monotonic()
        for key in [key for key, times in self._looks.items() if times[0] <= now]:
            self._look_again(key)
        alarm = self.table.next_alarm()
        if alarm is not None and alarm <= now:
            self._do(self.table.tick(now))
            alarm = self.table.next_alarm()
        alarms = [times[0] for times in self._looks.values()]
        alarms += [] if alarm is None else [alarm]
        return max(0.0, min(alarms) - time.monotonic()) if alarms else None

    # requests

    def _open(self, client: Client, request: wire.Open) -> None:
        decision = self._allowed(client, request.name)
        target = self._devices.target(request.name, decision)
        rule = decision.rule
        job = Job(
            client,
            client.identity.uid,
            self._holder(client, request.pid),
            target,
            str(rule),
            wait=request.wait / 1000,
            max_lease=None if rule is None else rule.max_lease,
        )
        seen = self._devices.look(target)
        key = seen.rdev
        self._jobs[client] = key, job
        self._look_after(key)
        effects = self.table.ask(key, job, self._count_ghosts(job.uid))
        if effects and isinstance(effects[0], Start):
            self._start(key, job, seen)
            return
        seen.close()
        self._do(effects)

    def _list(self, client: Client, start: int) -> None:
        who = client.identity
        self._count_ghosts(who.uid)
        job = partial(
            report.rows,
            self._devices,
            policy := self.policy,
            self._locks,
            frozenset(self.table.ports),
            partial(policy.decide, who.uid, who.groups),
            policy.is_admin(who.uid, who.groups),
        )
        self._workers.submit(job, partial(self._listed, client, start, self._haunted()))

    def _listed(
        self, client: Client, start: int, haunted: set[int], rows: list[report.Row]
    ) -> None:
        """What the table knows goes in now: a lock seen meanwhile may be that of a request. And
        where a holder was hung up, before or meanwhile, a flock is that one's and means nothing."""
        haunted |= self._haunted()
        for key, row in rows:
            known = None if key is None else self.table.ports.get(key)
            if known is not None:
                row.state, row.waiting = known.state, len(known.queue)
                row.holder = known.holder()
            # guard: flock-after-a-hang-up
            elif key in haunted and row.holder is not None and row.holder.how == "flock":
                row.state, row.holder = "free", None
            self._name_user(row.holder)
        self._clients.answer(client, report.part([row for _, row in rows], start))
        self._clients.done(client)

    def _revoke(self, client: Client, name: str) -> None:
        who = client.identity
        decision = self._decide(client, name)
        key = self._leased(name, decision)
        own = key is not None and self._leases[key][0].uid == who.uid
        # guard: revoke-is-for-holder-and-admins
        if not own and not self.policy.is_admin(who.uid, who.groups):
            what = "only its holder, root and the policy's admins may take a port back"
            raise Refusal(errno.EACCES, what)
        if key is None:
            raise Refusal(errno.ESRCH, "nobody holds it through the broker; see: ttybroker list")
        job, _held = self._leases[key]
        self._record("revoke", client, name, NOTICE, rule=job.rule, holder=job.holder,
                     reason="asked for")  # fmt: skip
        self._revokers[key].append(client)
        self._do(self.table.end(key, "revoked"))

    def _check(self, client: Client, request: wire.Check) -> None:
        who = client.identity
        uid, gids = who.uid, who.groups
        if request.uid is not None and request.uid != uid:  # guard: claimed-groups
            if not self.policy.is_admin(uid, gids):  # guard: check-others-is-for-admins
                what = "only root and the policy's admins may ask about other users"
                raise Refusal(errno.EACCES, what)
            uid, gids = request.uid, frozenset(request.groups)
        self._check_name(request.name)
        decision = self.policy.decide(uid, gids, request.name)
        rule = "" if decision.rule is None else str(decision.rule)
        message = "allowed" if decision.allowed else _denied(decision)
        self._clients.answer(client, wire.Verdict(decision.allowed, decision.known, rule, message))
        self._clients.done(client)

    # what the requests have in common

    def _check_name(self, name: str) -> None:
        if not wire.valid_name(name):  # guard: valid-name
            what = "not a port's name: a letter, then up to 63 letters, digits, - or _"
            raise Refusal(errno.EINVAL, what)

    def _decide(self, client: Client, name: str) -> Decision:
        self._check_name(name)
        return self.policy.decide(client.identity.uid, client.identity.groups, name)

    def _allowed(self, client: Client, name: str) -> Decision:
        """The decision, if it is yes. Raises Refusal EINVAL, EACCES, or ENOENT for a name that
        can mean no port at all."""
        decision = self._decide(client, name)
        if not decision.allowed:  # guard: ask-the-policy
            rule = None if decision.rule is None else str(decision.rule)
            raise Refusal(errno.EACCES, _denied(decision), rule=rule)
        return decision

    def _holder(self, client: Client, pid: int) -> wire.Holder:
        who = client.identity
        user = self._users.name(who.uid)
        if pid in (0, who.pid):
            return wire.Holder(who.uid, user, who.pid or None, client.program)
        found = peer.acts_for(who, pid)
        return wire.Holder(who.uid, user, pid, found.program)

    def _leased(self, name: str, decision: Decision) -> int | None:
        """The device number under which the port of this name is leased now."""
        try:
            path = self._devices.path(name, decision.device)
        except Refusal:
            return None
        for key, (_job, held) in self._leases.items():
            if held.target.path == path and self._held(key):
                return key
        return None

    def _refuse(
        self, client: Client, name: str, refusal: Refusal, rule: str | None = None
    ) -> None:
        self._jobs.pop(client, None)
        self._name_user(refusal.holder)
        known_as = name if wire.valid_name(name) else repr(name[:80])
        rule = refusal.rule or rule
        self._record("refuse", client, name, NOTICE, rule=rule, reason=refusal.reason)
        message = f"{known_as}: {refusal.reason}" if name else refusal.reason
        refused = wire.Refused(refusal.number, message, refusal.holder)
        if self._clients.answer(client, refused):
            self._clients.done(client)

    def _name_user(self, holder: wire.Holder | None) -> None:
        if holder is not None and not holder.user:
            holder.user = self._users.name(holder.uid)

    # leases

    def _do(self, effects: list[Effect]) -> None:
        """Carry out what the table says; the outcome comes back to it by `_opened`, `_closed`."""
        for effect in effects:
            match effect:
                case Start(key, Job() as job):
                    self._start(key, job, None)
                case Refuse(Job(client=Client() as client) as job, refusal):
                    self._refuse(client, job.name, refusal, job.rule)
                case Tell(Job() as job, message) if job.client is not None:
                    self._record("slow", job.client, job.name, NOTICE, reason=message)
                    self._clients.answer(job.client, wire.Waiting(f"{job.name}: {message}"))
                case End(key, Job() as job, reason):
                    self._end(key, job, reason)

    def _start(self, key: int, job: Job, seen: Seen | None) -> None:
        work = partial(self._acquire, key, job, seen, key in self._haunted())
        self._workers.soon(work, partial(self._opened, key, job))

    def _acquire(
        self, key: int, job: Job, seen: Seen | None, ghosts: bool
    ) -> tuple[OpenPort, int] | Refusal:
        """May block. Who waited gets a fresh look: the node may be another by now."""
        try:
            seen = seen or self._devices.look(self._devices.renew(job.target))
        except Refusal as refusal:
            return refusal
        except OSError as error:
            return _out_of_means(error)
        if seen.rdev != key:  # guard: renamed-device
            seen.close()
            return Refusal(errno.ENODEV, "another device has this name now; ask again")
        pid = self._process(job)
        return port.acquire(self._devices, seen, self._locks, self._inotify, pid, ghosts)

    def _process(self, job: Job) -> int:
        """The pid that the lock is to name: who asked may have ended while it waited, and then
        its pid may be another's, with a lock of his own. 0: nobody's."""
        return job.pid if job.pid and peer.owns(job.uid, job.pid) else 0  # guard: pid-at-the-grant

    def _opened(self, key: int, job: Job, result: tuple[OpenPort, int] | Refusal) -> None:
        if isinstance(result, Refusal):
            self._do(self.table.failed(key, result, time.monotonic()))
            return
        held, descriptor = result
        client = job.client
        assert client is not None  # only who has a port already has none
        job.holder.since = time.time()
        self._leases[key] = job, held
        effects = self.table.opened(key, time.monotonic())
        if not effects:
            effects = self._grant(key, job, client, held, descriptor)
        os.close(descriptor)
        self._do(effects)

    def _grant(
        self, key: int, job: Job, client: Client, held: OpenPort, descriptor: int
    ) -> list[Effect]:
        """Answer the client, who has the port from then on. A lease that systemd keeps is kept
        before that: whenever we are killed, it is there, or nobody got the port."""

        def listen() -> list[Effect]:
            process = self._process(job)
            return self._listen(key, job, held, partial(held.listen, descriptor, process))

        kept = self._store.open
        effects = listen() if kept else []
        if kept and self._held(key):
            self._keep(key, job, held)
        self._locks.finish(held.lock_name)
        if self._clients.answer(client, wire.Grant(), descriptor):
            self._record("grant", client, job.name, INFO, device=held.target.path,
                         rule=job.rule, holder=job.holder)  # fmt: skip
        self._jobs.pop(client, None)
        self._clients.done(client)
        return effects if kept else listen()

    def _keep(self, key: int, job: Job, held: OpenPort) -> None:
        """Have systemd keep the lease, in case that we are started again before it ends."""
        assert held.watcher is not None
        holder, target = job.holder, job.target
        lease = Record(
            key,
            target.pty,
            target.console,
            held.lock_pid is not None,
            job.uid,
            job.pid,
            holder.since or 0,
            self.table.ports[key].expires,
            held.settings,
            target.name,
            target.path,
            held.lock_name,
            job.rule,
            holder.user,
            holder.program,
        )
        pieces = (held.guard, held.watcher.fileno(), held.exit_fd)
        self._store.keep(lease, tuple(piece for piece in pieces if piece >= 0))

    def _listen(
        self, key: int, job: Job, held: OpenPort, listen: Callable[[], None]
    ) -> list[Effect]:
        """From now on hear what the kernel says of the lease. A lease that we would not hear
        the end of must not be: it is over at once."""
        try:
            listen()
            # guard: watch-for-unplugging
            self._loop.add(held.guard, NOTHING, partial(self._on_hangup, key))
            if held.exit_fd >= 0:
                self._loop.add(held.exit_fd, READ, partial(self._on_exit, key))
        except OSError as error:  # guard: end-an-unwatched-lease
            self._record("watch-failed", None, job.name, ERROR, holder=job.holder,
                         reason=error.strerror)  # fmt: skip
            return self.table.end(key, "cannot be watched")
        if held.watch is not None:
            self._watches[held.watch] = key
        if held.exit_fd < 0 and job.pid:  # it ended while the port was being opened
            self._on_exit(key)
        return []

    def _on_closes(self) -> None:
        """Somebody closed a leased node: if it was the holder's last copy, the lease is over."""
        woken, overflow = linux.read_watches(self._inotify)
        keys = [self._watches[watch] for watch in woken if watch in self._watches]
        now = time.monotonic()
        for key in list(self._leases) if overflow else keys:
            self._look_after(key)
            if self._held(key):
                self._looks[key] = [now + pause for pause in LOOK_AGAIN]

    def _look_again(self, key: int) -> None:
        times = self._looks.pop(key)
        self._look_after(key)
        if times[1:] and self._held(key):
            self._looks[key] = times[1:]

    def _held(self, key: int) -> bool:
        row = self.table.ports.get(key)
        return row is not None and row.state is State.HELD

    def _look_after(self, key: int) -> None:
        """End the lease of this port if the holder's last copy is closed."""
        if self._held(key) and not self._leases[key][1].held():
            self._do(self.table.end(key, "closed"))

    def _on_hangup(self, key: int) -> None:
        """The guard is hung up: unplugged, or somebody else's vhangup."""
        _job, held = self._leases[key]
        self._loop.remove(held.guard)
        self._do(self.table.end(key, "hung up or unplugged"))

    def _on_exit(self, key: int) -> None:
        """The holder's process ended. If a copy of its descriptor lives on, so does the lease,
        and the lock file needs a live pid."""
        job, held = self._leases[key]
        if held.exit_fd >= 0:
            self._loop.remove(held.exit_fd)
        self._look_after(key)
        if not self._held(key):
            return
        try:
            held.sign(os.getpid())
        except Refusal as refusal:
            self._record("lock-failed", None, job.name, ERROR, holder=job.holder,
                         reason=refusal.reason)  # fmt: skip

    def _end(self, key: int, job: Job, reason: str) -> None:
        _job, held = self._leases[key]
        self._loop.remove(held.guard)
        if held.exit_fd >= 0:
            self._loop.remove(held.exit_fd)
        work = partial(port.release, held, reason == "closed")
        self._workers.submit(work, partial(self._closed, key, job, reason))

    def _closed(self, key: int, job: Job, reason: str, ghost: select.epoll | None) -> None:
        _job, held = self._leases.pop(key)
        if held.watch is not None:
            self._watches.pop(held.watch, None)
        if ghost is not None:
            self._ghosts.append((key, job.uid, ghost))
        self._store.forget(key)  # guard: forget-the-kept-lease
        self._record("release", None, job.name, INFO, device=held.target.path, rule=job.rule,
                     holder=job.holder, reason=reason)  # fmt: skip
        if held.lock_left is not None:
            self._record("lock-failed", None, job.name, ERROR, reason=held.lock_left.reason)
        for client in self._revokers.pop(key, []):
            if self._clients.answer(client, wire.Done()):
                self._clients.done(client)
        self._do(self.table.closed(key, time.monotonic()))

    def _count_ghosts(self, uid: int) -> int:
        """How many revoked descriptions this user still keeps open; forgets those closed."""
        for ghost in list(self._ghosts):
            if not linux.still_open(ghost[2]):
                ghost[2].close()
                self._ghosts.remove(ghost)
        return sum(owner == uid for _, owner, _ in self._ghosts)

    def _haunted(self) -> set[int]:
        """The devices of those."""
        return {device for device, _, _ in self._ghosts}

    def _record(
        self,
        event: str,
        client: Client | None,
        name: str,
        level: int,
        *,
        device: str | None = None,
        rule: str | None = None,
        holder: wire.Holder | None = None,
        reason: str | None = None,
    ) -> None:
        """One record of the log: who (the holder, where it is not the client itself), what, why."""
        asker = wire.Holder()
        if client is not None:
            who = client.identity
            asker = wire.Holder(who.uid, self._users.name(who.uid), who.pid, client.program)
        about = holder or asker
        self._log(event, level, port=name or None, device=device, uid=about.uid, user=about.user,
                  pid=about.pid, program=about.program, rule=rule, reason=reason,
                  by=None if event != "revoke" else str(asker))  # fmt: skip


def _out_of_means(error: OSError) -> Refusal:
    return Refusal(error.errno or errno.EIO, f"the broker cannot: {error.strerror}; try later")


def _denied(decision: Decision) -> str:
    if decision.rule is not None:
        return f"not permitted: rule {decision.rule} of the policy denies it"
    if decision.known:
        return "not permitted: no rule of the policy allows it to you; ask the administrator"
    return "not permitted: no rule of the policy is about it; ask the administrator for one"
