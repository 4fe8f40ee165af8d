"""Serves each kind of request: one function for each kind.

Other modules decide (`judge`, `device`, `table`) and keep the leases (`leases`). This one calls
them in order.
"""

from __future__ import annotations

import errno
import os

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, confine, peer, processes, report
from ttybrokerd.root.answers import Answers
from ttybrokerd.root.connection import Connection, OpenRequest
from ttybrokerd.root.device import Devices, Glance
from ttybrokerd.root.facts import Facts
from ttybrokerd.root.inotify import Inotify
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.leases import Leases
from ttybrokerd.root.lists import Lists
from ttybrokerd.root.log import NOTICE
from ttybrokerd.root.others import Others
from ttybrokerd.root.progress import Progress
from ttybrokerd.root.refusal import Absent, Refusal
from ttybrokerd.root.sessions import PER_CONNECTION, Session
from ttybrokerd.root.watches import Watches
from ttybrokerd.root.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ttybrokerd.root.plan import Decision
    from ttybrokerd.root.ruling import Ruling

    T = TypeVar("T")


class Requests:
    """Serves what clients ask."""

    def __init__(
        self,
        judge: Judge,
        devices: Devices,
        others: Others,
        leases: Leases,
        answers: Answers,
        workers: Workers,
        inotify: Inotify,
    ) -> None:
        self._judge = judge
        self._devices = devices
        self._others = others
        self._leases = leases
        self._answers = answers
        self._workers = workers
        self._lists = Lists(self._begin_list)
        self.facts = Facts(workers, leases)
        self.watches = Watches(leases, judge, self.facts, inotify, devices.places, self._lists.ask)
        self.progress = Progress(leases.table)

    def serve(self, client: Connection, request: wire.Request) -> None:
        """Do what a client asks; answer and log here what is refused at once."""
        name = getattr(request, "name", "")
        client.look_up_groups()
        try:
            plan = self._judge.plan
            plan.look()
            if plan.mistake and not isinstance(request, wire.Status):  # guard: mistake-refuses-all
                what = f"the policy cannot be used: {plan.mistake}"
                raise Refusal(errno.EACCES, what, advice="ask the administrator to correct it")
            match request:
                case wire.Open():
                    self._open(client, request)
                case wire.List() if request.flags & wire.WATCH:
                    self.watches.begin(client, request)
                case wire.List():
                    self._lists.ask(client, request)
                case wire.Revoke():
                    self._revoke(client, request.name, request.hold / 1000)
                case wire.Check():
                    self._check(client, request)
                case wire.Status():
                    client.finish(confine.account())
        except Refusal as refusal:
            self._answers.refuse(client, name, refusal)
        except OSError as error:  # guard: failed-request-is-a-refusal
            self._answers.refuse(client, name, Refusal.out_of_means(error))

    def lost(self, client: Connection) -> None:
        """Withdraw what a client that is gone was waiting for; leave its sessions."""
        if client.request is not None:
            self._leases.withdraw(client.request)
            client.request = None
        self._lists.withdraw(client)
        self.watches.lost(client)  # guard: watch-of-who-left
        for session in client.sessions:
            session.connections -= 1
            self._leases.sessions.tidy(session)

    def _open(self, client: Connection, request: wire.Open) -> None:
        ruling = self._judge.of(client.identity)
        decision = ruling.allowed(request.name)
        asked = OpenRequest(client, _holder(client, request), request.name, request.wait / 1000)
        asked.go_by(decision, self._judge.version)
        asked.mode = _mode(request.flags)
        asked.yields = request.flags & (wire.YIELD_USER | wire.YIELD_ALL)
        asked.listens = asked.yields != 0 and request.flags & wire.PROGRESS != 0
        asked.keep = request.flags & wire.KEEP != 0
        if asked.patient:
            pid = client.identity.pid
            asked.process = pid, processes.began(pid) or 0.0
        if client.version > 1:
            asked.session = self._session(client, request.session)
        try:
            seen = ruling.look(asked.target, asked.rule)
        except Absent:
            if not asked.patient:
                raise
            client.request = asked
            self._leases.miss(asked)
        else:
            client.request = asked
            self._leases.ask(asked, seen)
        if asked.patient and request.flags & wire.PROGRESS:
            self.progress.add(asked)

    def _session(self, client: Connection, number: bytes) -> Session:
        """Return the session that the client names, or its own that has no port, or a new one."""
        uid = client.identity.uid
        if number != wire.NO_SESSION:
            session = self._leases.sessions.find(number, uid)
            # guard: sessions-per-connection
            if session not in client.sessions and len(client.sessions) >= PER_CONNECTION:
                what = f"this connection has {PER_CONNECTION} sessions already"
                raise Refusal(errno.EDQUOT, what, advice="use another connection")
        else:
            session = self._leases.sessions.unused(client.sessions, uid)
        client.join(session)
        return session

    def _begin_list(self, client: Connection, request: wire.List) -> None:
        client.look_up_groups()  # a watched list may last for days, and the groups change
        who, judged = client.identity, self._judge.version
        leased, copies = self._leases.keys(), self._leases.copies
        copies.forget(who.uid)
        devices, everything = Glance(self._devices), self._judge.is_admin(who)
        ruling = self._judge.of(who, devices)
        look = report.Look(devices, ruling, self._others, copies, leased, everything)
        self._workers.submit(
            lambda: _within_means(look.rows),
            lambda rows: self._listed(client, request, rows, everything, judged),
        )

    def _listed(
        self,
        client: Connection,
        request: wire.List,
        rows: list[report.Listed] | Refusal,
        everything: bool,
        judged: int,
    ) -> None:
        if isinstance(rows, Refusal):
            self.watches.lost(client)
            self._answers.refuse(client, "", rows)
            self._lists.done(client.identity.uid)
            return
        rows = rows + self._leases.unlisted(rows, client.identity.uid, everything)
        wanted = request.names
        asked = [row for row in rows if not wanted or row.port.name in wanted]

        def finish() -> None:
            """Add what the table knows now, and answer.

            A lock that the list has seen may be that of a request which was granted meanwhile. The
            table knows that.
            """
            self._leases.fill_in(asked)
            self._leases.say_kept(asked, client.identity.uid)
            ports = [row.port for row in asked]
            client.finish(report.part(ports, request.start, client.version))

        if request.flags & wire.WATCH:
            self.watches.renewed(client, asked, everything, judged)
        elif request.flags & wire.DETAILS:
            self.facts.fill_in(asked, client.identity.uid, everything, finish)
        else:
            finish()
        self._lists.done(client.identity.uid)

    def _revoke(self, client: Connection, name: str, hold: float) -> None:
        who = client.identity
        decision = self._judge.of(who).decide(name)
        lease = self._leases.find(self._path(name, decision), name)
        own = lease is not None and lease.uid == who.uid
        if not own and not self._judge.is_admin(who):  # guard: revoke-is-for-holder-and-admins
            what = "only its holder, root and the policy's admins may take a port back"
            raise Refusal(errno.EACCES, what, advice="ask one of them; see: ttybroker list")
        if lease is None:
            raise Refusal(errno.ESRCH, "nobody holds it through the broker; see: ttybroker list")
        if hold:
            self._leases.holds.check_new(hold)
        self._answers.record("revoke", lease.holder, name, NOTICE, device=lease.target.path,
                             rule=lease.rule, reason="asked for",
                             by=str(client.who()))  # fmt: skip
        self._leases.revoke(lease, client, hold)

    def _check(self, client: Connection, request: wire.Check) -> None:
        who = client.identity
        uid, gids = who.uid, who.groups
        if request.uid is not None and request.uid != uid:  # guard: claimed-groups
            if not self._judge.is_admin(who):  # guard: check-others-is-for-admins
                what = "only root and the policy's admins may ask about other users"
                raise Refusal(errno.EACCES, what, advice="ask one of them")
            uid, gids = request.uid, frozenset(request.groups)
        asked = peer.Identity(uid, who.gid, gids, pid=0)
        ruling = self._judge.of(asked)
        decision = ruling.decide(request.name)
        why_not = ruling.why_not(decision)
        verdict = wire.Verdict(not why_not, decision.known, decision.by, why_not or "allowed")
        if not why_not and (other := self._denied_elsewhere(ruling, request.name, decision)):
            verdict = wire.Verdict(False, True, other.rule or "", other.cause)
        client.finish(verdict)

    def _denied_elsewhere(self, ruling: Ruling, name: str, decision: Decision) -> Refusal | None:
        """Return why the device is denied under another of its names.

        Returns None if it is not denied, or if no device is there.
        """
        try:
            seen = self._devices.look(self._devices.target(name, decision))
        except Refusal:  # an open will tell
            return None
        try:
            ruling.check_device(seen.target, seen.kernel_name, decision.by)
        except Refusal as refusal:
            return refusal  # guard: check-every-name
        finally:
            seen.close()
        return None

    def _path(self, name: str, decision: Decision) -> str:
        """Return the path of the node that the name means, "" if it leads nowhere."""
        try:
            return self._devices.path(name, decision.device)
        except Refusal:
            return ""


def _mode(flags: int) -> int:
    """Return the access mode and the flags of open(2) that a client asks for."""
    access = flags & (wire.READ | wire.WRITE)
    mode = {wire.READ: os.O_RDONLY, wire.WRITE: os.O_WRONLY}.get(access, os.O_RDWR)
    mode |= os.O_APPEND if flags & wire.APPEND else 0
    return mode | (os.O_SYNC if flags & wire.SYNC else 0)


def _within_means(job: Callable[[], T]) -> T | Refusal:
    """Run `job` and return its result.

    If the broker has no descriptor or memory left for it, returns the Refusal that says so.
    """
    try:
        return job()
    except MemoryError as error:  # guard: no-memory-ends-a-list-alone
        return Refusal.out_of_means(error)
    except OSError as error:  # guard: failed-list-is-a-refusal
        return Refusal.out_of_means(error)


def _holder(client: Connection, request: wire.Open) -> wire.Holder:
    """Return whom the port is for: the client, or the process `pid` that the request names.

    That process must be of the client's user: raises Refusal EACCES for another's. A client in
    another pid namespace names a `pid` of that namespace, which means nothing here. Then the port
    is for the client.
    """
    who = client.identity
    if request.pid in (0, who.pid) or _elsewhere(who.pid, request.self_pid):
        holder = wire.Holder(who.uid, "", who.pid or None, client.program)
    else:
        holder = peer.acts_for(who, request.pid)
    holder.label = request.label.replace("\0", " ")  # guard: label-fits-a-record
    return holder


def _elsewhere(pid: int, self_pid: int) -> bool:
    """Return whether the client lives in another pid namespace than the broker.

    There it has another pid (`self_pid`) than here (`pid`). A client of version 1 cannot say its
    own (0): then the kernel is asked.
    """
    if self_pid:
        return self_pid != pid
    return not processes.lives_here(pid)  # guard: pid-of-another-namespace
