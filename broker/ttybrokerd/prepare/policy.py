"""The policy: who may use which port, by which rule, and what device a name means.

Read once, with users and groups resolved to numbers then (the name service may be slow or
gone when a client asks); afterwards deciding is a pure function of numbers and names.
"""

from __future__ import annotations

import os

from ttybroker.wire import valid_name
from ttybrokerd.prepare import names, toml
from ttybrokerd.prepare.toml import Table
from ttybrokerd.root import portname, trust
from ttybrokerd.root.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/etc/ttybroker/policy.toml"
SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "policy.toml")
MAX_BYTES = 1 << 20
MAX_SECONDS = 1e12  # a lease of 30,000 years; what is above it is a mistake


class PolicyError(ValueError):
    """The policy cannot be used; the text is FILE:LINE: KEY: what is wrong."""


class Subjects(NamedTuple):
    """Whom an `allow`, a `deny` or `admins` names."""

    everybody: bool
    uids: frozenset[int]
    gids: frozenset[int]

    def name(self, uid: int, gids: frozenset[int]) -> bool:
        """Whether a caller with this uid and these groups is named."""
        return self.everybody or uid in self.uids or not self.gids.isdisjoint(gids)


NOBODY = Subjects(False, frozenset(), frozenset())


class Rule(NamedTuple):
    """One [[rule]]. `device` is set on aliases alone; `max_lease` is in seconds."""

    line: int
    port: str
    device: str | None
    allows: bool
    subjects: Subjects
    max_lease: float | None
    console: bool
    pty: bool

    def __str__(self) -> str:
        return f"{self.port} (line {self.line})"


class Decision(NamedTuple):
    """What the policy says of one caller and one name.

    `rule` is the rule that decided, None if none applied; `known` is whether any rule names
    the port at all; `device` is the alias's path, None for a kernel name.
    """

    allowed: bool
    known: bool
    rule: Rule | None
    device: str | None


class Policy(NamedTuple):
    """A whole, checked policy. `warnings` are for people: names that nobody has here."""

    rules: tuple[Rule, ...]
    admins: Subjects
    aliases: dict[str, str]
    warnings: tuple[str, ...]

    def decide(self, uid: int, gids: frozenset[int], name: str) -> Decision:
        """May this caller use this (valid) name? The first rule that applies decides."""
        device = self.aliases.get(name)
        matching = [rule for rule in self.rules if self._matches(rule, name, device)]
        for rule in matching:
            if rule.subjects.name(uid, gids):  # guard: first-matching-rule
                return Decision(rule.allows, True, rule, device)
        return Decision(False, bool(matching), None, device)  # guard: no-rule-no-access

    def is_pty(self, name: str) -> bool:
        """Whether some rule says that this name means a pty."""
        device = self.aliases.get(name)
        return any(rule.pty for rule in self.rules if self._matches(rule, name, device))

    def is_admin(self, uid: int, gids: frozenset[int]) -> bool:
        """Root always; else whom `admins` names."""
        return uid == 0 or self.admins.name(uid, gids)

    @staticmethod
    def _matches(rule: Rule, name: str, device: str | None) -> bool:
        if device is not None:  # an alias is its own name: globs are over kernel names
            return rule.port == name
        return portname.split(name) is not None and portname.matches(name, rule.port)


def load_policy(path: str | None) -> Policy:
    """The policy at `path`; without one, /etc/ttybroker/policy.toml or else the shipped default.

    Raises PolicyError.
    """
    if path is None and not os.path.lexists(PATH):
        with open(SHIPPED, encoding="utf-8") as file:
            return parse(file.read(), SHIPPED)
    return load(PATH if path is None else path)


def files(path: str | None) -> tuple[str, ...]:
    """What `load_policy` may have to read."""
    if path is None:
        return (PATH, SHIPPED)
    try:
        return (trust.resolve(path),)
    except OSError:  # which `load` has to judge
        return (path,)


def load(path: str) -> Policy:
    """The policy in the file `path`, which only root may be able to change.

    Raises PolicyError, naming file, line and key.
    """
    try:
        text = trust.read(path, MAX_BYTES)
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: not UTF-8: {error}") from None
    except trust.Untrusted as error:
        raise PolicyError(str(error)) from None
    except PermissionError as error:
        restart = "; the daemon looks where it was when it was started: restart it"
        hint = restart if os.geteuid() == 0 else ""
        raise PolicyError(f"{path}: {error.strerror}{hint}") from None
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise PolicyError(str(error)) from None
    return parse(text, path)


def parse(text: str, path: str = "policy") -> Policy:
    """The policy in `text`; `path` is for messages alone. Raises PolicyError."""
    try:
        document = toml.read(text)
    except toml.TomlError as error:
        raise PolicyError(f"{path}: {error}") from None
    return _Parser(path).policy(document)


class _Parser:
    """Turns a TOML document into a Policy."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.warnings: list[str] = []

    def policy(self, document: Table) -> Policy:
        self._known_keys(document, {"admins", "rule"})
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(t, Table) for t in tables):
            raise self.error(document, "rule", "rules are tables: write [[rule]]")
        admins = self.subjects(document, "admins") if "admins" in document else NOBODY
        rules = tuple(self.rule(table) for table in tables)
        return Policy(rules, admins, self.aliases(tables, rules), tuple(self.warnings))

    def rule(self, table: Table) -> Rule:
        keys = {"port", "device", "allow", "deny", "max_lease", "console", "class"}
        self._known_keys(table, keys)
        port = self._string(table, "port")
        device = self._string(table, "device") if "device" in table else None
        self._check_port(table, port, device)
        if ("allow" in table) == ("deny" in table):
            raise self.error(table, "port", "a rule has either allow or deny")
        verb = "allow" if "allow" in table else "deny"
        return Rule(
            table.line,
            port,
            device,
            verb == "allow",
            self.subjects(table, verb),
            self._max_lease(table),
            self._flag(table, "console"),
            self._class(table),
        )

    def aliases(self, tables: list[Table], rules: tuple[Rule, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for table, rule in zip(tables, rules, strict=True):
            if rule.device is not None and found.setdefault(rule.port, rule.device) != rule.device:
                raise self.error(table, "device", f"{rule.port} already means {found[rule.port]}")
        for table, rule in zip(tables, rules, strict=True):
            plain = valid_name(rule.port) and portname.split(rule.port) is None
            if plain and rule.port not in found:
                what = f"{rule.port} is no kernel name; an alias needs a device"
                raise self.error(table, "port", what)
        return found

    def subjects(self, table: Table, key: str) -> Subjects:
        value = table[key]
        if not isinstance(value, list):
            raise self.error(table, key, 'a list, such as ["@dialout", "alice", 1000]')
        everybody, uids, gids = False, set[int](), set[int]()
        for item in value:
            if item == "*":
                everybody = True
            elif isinstance(item, int) and not isinstance(item, bool):
                if not 0 <= item < 0xFFFFFFFF:
                    raise self.error(table, key, "a uid is a number from 0 to 4294967294")
                uids.add(item)
            elif isinstance(item, str) and item.startswith("@") and len(item) > 1:
                self._resolve(names.group_id, item[1:], gids, table, key)
            elif isinstance(item, str) and item and "*" not in item and item != "@":
                self._resolve(names.user_id, item, uids, table, key)
            else:
                shown = repr(item) if isinstance(item, str | float) else "what stands here"
                raise self.error(table, key, f'{shown} is not "@group", "user", a uid or "*"')
        return Subjects(everybody, frozenset(uids), frozenset(gids))

    def _resolve(
        self,
        find: Callable[[str], int | None],
        name: str,
        into: set[int],
        table: Table,
        key: str,
    ) -> None:
        try:
            found = find(name)
        except names.Unanswered as unanswered:
            raise self.error(table, key, f"{name!r}: {unanswered}") from None
        if found is not None:
            into.add(found)
            return
        where = f"{self.path}:{table.lines[key]}: {key}"
        self.warnings.append(f"{where}: {name!r} does not exist here and names nobody")

    def _check_port(self, table: Table, port: str, device: str | None) -> None:
        if device is not None:
            if not valid_name(port):
                raise self.error(table, "port", f"{port!r} is no alias: letters, digits, - and _")
            if not device.startswith("/") or "\0" in device:
                raise self.error(table, "device", "an absolute path")
        elif not portname.is_glob(port):
            raise self.error(table, "port", f"{port!r} is neither a name nor a glob over names")

    def _max_lease(self, table: Table) -> float | None:
        value = table.get("max_lease")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(table, "max_lease", "a number of seconds")
        if not 0 < value <= MAX_SECONDS:
            raise self.error(table, "max_lease", "a number of seconds above 0")
        return float(value)

    def _flag(self, table: Table, key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise self.error(table, key, "true or false")
        return value

    def _class(self, table: Table) -> bool:
        value = table.get("class", "serial")
        if value not in ("serial", "pty"):
            raise self.error(table, "class", 'the classes are "serial" and "pty"')
        return value == "pty"

    def _string(self, table: Table, key: str) -> str:
        value = table.get(key)
        if not isinstance(value, str):
            raise self.error(table, key, "missing" if value is None else "a string")
        return value

    def _known_keys(self, table: Table, known: set[str]) -> None:
        for key in table:
            if key not in known:
                what = f"unknown key; known are {', '.join(sorted(known))}"
                raise self.error(table, key, what)

    def error(self, table: Table, key: str, what: str) -> PolicyError:
        """Of a key that is not there, it is the table's line."""
        return PolicyError(f"{self.path}:{table.lines.get(key, table.line)}: {key}: {what}")
