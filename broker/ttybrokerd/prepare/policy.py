"""The policy's text: who may use which port, and which device a name means.

    admins = ["@adm"]             [[rule]]
                                  port = "ttyS*"
                                  allow = ["@dialout", "alice", 1000]

Users and groups become numbers here, once: the name service may be slow or gone later.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ttybroker.wire import Value, valid_name
from ttybrokerd.prepare.accounts import Accounts
from ttybrokerd.prepare.globs import is_kernels, may_be_kernels
from ttybrokerd.prepare.lines import Lines
from ttybrokerd.root import portname
from ttybrokerd.root.plan import SEATS

MAX_SECONDS = 1e12  # a lease of 30,000 years; what is above it is a mistake
WORDS = ("usb", "serial", "interface", "driver", "path")  # what a device is: ttybroker/sysfs.py
RULE_KEYS = {"port", "device", "allow", "deny", "max_lease", "while", "console", "class", "unnamed",
             *WORDS}  # fmt: skip
# As sysfs has a vendor or product: four digits. Fewer match none, unless a * stands for the rest.
ID = r"(?:[0-9a-f?]{4}|(?=[0-9a-f?]*\*)[0-9a-f*?]{1,4})"
# systemd's src/basic/login-util.c, seat_name_is_valid(), has the names of seats.
SEATED = re.compile(r"%active|%seat:(seat[A-Za-z0-9_-]{0,251})")
COUNTED = re.compile(r"\[[^]]*\d-\d\d(?!-)[^]]*\]")  # in a glob: [0-13], which is 0, 1 or 3
AT = r" \(at (?:line (\d+), column (\d+)|end of document)\)$"  # tomllib's

ADVICE = {  # by what tomllib says
    "Invalid value": "; names and texts are written in quotes, true and false in small letters",
    "Illegal character '\\n'": "; a text in quotes ends in its line",
}


class PolicyError(ValueError):
    """The policy cannot be used. `mistakes` are FILE:LINE: KEY: what; the first is the text."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__(mistakes[0])
        self.mistakes = mistakes


class Subjects(Value):
    """Whom an `allow`, a `deny` or `admins` names.

    `unknown`: it means everybody, because a name in a `deny` is unknown. `seats`: those who have
    the active session there; "" is any seat.
    """

    everybody: bool
    uids: frozenset[int]
    gids: frozenset[int]
    unknown: bool = False
    seats: frozenset[str] = frozenset()

    def seats_alone(self) -> bool:
        """Return whether it names only those who sit somewhere."""
        return bool(self.seats) and not (self.everybody or self.uids or self.gids)


NAMES: Mapping[str, Subjects] = MappingProxyType({})  # none


class Text(Value):
    """One file of the policy. `path` is for messages; `admins`: whether it may name admins."""

    path: str
    data: bytes
    admins: bool = True


class Rule(Value):
    """One [[rule]], of the file `path`.

    `device` is set only for aliases: a path, or words. `words` are set only for kernel names: the
    rule is only about devices that fit them. `max_lease` is in seconds. `active`: its leases last
    only as long as their user has the active session of a seat. `unnamed`: it is about devices that
    no other rule is about.
    """

    line: int
    port: str
    device: str | None
    allows: bool
    subjects: Subjects
    max_lease: float | None
    console: bool
    pty: bool
    path: str = ""
    words: str = ""
    active: bool = False
    unnamed: bool = False

    @property
    def where(self) -> str:
        """Return FILE:LINE, for messages."""
        return f"{self.path}:{self.line}"


class Policy(Value):
    """A whole, checked policy.

    `warnings` are for people, about unknown names. `unknown` are the unknown names in a `deny`, as
    mistakes. A policy with such a mistake is good for a start, where that `deny` refuses everybody.
    A reload refuses it. `denied` is whom the other names mean, by name.
    """

    rules: tuple[Rule, ...]
    admins: Subjects
    aliases: dict[str, str]
    warnings: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    denied: Mapping[str, Subjects] = NAMES


NOBODY = Subjects(False, frozenset(), frozenset())
EVERYBODY = Subjects(True, frozenset(), frozenset(), True)
SERIAL = {"@dialout": "uucp", "@uucp": "dialout"}  # the group of the nodes, by distribution
NO_POLICY = Policy((), NOBODY, {}, ())


def parse(
    texts: Iterable[Text], accounts: Accounts, last: Mapping[str, Subjects] = NAMES
) -> Policy:
    """Return the policy of these texts, whose rules come in this order.

    `last` is whom the names in a `deny` meant when they were last known. Raises PolicyError with
    every mistake, at most one for each rule.
    """
    parsers, mistakes = list[_Parser](), list[str]()
    for text in texts:
        try:
            parsers.append(_Parser(text, accounts, last))
            mistakes += parsers[-1].mistakes
        except PolicyError as error:
            mistakes += error.mistakes
    aliases = {} if mistakes else _aliases(parsers, mistakes)
    if mistakes:
        raise PolicyError(*mistakes)
    return Policy(
        tuple(rule for parser in parsers for rule in parser.rules),
        _union([parser.admins for parser in parsers]),
        aliases,
        tuple(warning for parser in parsers for warning in parser.warnings),
        tuple(error for parser in parsers for error in parser.unknown),
        {name: whom for parser in parsers for name, whom in parser.denied.items()},
    )


def _aliases(parsers: list[_Parser], mistakes: list[str]) -> dict[str, str]:
    """Return the device of each alias. Mistakes in them are added to `mistakes`."""
    found: dict[str, str] = {}
    rules = [
        (parser, number, rule) for parser in parsers for number, rule in enumerate(parser.rules)
    ]
    for parser, number, rule in rules:
        if rule.device is not None and found.setdefault(rule.port, rule.device) != rule.device:
            what = f"{rule.port} already means {found[rule.port]}"
            mistakes.append(str(parser.error("device", number, what)))
    for parser, number, rule in rules:
        plain = valid_name(rule.port) and portname.split(rule.port) is None
        if rule.words and rule.port in found:
            what = f"{rule.port} is an alias, so leave out words such as usb"
            mistakes.append(str(parser.error("port", number, what)))
        if plain and rule.port not in found:
            what = (
                f"{rule.port} is not a kernel name; an alias needs a device, or words such as usb"
            )
            mistakes.append(str(parser.error("port", number, what)))
    return found


def _union(each: list[Subjects]) -> Subjects:
    return Subjects(
        any(one.everybody for one in each),
        frozenset().union(*(one.uids for one in each)),
        frozenset().union(*(one.gids for one in each)),
        any(one.unknown for one in each),
        frozenset().union(*(one.seats for one in each)),
    )


def _read(text: Text) -> tuple[str, dict[str, Any]]:
    try:
        decoded = text.data.decode()
    except UnicodeDecodeError as error:
        line = text.data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{text.path}:{line}: text: not UTF-8: {error.reason}") from None
    if decoded.startswith("\ufeff"):
        what = "begins with a byte order mark (BOM); save it as UTF-8 without one"
        raise PolicyError(f"{text.path}:1: text: {what}")
    try:
        return decoded, tomllib.loads(decoded)
    except RecursionError:
        raise PolicyError(f"{text.path}:1: text: nested too deep") from None
    except ValueError as error:
        raise PolicyError(_syntax(decoded, str(error), text.path)) from None


def _syntax(text: str, what: str, path: str) -> str:
    found = re.search(AT, what)
    last = text.count("\n") + (not text.endswith("\n"))
    line = found[1] if found and found[1] else str(last if found else 1)
    column = f" (column {found[2]})" if found and found[2] else ""
    advice = next((each for sign, each in ADVICE.items() if sign in what), "")
    return f"{path}:{line}: text: {re.sub(AT, '', what)}{advice}{column}"


class _Parser:
    """The rules and the mistakes of one text. Raises PolicyError if it is not TOML."""

    def __init__(self, text: Text, accounts: Accounts, last: Mapping[str, Subjects]) -> None:
        decoded, document = _read(text)
        tables = document.get("rule", [])
        good = isinstance(tables, list) and all(isinstance(table, dict) for table in tables)
        self.lines = Lines(decoded, len(tables) if good else 0)
        self.accounts = accounts
        self.path = text.path
        self.last = last
        self.denied: dict[str, Subjects] = {}
        self.unknown: list[str] = []
        self.warnings: list[str] = []
        self.mistakes: list[str] = []
        self.admins = NOBODY
        self.rules: list[Rule] = []
        try:
            self.check_keys(document, {"admins", "rule"}, None)
            if not good:
                raise self.error("rule", None, "each rule must be a table: write [[rule]]")
            if "admins" in document:
                if not text.admins:  # guard: admins-in-etc-alone
                    raise self.error("admins", None, "only files below /etc may name admins")
                self.admins = self.subjects(document, "admins", None)
        except PolicyError as error:
            self.mistakes += error.mistakes
        for number, table in enumerate(tables if good else []):
            try:
                self.rules.append(self.rule(table, number))
            except PolicyError as error:
                self.mistakes += error.mistakes

    def rule(self, table: dict[str, Any], number: int) -> Rule:
        self.check_keys(table, RULE_KEYS, number)
        port = self.string(table, "port", number)
        device, wanted = self.device(table, number), self.words(table, number)
        if wanted and valid_name(port) and not is_kernels(port):
            device, wanted = wanted, ""
        self.check_port(port, device, number)
        self.check_words(port, wanted, number)
        self.check_deny(table, port, number)
        if ("allow" in table) == ("deny" in table):
            raise self.error("port", number, "a rule must have either allow or deny")
        verb = "allow" if "allow" in table else "deny"
        return Rule(
            self.lines.rule(number),
            port,
            device,
            verb == "allow",
            self.subjects(table, verb, number),
            self.max_lease(table, number),
            self.flag(table, "console", number),
            self.is_pty(table, number),
            self.path,
            wanted,
            self.is_active(table, number),
            self.is_unnamed(table, device, number),
        )

    def subjects(self, table: dict[str, Any], key: str, number: int | None) -> Subjects:
        value = table[key]
        if not isinstance(value, list):
            raise self.error(key, number, 'must be a list, such as ["@dialout", "alice", 1000]')
        return _union([self.subject(item, key, number) for item in value])

    def subject(self, item: object, key: str, number: int | None) -> Subjects:
        if item == "*":
            return NOBODY.replace(everybody=True)
        if isinstance(item, int) and not isinstance(item, bool):
            if not 0 <= item < 0xFFFFFFFF:
                raise self.error(key, number, "a uid must be a number from 0 to 4294967294")
            return NOBODY.replace(uids=frozenset({item}))
        if isinstance(item, str) and item.startswith("%"):
            return self.seated(item, key, number)
        if isinstance(item, str) and (item.startswith("@") or "*" not in item) and item.strip("@"):
            return self.named(item, key, number)
        shown = repr(item) if isinstance(item, str | float) else "this"
        raise self.error(key, number, f'{shown} is not "@group", "user", a uid or "*"')

    def seated(self, item: str, key: str, number: int | None) -> Subjects:
        """Return whom "%active" or "%seat:NAME" means."""
        found = SEATED.fullmatch(item)
        if found is None:
            what = f'{item!r}: unknown; there are "%active" and "%seat:NAME", such as "%seat:seat0"'
            raise self.error(key, number, what)
        if key != "allow":  # guard: seats-are-for-allow
            what = f"{item!r} is only for allow: it matches nobody while nobody sits there"
            raise self.error(key, number, what)
        return NOBODY.replace(seats=frozenset({found[1] or ""}))

    def named(self, name: str, key: str, number: int | None) -> Subjects:
        """Return whom "user" or "@group" means."""
        group = name[1:] if name.startswith("@") else None
        found = self.accounts.user_id(name) if group is None else self.accounts.group_id(group)
        if found is None or not 0 <= found < (0xFFFFFFFF if group is None else SEATS):
            return self.nobodys(name, key, number)
        if group is None:
            whom = NOBODY.replace(uids=frozenset({found}))
        else:
            whom = NOBODY.replace(gids=frozenset({found}))
            if key == "deny":  # guard: members-of-a-denied-group
                # A user can leave a group in a user namespace: user_namespaces(7).
                whom = whom.replace(uids=self.accounts.members(group))
        if key == "deny":
            self.denied[name] = whom
        return whom

    def nobodys(self, name: str, key: str, number: int | None) -> Subjects:
        """Return whom an unknown name means."""
        kind = "group" if name.startswith("@") else "user"
        what = f"no such {kind}: {name.removeprefix('@')!r}{self.meant(name)}"
        error = str(self.error(key, number, what))
        if key != "deny":
            self.warnings.append(f"{error} (ignored)")
            return NOBODY
        self.unknown.append(f"{error}; a deny must name one that is known")
        if name in self.last:
            self.warnings.append(f"{error}; its number from the last plan is used")
            return self.last[name]
        self.warnings.append(f"{error}; everybody is denied until it is known")
        return EVERYBODY  # guard: unknown-name-denies-all

    def meant(self, name: str) -> str:
        """Say how to write whom a name means if it is another kind's; "" if it is nobody's."""
        other = SERIAL.get(name)
        if other is not None and self.accounts.group_id(other) is not None:
            return f'; serial ports are of group {other} here: write "@{other}"'
        if name.startswith("@"):
            found, what = self.accounts.user_id(name[1:]), f'there is a user: write "{name[1:]}"'
        elif name.isascii() and name.isdigit():
            return f"; a uid has no quotes: write {name}"
        else:
            found, what = self.accounts.group_id(name), f'there is a group: write "@{name}"'
        return "" if found is None else f"; {what}"

    def device(self, table: dict[str, Any], number: int) -> str | None:
        if "device" not in table:
            return None
        device = self.string(table, "device", number)
        if not device.startswith("/") or "\0" in device:
            raise self.error("device", number, "must be an absolute path")
        return device

    def words(self, table: dict[str, Any], number: int) -> str:
        """Return the words that describe the device; "" if the rule has none."""
        given = [key for key in WORDS if key in table]
        if given and "device" in table:
            raise self.error(
                "device", number, "give a path or words that describe the device, not both"
            )
        if given and table.get("class") == "pty":
            raise self.error("class", number, "words such as usb cannot describe a pty")
        return " ".join(f"{key}={self.word(table, key, number)}" for key in given)

    def word(self, table: dict[str, Any], key: str, number: int) -> str:
        if key == "interface":
            value = table[key]
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
                raise self.error(key, number, "must be a number from 0 to 255")
            return str(value)
        text = self.string(table, key, number)
        if key == "usb":
            text = text.lower()
            if re.fullmatch(f"{ID}:{ID}", text) is None:
                raise self.error(key, number, 'must be vendor and product, such as "0403:6001"')
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise self.error(key, number, "must be printable ASCII; write ? for a space")
        if key == "path" and text != (below := _below(text)):  # guard: path-that-can-match
            raise self.error(key, number, f"is a place below /sys/devices; write {below}")
        if key == "driver" and "/" in text:  # guard: driver-that-can-match
            raise self.error(key, number, "must be a driver's name, such as ftdi_sio")
        return text

    def check_words(self, port: str, wanted: str, number: int) -> None:
        """Raise PolicyError if no port that the words describe has a name like this."""
        if wanted and not may_be_kernels(port):  # guard: words-with-a-name-that-matches
            what = f"no kernel name of a port is like {port}, and a glob matches no alias"
            raise self.error("port", number, f"{what}; name one port, or write ttyUSB*")
        keys = [word.partition("=")[0] for word in wanted.split(" ")]
        usb = next((key for key in keys if key in ("usb", "serial", "interface")), "")
        if usb and port.startswith("ttyS"):  # guard: no-usb-behind-ttys
            what = f"{port} is never a USB adapter; write ttyUSB* or ttyACM*"
            raise self.error(usb, number, what)

    def check_deny(self, table: dict[str, Any], port: str, number: int) -> None:
        """Raise PolicyError for a rule that would deny no port."""
        can_match = valid_name(port) or may_be_kernels(port)
        if "deny" in table and not can_match:  # guard: deny-that-can-match
            what = f"no kernel name of a port is like {port}, so this denies nothing"
            raise self.error("port", number, f"{what}; write ttyUSB*, or name one port")

    def check_port(self, port: str, device: str | None, number: int) -> None:
        if device is not None:
            if not valid_name(port):
                raise self.error(
                    "port", number, f"{port!r} is not an alias: use letters, digits, - and _"
                )
        elif not _is_glob(port):
            what = f"{port!r} is neither a name nor a glob over names"
            if port.startswith("/dev/") and _is_glob(name := port.removeprefix("/dev/")):
                what += f"; write {name}"
            raise self.error("port", number, what)
        elif counted := COUNTED.search(port):
            what = f"{port}: {counted[0]} is one character; write a rule for numbers of two digits"
            self.warnings.append(str(self.error("port", number, what)))

    def max_lease(self, table: dict[str, Any], number: int) -> float | None:
        value = table.get("max_lease")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error("max_lease", number, "must be a number of seconds")
        if not 0 < value <= MAX_SECONDS:
            raise self.error("max_lease", number, "must be a number of seconds above 0")
        return float(value)

    def is_active(self, table: dict[str, Any], number: int) -> bool:
        if "while" not in table:
            return False
        if table["while"] != "active":
            raise self.error("while", number, 'must be "active"')
        if "deny" in table:
            raise self.error("while", number, "only for allow; a rule that denies has no leases")
        return True

    def is_unnamed(self, table: dict[str, Any], device: str | None, number: int) -> bool:
        if not self.flag(table, "unnamed", number):
            return False
        if device is not None or self.is_pty(table, number):
            raise self.error("unnamed", number, "only for kernel names of real ports")
        if "deny" in table:
            what = "only for allow; a port that no rule names is refused anyway"
            raise self.error("unnamed", number, what)
        return True

    def flag(self, table: dict[str, Any], key: str, number: int) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, number, "must be true or false")
        return value

    def is_pty(self, table: dict[str, Any], number: int) -> bool:
        value = table.get("class", "serial")
        if value not in ("serial", "pty"):
            raise self.error("class", number, 'must be "serial" or "pty"')
        return bool(value == "pty")

    def string(self, table: dict[str, Any], key: str, number: int) -> str:
        value = table.get(key)
        if not isinstance(value, str):
            if isinstance(value, list) and key == "port":
                raise self.error(key, number, "must be one string; write a rule for each port")
            raise self.error(key, number, "missing" if value is None else "must be a string")
        return value

    def check_keys(self, table: dict[str, Any], known: set[str], number: int | None) -> None:
        for key in table:
            if key not in known:
                what = f"unknown key; known are {', '.join(sorted(known))}"
                raise self.error(key, number, what)

    def error(self, key: str, rule: int | None, what: str) -> PolicyError:
        """Make a mistake at a key of this rule, or above all rules.

        If there is no such key, the mistake is at the line of the rule.
        """
        which = "" if rule is None or self.lines.exact else f" (rule {rule + 1})"
        return PolicyError(f"{self.path}:{self.lines.key(key, rule)}: {key}: {what}{which}")


def _below(path: str) -> str:
    """Return what may be meant, in the form that `ttybroker.sysfs` gives places."""
    return path.strip("/").removeprefix("sys/devices").strip("/") or "*"


def _is_glob(text: str) -> bool:
    """Return whether it can be a glob over kernel names."""
    return text.isascii() and text != "" and all(c.isalnum() or c in "_*?[]!-" for c in text)
