"""The plan in force, and who sits at the machine."""

from __future__ import annotations

import errno

from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.device import Devices
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.plan import SEATS
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.ruling import Ruling

if TYPE_CHECKING:
    from ttybrokerd.root.connection import OpenRequest
    from ttybrokerd.root.lease import Lease
    from ttybrokerd.root.plan import Plan


class Judge:
    """Has the plan.

    `version` counts the plans, and the changes of who sits where. What was judged before such a
    change is judged again before it is granted. `alone`: this process belongs to one caller, who
    may be able to kill it. Then it leases no port that it would have to take back.
    """

    def __init__(self, plan: Plan, devices: Devices, alone: bool = False) -> None:
        self._devices = devices
        self._alone = alone
        self.version = 0
        self._seats: dict[str, int] = {}  # who sits at each
        self.replace(plan)

    def replace(self, plan: Plan) -> None:
        """Go by another plan from now on."""
        plan.facts = self._devices.facts
        self.plan = plan
        self.version += 1
        self._denying = plan.denying()  # aliases that deny somebody

    def seat(self, users: dict[str, int]) -> bool:
        """Go by these users, by seat, from now on; return whether that is a change."""
        if users == self._seats:
            return False
        self._seats = users
        self.version += 1
        return True

    def sits(self, uid: int) -> bool:
        """Return whether the user sits at the machine."""
        return uid in self._seats.values()

    def groups(self, who: Identity) -> frozenset[int]:
        """Return the caller's groups, and the numbers of the seats where the caller sits."""
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
        """Return whether a rule allows the caller anything, or the caller is an admin."""
        return self.is_admin(who) or self.plan.allows_something(who.uid, self.groups(who))

    def of(self, who: Identity, devices: Devices | None = None) -> Ruling:
        """Return what the plan says of this caller, as of now. `devices`: those of one list."""
        return Ruling(self.plan, devices or self._devices, who, self.groups(who), self._denying,
                      sits=self.sits(who.uid), alone=self._alone)  # fmt: skip

    def judge_waiting(self, request: OpenRequest) -> Refusal | None:
        """Judge a request by the policy in force; return why that says no, None if it allows.

        If it allows, the request has the limits of its rule from then on.
        """
        try:
            decision = self.of(request.client.identity).allowed(request.name)
        except Refusal as refusal:
            return refusal
        request.go_by(decision, self.version)
        return None

    def judge_opened(self, request: OpenRequest, lease: Lease) -> Refusal | None:
        """Judge a request as `judge_waiting`, when its port is open already.

        The port was opened while an earlier policy was in force.
        """
        refusal = self.judge_waiting(request)
        if refusal is not None:
            return refusal
        lease.rule, now, was = request.rule, request.target, lease.target
        # guard: same-device-by-the-new-policy
        if (now.alias, now.pty, now.console) != (was.alias, was.pty, was.console):
            return Refusal(errno.ENODEV, "the policy says something else of it now; ask again")
        try:
            # guard: every-name-by-the-new-policy
            self.of(request.client.identity).check_device(was, lease.lock_name, lease.rule)
        except Refusal as denied:
            return denied
        return None
