"""The commands of prepare, for people and for the daemon: check a policy, write its plan."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sized

from ttybroker.say import printable
from ttybrokerd.prepare import udev
from ttybrokerd.prepare.accounts import Accounts
from ttybrokerd.prepare.encode import read_names
from ttybrokerd.prepare.files import Stamps, unread, why_untrusted
from ttybrokerd.prepare.make import judge, make
from ttybrokerd.prepare.policy import NAMES, Policy, Subjects
from ttybrokerd.root import fresh, plan, seats, trust

NICE = 10


def check(named: str | None) -> int:
    """Check the text of the policy and of its drop-ins, wherever they are. Return the exit status.

    The machine's own policy must also belong to root.
    """
    from ttybrokerd.prepare.hidden import hidden  # a start has no use for it

    path = fresh.policy_path(named)
    draft = path not in (fresh.POLICY, fresh.SHIPPED)
    policy, mistakes = judge(path, Stamps(), Accounts(), draft=draft)
    if mistakes := mistakes or policy.unknown:  # guard: check-unknown-names
        return _say_mistakes(mistakes)
    _say_warnings((*policy.warnings, *hidden(policy), *_seatless(policy), *_not_read(path)))
    if draft and (why := why_untrusted(path)):
        _tell(f"note: {why}")
    rules, aliases = _count(policy.rules, "rule"), _count(policy.aliases, "alias", "aliases")
    print(printable(f"{path}: {rules}, {aliases}: good"))
    return 0


def udev_rules(named: str | None) -> int:
    """Print udev(7) rules about the policy's adapters. Return the exit status."""
    path = fresh.policy_path(named)
    draft = path not in (fresh.POLICY, fresh.SHIPPED)
    policy, mistakes = judge(path, Stamps(), Accounts(), draft=draft)
    if mistakes:
        return _say_mistakes(mistakes)
    print(udev.rules(policy), end="")
    return 0


def _not_read(path: str) -> list[str]:
    """Return what an administrator may take for a part of the policy, and is not."""
    found = [f"{file}: not read: the name of a drop-in ends in .toml" for file in unread(path)]
    if path == fresh.SHIPPED:
        what = "missing: ttybroker.service gives nobody a port without it"
        step = f"to have the shipped rules: install -D -m 644 {fresh.SHIPPED} {fresh.POLICY}"
        found.append(f"{fresh.POLICY}: {what}; {step}")
    return found


def _seatless(policy: Policy) -> list[str]:
    """Return the rules that are for nobody if no logind says who sits at the machine.

    A rule that also names others, as those for a desk do, is for these.
    """
    if _has_logind():
        return []
    what = "%active, %seat and while name nobody here: systemd-logind does not run"
    step = "have it run, or name users or a group"
    vain = (one for one in policy.rules if one.active or one.subjects.seats_alone())
    return [f"{one.where}: rule: {what}; {step}" for one in vain]


def _has_logind() -> bool:
    """Return whether logind says who sits at which seat. A daemon of ours makes an empty folder."""
    try:
        return os.listdir(f"{seats.TOP}/seats") != []
    except OSError:
        return False


def prepare(named: str | None, directory: str) -> int:
    """Write the plan into the daemon's directory. Return the exit status.

    A bad policy leaves the plan as it is. So does a policy that denies an unknown user or group.
    Raises OSError.
    """
    with contextlib.suppress(PermissionError):  # the unit's filter forbids it
        os.nice(NICE)  # the clients of the daemon, which go on meanwhile, come first
    path = fresh.policy_path(named)
    made = make(path)
    if mistakes := made.mistakes or made.policy.unknown:  # guard: reload-with-unknown-names
        return _say_mistakes(mistakes)
    _say_warnings(made.policy.warnings)
    os.makedirs(directory, 0o755, exist_ok=True)
    keep(fresh.kept_at(directory, path), made.data)
    return 0


def prepared(path: str, directory: str, keep_it: bool) -> bytes:
    """Return the plan for a daemon that starts.

    A good plan is also kept in the directory, if that is possible.
    """
    made = make(path, _last_names(path, directory))
    # guard: keep-whole-plans-only
    if keep_it and not made.mistakes and not made.policy.unknown:
        try:
            keep(fresh.kept_at(directory, path), made.data)
        except OSError:  # such as a directory of others: then it is used once
            pass
    return made.data


def _last_names(path: str, directory: str) -> Mapping[str, Subjects]:
    """Return whom the names in `deny` meant in the plan that is kept, the last good one."""
    try:
        last = plan.read(fresh.kept_at(directory, path))
        return read_names(last.names) if last.policy == path else NAMES
    except (OSError, ValueError):  # none, of another version, or where others could write it
        return NAMES


def keep(path: str, data: bytes) -> None:
    """Write a plan's file, whole or not at all.

    Raises OSError, also where others than root could put another plan in its place.
    """
    trust.resolve(os.path.dirname(path))  # guard: plan-directory
    temporary = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):  # left by one of this pid that was killed
        os.unlink(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _count(things: Sized, one: str, more: str = "") -> str:
    return f"{len(things)} {one if len(things) == 1 else more or f'{one}s'}"


def _say_mistakes(mistakes: tuple[str, ...]) -> int:
    for mistake in mistakes:
        _tell(mistake)
    return 1


def _say_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        _tell(f"warning: {warning}")


def _tell(line: str) -> None:
    """Write one line: a draft, and the names of drop-ins, may be a stranger's."""
    print(printable(line), file=sys.stderr)
