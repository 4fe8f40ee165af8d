"""Rules that another rule hides. No decision shows such a mistake."""

from __future__ import annotations

from collections.abc import Iterator

from ttybroker.wire import valid_name
from ttybrokerd.prepare.globs import covers, is_kernels, may_be_kernels
from ttybrokerd.prepare.policy import Policy, Rule, Subjects
from ttybrokerd.root import portname


def hidden(policy: Policy) -> list[str]:
    """Return the warnings of `--check`, each as FILE:LINE: rule: what, in the order of the rules.

    A rule never applies if its glob matches no port's name. A rule never applies if an earlier
    rule is about all of its ports and names all of its users. A
    rule about unnamed ports never applies if any other rule is about all of them. A glob does not
    match a kernel name that the policy makes an alias. A name of the user's own that ends with a
    number can look like a kernel's. A rule that denies a kernel's
    name denies the aliases of that device.
    """
    found = []
    for number, late in enumerate(policy.rules):
        own = portname.split(late.port) is not None and not is_kernels(late.port)
        if own and late.port not in policy.aliases:
            why = "is not an alias, because no rule says its device"
            found.append(f"{late.where}: rule: {late.port} {why}")
        if late.unnamed and (where := _named_at(policy, late)):
            why = f"{where} names these ports; remove this rule, or its unnamed = true"
            found.append(f"{late.where}: rule: {late.port} never applies: {why}")
            continue
        for early in policy.rules[:number] if _names_somebody(late.subjects) else ():
            if early.unnamed and not late.unnamed:
                continue
            users = _without_members(policy, late, early)
            if _covers_users(early.subjects, users) and _same_port(policy, early, late):
                why = f"{early.where} comes first, about the same ports and users"
                found.append(f"{late.where}: rule: {late.port} never applies: {why}")
                break
        if taken := list(_taken(policy, late)):
            what = _aliases(policy, taken)
            found.append(f"{late.where}: rule: {late.port} is not about {what}")
        elif not (valid_name(late.port) or may_be_kernels(late.port)):
            why = "no kernel name of a port is like this, and a glob matches no alias"
            found.append(f"{late.where}: rule: {late.port} never applies: {why}")
        if vain := list(_denied(policy, number)):
            more = f" and {len(vain) - 1} more" if len(vain) > 1 else ""
            what = f"{vain[0].port}{more} to some whom {vain[0].where} allows it"
            why = "if it is such a port; a device is denied under all its names"
            found.append(f"{late.where}: rule: {late.port} denies {what}, {why}")
    return found


def _denied(policy: Policy, number: int) -> Iterator[Rule]:
    """Yield the rules that allow an alias to somebody whom rule `number` denies the kernel's name.

    The order of the two rules does not help. An earlier rule that allows the kernel's name does.
    """
    deny = policy.rules[number]
    if deny.allows or deny.port in policy.aliases:
        return
    before = [rule for rule in policy.rules[:number] if _same_port(policy, rule, deny)]
    for rule in policy.rules:
        if rule.device is None or not rule.allows or rule.pty:
            continue
        helped = any(one.allows and _covers_users(one.subjects, rule.subjects) for one in before)
        if _meet(rule.subjects, deny.subjects) and _may_be(rule.device, deny.port) and not helped:
            yield rule


def _may_be(device: str, port: str) -> bool:
    """Return whether an alias may lead to a port of this kernel's name.

    Nobody knows where a link or words lead. They rarely lead to a UART, so for a port of ttyS the
    answer is no then, and yes for any other.
    """
    name = device.removeprefix("/dev/")
    if portname.split(name) is None:
        return not port.startswith("ttyS")
    return portname.matches(name, port)


def _meet(allowed: Subjects, denied: Subjects) -> bool:
    """Whether somebody is in both. Everybody but some is what a deny is for."""
    if denied.everybody:
        return _names_somebody(allowed)
    return bool(allowed.uids & denied.uids or allowed.gids & denied.gids)


def _aliases(policy: Policy, names: list[str]) -> str:
    """Name the aliases in a few words, however many: a lab has a glob and twenty boards."""
    where = next(one.where for one in policy.rules if one.port == names[0] and one.device)
    if len(names) == 1:
        return f"{names[0]}: an alias, {where}; name it in a rule"
    return f"{names[0]} and {len(names) - 1} more: aliases, {where}; name each in a rule"


def _taken(policy: Policy, rule: Rule) -> Iterator[str]:
    """Return the aliases that a glob matches in vain, because a glob is not about an alias.

    Nobody expects * to be about gps, so such a glob does not count.
    """
    if rule.port not in policy.aliases:
        meant = portname.literal(rule.port) != ""
        for alias in policy.aliases:
            if (meant or portname.split(alias)) and portname.matches(alias, rule.port):
                yield alias


def _named_at(policy: Policy, rule: Rule) -> str:
    """Return where another rule names all of these unnamed ports, "" if none does."""
    others = (one for one in policy.rules if not one.unnamed and _same_port(policy, one, rule))
    return next((one.where for one in others), "")


def _same_port(policy: Policy, early: Rule, late: Rule) -> bool:
    if early.words not in ("", late.words):
        return False
    if early.port == late.port:
        return True
    if early.port in policy.aliases or late.port in policy.aliases:
        return False
    return covers(early.port, late.port)


def _names_somebody(whom: Subjects) -> bool:
    # else it is no other rule's doing
    return bool(whom.everybody or whom.uids or whom.gids or whom.seats)


def _without_members(policy: Policy, late: Rule, early: Rule) -> Subjects:
    """Return whom `late` names, but for members of groups of `early`.

    A denial of a group names its members too, for one who has left the group in a user namespace.
    So only the members of such groups are left out.
    """
    if late.allows:
        return late.subjects
    groups = [
        whom for whom in policy.denied.values() if whom.gids and whom.gids <= early.subjects.gids
    ]
    members = frozenset[int]().union(*(whom.uids for whom in groups))
    return late.subjects.replace(uids=late.subjects.uids - members)


def _covers_users(early: Subjects, late: Subjects) -> bool:
    if early.everybody:
        return True
    seats = "" in early.seats or late.seats <= early.seats
    return not late.everybody and late.uids <= early.uids and late.gids <= early.gids and seats
