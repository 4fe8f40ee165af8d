"""What the plan says of one caller: of a name, and of the device that was found by it."""

from __future__ import annotations

import errno

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.device import NAMING, Devices, Seen, Target
from ttybrokerd.root.names import Names
from ttybrokerd.root.refusal import Absent, Denied, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ttybrokerd.root.peer import Identity
    from ttybrokerd.root.plan import Decision, Plan


class Ruling:
    """What the plan in force says of one caller.

    A ruling keeps the plan that was in force when it was made. So it serves what is done at once:
    one open, or one list, which judges each port as an open does.

    `groups` are the caller's groups, and the numbers of the seats where the caller sits. `denying`
    has each alias that denies somebody, with its device. `sits`: the caller has the active session
    at the machine. `alone` as in Judge.
    """

    def __init__(
        self,
        plan: Plan,
        devices: Devices,
        who: Identity,
        groups: frozenset[int],
        denying: Mapping[str, str],
        *,
        sits: bool,
        alone: bool,
    ) -> None:
        self.plan = plan
        self._devices = devices
        self._uid, self._groups = who.uid, groups
        self._sits = sits
        self._alone = alone
        self._denying = Names(devices, denying)
        self._aliases = Names(devices, plan.aliases)
        self._named: dict[str, bool] = {}  # by node

    def decide(self, name: str) -> Decision:
        """Return what the policy says of the name.

        Raises Refusal EINVAL if it is no port's name.
        """
        if not wire.valid_name(name):  # guard: valid-name
            what = "not a port's name: a letter, then up to 63 letters, digits, - or _"
            raise Refusal(errno.EINVAL, what)
        return self.plan.decide(self._uid, self._groups, name)

    def allowed(self, name: str) -> Decision:
        """Return the decision on the name, if it is yes.

        Raises Refusal EINVAL as `decide`, or Denied.
        """
        decision = self.decide(name)
        self.check(decision)
        return decision

    def check(self, decision: Decision) -> None:
        """Raise Denied if the decision is no."""
        if why := self.why_not(decision):
            no = Denied(errno.EACCES, why, rule=decision.by or None)
            no.for_now = decision.allowed
            raise no

    def why_not(self, decision: Decision) -> str:
        """Return why the port cannot be had, for people; "" if it can."""
        if not decision.allowed:  # guard: ask-the-policy
            return denied(decision)
        rule = decision.rule
        if rule is not None and rule.active and not self._sits:  # guard: while-active
            what = "is only for the user with the active session at this machine (loginctl)"
            return f"not permitted: rule {rule} {what}"
        limited = rule is not None and (rule.max_lease is not None or rule.active)
        if self._alone and limited:  # guard: no-limit-without-the-daemon
            what = "has a limit (max_lease or while), which only the daemon can keep"
            return (
                f"not permitted to ttyrun alone: rule {rule} {what}; have ttybroker.socket started"
            )
        return ""

    def look(self, target: Target, rule: str) -> Seen:
        """Look at the node that a name means now, which `rule` allows, and judge the device.

        Raises Refusal as `Devices.renew`, `Devices.look` and `check_device`. Then nothing stays
        open.
        """
        target = self._devices.renew(target)
        seen = self._devices.look(target)
        try:
            self.check_device(target, seen.kernel_name, rule)
        except BaseException:
            seen.close()
            raise
        return seen

    def check_device(self, target: Target, kernel_name: str, rule: str) -> None:
        """Judge the device that was looked at. `rule` is the rule that its name led to.

        Its kernel name and each alias that leads to it are names of one device. Raises Denied if it
        is denied under another of them, or if the rule is `unnamed` and an alias leads to the
        device. Raises Refusal ENODEV if the name is another device's by now, for which another rule
        decides. Raises Absent if udev may yet make a link by which an alias leads to the device.
        """
        others = self._names(self._denying, target, kernel_name)
        decisions = [self.plan.decide(self._uid, self._groups, alias) for alias in others]
        if target.alias is not None and not target.pty:  # guard: deny-by-the-kernels-name
            decisions.append(self._of_the_kernel(kernel_name))
        elif self.plan.worded and not target.pty:
            decision = self._of_the_kernel(kernel_name)
            if decision.by != rule:  # guard: rule-of-the-very-node
                what = "another device has its name by now"
                raise Refusal(errno.ENODEV, what, advice="ask again")
            if decision.rule is not None and decision.rule.unnamed:
                names = self._names(self._aliases, target, kernel_name)
                if names:  # guard: alias-is-a-name
                    what = f"not permitted: it is {names[0]}, and rule {rule} is about ports that"
                    raise Denied(errno.EACCES, f"{what} no other rule names", rule=rule)
        for decision in decisions:
            # guard: deny-every-name
            if decision.rule is not None and not decision.rule.allows:
                raise Denied(errno.EACCES, denied(decision), rule=decision.by)

    def note(self, paths: Iterable[str]) -> None:
        """Note for each of these nodes whether udev has made its links.

        A list calls this before it looks at any port. After that, it follows the links of its
        aliases once, and not once for each node.
        """
        if self._denying or (self._aliases and self.plan.worded):
            for path in paths:
                self._is_named(path)

    def _of_the_kernel(self, name: str) -> Decision:
        """Return the decision on a device that was seen, by its kernel name."""
        return self.plan.decide(self._uid, self._groups, name, kernels=True)

    def _is_named(self, path: str) -> bool:
        """Return whether udev has made its links to this node.

        When a node is looked at for the first time, links that were followed before are forgotten:
        udev may have changed them in between.
        """
        if path not in self._named:
            self._named[path] = self._devices.named(path)
            self._denying.forget()
            self._aliases.forget()
        return self._named[path]

    def _names(self, names: Names, target: Target, kernel_name: str) -> list[str]:
        """Return those aliases among `names` that lead to the device, but for the target's own.

        Raises Absent if udev may yet make a link to it.
        """
        if not names:
            return []
        named = target.pty or self._is_named(target.path)
        found = names.leading_to(target.path)
        # An alias may lead to another device until udev has moved its link.
        if not named and names.leading_elsewhere([*found, target.name]):  # guard: links-to-come
            to_come = Absent(errno.ENOENT, "udev has not named it yet; try again")
            to_come.again = NAMING
            raise to_come
        if not target.pty:  # guard: deny-by-words
            found += names.fitting(kernel_name)
        return [alias for alias in found if alias != target.name]


def denied(decision: Decision) -> str:
    """Return why the policy says no, for people."""
    if decision.rule is not None and decision.rule.unknown:
        what = f"rule {decision.rule} of the policy denies a user or group that is not known here"
        return f"not permitted: {what}, and so everybody; ask the administrator to correct it"
    if decision.rule is not None:
        return f"not permitted: rule {decision.rule} of the policy denies it"
    if decision.known:
        return "not permitted: no rule of the policy allows you this port; ask the administrator"
    return "not permitted: no rule of the policy is about it; ask the administrator for one"
