"""What `ttybroker list` shows: every port, and who has it, outsiders included."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from ttybroker import wire
from ttybrokerd import locks, logins
from ttybrokerd.device import Devices, Seen
from ttybrokerd.policy import Decision, Policy
from ttybrokerd.refusal import Refusal


class Known(NamedTuple):
    """What the lease table knows of one port."""

    state: str
    waiting: int
    holder: wire.Holder | None


def rows(
    devices: Devices,
    policy: Policy,
    lock_files: locks.LockFiles,
    table: dict[int, Known],
    ghosts: frozenset[int],
    allowed: Callable[[str], Decision],
    everything: bool,
) -> list[wire.Port]:
    """One row a port that the caller may use (or each one, if `everything`), aliases first.
    On the devices `ghosts` a flock is that of a holder that was hung up, and means nothing.

    Looks at nodes and lock files, opens no device. May be slow: not for the loop.
    """
    found = []
    for name in [*policy.aliases, *_kernel_names(devices, policy)]:
        decision = allowed(name)
        if decision.allowed or (everything and decision.known):
            found.append(_row(devices, policy, lock_files, table, ghosts, name, decision))
    return found


def part(ports: list[wire.Port], start: int) -> wire.Ports:
    """The rows from number `start` on, as many as one message holds."""
    room = wire.MAX_REPLY - 16  # for the head
    end = start
    while end < len(ports) and (room := room - wire.size_of(ports[end])) >= 0:
        end += 1
    return wire.Ports(tuple(ports[start:end]), more=end < len(ports))


def _kernel_names(devices: Devices, policy: Policy) -> list[str]:
    return [name for name in devices.names() if name not in policy.aliases]


def _row(
    devices: Devices,
    policy: Policy,
    lock_files: locks.LockFiles,
    table: dict[int, Known],
    ghosts: frozenset[int],
    name: str,
    decision: Decision,
) -> wire.Port:
    rule = str(decision.rule) if decision.rule else ""
    try:
        target = devices.target(name, decision)
        if not decision.allowed:  # an admin sees the port, though no rule lets it open it
            target = target._replace(pty=policy.is_pty(name), console=True)
        seen = devices.look(target)
    except Refusal as refusal:
        state = "gone" if refusal.number == errno.ENOENT else "refused"  # such as the console
        return wire.Port(name, decision.device or devices.path(name, None), state, rule)
    try:
        known = table.get(seen.rdev) or _outside(seen, lock_files, ghosts)
    finally:
        seen.close()
    return wire.Port(name, seen.target.path, known.state, rule, known.waiting, known.holder)


def _outside(seen: Seen, lock_files: locks.LockFiles, ghosts: frozenset[int]) -> Known:
    holder = lock_files.holder(seen.kernel_name) or logins.holder(seen.kernel_name, seen.rdev)
    if holder is None and seen.rdev not in ghosts:
        holder = locks.flock_holder(seen.node)
    return Known("free" if holder is None else "busy", 0, holder)
