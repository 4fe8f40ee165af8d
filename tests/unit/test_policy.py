"""The policy: what it says no to, with line and key, and what it decides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttybroker.wire import valid_name
from ttybrokerd.prepare import command, make
from ttybrokerd.prepare.accounts import Accounts
from ttybrokerd.prepare.files import Stamps
from ttybrokerd.prepare.globs import may_be_kernels
from ttybrokerd.prepare.policy import PolicyError
from ttybrokerd.root import seats
from ttybrokerd.root.fresh import SHIPPED
from ttybrokerd.root.plan import ALLOWS, SEATS, Decision, Plan
from unit.helpers import plan_of

DESK = Path(__file__).parents[2] / "packaging/desk.toml"
USERS = {"root": 0, "alice": 1000, "bob": 1001, "5": 1005}
GROUPS = {"dialout": 20, "adm": 4, "alice": 1000}
NOBODY: frozenset[int] = frozenset()
ALICE, BOB = 1000, 1001
DIALOUT, ADM = frozenset({20}), frozenset({4})


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The users and groups above, and no others."""
    monkeypatch.setattr("pwd.getpwall", list)
    monkeypatch.setattr("grp.getgrall", list)
    monkeypatch.setattr("pwd.getpwnam", lambda name: mock.Mock(pw_uid=USERS[name]))
    monkeypatch.setattr("grp.getgrnam", lambda name: mock.Mock(gr_gid=GROUPS[name], gr_mem=[]))


read = plan_of


def rules(*texts: str) -> Plan:
    """A plan for these rules, each the inside of a [[rule]]."""
    return plan_of("".join(f"[[rule]]\n{text}\n" for text in texts))


def allowed(policy: Plan, name: str, uid: int = ALICE, gids: frozenset[int] = NOBODY) -> bool:
    return policy.decide(uid, gids, name).allowed


# what it says no to

UNKNOWN_IN_RULE = (
    "unknown key; known are allow, class, console, deny, device, driver, interface, max_lease, "
    "path, port, serial, unnamed, usb, while"
)
NOT_A_SUBJECT = 'is not "@group", "user", a uid or "*"'
NO_WORD = 'unknown; there are "%active" and "%seat:NAME", such as "%seat:seat0"'
FOR_ALLOW = "is only for allow: it matches nobody while nobody sits there"
KERNEL_NAMES = "only for kernel names of real ports"
A_LIST = 'must be a list, such as ["@dialout", "alice", 1000]'
BELOW = "is a place below /sys/devices"
PRINTABLE = "must be printable ASCII; write ? for a space"
WORDS = '[[rule]]\nport = "gps"\nallow = ["*"]\n'
NO_NAME = (
    "no kernel name of a port is like board?, and a glob matches no alias; name one port, or "
    "write ttyUSB*"
)
NOTHING = (
    "no kernel name of a port is like {}, so this denies nothing; write ttyUSB*, or name one port"
)
NO_USB = "ttyS* is never a USB adapter; write ttyUSB* or ttyACM*"
GOOD = '[[rule]]\nport = "ttyS*"\nallow = ["*"]\n'

BAD: list[tuple[str, str]] = [
    # above the rules
    ('user = "alice"\n', "p:1: user: unknown key; known are admins, rule"),
    (GOOD + "\n[[rules]]\nport = 1\n", "p:5: rules: unknown key; known are admins, rule"),
    ('\nadmins = "@adm"\n' + GOOD, f"p:2: admins: {A_LIST}"),
    ("# who\nadmins = [1.5]\n", f"p:2: admins: 1.5 {NOT_A_SUBJECT}"),
    ("rule = 5\n", "p:1: rule: each rule must be a table: write [[rule]]"),
    ('\n[rule]\nport = "ttyS0"\n', "p:2: rule: each rule must be a table: write [[rule]]"),
    ('rule = ["ttyS0"]\n', "p:1: rule: each rule must be a table: write [[rule]]"),
    # port
    ('[[rule]]\nallow = ["*"]\n', "p:1: port: missing"),
    (GOOD + '[[rule]]\ndeny = ["*"]\n', "p:4: port: missing"),
    ('[[rule]]\nport = 7\nallow = ["*"]\n', "p:2: port: must be a string"),
    (
        '[[rule]]\nport = ""\nallow = ["*"]\n',
        "p:2: port: '' is neither a name nor a glob over names",
    ),
    (
        '[[rule]]\nport = "/dev/ttyS0"\nallow = ["*"]\n',
        "p:2: port: '/dev/ttyS0' is neither a name nor a glob over names; write ttyS0",
    ),
    (
        '[[rule]]\nport = "/dev/serial/by-id/a"\nallow = ["*"]\n',
        "p:2: port: '/dev/serial/by-id/a' is neither a name nor a glob over names",
    ),
    (
        '[[rule]]\nport = ["ttyS0", "ttyS1"]\nallow = ["*"]\n',
        "p:2: port: must be one string; write a rule for each port",
    ),
    (
        '[[rule]]\nport = "tty\u0405*"\nallow = ["*"]\n',
        "p:2: port: 'tty\u0405*' is neither a name nor a glob over names",
    ),
    (
        '[[rule]]\nallow = ["*"]\nport = "gps"\n',
        "p:3: port: gps is not a kernel name; an alias needs a device, or words such as usb",
    ),
    (
        GOOD + '[[rule]]\nport = "ttyS00"\nallow = ["*"]\n',
        "p:5: port: ttyS00 is not a kernel name; an alias needs a device, or words such as usb",
    ),
    # device
    (
        '[[rule]]\nport = "g*"\ndevice = "/dev/ttyS0"\nallow = ["*"]\n',
        "p:2: port: 'g*' is not an alias: use letters, digits, - and _",
    ),
    (
        '[[rule]]\nport = "gps"\ndevice = "ttyS0"\nallow = ["*"]\n',
        "p:3: device: must be an absolute path",
    ),
    (
        '[[rule]]\nport = "gps"\ndevice = "/dev/a\\u0000b"\nallow = ["*"]\n',
        "p:3: device: must be an absolute path",
    ),
    ('[[rule]]\nport = "gps"\ndevice = ["/d"]\nallow = ["*"]\n', "p:3: device: must be a string"),
    (
        '[[rule]]\nport = "gps"\ndevice = "/a"\ndeny = [1]\n'
        '[[rule]]\nport = "gps"\ndevice = "/b"\nallow = ["*"]\n',
        "p:7: device: gps already means /a",
    ),
    # words that say what it is
    (WORDS + 'usb = "0403"\n', 'p:4: usb: must be vendor and product, such as "0403:6001"'),
    (WORDS + 'usb = "0403:6001x"\n', 'p:4: usb: must be vendor and product, such as "0403:6001"'),
    # it would match no device, and one that denies would deny nobody
    (WORDS + 'usb = "403:6001"\n', 'p:4: usb: must be vendor and product, such as "0403:6001"'),
    (WORDS + "usb.id = 1\n", "p:4: usb: must be a string"),
    (WORDS + 'serial = ""\n', f"p:4: serial: {PRINTABLE}"),
    (WORDS + 'serial = "A 1"\n', f"p:4: serial: {PRINTABLE}"),
    (WORDS + 'path = "a\\n"\n', f"p:4: path: {PRINTABLE}"),
    (WORDS + 'driver = "\u00e9"\n', f"p:4: driver: {PRINTABLE}"),
    # no place and no driver is called so, and a rule that denies would deny nobody
    (WORDS + 'path = "/sys/devices/pci*/1-4/*"\n', f"p:4: path: {BELOW}; write pci*/1-4/*"),
    (WORDS + 'path = "/pci*"\n', f"p:4: path: {BELOW}; write pci*"),
    (WORDS + 'path = "sys/devices/pci*/"\n', f"p:4: path: {BELOW}; write pci*"),
    (WORDS + 'path = "//"\n', f"p:4: path: {BELOW}; write *"),
    (WORDS + 'driver = "drivers/a"\n', "p:4: driver: must be a driver's name, such as ftdi_sio"),
    (WORDS + 'interface = "0"\n', "p:4: interface: must be a number from 0 to 255"),
    (WORDS + "interface = 256\n", "p:4: interface: must be a number from 0 to 255"),
    (WORDS + "interface = true\n", "p:4: interface: must be a number from 0 to 255"),
    (
        WORDS + 'serial = "A"\ndevice = "/d"\n',
        "p:5: device: give a path or words that describe the device, not both",
    ),
    (
        WORDS + 'serial = "A"\nclass = "pty"\n',
        "p:5: class: words such as usb cannot describe a pty",
    ),
    (
        GOOD.replace("*", "0", 1) + 'device = "/d"\n' + GOOD.replace("*", "0", 1) + 'driver="A"\n',
        "p:6: port: ttyS0 is an alias, so leave out words such as usb",
    ),
    (
        WORDS.replace("gps", "g.s") + 'serial = "A"\n',
        "p:2: port: 'g.s' is neither a name nor a glob over names",
    ),
    (
        WORDS + 'serial = "A"\n' + WORDS + 'serial = "B"\n',
        "p:5: device: gps already means serial=A",
    ),
    # a deny by it would deny nobody
    (WORDS.replace("gps", "board?") + 'serial = "A"\n', f"p:2: port: {NO_NAME}"),
    *(
        (f'[[rule]]\nport = "{port}"\ndeny = ["*"]\n', f"p:2: port: {NOTHING.format(port)}")
        for port in ("board*", "USB?", "ttyUSB[0", "ttyUSB]", "ttyUSB*a", "ttyUSB[3-0]", "ttyS0?0")
    ),
    (GOOD.replace("allow", "deny") + 'usb = "0403:6001"\n', f"p:4: usb: {NO_USB}"),
    (GOOD + 'driver = "d"\nserial = "A"\n', f"p:5: serial: {NO_USB}"),
    (GOOD + "interface = 0\n", f"p:4: interface: {NO_USB}"),
    # allow, deny
    ('[[rule]]\nport = "ttyS0"\n', "p:2: port: a rule must have either allow or deny"),
    (
        '[[rule]]\nport = "ttyS0"\nallow = ["*"]\ndeny = [5]\n',
        "p:2: port: a rule must have either allow or deny",
    ),
    ('[[rule]]\nport = "ttyS0"\nallow = "*"\n', f"p:3: allow: {A_LIST}"),
    ('[[rule]]\nport = "ttyS0"\ndeny = 1000\n', f"p:3: deny: {A_LIST}"),
    ('[[rule]]\nport = "ttyS0"\nallow = [""]\n', f"p:3: allow: '' {NOT_A_SUBJECT}"),
    ('[[rule]]\nport = "ttyS0"\nallow = ["@"]\n', f"p:3: allow: '@' {NOT_A_SUBJECT}"),
    ('[[rule]]\nport = "ttyS0"\nallow = ["al*"]\n', f"p:3: allow: 'al*' {NOT_A_SUBJECT}"),
    ('[[rule]]\nport = "ttyS0"\nallow = [true]\n', f"p:3: allow: this {NOT_A_SUBJECT}"),
    (
        '[[rule]]\nport = "ttyS0"\nallow = [["a"]]\n',
        f"p:3: allow: this {NOT_A_SUBJECT}",
    ),
    *(
        (f'[[rule]]\nport = "ttyS0"\nallow = ["{word}"]\n', f"p:3: allow: '{word}': {NO_WORD}")
        for word in ("%", "%Active", "%active ", "%seat", "%seat:", "%seat:x", "%seat:seat/0")
    ),
    (
        '[[rule]]\nport = "ttyS0"\ndeny = ["%active"]\n',
        f"p:3: deny: '%active' {FOR_ALLOW}",
    ),
    (f'admins = ["%seat:seat0"]\n{GOOD}', f"p:1: admins: '%seat:seat0' {FOR_ALLOW}"),
    (GOOD + "while = true\n", 'p:4: while: must be "active"'),
    (GOOD + 'while = "idle"\n', 'p:4: while: must be "active"'),
    (
        '[[rule]]\nport = "ttyS0"\ndeny = ["*"]\nwhile = "active"\n',
        "p:4: while: only for allow; a rule that denies has no leases",
    ),
    (GOOD + "unnamed = 1\n", "p:4: unnamed: must be true or false"),
    (
        '[[rule]]\nport = "ttyS0"\ndeny = ["*"]\nunnamed = true\n',
        "p:4: unnamed: only for allow; a port that no rule names is refused anyway",
    ),
    (WORDS + 'usb = "0403:6001"\nunnamed = true\n', f"p:5: unnamed: {KERNEL_NAMES}"),
    (WORDS + 'device = "/dev/x"\nunnamed = true\n', f"p:5: unnamed: {KERNEL_NAMES}"),
    (GOOD + 'class = "pty"\nunnamed = true\n', f"p:5: unnamed: {KERNEL_NAMES}"),
    (
        '[[rule]]\nport = "ttyS0"\nallow = [-1]\n',
        "p:3: allow: a uid must be a number from 0 to 4294967294",
    ),
    (
        '[[rule]]\nport = "ttyS0"\nallow = [4294967295]\n',
        "p:3: allow: a uid must be a number from 0 to 4294967294",
    ),
    (
        f'[[rule]]\nport = "ttyS0"\nallow = [0x{"f" * 5000}]\n',
        "p:3: allow: a uid must be a number from 0 to 4294967294",
    ),
    # the rest
    (GOOD + 'max_lease = "1h"\n', "p:4: max_lease: must be a number of seconds"),
    (GOOD + "max_lease = true\n", "p:4: max_lease: must be a number of seconds"),
    (GOOD + "max_lease = 0\n", "p:4: max_lease: must be a number of seconds above 0"),
    (GOOD + "max_lease = -5\n", "p:4: max_lease: must be a number of seconds above 0"),
    (GOOD + "max_lease = nan\n", "p:4: max_lease: must be a number of seconds above 0"),
    (GOOD + "max_lease = inf\n", "p:4: max_lease: must be a number of seconds above 0"),
    (GOOD + f"max_lease = 0x{'f' * 5000}\n", "p:4: max_lease: must be a number of seconds above 0"),
    (GOOD + "console = 1\n", "p:4: console: must be true or false"),
    (GOOD + 'class = "usb"\n', 'p:4: class: must be "serial" or "pty"'),
    (GOOD + 'class = ["pty"]\n', 'p:4: class: must be "serial" or "pty"'),
    (GOOD + "\nbaud = 9600\n", f"p:5: baud: {UNKNOWN_IN_RULE}"),
    (GOOD + GOOD + 'admins = ["@adm"]\n', f"p:7: admins: {UNKNOWN_IN_RULE}"),
    (GOOD + 'Port = "x"\n', f"p:4: Port: {UNKNOWN_IN_RULE}"),
    # lines are TOML's lines
    ("# a\u2028b\x85c\n" + GOOD + "console = 1\n", "p:5: console: must be true or false"),
    (GOOD.replace("\n", "\r\n") + "console = 1\r\n", "p:4: console: must be true or false"),
    # keys in other clothes
    (GOOD + '  "console"  =  1\n', "p:4: console: must be true or false"),
    (
        'rule = [{port = "ttyS0", allow = ["*"], console = 1}]\n',
        "p:1: console: must be true or false (rule 1)",
    ),
    (
        '\nrule = [{port = "a", allow = []}]',
        "p:2: port: a is not a kernel name; an alias needs a device, or words such as usb (rule 1)",
    ),
    # what only looks like a rule, or a key
    (
        '[[rule]]\nport = "ttyS*"\nallow = ["""\n[[rule]]\nconsole = 1\n*"""]\nconsole = 1\n',
        "p:3: allow: '[[rule]]\\nconsole = 1\\n*' " + NOT_A_SUBJECT,
    ),
    (
        "admins = ['''\n[[rule]]\nconsole = 1\n''']\n" + GOOD + "console = 1\n",
        "p:8: console: must be true or false",
    ),
    (
        '[[rule]]\nport = "ttyS0"\nallow = [\n"""\nconsole = 1"""]\nconsole = 1\n',
        "p:6: console: must be true or false",
    ),
    ("# [[rule]]\n" + GOOD + "# console = 1\nconsole = 1\n", "p:6: console: must be true or false"),
    (GOOD + "[rule.hub]\nid = 1\n", f"p:4: hub: {UNKNOWN_IN_RULE}"),
    (GOOD + "hub.id = 1\n", f"p:4: hub: {UNKNOWN_IN_RULE}"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_policy_is_refused_with_line_and_key(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(text, "p")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[rule]\n", 1),
        ('[[rule]]\nport = "a\n', 2),
        ('[[rule]]\nport = "a"\nport = "b"\n', 3),
        ("a = 1\n\nb = \n", 3),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(PolicyError, match=rf"^p:{line}: text: .*( \(column \d+\))?$"):
        read(text, "p")


QUOTES = "Invalid value; names and texts are written in quotes, true and false in small letters"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[rule]]\nport = "ttyS0"\nallow = [alice]\n', f"p:3: text: {QUOTES} (column 10)"),
        (GOOD + "console = True\n", f"p:4: text: {QUOTES} (column 11)"),
        (
            '[[rule]]\nport = "ttyS0\nallow = ["*"]\n',
            r"p:2: text: Illegal character '\n'; a text in quotes ends in its line (column 14)",
        ),
    ],
)
def test_what_people_write_by_mistake_is_no_toml_and_is_told_how_to_write(
    text: str, told: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        read(text, "p")
    assert str(caught.value) == told


@pytest.mark.parametrize("glob", ["ttyUSB[0-13]", "ttyUSB[10-15]*", "ttyUSB[28-11]"])
def test_a_set_of_a_glob_that_looks_like_numbers_of_two_digits_is_warned_of(glob: str) -> None:
    what = (
        f"{glob}: {glob[6:14].rstrip('*')} is one character; write a rule for numbers of two digits"
    )
    for verb in ("allow", "deny"):
        policy = read(f'[[rule]]\nport = "{glob}"\n{verb} = ["*"]\n', "p")
        assert policy.warnings == [f"p:2: port: {what}"]


@pytest.mark.parametrize("glob", ["ttyUSB[0-9]", "ttyUSB1[0-3]", "ttyUSB[0-35-7]", "ttyUSB[0-2]10"])
def test_a_set_that_means_what_it_looks_like_is_not(glob: str) -> None:
    assert read(f'[[rule]]\nport = "{glob}"\ndeny = ["*"]\n').warnings == []


def test_a_byte_order_mark_which_no_editor_shows_is_named() -> None:
    with pytest.raises(PolicyError) as caught:
        read("\ufeff" + GOOD, "p")
    why = "begins with a byte order mark (BOM); save it as UTF-8 without one"
    assert str(caught.value) == f"p:1: text: {why}"


@pytest.mark.parametrize("usb", ["0403:6001", "0403:*", "*:6001", "04?3:60*", "*:*"])
def test_vendor_and_product_may_be_globs(usb: str) -> None:
    read(WORDS + f'usb = "{usb}"\n', "p")


def test_each_bad_rule_is_told_of_and_not_the_first_alone() -> None:
    with pytest.raises(PolicyError) as caught:
        read(GOOD + "console = 1\n" + GOOD + GOOD + "baud = 1\n", "p")
    assert caught.value.mistakes == (
        "p:4: console: must be true or false",
        f"p:11: baud: {UNKNOWN_IN_RULE}",
    )


@pytest.mark.parametrize("text", ["a = " + "1" * 5000, "a = " + "[" * 5000])
def test_what_toml_readers_choke_on_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=r"^p:1: "):
        read(text, "p")


words = st.sampled_from(["*", "@adm", "bob", "ghost", "ttyS*", "gps", "/d", "pty", "a\0", "[", ""])
scalars = (
    words.map(lambda word: '"' + word.replace("\0", "\\u0000") + '"')
    | st.sampled_from(["1", "-1", "1.5", "inf", "nan", "true", "1979-05-27", "0x" + 4000 * "f"])
    | st.integers().map(str)
)
values = scalars | st.lists(scalars, max_size=3).map(lambda items: f"[{', '.join(items)}]")
keys = st.sampled_from(
    ["port", "device", "allow", "deny", "max_lease", "console", "class", "admins", "rule", "x"]
)
assignments = st.builds(lambda key, value: f"{key} = {value}\n", keys, values)
documents = st.lists(
    st.sampled_from(["[[rule]]\n", '[[rule]]\nport = "ttyS*"\nallow = ["*"]\n', "\n"])
    | assignments,
    max_size=12,
).map("".join)
globs = st.text("tyS01*?[]!-_a", min_size=1, max_size=12)
good_rules = (
    st.tuples(
        globs.filter(lambda port: not valid_name(port)),
        st.sampled_from(["allow", "deny"]),
        st.lists(st.sampled_from(['"*"', '"@dialout"', '"alice"', "1001"]), max_size=2),
    )
    .filter(lambda rule: rule[1] == "allow" or may_be_kernels(rule[0]))
    .map(lambda rule: f'port = "{rule[0]}"\n{rule[1]} = [{", ".join(rule[2])}]')
)


@given(st.text(max_size=200) | documents)
@settings(deadline=None, max_examples=400)
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    try:
        policy = read(text)
    except PolicyError as error:
        assert str(error).startswith("policy:")
        return
    assert not allowed(policy, "ttyS0") or policy.rules


@given(st.lists(good_rules, max_size=4), st.sampled_from(["ttyS0", "ttyS10", "tty", "a", "ttyS00"]))
@settings(deadline=None, max_examples=200)
def test_any_glob_can_be_asked_and_the_first_rule_that_applies_decides(
    texts: list[str], name: str
) -> None:
    policy = rules(*texts)
    whole, each = policy.decide(ALICE, NOBODY, name), [rules(text) for text in texts]
    decisions = [one.decide(ALICE, NOBODY, name) for one in each]
    deciding = [one for one in decisions if one.rule is not None]
    assert whole.allowed == (deciding[0].allowed if deciding else False)
    assert whole.known == any(one.known for one in decisions)


# what it decides


def test_without_a_rule_nobody_may_anything() -> None:
    policy = read("")
    assert policy.decide(ALICE, DIALOUT, "ttyS0") == Decision(False, False, None, None)
    assert policy.decide(0, frozenset({0}), "ttyS0") == Decision(False, False, None, None)


def test_the_first_rule_that_applies_decides() -> None:
    policy = rules(
        'port = "ttyS0"\ndeny = ["bob"]',
        'port = "ttyS*"\nallow = ["@dialout"]',
        'port = "ttyS0"\ndeny = ["*"]',
    )
    assert allowed(policy, "ttyS0", ALICE, DIALOUT)
    assert not allowed(policy, "ttyS0", BOB, DIALOUT)
    assert allowed(policy, "ttyS1", BOB, DIALOUT)
    assert not allowed(policy, "ttyS0", ALICE)


def test_a_decision_names_its_rule_and_its_line() -> None:
    policy = rules('port = "ttyS0"\ndeny = ["bob"]', 'port = "ttyS*"\nallow = ["@dialout"]')
    decision = policy.decide(ALICE, DIALOUT, "ttyS0")
    assert str(decision.rule) == "ttyS* (line 4)"
    refusal = policy.decide(BOB, DIALOUT, "ttyS0")
    assert (refusal.allowed, str(refusal.rule)) == (False, "ttyS0 (line 1)")


def test_a_port_that_rules_name_for_others_is_known_and_refused() -> None:
    decision = rules('port = "ttyS*"\nallow = ["bob"]').decide(ALICE, DIALOUT, "ttyS0")
    assert decision == Decision(False, True, None, None)


@pytest.mark.parametrize(
    ("subject", "uid", "gids", "named"),
    [
        ('"*"', 4242, NOBODY, True),
        ('"alice"', ALICE, NOBODY, True),
        ('"alice"', BOB, frozenset({1000}), False),  # a user's name is no group
        ('"@alice"', ALICE, NOBODY, False),  # and a group's no user
        ('"@alice"', BOB, frozenset({1000}), True),
        ('"@dialout"', BOB, frozenset({4, 20}), True),
        ('"@dialout"', BOB, ADM, False),
        ("1000", ALICE, NOBODY, True),
        ("20", BOB, DIALOUT, False),  # a number is a uid
        ('"5"', 1005, NOBODY, True),  # a name of digits is a name
        ('"5"', 5, NOBODY, False),
        ("0", ALICE, frozenset({0}), False),
        ("4294967294", 4294967294, NOBODY, True),
    ],
)
def test_a_rule_applies_to_whom_it_names(
    subject: str, uid: int, gids: frozenset[int], named: bool
) -> None:
    policy = rules(f'port = "ttyS*"\nallow = [{subject}]')
    assert allowed(policy, "ttyS0", uid, gids) == named


def test_an_empty_list_names_nobody() -> None:
    policy = rules('port = "ttyS*"\nallow = []')
    assert not allowed(policy, "ttyS0", 0, frozenset({0}))


def test_root_has_no_port_by_being_root() -> None:
    assert not allowed(rules('port = "ttyS*"\nallow = ["@dialout"]'), "ttyS0", 0, frozenset({0}))


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("ttyS*", "ttyS0", True),
        ("ttyS*", "ttyS31", True),
        ("ttyS*", "ttyUSB0", False),
        ("ttyS*", "ttySC0", True),
        ("ttyS?", "ttyS10", False),
        ("ttyS[0-3]", "ttyS3", True),
        ("ttyS[!0]", "ttyS0", False),
        ("ttyS0", "ttyS0", True),
        ("ttyS0", "ttyS01", False),
        ("*", "ttyACM0", True),
        ("TTYS*", "ttyS0", False),
        # what no kernel calls a port is matched by no glob
        ("*", "ttyS00", False),
        ("*", "ttyS007", False),
        ("*", "ttyS", False),
        ("*", "gps", False),
        ("*", "tty-S0", False),
        ("*", "ttyS123456", False),
        ("*", "tty_S0", False),
    ],
)
def test_globs_are_over_kernel_names(glob: str, name: str, matches: bool) -> None:
    assert allowed(rules(f'port = "{glob}"\nallow = ["*"]'), name) == matches


GPS = 'port = "gps"\ndevice = "/dev/serial/by-id/usb-1"\nallow = ["alice"]'


def test_an_alias_means_its_device_and_is_matched_whole() -> None:
    policy = rules(GPS)
    assert policy.decide(ALICE, NOBODY, "gps").device == "/dev/serial/by-id/usb-1"
    assert allowed(policy, "gps")
    assert not allowed(policy, "gps", BOB)
    assert policy.decide(ALICE, NOBODY, "gps2") == Decision(False, False, None, None)


def test_no_glob_admits_to_an_alias() -> None:
    policy = rules('port = "*"\nallow = ["*"]', 'port = "g*"\nallow = ["*"]', GPS)
    assert not allowed(policy, "gps", BOB)


def test_an_alias_may_have_several_rules_and_names_its_device_once() -> None:
    policy = rules('port = "gps"\ndeny = ["bob"]', GPS.replace("alice", "*"))
    assert allowed(policy, "gps", ALICE)
    assert not allowed(policy, "gps", BOB)
    assert policy.decide(BOB, NOBODY, "gps").device == "/dev/serial/by-id/usb-1"


def test_an_alias_may_take_a_kernel_name_and_then_means_its_device_alone() -> None:
    policy = rules('port = "ttyS0"\ndevice = "/dev/x"\nallow = ["alice"]', 'port="*"\nallow=["*"]')
    assert policy.decide(ALICE, NOBODY, "ttyS0").device == "/dev/x"
    assert not allowed(policy, "ttyS0", BOB)
    assert policy.decide(BOB, NOBODY, "ttyS1").device is None


@pytest.mark.parametrize("name", ["gps", "board1", "b-1", "S0"])
def test_a_name_of_ones_own_with_words_is_an_alias_with_a_number_too(name: str) -> None:
    policy = rules(f'port = "{name}"\nserial = "A5*"\nallow = ["alice"]')
    assert policy.decide(ALICE, NOBODY, name).device == "serial=A5*"
    assert policy.aliases == {name: "serial=A5*"}


@pytest.mark.parametrize("name", ["ttyUSB0", "ttyACM0", "rfcomm0", "gsmtty1", "noz0"])
def test_a_kernel_name_with_words_is_no_alias(name: str) -> None:
    assert rules(f'port = "{name}"\nserial = "A5*"\nallow = ["alice"]').aliases == {}


def test_a_rule_carries_what_it_permits_besides() -> None:
    policy = rules(
        'port = "ttyS*"\nallow = ["*"]',
        'port = "x"\ndevice = "/d"\nallow = ["*"]\nmax_lease = 3600\nconsole = true\nclass = "pty"',
    )
    plain, full = (policy.decide(ALICE, NOBODY, name).rule for name in ("ttyS0", "x"))
    assert plain and full
    assert (plain.max_lease, plain.console, plain.pty) == (None, False, False)
    assert (full.max_lease, full.console, full.pty) == (3600.0, True, True)
    assert policy.is_pty("x") and not policy.is_pty("ttyS0")


def test_root_is_an_admin_always_and_others_if_named() -> None:
    assert read("").is_admin(0, NOBODY)
    assert not read("").is_admin(ALICE, frozenset({0}))
    policy = read('admins = ["@adm", "bob"]')
    assert policy.is_admin(ALICE, ADM)
    assert policy.is_admin(BOB, NOBODY)
    assert not policy.is_admin(ALICE, DIALOUT)


def test_names_that_nobody_has_are_warned_of_and_name_nobody() -> None:
    policy = read('admins = ["@wheel"]\n' + GOOD.replace('"*"', '"ghost", "bob", "a\\u0000"'), "p")
    assert policy.warnings == [
        "p:1: admins: no such group: 'wheel' (ignored)",
        "p:4: allow: no such user: 'ghost' (ignored)",
        "p:4: allow: no such user: 'a\\x00' (ignored)",
    ]
    assert allowed(policy, "ttyS0", BOB)
    assert not allowed(policy, "ttyS0", ALICE)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dialout", """no such user: 'dialout'; there is a group: write "@dialout\""""),
        ("@bob", """no such group: 'bob'; there is a user: write "bob\""""),
        ("@root", """no such group: 'root'; there is a user: write "root\""""),
        (
            "@uucp",
            """no such group: 'uucp'; serial ports are of group dialout here: write """
            """"@dialout\"""",
        ),
        ("1000", "no such user: '1000'; a uid has no quotes: write 1000"),
    ],
)
def test_a_name_of_the_other_kind_is_told_how_to_write(name: str, told: str) -> None:
    policy = read(f'[[rule]]\nport = "ttyS*"\nallow = ["{name}"]\n', "p")
    assert policy.warnings == [f"p:3: allow: {told} (ignored)"]


@pytest.mark.parametrize(
    "name", ["ttyS0", "ttyS31", "ttyUSB0", "ttyACM0", "ttyAMA0", "tty1", "gps", "ttyS00", "console"]
)
def test_as_shipped_dialout_has_the_ttys_ports_and_nobody_else_has_anything(name: str) -> None:
    policy = read(Path(SHIPPED).read_text(), "shipped")
    assert policy.warnings == []
    assert policy.aliases == {}
    is_ttys = re.fullmatch(r"ttyS(0|[1-9]\d*)", name) is not None
    assert allowed(policy, name, ALICE, DIALOUT) == is_ttys
    for uid, gids in ((ALICE, NOBODY), (0, frozenset({0})), (BOB, ADM)):
        assert not allowed(policy, name, uid, gids)
    assert not policy.is_admin(ALICE, DIALOUT | ADM)
    assert all(flags == ALLOWS for _, _, flags, _ in policy.rules)


def test_the_desk_s_rules_are_good_and_leave_the_other_ports_alone() -> None:
    policy = plan_of(f"{Path(SHIPPED).read_text()}\n{DESK.read_text()}")
    policy.facts = lambda name, seen: None
    sits = frozenset({SEATS})
    for name, seat, member in (("ttyS0", False, True), ("ttyUSB0", True, True),
                               ("ttyACM9", True, True), ("ttyAMA0", False, False)):  # fmt: skip
        assert allowed(policy, name, BOB, sits) == seat
        assert allowed(policy, name, ALICE, DIALOUT) == member
        assert not allowed(policy, name, BOB)


SOMEBODY_ELSE = """\
[[rule]]
port = "ttyACM*"
allow = ["%active", "root"]
[[rule]]
port = "ttyAMA*"
allow = ["root"]
while = "active"
"""


def test_check_has_nothing_to_say_of_the_shipped_policy_and_the_desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither where nobody sits nor where somebody may: a newcomer has not written them."""
    for text, path in ((Path(SHIPPED), "policy.toml"), (DESK, "policy.d/90-desk.toml")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text.read_text())
    monkeypatch.setattr(seats, "TOP", str(tmp_path))
    for _ in range(2):
        assert command.check(str(tmp_path / "policy.toml")) == 0
        told = capsys.readouterr()
        assert "3 rules" in told.out and "warning" not in told.err
        (tmp_path / "seats/seat0").mkdir(parents=True, exist_ok=True)


def test_check_says_where_nobody_tells_who_sits_at_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / "draft.toml"
    draft.write_text(f'{GOOD}[[rule]]\nport = "ttyUSB*"\nallow = ["%active"]\n')
    monkeypatch.setattr(seats, "TOP", str(tmp_path))
    draft.write_text(draft.read_text() + SOMEBODY_ELSE)
    told = f"warning: {draft}:4: rule: %active, %seat and while name nobody here: systemd-logind "
    assert command.check(str(draft)) == 0
    warned = capsys.readouterr().err
    assert f"{told}does not run; have it run, or name users or a group\n" in warned
    assert warned.count("name nobody here") == 2  # by the rule that is also for root it is for root
    assert f"{draft}:10: rule: " in warned
    (tmp_path / "seats").mkdir()  # as our daemon makes it
    assert command.check(str(draft)) == 0
    assert told in capsys.readouterr().err
    (tmp_path / "seats/seat0").touch()
    assert command.check(str(draft)) == 0
    assert told not in capsys.readouterr().err


# files

root = pytest.mark.root


def mistakes(path: Path | str) -> tuple[str, ...]:
    """What a plan made for this file says is wrong."""
    return make.make(str(path)).mistakes


@root
def test_a_policy_is_read_from_a_file_and_blamed_by_its_name(safe_dir: Path) -> None:
    path = safe_dir / "policy.toml"
    path.write_text(GOOD)
    assert mistakes(path) == ()
    path.write_text(GOOD + "console = 1\n")
    assert mistakes(path) == (f"{path}:4: console: must be true or false",)


@root
@pytest.mark.parametrize(
    ("make_it", "why"),
    [
        (lambda path: None, " No such file or directory"),
        (lambda path: path.mkdir(), " not a regular file"),
        (lambda path: path.write_bytes(b"#\n# \xff\n"), "2: text: not UTF-8: invalid start byte"),
        (
            lambda path: path.write_bytes(b"#" * ((1 << 20) + 1)),
            " larger than 1048576 bytes",
        ),
        (lambda path: path.symlink_to(path), " Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), " not a regular file"),
    ],
    ids=["missing", "directory", "binary", "huge", "cyclic", "device"],
)
def test_a_file_that_cannot_be_the_policy_is_refused(
    safe_dir: Path, make_it: Any, why: str
) -> None:
    path = safe_dir / "policy.toml"
    make_it(path)
    assert mistakes(path) == (f"{path}:{why}",)


@root
def test_a_policy_that_others_may_write_is_refused_and_nobody_is_told_to_chmod(
    safe_dir: Path,
) -> None:
    path = safe_dir / "policy.toml"
    path.write_text(GOOD)
    path.chmod(0o666)
    (what,) = mistakes(path)
    assert what == (
        f"{path}: others than root may write (mode 666); install it as "
        "/etc/ttybroker/policy.toml, owned by root and writable by nobody else"
    )


def test_a_path_with_a_nul_is_a_mistake() -> None:
    (what,) = mistakes("/etc/a\0b")
    assert what.startswith("/etc/a\0b: ") and "embedded null" in what


def test_a_draft_is_read_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "draft.toml"
    path.write_text(GOOD)
    policy, wrong = make.judge(str(path), Stamps(), Accounts(), draft=True)
    assert (policy.rules[0].port, wrong) == ("ttyS*", ())
