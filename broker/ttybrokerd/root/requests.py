"""What each request means: one function for each kind.

The decisions are elsewhere (`policy`, `device`, `table`), and so is what becomes of a lease
(`leases`). Here they are put in order.
"""

from __future__ import annotations

import errno

from ttybroker import wire
from ttybrokerd.root import confine, peer, report
from ttybrokerd.root.answers import Answers
from ttybrokerd.root.connection import Connection, OpenRequest
from ttybrokerd.root.device import Devices
from ttybrokerd.root.lean import TYPE_CHECKING, partial
from ttybrokerd.root.leases import Leases
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.log import NOTICE
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.workers import Workers

if TYPE_CHECKING:
    from ttybrokerd.prepare.policy import Decision, Policy


class Requests:
    """Serves what clients ask. `policy` is replaced at a reload."""

    def __init__(
        self,
        policy: Policy,
        devices: Devices,
        locks: LockFiles,
        leases: Leases,
        answers: Answers,
        workers: Workers,
    ) -> None:
        self.policy = policy
        self._devices = devices
        self._locks = locks
        self._leases = leases
        self._answers = answers
        self._workers = workers

    def serve(self, client: Connection, request: wire.Request) -> None:
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
                case wire.Status():
                    client.finish(confine.account())
        except Refusal as refusal:
            self._answers.refuse(client, name, refusal)
        except OSError as error:
            self._answers.refuse(client, name, Refusal.out_of_means(error))

    def lost(self, client: Connection) -> None:
        """Withdraw what a client that is gone was waiting for."""
        if client.request is not None:
            self._leases.withdraw(client.request)
            client.request = None

    def _open(self, client: Connection, request: wire.Open) -> None:
        decision = self._allowed(client, request.name)
        target = self._devices.target(request.name, decision)
        rule = decision.rule
        asked = OpenRequest(
            client,
            _holder(client, request.pid),
            target,
            str(rule),
            wait=request.wait / 1000,
            max_lease=None if rule is None else rule.max_lease,
        )
        seen = self._devices.look(asked.target)
        client.request = asked
        self._leases.ask(asked, seen)

    def _list(self, client: Connection, start: int) -> None:
        who = client.identity
        job = partial(
            report.rows,
            self._devices,
            self.policy,
            self._locks,
            self._leases.keys(),
            partial(self.policy.decide, who.uid, who.groups),
            self.policy.is_admin(who.uid, who.groups),
        )
        revoked = self._leases.revoked()
        self._workers.submit(job, partial(self._listed, client, start, revoked))

    def _listed(
        self, client: Connection, start: int, revoked: set[int], rows: list[report.Row]
    ) -> None:
        """Add what the table knows now: a lock seen meanwhile may be that of a request.

        Where a holder was hung up, before or meanwhile, an flock is that one's.
        """
        self._leases.fill_in(rows, revoked)
        client.answer(report.part([row for _, row in rows], start))
        client.done()

    def _revoke(self, client: Connection, name: str) -> None:
        who = client.identity
        decision = self._decide(client, name)
        lease = self._leases.find(self._path(name, decision))
        own = lease is not None and lease.uid == who.uid
        # guard: revoke-is-for-holder-and-admins
        if not own and not self.policy.is_admin(who.uid, who.groups):
            what = "only its holder, root and the policy's admins may take a port back"
            raise Refusal(errno.EACCES, what)
        if lease is None:
            raise Refusal(errno.ESRCH, "nobody holds it through the broker; see: ttybroker list")
        self._answers.record("revoke", client, name, NOTICE, rule=lease.rule,
                             holder=lease.holder, reason="asked for")  # fmt: skip
        self._leases.revoke(lease, client)

    def _check(self, client: Connection, request: wire.Check) -> None:
        who = client.identity
        uid, gids = who.uid, who.groups
        if request.uid is not None and request.uid != uid:  # guard: claimed-groups
            if not self.policy.is_admin(uid, gids):  # guard: check-others-is-for-admins
                what = "only root and the policy's admins may ask about other users"
                raise Refusal(errno.EACCES, what)
            uid, gids = request.uid, frozenset(request.groups)
        _check_name(request.name)
        decision = self.policy.decide(uid, gids, request.name)
        rule = "" if decision.rule is None else str(decision.rule)
        message = "allowed" if decision.allowed else _denied(decision)
        client.finish(wire.Verdict(decision.allowed, decision.known, rule, message))

    def _decide(self, client: Connection, name: str) -> Decision:
        _check_name(name)
        return self.policy.decide(client.identity.uid, client.identity.groups, name)

    def _allowed(self, client: Connection, name: str) -> Decision:
        """Return the decision, if it is yes. Raises Refusal EINVAL or EACCES."""
        decision = self._decide(client, name)
        if not decision.allowed:  # guard: ask-the-policy
            rule = None if decision.rule is None else str(decision.rule)
            raise Refusal(errno.EACCES, _denied(decision), rule=rule)
        return decision

    def _path(self, name: str, decision: Decision) -> str:
        """Return the node that the name means, "" where it leads nowhere."""
        try:
            return self._devices.path(name, decision.device)
        except Refusal:
            return ""


def _check_name(name: str) -> None:
    if not wire.valid_name(name):  # guard: valid-name
        what = "not a port's name: a letter, then up to 63 letters, digits, - or _"
        raise Refusal(errno.EINVAL, what)


def _holder(client: Connection, pid: int) -> wire.Holder:
    """Return whom the port is for: the client, or the process `pid` of the same user. Raises
    Refusal EACCES for another's."""
    who = client.identity
    if pid in (0, who.pid):
        return wire.Holder(who.uid, "", who.pid or None, client.program)
    return peer.acts_for(who, pid)


def _denied(decision: Decision) -> str:
    if decision.rule is not None:
        return f"not permitted: rule {decision.rule} of the policy denies it"
    if decision.known:
        return "not permitted: no rule of the policy allows it to you; ask the administrator"
    return "not permitted: no rule of the policy is about it; ask the administrator for one"
