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


def rows(
    devices: Devices,
    policy: Plan,
    others: Others,
    copies: dict[int, tuple[wire.Holder, ...]],
    ours: frozenset[int],
    allowed: Callable[[str], Decision],
    everything: bool,
) -> list[Row]:
    """One row a port that the caller may use (or each one, if `everything`), aliases first.
    The devices `ours` are in the table: their locks are no outsider's. `copies` says, by device,
    which revoked holders keep a dead copy of it.

    Looks at nodes and lock files, opens no device. May be slow: not for the loop.
    """
    found = []
    others.refresh()
    for name in [*policy.aliases, *_kernel_names(devices, policy)]:
        decision = allowed(name)
        if decision.allowed or (everything and decision.known):  # guard: list-own-ports
            found.append(_row(devices, policy, others, copies, ours, name, decision))
    return found


def part(ports: list[wire.PortInfo], start: int, version: int) -> wire.Ports:
    """The rows from number `start` on, as many as one message of that version holds."""
    room = wire.MAX_REPLY - 16  # for the head
    end = start
    while end < len(ports) and (room := room - wire.size_of(ports[end], version)) >= 0:
        end += 1
    return wire.Ports(tuple(ports[start:end]), more=end < len(ports))


def _kernel_names(devices: Devices, policy: Plan) -> list[str]:
    return [name for name in devices.names() if name not in policy.aliases]


def _row(
    devices: Devices,
    policy: Plan,
    others: Others,
    copies: dict[int, tuple[wire.Holder, ...]],
    ours: frozenset[int],
    name: str,
    decision: Decision,
) -> Row:
    rule = str(decision.rule) if decision.rule else ""
    try:
        target = devices.target(name, decision)
        if not decision.allowed:  # an admin sees the port, though no rule lets it open it
            target = target.replace(pty=policy.is_pty(name), console=True)
        seen = devices.look(target)
    except Refusal as refusal:
        state = "gone" if refusal.number == errno.ENOENT else "refused"  # such as the console
        path = decision.device or devices.path(name, None)
        return Row(None, wire.PortInfo(name, path, state, rule))
    try:
        kept = copies.get(seen.rdev, ())
        users = frozenset(copy.uid for copy in kept if copy.uid is not None)
        holder = others.holder(seen, users) if seen.rdev not in ours else None
    finally:
        seen.close()
    state = "free" if holder is None else "busy"
    port = wire.PortInfo(name, seen.target.path, state, rule, 0, holder, copies=kept)
    return Row(seen.rdev, port)
