"""The plan: all that the process that stays root knows of the policy and of this system.

prepare/ makes it, in a process that ends. Here it is read. It is checked like a message: exactly
one well-formed plan, or `BadPlan`. It never leaves its machine, so byte order is native.

    head      magic 8 bytes, length u32 of the whole, CRC-32 u32 of all that follows
    origin    elsewhere u8, made f64, made for text, policy's path text, mistake text
    stamps    count u32, count x (kind u8, device u64, inode u64, size u64, mtime i64, ctime i64,
              uid u32, gid u32, mode u32, CRC-32 u32 of its text, path text)
    filter    number u32 of seccomp(2), length u32, struct sock_filter one after the other
    warnings  count u32, count x text
    names     text: whom the names in `deny` mean; for prepare/, see encode.py
    admins    everybody u8, count u32, count u32, uids, gids
    aliases   count u32, count x (name text, device text)
    seats     count u32, count x text: "" for any
    files     count u32, count x text: "" for the policy, and the names of its drop-ins
    rules     count u32, count x (line u32, file u16, flags u8, max_lease f64; 0: no limit)
    ports     count u32, names text (one a line), count x (everybody u32, uids u32, gids u32,
              flags u8), uids, their rules, gids, their rules

A text is a u32 length and that many bytes of UTF-8. Lists of uids and gids are u32, ascending.

The name of a port is the `port` of a rule. If the rule has words that say what the device is, a
space, + or - (it allows or denies) and the words follow. A port has in `everybody` the first rule
that names everybody, and beside each uid and gid the first that names it (NONE: no rule does). So a
decision does not walk the rules. An UNNAMED port decides where no other fits. If there is one, the
words of aliases are ports too. Whoever sits at seat number n has the gid SEATS + n.
"""

from __future__ import annotations

import struct
import time
from binascii import crc32
from bisect import bisect_left

from ttybroker.wire import Value
from ttybrokerd.root import TYPE_CHECKING, fresh, portname, trust, words

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"ttyplan3"
MAX_BYTES = 16 << 20
NONE = 0xFFFFFFFF  # no rule
ALLOWS, CONSOLE, PTY = 1, 2, 4  # a rule's flags
DENIES = 8  # of a port, beside PTY and UNNAMED: some rule about it denies
UNKNOWN = 16  # of a rule: it denies everybody, because a name in it is not known
ACTIVE = 32  # of a rule: it is for users who sit at the machine, as long as they do
UNNAMED = 64  # of a rule and of a port: it is about devices that no other rule is about
SEATS = 0xFFF00000  # among the gids, the first of the numbers that stand for seats
LOOK_AGAIN = 1.0  # seconds between two looks at what the plan was made from
HEAD = struct.Struct("=8sII")
ORIGIN = struct.Struct("=Bd")
STAMP = struct.Struct("=BQQQqqIIII")
COUNT = struct.Struct("=I")
PAIR = struct.Struct("=II")
ADMINS = struct.Struct("=BII")
RULE = struct.Struct("=IHBd")
PORT = struct.Struct("=IIIB")


class BadPlan(ValueError):
    """These bytes are not a plan; the text says why."""


class Rule(Value):
    """What a rule permits.

    `line` is that of its [[rule]] in the drop-in `file`, or in the policy if `file` is "".
    `max_lease` is in seconds, None for no limit. `active`: it is for users who sit at the machine,
    as long as they do. `unnamed`: it is about devices that no other rule is about.
    """

    line: int
    file: str
    port: str
    allows: bool
    max_lease: float | None
    console: bool
    pty: bool
    unknown: bool = False
    active: bool = False
    unnamed: bool = False

    def __str__(self) -> str:
        file = self.file and f"{self.file}, "
        return f"{self.port} ({file}line {self.line})"


class Decision(Value):
    """What the policy says of one caller and one name.

    `rule` is the rule that decided, None if none applied. `known` says whether any rule is about
    the port. `device` is the alias's device (a path, or words), None for a kernel name.
    """

    allowed: bool
    known: bool
    rule: Rule | None
    device: str | None

    @property
    def by(self) -> str:
        """The rule's name for people, "" if none applied."""
        return "" if self.rule is None else str(self.rule)


class Numbers(Value):
    """uids and gids of many ports, one after the other, and beside each its first rule."""

    uids: memoryview
    uid_rules: memoryview
    gids: memoryview
    gid_rules: memoryview


class Entry:
    """Where in `Numbers` a port's uids and gids are, and what else is known of it.

    `words`: what the device must be, "" for any.
    """

    __slots__ = ("everybody", "flags", "gids_at", "gids_end", "port", "uids_at", "uids_end",
                 "words")  # fmt: skip

    def __init__(
        self, port: str, record: tuple[int, int, int, int], uids_at: int, gids_at: int
    ) -> None:
        self.port, _, wanted = port.partition(" ")
        self.words = wanted[1:]
        self.everybody, uids, gids, self.flags = record
        self.uids_at, self.uids_end = uids_at, uids_at + uids
        self.gids_at, self.gids_end = gids_at, gids_at + gids

    def first_rule(self, numbers: Numbers, uid: int, gids: frozenset[int]) -> int:
        """Return the number of the first rule about this port that names the caller, or NONE."""
        first = self.everybody
        at = bisect_left(numbers.uids, uid, self.uids_at, self.uids_end)
        if at < self.uids_end and numbers.uids[at] == uid:
            first = min(first, numbers.uid_rules[at])
        if self.gids_at < self.gids_end:
            for gid in gids:
                at = bisect_left(numbers.gids, gid, self.gids_at, self.gids_end)
                if at < self.gids_end and numbers.gids[at] == gid:
                    first = min(first, numbers.gid_rules[at])
        return first


class Mended(Exception):
    """The plan has a mistake or lacks a name, and a new one may not."""


class Plan:
    """A whole plan. A `mistake` in the policy leaves it without rules; "" if there is none.

    `ends`: `look` may raise Mended, because the daemon will be started again. `lacks`: it has a
    mistake, or a rule that denies everybody for want of a name. `elsewhere`: names came from LDAP
    and the like. `made`: when it was made, in seconds of the epoch. `policy`: the policy's path.
    `seccomp`: the number of seccomp(2) on this machine. `filter`: struct sock_filter, one after the
    other. `worded`: some entry has words or is unnamed, so that what a device is decides, too.
    """

    facts: Callable[[str, bool], dict[str, str] | None]  # of a kernel name: Devices.facts

    def __init__(self, data: bytes) -> None:
        """Read the plan in `data`. Raises BadPlan, and nothing else."""
        reader = _Reader(data)
        self.ends = False
        self._looked = 0.0
        elsewhere, self.made = reader.numbers(ORIGIN)
        self.elsewhere = reader.flag(elsewhere)
        self.made_for, self.policy, self.mistake = reader.text(), reader.text(), reader.text()
        self.stamps = [reader.stamp() for _ in range(reader.count())]
        self.seccomp, length = reader.numbers(PAIR)
        self.filter = bytes(reader.take(length))
        self.warnings = reader.texts()
        self.names = reader.text()
        everybody, uids, gids = reader.numbers(ADMINS)
        whom = reader.ascending(uids), reader.ascending(gids)
        self.admins = reader.flag(everybody), frozenset(whom[0]), frozenset(whom[1])
        self.aliases: dict[str, str] = {}
        for _ in range(reader.count()):
            name = reader.text()
            if name in self.aliases:
                raise BadPlan("an alias twice")
            self.aliases[name] = reader.text()
        self.seats, self.files = reader.texts(), reader.texts()
        self.rules = list(RULE.iter_unpack(reader.take(reader.count() * RULE.size)))
        # guard: plan-rule-files
        if max((file for _, file, _, _ in self.rules), default=-1) >= len(self.files):
            raise BadPlan("a rule of no file")
        self.lacks = self.mistake != "" or any(flags & UNKNOWN for _, _, flags, _ in self.rules)
        self._read_ports(reader)
        if reader.at != len(data):  # guard: plan-length
            raise BadPlan("too long")

    def _read_ports(self, reader: _Reader) -> None:
        count, names = reader.count(), reader.text()
        ports = names.split("\n") if count else []
        records = list(PORT.iter_unpack(reader.take(count * PORT.size)))
        uids = reader.array(sum(record[1] for record in records))
        uid_rules = reader.array(len(uids))
        gids = reader.array(sum(record[2] for record in records))
        gid_rules = reader.array(len(gids))
        if len(ports) != count or len(set(ports)) != count or (names and not count):
            raise BadPlan("ports without names, or twice")
        self.numbers = Numbers(uids, uid_rules, gids, gid_rules)
        self.entries: list[Entry] = []
        self.exact: dict[str, list[Entry]] = {}  # all, by what rules say in `port`
        self.globs: dict[str, list[Entry]] = {}  # globs, by what stands before the first *, ? or [
        at, groups_at, most = 0, 0, len(self.rules)
        for port, record in zip(ports, records, strict=True):
            everybody, _, _, flags = record
            if (everybody >= most and everybody != NONE) or flags & ~(PTY | DENIES | UNNAMED):
                raise BadPlan("a port without its rule")
            entry = Entry(port, record, at, groups_at)
            self.entries.append(entry)
            self.exact.setdefault(entry.port, []).append(entry)
            at, groups_at = entry.uids_end, entry.gids_end
            _check_ascending(uids[entry.uids_at : at])
            _check_ascending(gids[entry.gids_at : groups_at])
            prefix = portname.literal(entry.port)
            if prefix != entry.port:
                self.globs.setdefault(prefix, []).append(entry)
        self.worded = any(entry.words or entry.flags & UNNAMED for entry in self.entries)
        # guard: plan-rule-numbers
        if max(max(uid_rules, default=-1), max(gid_rules, default=-1)) >= most:
            raise BadPlan("a user without a rule")

    def look(self) -> None:
        """Raise Mended if the plan lacks something that a new one may have, and it `ends`.

        It looks once in LOOK_AGAIN seconds at most.
        """
        now = time.monotonic()
        if self.lacks and self.ends and now - self._looked >= LOOK_AGAIN:
            self._looked = now
            if fresh.changed(self, texts=False) is not None or fresh.too_old(self):
                raise Mended

    def decide(
        self, uid: int, gids: frozenset[int], name: str, *, kernels: bool = False
    ) -> Decision:
        """Return whether this caller may use this (valid) name. The first rule that fits decides.

        `kernels`: the kernel gave this name to a device that was seen. An alias that is called the
        same does not count.
        """
        device = None if kernels else self.aliases.get(name)
        entries = self._matching(name, device, kernels)
        first, port = NONE, ""
        for entry in entries:
            number = entry.first_rule(self.numbers, uid, gids)
            if number < first:  # guard: first-matching-rule
                first, port = number, entry.port
        if first == NONE:
            return Decision(False, bool(entries), None, device)  # guard: no-rule-no-access
        line, file, flags, seconds = self.rules[first]
        allows = bool(flags & ALLOWS)
        rule = Rule(line, self.files[file], port, allows, seconds or None, bool(flags & CONSOLE),
                    bool(flags & PTY), bool(flags & UNKNOWN), bool(flags & ACTIVE),
                    bool(flags & UNNAMED))  # fmt: skip
        return Decision(allows, True, rule, device)

    def is_pty(self, name: str) -> bool:
        """Return whether some rule says that this name means a pty."""
        return any(entry.flags & PTY for entry in self._matching(name, self.aliases.get(name)))

    def denying(self) -> dict[str, str]:
        """Return the aliases that some rule denies to somebody, with their devices."""
        return {
            alias: device
            for alias, device in self.aliases.items()
            if any(entry.flags & DENIES for entry in self.exact.get(alias, ()))
        }

    def is_admin(self, uid: int, gids: frozenset[int]) -> bool:
        """Return whether the caller is root or one whom `admins` names."""
        everybody, uids, groups = self.admins
        return uid == 0 or everybody or uid in uids or not groups.isdisjoint(gids)

    def allows_something(self, uid: int, gids: frozenset[int]) -> bool:
        """Return whether there is a port whose first rule about this caller allows it."""
        firsts = (entry.first_rule(self.numbers, uid, gids) for entry in self.entries)
        return any(first != NONE and self.rules[first][2] & ALLOWS for first in firsts)

    def _matching(self, name: str, device: str | None, seen: bool = False) -> list[Entry]:
        """Return the ports of rules that this name matches.

        An alias matches only itself, because globs are over kernel names.
        """
        if device is None and portname.split(name) is None:
            return []
        found = list(self.exact.get(name, ())) if device or name not in self.aliases else []
        if device is None:
            for length in range(len(name) + 1):
                for entry in self.globs.get(name[:length], ()):
                    if portname.matches(name, entry.port):
                        found.append(entry)
        return self._fitting(name, found, seen) if self.worded else found  # guard: words-of-a-rule

    def _fitting(self, name: str, entries: list[Entry], seen: bool) -> list[Entry]:
        """Return those of the entries whose words, if any, fit the device with this kernel name.

        Unnamed ones are among them only if there is no other. If nothing is known of the device,
        the words of denials are taken to fit, and no others.
        """
        if any(entry.words for entry in entries):
            facts = self.facts(name, seen)
            if facts is None:
                # guard: unknown-is-denied
                return [entry for entry in entries if entry.flags & DENIES
                        or not (entry.words or entry.flags & UNNAMED)]  # fmt: skip
            entries = [
                entry for entry in entries if not entry.words or words.fit(entry.words, facts)
            ]
        named = [entry for entry in entries if not entry.flags & UNNAMED]
        return named or entries  # guard: unnamed-is-last


def _check_ascending(numbers: memoryview) -> None:
    listed = numbers.tolist()
    # guard: plan-order
    if len(listed) > 1 and listed != sorted(set(listed)):
        raise BadPlan("users not in their order")


class _Reader:
    """Goes through a plan once. It checks the head first, and begins behind it.

    Each method raises BadPlan at the plan's end.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < HEAD.size:
            raise BadPlan("cut short")
        magic, length, checksum = HEAD.unpack_from(data)
        if magic != MAGIC:
            raise BadPlan("of another version, or no plan")
        # guard: plan-checksum
        if length != len(data) or checksum != crc32(memoryview(data)[HEAD.size :]):
            raise BadPlan("cut short or damaged")
        self._data = memoryview(data)
        self.at = HEAD.size

    def take(self, size: int) -> memoryview:
        piece = self._data[self.at : self.at + size]
        if len(piece) != size:
            raise BadPlan("cut short")
        self.at += size
        return piece

    def numbers(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def count(self) -> int:
        return self.numbers(COUNT)[0]

    def flag(self, value: int) -> bool:
        if value > 1:
            raise BadPlan("neither yes nor no")
        return value == 1

    def text(self) -> str:
        return bytes(self.take(self.count())).decode("utf-8", "surrogateescape")

    def texts(self) -> list[str]:
        return [self.text() for _ in range(self.count())]

    def array(self, count: int) -> memoryview:
        return self.take(count * 4).cast("I")

    def ascending(self, count: int) -> list[int]:
        numbers = self.array(count)
        _check_ascending(numbers)
        return numbers.tolist()

    def stamp(self) -> tuple[str, tuple[int, ...]]:
        values = self.numbers(STAMP)
        if values[0] > fresh.TEXT:
            raise BadPlan("a stamp of no kind")
        return self.text(), values


def read(path: str) -> Plan:
    """Return the plan in the file `path`, which only root may be able to write.

    Raises trust.Untrusted, OSError, or BadPlan.
    """
    try:
        data = trust.read(path, MAX_BYTES)
    except ValueError as error:
        raise BadPlan(str(error)) from None
    return Plan(data)
