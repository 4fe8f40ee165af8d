"""The plan in force, and what it says of one caller and one port."""

from __future__ import annotations

import errno

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, words
from ttybrokerd.root.device import NAMING, Devices, Seen, Target
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.plan import SEATS
from ttybrokerd.root.refusal import Absent, Refusal

if TYPE_CHECKING:
    from ttybrokerd.root.connection import OpenRequest
    from ttybrokerd.root.lease import Lease
    from ttybrokerd.root.plan import Decision, Plan


class Judge:
    """Asks the plan.

    `version` counts the plans, and the changes of who sits where. What was judged before such a
    change is judged again before it is granted. `alone`: this process belongs to one caller, who
    may be able to kill it. Then it leases no port that it would have to take back.
    """

    def __init__(self, plan: Plan, devices: Devices, alone: bool = False) -> None:
        self._devices = devices
        self._alone = alone
        self.version = 0
        self._seats: dict[str, int] = {}  # who sits there
        self.replace(plan)

    def replace(self, plan: Plan) -> None:
        """Go by another plan from now on."""
        plan.facts = self._devices.facts
        self.plan = plan
        self.version += 1
        self._denying = plan.denying()  # aliases that deny somebody

    def seat(self, users: dict[str, int]) -> bool:
        """Go by these users of the seats from now on; return whether that is a change."""
        if users == self._seats:
            return False
        self._seats = users
        self.version += 1
        return True

    def sits(self, uid: int) -> bool:
        """Return whether the user sits at the machine."""
        return uid in self._seats.values()

    def groups(self, who: Identity) -> frozenset[int]:
        """Return the caller's groups, and the numbers of the seats where he sits."""
        if not self.plan.seats:
            return who.groups
        # guard: no-group-is-a-seat
        real = {gid for gid in who.groups if gid < SEATS}
        return frozenset(real).union(
            SEATS + number
            for number, seat in enumerate(self.plan.seats)
            if (self._seats.get(seat) == who.uid if seat else self.sits(who.uid))
        )

    def is_admin(self, who: Identity) -> bool:
        """Return whether the caller may list everything and revoke."""
        return self.plan.is_admin(who.uid, who.groups)

    def has_place(self, who: Identity) -> bool:
        """Return whether a rule allows the caller anything, or it is an admin."""
        return self.is_admin(who) or self.plan.allows_something(who.uid, self.groups(who))

    def decide(self, who: Identity, name: str) -> Decision:
        """Return what the policy says of the name. Raises Refusal EINVAL if it is none."""
        check_name(name)
        return self.plan.decide(who.uid, self.groups(who), name)

    def allowed(self, who: Identity, name: str) -> Decision:
        """Return the decision, if it is yes. Raises Refusal EINVAL or EACCES."""
        decision = self.decide(who, name)
        if why := self.why_not(who, decision):
            raise _refusal(decision, why)
        return decision

    def why_not(self, who: Identity, decision: Decision) -> str:
        """Return why the port cannot be had, for people; "" if it can."""
        if not decision.allowed:  # guard: ask-the-policy
            return denied(decision)
        rule = decision.rule
        if rule is not None and rule.active and not self.sits(who.uid):  # guard: while-active
            what = "is for who has the active session at this machine (loginctl)"
            return f"not permitted: rule {rule} {what}"
        limited = rule is not None and (rule.max_lease is not None or rule.active)
        if self._alone and limited:  # guard: no-limit-without-the-daemon
            what = "has a limit (max_lease or while), which only the daemon can keep"
            return (
                f"not permitted to ttyrun alone: rule {rule} {what}; have ttybroker.socket started"
            )
        return ""

    def look(self, who: Identity, target: Target, rule: str) -> Seen:
        """Look at the node that a name means now, which this rule allows, and judge the device.

        Raises Refusal as `Devices.renew`, `Devices.look` and `check_device`, and then nothing stays
        open.
        """
        target = self._devices.renew(target)
        seen = self._devices.look(target)
        try:
            self.check_device(who, target, seen.kernel_name, rule)
        except BaseException:
            seen.close()
            raise
        return seen

    def check_device(self, who: Identity, target: Target, kernel_name: str, rule: str) -> None:
        """Judge the device that was looked at, for which `rule` was found by the name.

        Its kernel name and each alias that leads to it are names of one device. Raises Refusal:
        EACCES if it is denied under another name, or if the rule is `unnamed` and an alias leads to
        it; ENODEV if the name is another device's by now, and another rule is about that; Absent if
        udev may yet make a link by which an alias leads to it.
        """
        groups = self.groups(who)
        # Before the links are followed, for udev may be done in between.
        named = target.pty or not self.plan.aliases or self._devices.named(target.path)
        decisions = [self.plan.decide(who.uid, groups, alias)
                     for alias, device in self._denying.items()
                     if alias != target.name
                     and self._leads_to(alias, device, target, kernel_name, named)]  # fmt: skip
        if target.alias is not None and not target.pty:  # guard: deny-by-the-kernels-name
            decisions.append(self.plan.decide(who.uid, groups, kernel_name, kernels=True))
        elif self.plan.worded and not target.pty:
            decision = self.plan.decide(who.uid, groups, kernel_name, kernels=True)
            if str(decision.rule) != rule:  # guard: rule-of-the-very-node
                what = "another device has its name by now"
                raise Refusal(errno.ENODEV, what, advice="ask again")
            if decision.rule is not None and decision.rule.unnamed:
                for alias, device in self.plan.aliases.items():
                    # guard: alias-is-a-name
                    if self._leads_to(alias, device, target, kernel_name, named):
                        what = f"not permitted: it is {alias}, and rule {rule} is about ports that"
                        raise Refusal(errno.EACCES, f"{what} no other rule names", rule=rule)
        for decision in decisions:
            # guard: deny-every-name
            if decision.rule is not None and not decision.rule.allows:
                raise _refusal(decision, denied(decision))

    def judge_waiting(self, request: OpenRequest) -> Refusal | None:
        """Go by the policy in force, with its rule's limits; return why it says no, if it does."""
        try:
            decision = self.allowed(request.client.identity, request.name)
        except Refusal as refusal:
            return refusal
        rule = decision.rule
        assert rule is not None  # a rule allows it
        request.rule, request.max_lease, request.active = str(rule), rule.max_lease, rule.active
        request.target = request.target.replace(
            alias=decision.device, pty=rule.pty, console=rule.console
        )
        request.judged = self.version
        return None

    def judge_opened(self, request: OpenRequest, lease: Lease) -> Refusal | None:
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
            self.check_device(request.client.identity, was, lease.lock_name, lease.rule)
        except Refusal as denied:
            return denied
        return None

    def _leads_to(
        self, alias: str, device: str, target: Target, kernel_name: str, named: bool
    ) -> bool:
        """Return whether the alias is a name of this device. `named`: its links are there.

        One that others than root could redirect may be a name of any. It is not followed: it could
        lead through a file system that never answers.
        """
        if words.are(device):  # guard: deny-by-words
            return not target.pty and self._devices.fits(kernel_name, device, unknown=True)
        try:
            leads = self._devices.same(self._devices.path(alias, device), target.path)
        except Absent:
            leads = False
        except Refusal:
            leads = True  # guard: unsafe-alias-is-a-name
        # An alias may lead to another device until udev has moved its link.
        if not leads and not named:  # guard: links-to-come
            to_come = Absent(errno.ENOENT, "udev has not named it yet; try again")
            to_come.again = NAMING
            raise to_come
        return leads


def check_name(name: str) -> None:
    """Raise Refusal EINVAL for what is no port's name."""
    if not wire.valid_name(name):  # guard: valid-name
        what = "not a port's name: a letter, then up to 63 letters, digits, - or _"
        raise Refusal(errno.EINVAL, what)


def mistaken(plan: Plan) -> Refusal:
    """Return the refusal of every request by a policy with a mistake."""
    what = f"the policy cannot be used: {plan.mistake}"
    return Refusal(errno.EACCES, what, advice="the administrator must mend it")


def denied(decision: Decision) -> str:
    """Return why the policy says no, for people."""
    if decision.rule is not None and decision.rule.unknown:
        what = f"rule {decision.rule} of the policy denies a user or group that is not known here"
        return f"not permitted: {what}, and so everybody; the administrator must mend it"
    if decision.rule is not None:
        return f"not permitted: rule {decision.rule} of the policy denies it"
    if decision.known:
        return "not permitted: no rule of the policy allows it to you; ask the administrator"
    return "not permitted: no rule of the policy is about it; ask the administrator for one"


def _refusal(decision: Decision, why: str) -> Refusal:
    rule = None if decision.rule is None else str(decision.rule)
    return Refusal(errno.EACCES, why, rule=rule)
