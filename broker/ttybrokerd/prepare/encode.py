"""A plan in its binary form, which root/plan.py describes and reads."""

from __future__ import annotations

import os
import struct
from binascii import crc32
from collections.abc import Iterable, Mapping, Sequence

from ttybroker.wire import Value
from ttybrokerd.prepare.policy import Policy, Rule, Subjects
from ttybrokerd.root import plan, words


class Origin(Value):
    """What a plan was made from, for what, and when: fields of plan.Plan."""

    elsewhere: bool
    made: float
    made_for: str
    policy: str
    mistake: str
    stamps: Mapping[str, tuple[int, ...]]


def encode(origin: Origin, number: int, code: bytes, policy: Policy) -> bytes:
    """Return the plan as one run of bytes. `number` is that of seccomp(2), `code` its program."""
    seats = sorted({seat for rule in policy.rules
                    for seat in (*rule.subjects.seats, *[""] * rule.active)})  # fmt: skip
    stamps = [plan.STAMP.pack(*stamp) + _text(path) for path, stamp in origin.stamps.items()]
    body = b"".join(
        [
            plan.ORIGIN.pack(origin.elsewhere, origin.made),
            _text(origin.made_for),
            _text(origin.policy),
            _text(origin.mistake),
            _count(stamps),
            *stamps,
            plan.PAIR.pack(number, len(code)),
            code,
            _count(policy.warnings),
            *map(_text, policy.warnings),
            _text(written(policy.denied)),
            _admins(policy.admins),
            _count(policy.aliases),
            *(_text(text) for pair in policy.aliases.items() for text in pair),
            _count(seats),
            *map(_text, seats),
            _rules(policy, origin.policy),
            _ports(policy, seats),
        ]
    )
    return plan.HEAD.pack(plan.MAGIC, plan.HEAD.size + len(body), crc32(body)) + body


def written(denied: Mapping[str, Subjects]) -> str:
    """Return whom these names mean, for `read_names`: a line each with uids, gids and the name."""
    lines = []
    for name, whom in denied.items():
        numbers = (",".join(map(str, sorted(some))) for some in (whom.uids, whom.gids))
        lines.append(" ".join((*numbers, name)))
    return "\n".join(lines)


def read_names(text: str) -> dict[str, Subjects]:
    """Read what `written` wrote. Raises ValueError for anything else."""
    found = {}
    for line in text.split("\n") if text else ():
        uids, gids, name = line.split(" ", 2)
        found[name] = Subjects(False, _read_numbers(uids), _read_numbers(gids))
    return found


def _read_numbers(text: str) -> frozenset[int]:
    return frozenset(int(number) for number in text.split(",") if number)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return plan.COUNT.pack(len(data)) + data


def _count(items: Iterable[object]) -> bytes:
    return plan.COUNT.pack(len(list(items)))


def _numbers(numbers: Iterable[int]) -> bytes:
    listed = list(numbers)
    return struct.pack(f"={len(listed)}I", *listed)


def _admins(admins: Subjects) -> bytes:
    head = plan.ADMINS.pack(admins.everybody, len(admins.uids), len(admins.gids))
    return head + _numbers(sorted(admins.uids)) + _numbers(sorted(admins.gids))


def _rules(policy: Policy, main: str) -> bytes:
    paths = list(dict.fromkeys((main, *(rule.path for rule in policy.rules))))
    labels = ("", *(os.path.basename(path) for path in paths[1:]))
    records = [_count(labels), *map(_text, labels), _count(policy.rules)]
    for rule in policy.rules:
        flags = plan.ALLOWS * rule.allows | plan.CONSOLE * rule.console | plan.PTY * rule.pty
        flags |= plan.UNKNOWN * rule.subjects.unknown | plan.ACTIVE * rule.active
        flags |= plan.UNNAMED * rule.unnamed
        file = paths.index(rule.path)
        records.append(plan.RULE.pack(rule.line, file, flags, rule.max_lease or 0))
    return b"".join(records)


class _Port:
    """What all rules with the same `port` say: for each user, the first rule that names them."""

    def __init__(self) -> None:
        self.everybody = plan.NONE
        self.uids: dict[int, int] = {}
        self.gids: dict[int, int] = {}
        self.flags = 0

    def add(self, number: int, rule: Rule, seats: Sequence[str]) -> None:
        subjects = rule.subjects
        if subjects.everybody:
            self.everybody = min(self.everybody, number)
        for uid in subjects.uids:
            self.uids.setdefault(uid, number)
        for gid in subjects.gids:
            self.gids.setdefault(gid, number)
        for seat in subjects.seats:
            self.gids.setdefault(plan.SEATS + seats.index(seat), number)
        self.flags |= plan.PTY * rule.pty | plan.DENIES * (not rule.allows)
        self.flags |= plan.UNNAMED * rule.unnamed


def _key(rule: Rule) -> str:
    verb = "+" if rule.allows else "-"
    return f"{rule.port} {verb}{rule.words}" if rule.words else rule.port


def _ports(policy: Policy, seats: Sequence[str]) -> bytes:
    ports: dict[str, _Port] = {}
    for number, rule in enumerate(policy.rules):
        if not rule.unnamed:
            ports.setdefault(_key(rule), _Port()).add(number, rule, seats)
    rest = [(number, rule) for number, rule in enumerate(policy.rules) if rule.unnamed]
    for _, rule in rest:  # an alias that is words is another name of such a device
        for device in filter(words.are, policy.aliases.values()):
            ports.setdefault(f"{rule.port} +{device}", _Port())
    named = set(ports)
    for number, rule in rest:
        if _key(rule) not in named:
            ports.setdefault(_key(rule), _Port()).add(number, rule, seats)
    uids = [pair for port in ports.values() for pair in sorted(port.uids.items())]
    gids = [pair for port in ports.values() for pair in sorted(port.gids.items())]
    return b"".join(
        [
            _count(ports),
            _text("\n".join(ports)),
            *(
                plan.PORT.pack(port.everybody, len(port.uids), len(port.gids), port.flags)
                for port in ports.values()
            ),
            _numbers(uid for uid, _ in uids),
            _numbers(rule for _, rule in uids),
            _numbers(gid for gid, _ in gids),
            _numbers(rule for _, rule in gids),
        ]
    )
