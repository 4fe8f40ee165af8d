"""Rules that `ttybrokerd --check` warns of, because another hides them."""

from __future__ import annotations

import re
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ttybrokerd.prepare.globs import covers, may_be_kernels
from ttybrokerd.prepare.hidden import hidden
from ttybrokerd.prepare.policy import Text, parse
from ttybrokerd.root.portname import matches

pytestmark = pytest.mark.timeout(300)  # thousands of examples: a minute on a busy machine

ACCOUNTS = mock.Mock(
    user_id=lambda name: {"alice": 1000, "bob": 1001}.get(name),
    group_id=lambda name: {"dialout": 20, "students": 2000}.get(name),
    members=lambda name: frozenset({1001}) if name == "students" else frozenset(),
)


def warnings(*rules: str) -> list[str]:
    """What is warned of, of rules of four lines: port, verb and whom in one."""
    text = ""
    for rule in rules:
        port, who = rule.split(" ", 1)
        device = 'device = "/dev/gps"' if port in ("gps", "ttyS7") else "#"
        text += f'[[rule]]\nport = "{port}"\n{device}\n{who}\n'
    return hidden(parse([Text("/etc/p", text.encode())], ACCOUNTS))


def never(line: int, port: str, by: int) -> str:
    why = f"/etc/p:{by} comes first, about the same ports and users"
    return f"/etc/p:{line}: rule: {port} never applies: {why}"


@pytest.mark.parametrize(
    "rules",
    [
        ("ttyS* allow = [1000]", "ttyS0 allow = [1000]"),
        ("ttyS* allow = [1000]", 'ttyS0 deny = ["alice"]'),
        ('ttyS* deny = ["*"]', 'ttyS[0-3] allow = ["@dialout", 1]'),
        ('ttyS0 allow = ["@dialout", 1, 2]', 'ttyS0 deny = [2, "@dialout"]'),
        ('ttyS* allow = ["@dialout", 5]', 'ttyS* allow = ["@dialout"]'),
        ('gps deny = ["@students"]', 'gps allow = ["bob"]'),  # a member
        ('ttyS* allow = ["@students"]', 'ttyS0 deny = ["@students"]'),
        ('tty* allow = ["*"]', 'ttyS1? allow = ["*"]'),
        ('tty* allow = ["%active"]', 'ttyS0 allow = ["%seat:seat0", "%active"]'),
    ],
)
def test_a_rule_that_an_earlier_one_hides_is_named_with_it(rules: tuple[str, ...]) -> None:
    assert warnings(*rules) == [never(5, rules[1].split()[0], 1)]


@pytest.mark.parametrize(
    "rules",
    [
        ("ttyS0 allow = [1000]", "ttyS* allow = [1000]"),
        ('ttyS* allow = ["@students"]', 'ttyS0 deny = ["@students", "alice"]'),
        ('ttyS* allow = ["@dialout"]', 'ttyS0 deny = ["@students"]'),
        ("ttyS* allow = [1000]", "ttyS0 allow = [1000, 1001]"),
        ('ttyS* allow = ["@dialout"]', 'ttyS0 allow = ["*"]'),
        ('ttyS* allow = ["@dialout"]', "ttyS0 allow = [20]"),
        ("ttyS[0-3] allow = [1000]", "ttyS* allow = [1000]"),
        ("ttyS? allow = [1000]", "ttyS1* allow = [1000]"),
        ('ttyS* allow = ["*"]', 'ttyUSB* allow = ["*"]'),
        ('* allow = ["*"]', 'gps allow = ["*"]'),  # an alias is no kernel name
        ('ttyS* allow = ["*"]', "ttyS0 deny = []"),  # which names nobody by itself
        ('ttyS* allow = ["*"]', 'ttyS0 allow = ["ghost"]'),
        ('ttyS* allow = ["%seat:seat0"]', 'ttyS* allow = ["%active"]'),
        ('ttyS* allow = ["%active"]', 'ttyS* allow = ["%active", 5]'),
    ],
)
def test_a_rule_that_somebody_may_come_to_is_not(rules: tuple[str, ...]) -> None:
    assert warnings(*rules) == []


def test_a_rule_with_words_hides_only_one_with_the_same() -> None:
    words = 'serial = "A"\nallow = ["*"]'
    assert warnings(f"ttyUSB* {words}", 'ttyUSB0 allow = ["*"]') == []
    assert warnings(f"ttyUSB* {words}", f"ttyUSB0 {words}") == [never(6, "ttyUSB0", 1)]
    assert warnings('ttyUSB* allow = ["*"]', f"ttyUSB0 {words}") == [never(5, "ttyUSB0", 1)]


@pytest.mark.parametrize("port", ["board?", "uart*", "USB*", "ttz?"])
def test_a_glob_that_no_port_is_called_like_never_applies(port: str) -> None:
    why = "no kernel name of a port is like this, and a glob matches no alias"
    assert warnings(f"{port} allow = [1000]") == [f"/etc/p:1: rule: {port} never applies: {why}"]


@pytest.mark.parametrize(
    "port", ["ttyS*", "t*", "*", "?ty*", "[t]ty*", "rfcomm?", "noz*", "gsmtty*", "tty*[0-9]", "*0"]
)
def test_a_glob_that_a_port_may_be_called_like_is_no_mistake(port: str) -> None:
    assert warnings(f"{port} deny = [1000]") == []


@given(st.text("ty0S1*?[]!-", max_size=8))
@settings(deadline=None)
def test_a_glob_that_matches_some_port_is_told_from_one_that_matches_none(glob: str) -> None:
    middles = ["", *"tyS", *(one + other for one in "tyS" for other in "tyS")]
    names = [f"tty{middle}{number}" for middle in middles for number in (0, 1, 10, 11, 110, 10101)]
    if any(matches(name, glob) for name in names):
        assert may_be_kernels(glob)


@pytest.mark.parametrize(
    "glob", ["ttyS", "ttyS*[a-z]", "ttyS0?", "[!t]tyS*", "ttyS[]", "tty-0", "*100000", "tty*0*S"]
)
def test_no_port_has_a_name_without_a_number_or_with_one_of_zeros_or_of_six_digits(
    glob: str,
) -> None:
    assert not may_be_kernels(glob)


def test_each_hidden_rule_is_named_once_with_the_first_that_hides_it() -> None:
    everybody = 'allow = ["*"]'
    assert warnings(*[f"ttyS{glob} {everybody}" for glob in ("0", "*", "1", "0")]) == [
        never(9, "ttyS1", 5),
        never(13, "ttyS0", 1),
    ]


def test_a_glob_is_not_about_aliases_of_ones_own() -> None:
    told = "/etc/p:5: rule: g* is not about gps: an alias, /etc/p:1; name it in a rule"
    assert warnings('gps allow = ["*"]', "g* allow = [1000]", "* deny = [1000]") == [told]


def test_a_name_of_ones_own_without_a_device_is_no_alias() -> None:
    told = "/etc/p:1: rule: board1 is not an alias, because no rule says its device"
    assert warnings('board1 allow = ["*"]', "ttyAMA0 allow = [1000]") == [told]
    words = '[[rule]]\nport = "b1"\nserial = "A"\nallow = [1]\n[[rule]]\nport = "b1"\ndeny = [2]\n'
    assert hidden(parse([Text("/etc/p", words.encode())], ACCOUNTS)) == []


@pytest.mark.parametrize("first", [True, False])
def test_a_glob_is_not_about_a_kernel_name_that_is_an_alias(first: bool) -> None:
    rules = ["ttyS* deny = [1000]", "ttyUSB* deny = [1000]", 'ttyS7 allow = ["*"]']
    glob, alias = (1, 9) if first else (9, 1)
    rules = rules if first else rules[::-1]
    told = f"ttyS* is not about ttyS7: an alias, /etc/p:{alias}; name it in a rule"
    assert warnings(*rules) == [f"/etc/p:{glob}: rule: {told}"]


def test_a_glob_that_looks_like_twenty_boards_is_one_warning() -> None:
    boards = [f'[[rule]]\nport = "board{n}"\nserial = "{n}"\nallow = [1]\n' for n in range(20)]
    glob = '[[rule]]\nport = "board*"\nallow = [1000]\n'
    told = "/etc/p:1: rule: board* is not about board0 and 19 more: aliases, /etc/p:4"
    policy = parse([Text("/etc/p", "".join([glob, *boards]).encode())], ACCOUNTS)
    assert hidden(policy) == [f"{told}; name each in a rule"]


def denies(*rules: str) -> list[str]:
    """What is warned of, of rules of five lines: port and device, and in each line one more."""
    text = "".join("[[rule]]\n" + rule + "\n" * (4 - rule.count("\n")) for rule in rules)
    return hidden(parse([Text("/etc/p", text.encode())], ACCOUNTS))


BOARD = 'port = "board1"\nserial = "A"\nallow = ["@students", 5]'
STUDENTS = 'port = "ttyUSB*"\ndeny = ["@students"]'
BECAUSE = "if it is such a port; a device is denied under all its names"


@pytest.mark.parametrize("place", [0, 1])
def test_a_deny_of_the_kernels_name_takes_an_alias_away_wherever_it_stands(place: int) -> None:
    rules = [BOARD, STUDENTS]
    told = f"ttyUSB* denies board1 to some whom /etc/p:{1 + 5 * place} allows it, {BECAUSE}"
    assert denies(*rules[:: 1 - 2 * place]) == [f"/etc/p:{6 - 5 * place}: rule: {told}"]


@pytest.mark.parametrize(
    ("alias", "deny"),
    [
        ('device = "/dev/serial/by-id/a"\nallow = ["@dialout"]', 'port = "ttyUSB*"\ndeny = ["*"]'),
        ('device = "/dev/ttyUSB5"\nallow = ["bob"]', STUDENTS),  # a member
        ('device = "/dev/ttyS5"\nallow = ["*"]', 'port = "ttyS*"\ndeny = ["*"]'),
    ],
)
def test_so_does_one_of_everybody_or_of_a_member(alias: str, deny: str) -> None:
    port = deny.split('"')[1]
    told = f"{port} denies gps to some whom /etc/p:1 allows it, {BECAUSE}"
    assert denies(f'port = "gps"\n{alias}', deny) == [f"/etc/p:6: rule: {told}"]


@pytest.mark.parametrize(
    ("alias", "deny"),
    [
        ('device = "/dev/serial/by-id/a"\nallow = ["*"]', STUDENTS),  # everybody but them
        ('device = "/dev/serial/by-id/a"\nallow = ["alice"]', STUDENTS),
        ('device = "/dev/ttyUSB5"\nallow = ["bob"]', 'port = "ttyUSB[0-4]"\ndeny = ["bob"]'),
        ('usb = "1:*"\nallow = ["bob"]'.replace("1:", "0001:"), 'port = "ttyS*"\ndeny = ["bob"]'),
        ('device = "/dev/pts/5"\nclass = "pty"\nallow = ["bob"]', STUDENTS),
        ('device = "/dev/serial/by-id/a"\ndeny = ["bob"]', STUDENTS),
    ],
)
def test_a_deny_that_takes_no_alias_from_anybody_is_not_warned_of(alias: str, deny: str) -> None:
    assert denies(f'port = "gps"\n{alias}', deny) == []


def test_nor_is_one_behind_a_rule_that_allows_them_the_kernels_name() -> None:
    admins = 'port = "ttyUSB*"\nallow = ["@dialout"]'
    nobody_else = 'port = "ttyUSB*"\ndeny = ["*"]'
    mine = BOARD.replace('"@students", 5', '"@dialout"')
    assert denies(admins, nobody_else, mine) == []
    assert len(denies(mine, nobody_else, admins)) == 2  # and `admins` never applies


def test_a_deny_of_everybody_behind_twenty_boards_is_one_warning() -> None:
    boards = [f'port = "board{n}"\nserial = "{n}"\nallow = [1]' for n in range(20)]
    told = "ttyUSB* denies board0 and 19 more to some whom /etc/p:1 allows it"
    found = denies(*boards, 'port = "ttyUSB*"\ndeny = ["*"]')
    assert found == [f"/etc/p:101: rule: {told}, {BECAUSE}"]


globs = st.text("tS0*?[]!-", min_size=1, max_size=7)
kernel_names = st.text("tS01", min_size=1, max_size=6)


@given(globs, globs, st.lists(kernel_names, max_size=40))
@settings(deadline=None, max_examples=1500)
@example("t*0", "tS*0", ["tS00"])
def test_what_a_glob_covers_it_matches(wide: str, narrow: str, names: list[str]) -> None:
    if covers(wide, narrow):
        assert all(matches(name, wide) for name in names if matches(name, narrow))
    if any(matches(name, narrow) for name in names):
        assert covers(narrow, narrow) and covers("*", narrow)


@given(st.text("t0*?", min_size=1, max_size=5), st.text("t0*?", min_size=1, max_size=5))
@settings(deadline=None, max_examples=500)
@example("??t*", "*ttt")
@example("???t*", "*ttt")
def test_what_a_glob_does_not_cover_some_name_shows(wide: str, narrow: str) -> None:
    if not covers(wide, narrow):
        fills = ("", "t", "0", "a", "tt", "t0", "0t", "00", "aa", "at", "ta", "a0", "0a", "ttt",
                 "aaa", "aaaa")  # fmt: skip
        candidates = {""}
        for char in re.sub(r"\*+", "*", narrow):
            each = fills if char == "*" else ("t", "0", "a") if char == "?" else (char,)
            candidates = {name + more for name in candidates for more in each}
        assert any(not matches(name, wide) for name in candidates)


def test_a_rule_about_unnamed_ports_is_hidden_by_any_other_that_names_them() -> None:
    rest = "ttyUSB* unnamed = true\nallow = [1000]"
    by = "never applies: /etc/p:{} names these ports; remove this rule, or its unnamed = true"
    for other in ("tty* allow = [1001]", "ttyUSB* deny = [1001]"):
        assert warnings(rest, other) == [f"/etc/p:1: rule: ttyUSB* {by.format(6)}"]
        assert warnings(other, rest) == [f"/etc/p:5: rule: ttyUSB* {by.format(1)}"]
    assert warnings(rest, "ttyUSB0 allow = [1000]") == []
    assert warnings("gps allow = [1]", rest) == []
    assert warnings(rest, rest) == [never(6, "ttyUSB*", 1)]
