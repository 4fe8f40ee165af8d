"""What `ttybroker list` shows: every port, and who has it, outsiders included."""

from __future__ import annotations

import errno

from ttybroker import wire
from ttybroker.wire import Value
from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.device import Devices
from ttybrokerd.root.others import Others
from ttybrokerd.root.plan import Decision, Plan
from ttybrokerd.root.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable


class Row(Value):
    """A port as it looks to anybody; who leased it is the table's to say, by its device number."""

    rdev: int | None  # None: no device, or none that may be opened
    port: wire.PortInfo


class Look(Value):
    """A look at all ports for one client. `ours` are the devices in the table: their locks are no
    outsider's. `copies` says, by device, which revoked holders keep a dead copy of it."""

    devices: Devices
    policy: Plan
    others: Others
    copies: dict[int, tuple[wire.Holder, ...]]
    ours: frozenset[int]
    decide: Callable[[str], Decision]
    everything: bool  # not only the ports that the client may use

    def rows(self) -> list[Row]:
        """Return one row a port, aliases first.

        Looks at nodes and lock files, opens no device. May be slow: not for the loop.
        """
        found, aliases = [], self.policy.aliases
        self.others.refresh()
        taken = self.devices.nodes(aliases) if self.policy.worded else ()
        for name in [*aliases, *(name for name in self.devices.names() if name not in aliases)]:
            decision = self.decide(name)
            if decision.rule and decision.rule.unnamed and self.devices.path(name, None) in taken:
                decision = decision.replace(allowed=False)  # as Judge.check_device
            # guard: list-own-ports
            if decision.allowed or (self.everything and decision.known):
                found.append(self._row(name, decision))
        return found

    def _row(self, name: str, decision: Decision) -> Row:
        rule = str(decision.rule) if decision.rule else ""
        try:
            target = self.devices.target(name, decision)
            if not decision.allowed:  # an admin sees the port, though no rule lets it open it
                target = target.replace(pty=self.policy.is_pty(name), console=True)
            seen = self.devices.look(target)
        except Refusal as refusal:
            state = "gone" if refusal.number == errno.ENOENT else "refused"  # such as the console
            path = decision.device or self.devices.path(name, None)
            return Row(None, wire.PortInfo(name, path, state, rule))
        try:
            kept = self.copies.get(seen.rdev, ())
            users = frozenset(copy.uid for copy in kept if copy.uid is not None)
            holder = self.others.holder(seen, users) if seen.rdev not in self.ours else None
        finally:
            seen.close()
        state = "free" if holder is None else "busy"  # free: no lock is seen
        if holder is not None and holder.how == "exclusive":  # when it was opened last
            state = "exclusive"
        port = wire.PortInfo(name, seen.target.path, state, rule, 0, holder, copies=kept)
        return Row(seen.rdev, port)


def part(ports: list[wire.PortInfo], start: int, version: int) -> wire.Ports:
    """The rows from number `start` on, as many as one message of that version holds."""
    room = wire.MAX_REPLY - 16  # for the head
    end = start
    while end < len(ports) and (room := room - wire.size_of(ports[end], version)) >= 0:
        end += 1
    return wire.Ports(tuple(ports[start:end]), more=end < len(ports))
