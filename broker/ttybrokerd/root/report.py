"""What `ttybroker list` shows: every port, and who has it, outsiders included."""

from __future__ import annotations

from ttybroker import wire
from ttybroker.wire import Value
from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.copies import DeadCopies
from ttybrokerd.root.device import Devices, Seen, unresolved
from ttybrokerd.root.others import Others
from ttybrokerd.root.refusal import Absent, Denied, Refusal
from ttybrokerd.root.ruling import Ruling

if TYPE_CHECKING:
    from ttybrokerd.root.plan import Decision


class Listed(Value):
    """One port of a list, as it looks to anybody. The table knows by `rdev` who leased it."""

    rdev: int | None  # None: no device, or none that may be opened
    port: wire.PortInfo


class Look(Value):
    """A look at all ports for one client, by the ruling on it.

    `ours` are the numbers of the devices in the table: their locks are no outsider's.
    """

    devices: Devices
    ruling: Ruling
    others: Others
    copies: DeadCopies
    ours: frozenset[int]
    everything: bool  # not only the ports that the client may use

    def rows(self) -> list[Listed]:
        """Return one row for each port, aliases first.

        It looks at nodes and lock files, and opens no device. It may be slow, so the loop must not
        call it.
        """
        aliases = self.ruling.plan.aliases
        self.others.refresh()
        names = [name for name in self.devices.names() if name not in aliases]
        self.ruling.note(self.devices.path(name, None) for name in names)
        copies = self.copies.holders()
        rows = (self._row(name, copies) for name in [*aliases, *names])
        return [row for row in rows if row is not None]

    def _row(self, name: str, copies: dict[int, tuple[wire.Holder, ...]]) -> Listed | None:
        """Return the row of a port; None if it is not for this client."""
        decision = self.ruling.decide(name)
        try:
            seen = self._seen(name, decision)
        except Refusal as refusal:
            if isinstance(refusal, Denied) and not refusal.for_now:
                return None
            state = "gone" if isinstance(refusal, Absent) else "refused"  # such as the console
            path = decision.device or self.devices.path(name, None)
            return Listed(None, wire.PortInfo(name, path, state, decision.by))
        try:
            kept = copies.get(seen.rdev, ())
            users = frozenset(copy.uid for copy in kept if copy.uid is not None)
            holder = self.others.holder(seen, users) if seen.rdev not in self.ours else None
        finally:
            seen.close()
        state = "free" if holder is None else "busy"  # free: no lock is seen
        if holder is not None and holder.how == "exclusive":  # it was so when it was opened last
            state = "exclusive"
        port = wire.PortInfo(name, seen.target.path, state, decision.by, 0, holder, copies=kept)
        return Listed(seen.rdev, port)

    def _seen(self, name: str, decision: Decision) -> Seen:
        """Look at the port as an open does; for an admin, also at one that the policy denies.

        Raises Refusal as an open does.
        """
        try:
            self.ruling.check(decision)
            return self.ruling.look(unresolved(name, decision), decision.by)
        except Denied:
            # guard: list-own-ports
            if not (self.everything and decision.known):
                raise
        target = self.devices.target(name, decision)
        pty = self.ruling.plan.is_pty(name)
        return self.devices.look(target.replace(pty=pty, console=True))


def part(ports: list[wire.PortInfo], start: int, version: int) -> wire.Ports:
    """Return the rows from number `start` on, as many as one message of this version holds."""
    room = wire.MAX_REPLY - 16  # for the head
    end = start
    while end < len(ports) and (room := room - wire.size_of(ports[end], version)) >= 0:
        end += 1
    return wire.Ports(tuple(ports[start:end]), more=end < len(ports))
