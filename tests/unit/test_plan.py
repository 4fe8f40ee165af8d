"""The plan: its bytes, what it decides, and when it holds no more."""

from __future__ import annotations

import fnmatch
import os
import re
import struct
import sys
import time
from binascii import crc32
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ttybrokerd import start
from ttybrokerd.prepare import accounts, command, make
from ttybrokerd.prepare.encode import Origin, encode, read_names
from ttybrokerd.prepare.policy import NOBODY, Policy, Rule, Subjects
from ttybrokerd.root import fresh
from ttybrokerd.root import plan as plans
from ttybrokerd.root.plan import BadPlan, Decision, Mended, Plan
from ttybrokerd.root.portname import matches
from ttybrokerd.root.ruling import denied
from unit.helpers import no_warning

pytestmark = pytest.mark.timeout(300)  # thousands of examples: a minute on a busy machine

ALICE, BOB = 1000, 1001
KERNEL_NAME = re.compile(r"[A-Za-z]+(0|[1-9][0-9]{0,4})")

numbers = st.integers(0, 0xFFFFFFFE)
few = st.integers(0, 6)
subjects = st.builds(Subjects, st.booleans(), st.frozensets(few), st.frozensets(few))
globs = st.sampled_from(
    ["*", "ttyS*", "ttyS?", "ttyS[0-3]", "ttyS[!0]", "t*1", "ttyS0", "ttyS1", "ttyUSB*", "[a-z]*"]
)
kernel_rules = st.builds(
    Rule,
    st.integers(1, 9999),
    globs,
    st.none(),
    st.booleans(),
    subjects,
    st.none() | st.floats(0.5, 1e12),
    st.booleans(),
    st.booleans(),
    st.just(""),
    st.sampled_from(["", "", "usb=1:2", "usb=1:3", "usb=1:* serial=A?", "driver=x"]),
)
unnamed_rules = kernel_rules.map(
    lambda rule: rule.replace(allows=True, pty=False, console=False, unnamed=True)
)
aliases = st.sampled_from([("gps", "/dev/gps"), ("ttyS1", "/dev/one"), ("meter", "usb=1:2")])
rules = st.lists(
    st.one_of(
        kernel_rules,
        unnamed_rules,
        st.builds(
            lambda rule, alias: rule.replace(port=alias[0], device=alias[1], words=""),
            kernel_rules,
            aliases,
        ),
    ),
    max_size=8,
)
names = st.sampled_from(
    ["ttyS0", "ttyS1", "ttyS10", "ttyUSB0", "gps", "meter", "gps2", "ttyS00", "tty"]
)


def policy_of(listed: list[Rule], admins: Subjects = NOBODY, *warnings: str) -> Policy:
    named = {rule.port: rule.device for rule in listed if rule.device is not None}
    for number, rule in enumerate(listed):
        if rule.port in named and (rule.words or rule.unnamed):  # which is a mistake
            listed[number] = rule.replace(words="", unnamed=False)
    return Policy(tuple(listed), admins, named, warnings)


def written(whole: Policy, **origin: object) -> bytes:
    fields = {"elsewhere": False, "made": 0.0, "made_for": "", "policy": "/p", "mistake": ""}
    of = Origin(**{**fields, "stamps": {}, **origin})  # type: ignore[arg-type]
    return encode(of, 317, b"12345678", whole)


def sealed(body: bytes) -> bytes:
    """A plan with this body, and a head that is right."""
    return plans.HEAD.pack(plans.MAGIC, plans.HEAD.size + len(body), crc32(body)) + body


# its bytes


@given(
    rules, subjects, st.lists(st.text(), max_size=3), st.text(), st.floats(0, 1e12), st.booleans()
)
@settings(deadline=None)
def test_what_is_written_is_read(
    listed: list[Rule],
    admins: Subjects,
    warnings: list[str],
    text: str,
    made: float,
    elsewhere: bool,
) -> None:
    stamps = {"/a": (fresh.FILE, *range(1, 9), 0), "/b\udcff": (fresh.ABSENT, *[0] * 9)}
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    data = written(
        policy_of(listed, admins, *warnings),
        made=made,
        made_for=text,
        mistake=text,
        elsewhere=elsewhere,
        stamps=stamps,
    )
    plan = Plan(data)
    assert (plan.made, plan.made_for, plan.policy, plan.mistake) == (made, text, "/p", text)
    assert (plan.elsewhere, plan.warnings) == (elsewhere, warnings)
    assert dict(plan.stamps) == stamps
    assert (plan.seccomp, plan.filter) == (317, b"12345678")
    assert plan.admins == (admins.everybody, admins.uids, admins.gids)
    assert plan.aliases == policy_of(listed).aliases
    assert len(plan.rules) == len(listed)


def is_plan_or_bad(data: bytes) -> None:
    try:
        plan = Plan(data)
    except BadPlan as bad:
        assert str(bad)
        return
    plan.facts = lambda name, seen: {"ttyS0": {"usb": "1:2"}}.get(name)
    for name in ("ttyS0", "gps", "ttyUSB3"):  # and what was read can be asked
        assert isinstance(plan.decide(ALICE, frozenset({20}), name), Decision)
        plan.is_pty(name)
    plan.is_admin(ALICE, frozenset())
    fresh.changed(plan, texts=True)


WHOLE = written(
    policy_of(
        [
            Rule(1, "ttyS*", None, True, Subjects(True, frozenset({1, 2}), NOBODY.gids), 5.0,
                 True, True),
            Rule(3, "ttyS*", None, False, Subjects(False, frozenset({7}), NOBODY.gids), None,
                 False, False, "", "usb=1:2"),
            Rule(4, "gps", "/dev/gps", False, Subjects(False, NOBODY.uids, frozenset({3})), None,
                 False, False),
        ],
        Subjects(False, frozenset({1000}), frozenset({4})),
        "a warning",
    ),
    stamps={"/": fresh.stamp("/", fresh.PLACE), "/nowhere": (fresh.ABSENT, *[0] * 9)},
)  # fmt: skip


@given(st.binary(max_size=300))
@example(b"")
@example(plans.MAGIC)
@settings(deadline=None)
def test_any_bytes_are_a_plan_or_refused(data: bytes) -> None:
    is_plan_or_bad(data)
    is_plan_or_bad(sealed(data))


@given(st.data())
@settings(deadline=None, max_examples=1500)
def test_any_change_behind_a_right_checksum_is_a_plan_or_refused(data: st.DataObject) -> None:
    body = bytearray(WHOLE[plans.HEAD.size :])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        piece = data.draw(
            st.sampled_from([b"", b"\0", b"\xff", b"\xff\xff\xff\xff", b"\1\0\0\0", b"\n"])
            | st.binary(max_size=6)
        )
        body[at : at + data.draw(st.integers(0, 6))] = piece
        if not body:
            break
    is_plan_or_bad(sealed(bytes(body)))


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_plan_cut_short_is_refused(length: int) -> None:
    with pytest.raises(BadPlan):
        Plan(WHOLE[:length])
    with pytest.raises(BadPlan):
        Plan(sealed(WHOLE[plans.HEAD.size : max(plans.HEAD.size, length)]))


@given(st.integers(0, len(WHOLE) * 8 - 1))
@settings(deadline=None)
def test_a_plan_with_a_wrong_bit_is_refused(bit: int) -> None:
    data = bytearray(WHOLE)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadPlan):
        Plan(bytes(data))


def test_a_plan_is_exactly_that_long() -> None:
    with pytest.raises(BadPlan, match="too long"):
        Plan(sealed(WHOLE[plans.HEAD.size :] + b"\0"))
    with pytest.raises(BadPlan, match="cut short or damaged"):
        Plan(WHOLE + b"\0")


def test_a_plan_of_another_version_is_refused() -> None:
    with pytest.raises(BadPlan, match="of another version"):
        Plan(b"ttyplan0" + WHOLE[8:])


def ports(*records: tuple[str, int, list[int], list[int]], file: int = 0) -> bytes:
    """A plan with one rule, and these ports: name, everybody, uids, their rules."""
    body = WHOLE[plans.HEAD.size :]
    empty = written(policy_of([]))[plans.HEAD.size :]
    count = struct.pack("=I", 0)
    assert empty.endswith(count * 3)  # no rule, no port, no names
    text = "\n".join(record[0] for record in records).encode()
    del body
    return sealed(
        b"".join(
            [
                empty[: -len(count) * 3],
                struct.pack("=I", 1),
                plans.RULE.pack(1, file, plans.ALLOWS, 0),
                struct.pack("=II", len(records), len(text)),
                text,
                *(plans.PORT.pack(record[1], len(record[2]), 0, 0) for record in records),
                *(struct.pack(f"={len(record[2])}I", *record[2]) for record in records),
                *(struct.pack(f"={len(record[3])}I", *record[3]) for record in records),
            ]
        )
    )


def test_a_plan_whose_numbers_do_not_fit_together_is_refused() -> None:
    assert Plan(ports(("ttyS0", plans.NONE, [5, 6], [0, 0]))).decide(6, frozenset(), "ttyS0").rule
    for bad, why in (
        (ports(("ttyS0", 1, [], [])), "a port without its rule"),
        (ports(("ttyS0", 0, [5], [1])), "a user without a rule"),
        (ports(("ttyS0", 0, [6, 5], [0, 0])), "users not in their order"),
        (ports(("ttyS0", 0, [5, 5], [0, 0])), "users not in their order"),
        (ports(("a0", 0, [], []), ("a0", 0, [], [])), "ports without names, or twice"),
        (ports(("a0", 0, [], []), file=1), "a rule of no file"),
    ):
        with pytest.raises(BadPlan, match=why):
            Plan(bad)


# what it decides


DEVICES = {"ttyS0": {"usb": "1:2", "serial": "A1"}, "ttyUSB0": {"usb": "1:3"}}


def facts(name: str, seen: bool) -> dict[str, str] | None:
    return DEVICES.get(name)


def fits(rule: Rule, name: str) -> bool:
    """Whether the rule is about the device that has this kernel name, if it is about the name."""
    if not rule.words:
        return True
    if name not in DEVICES:  # nobody knows what it is
        return not rule.allows
    return are(rule.words, name)


def are(words: str, name: str) -> bool:
    wanted = dict(word.split("=") for word in words.split(" "))
    return all(fnmatch.fnmatchcase(DEVICES[name].get(key, ""), wanted[key]) for key in wanted)


def oracle(
    policy: Policy, uid: int, gids: frozenset[int], name: str
) -> tuple[bool, bool, int | None]:
    """Allowed, known, the number of the rule: from the words of ttybroker-policy(5)."""
    matching = [
        (number, rule)
        for number, rule in enumerate(policy.rules)
        if (rule.port == name if name in policy.aliases else
            KERNEL_NAME.fullmatch(name) and fnmatch.fnmatchcase(name, rule.port))
    ]  # fmt: skip
    about = [one for one in matching if name in policy.aliases or fits(one[1], name)]
    named = [one for one in about if not one[1].unnamed]
    alias = False  # whether the device has a name besides
    if any(rule.unnamed for _, rule in matching):
        worded = [device for device in policy.aliases.values() if not device.startswith("/")]
        alias = any(are(device, name) for device in worded if name in DEVICES)
        if name not in DEVICES and (worded or any(rule.words for _, rule in matching)):
            about = named
    for number, rule in named if named or alias else about:
        whom = rule.subjects
        if whom.everybody or uid in whom.uids or whom.gids & gids:
            return rule.allows, True, number
    return False, bool(about) or alias, None


@given(rules, few, st.frozensets(few), names)
@settings(deadline=None, max_examples=1500)
def test_it_decides_as_the_first_of_all_rules_that_applies(
    listed: list[Rule], uid: int, gids: frozenset[int], name: str
) -> None:
    policy = policy_of(listed)
    plan = Plan(written(policy))
    plan.facts = facts
    decision = plan.decide(uid, gids, name)
    allowed, known, number = oracle(policy, uid, gids, name)
    assert (decision.allowed, decision.known) == (allowed, known)
    assert decision.device == policy.aliases.get(name)
    if number is None:
        assert decision.rule is None
        return
    rule, found = policy.rules[number], decision.rule
    assert found is not None
    assert (found.line, found.port, found.allows) == (rule.line, rule.port, rule.allows)
    assert (found.max_lease, found.console, found.pty) == (rule.max_lease, rule.console, rule.pty)


@given(subjects, few, st.frozensets(few))
@settings(deadline=None)
def test_admins_are_root_and_whom_the_policy_names(
    admins: Subjects, uid: int, gids: frozenset[int]
) -> None:
    named = admins.everybody or uid in admins.uids or bool(admins.gids & gids)
    assert Plan(written(policy_of([], admins))).is_admin(uid, gids) == (named or uid == 0)


@given(rules, names)
@settings(deadline=None)
def test_a_name_is_a_ptys_if_any_rule_says_so(listed: list[Rule], name: str) -> None:
    policy = policy_of(listed)
    about = [
        rule
        for rule in listed
        if (rule.port == name if name in policy.aliases else
            KERNEL_NAME.fullmatch(name) and matches(name, rule.port) and fits(rule, name))
    ]  # fmt: skip
    plan = Plan(written(policy))
    plan.facts = facts
    assert plan.is_pty(name) == any(rule.pty for rule in about)


def steps(plan: Plan, name: str) -> int:
    """How many functions, Python's and C's, one decision calls."""
    called = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal called
        called += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        plan.decide(ALICE, frozenset({1, 2, 3}), name)
    finally:
        sys.setprofile(None)
    return called


@pytest.mark.parametrize("kind", ["aliases", "kernel names", "globs", "users of one glob"])
def test_a_decision_among_a_thousand_rules_takes_no_more_steps_than_among_ten(kind: str) -> None:
    def plan(count: int) -> Plan:
        listed = []
        for number in range(count):
            one = Rule(number, "x", None, True, Subjects(False, frozenset({number}), frozenset()),
                       None, False, False)  # fmt: skip
            port = {"kernel names": f"ttyS{number}", "globs": f"ttyS{number}*"}.get(kind, "ttyS*")
            if kind == "aliases":
                one = one.replace(port=f"port{number}x", device=f"/dev/{number}")
            else:
                one = one.replace(port=port)
            listed.append(one)
        return Plan(written(policy_of(listed)))

    name = "port3x" if kind == "aliases" else "ttyS3"
    assert steps(plan(1000), name) <= 1.3 * steps(plan(10), name)


# when it holds

root = pytest.mark.root
HERE = mock.Mock(made_for=fresh.made_for())
RULE = '[[rule]]\nport = "ttyS*"\nallow = [{}]\n'
USERS = {"alice": ALICE, "bob": BOB}
GID = 2000
MEMBERS = {"students": ["bob", "somebody who left"]}


@pytest.fixture
def policy(safe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy with its plan beside it; the name service is files of the test's own."""
    people = []
    for name in ("passwd", "group", "nsswitch.conf"):
        (safe_dir / name).write_text("passwd: files\n" if name == "nsswitch.conf" else "")
        people.append(str(safe_dir / name))
    monkeypatch.setattr(accounts, "FILES", tuple(people))
    monkeypatch.setattr(accounts, "SWITCH", people[2])
    monkeypatch.setattr(command, "NICE", 0)
    monkeypatch.setattr("pwd.getpwall", list)
    monkeypatch.setattr("pwd.getpwnam", lambda name: mock.Mock(pw_uid=USERS[name]))
    monkeypatch.setattr("grp.getgrall", list)
    monkeypatch.setattr("grp.getgrnam", lambda name: mock.Mock(gr_gid=GID, gr_mem=MEMBERS[name]))
    (safe_dir / "etc").mkdir(mode=0o755)
    path = safe_dir / "etc/policy.toml"
    path.write_text(RULE.format('"alice"'))
    prepare(path)
    return path


def prepare(policy: Path) -> None:
    assert command.prepare(str(policy), str(policy.parent.parent)) == 0


def kept(policy: Path) -> Path:
    return Path(fresh.kept_at(str(policy.parent.parent), str(policy)))


def logged(reasons: list[str]) -> Any:
    """A log that keeps the reasons."""
    return lambda _event, _level, *, reason: reasons.append(reason)


def is_fresh(policy: Path) -> bool:
    """Whether a daemon that starts now takes the plan that is there."""
    warned: list[str] = []
    with mock.patch.object(start, "_make") as made:
        start.plan_for(str(policy), str(policy.parent.parent), logged(warned), keep=True)
    return not made.called


def write_again(path: Path) -> None:
    path.write_text(path.read_text())


def move_away_and_back(path: Path) -> None:
    text = path.read_text()
    path.unlink()
    path.write_text(text)


def other_directory(policy: Path) -> None:
    policy.parent.rename(policy.parent.with_name("old"))
    policy.parent.mkdir(mode=0o755)
    os.link(policy.parent.with_name("old") / "policy.toml", policy)


def in_the_same_tick(policy: Path) -> None:
    """What the coarse clock of an old kernel hides: another text, all else as it was."""
    before = os.stat(policy)
    policy.write_text(policy.read_text().replace("alice", "elice"))
    text = dict(plans.read(str(kept(policy))).stamps)[str(policy)]
    assert text[0] == fresh.TEXT

    def coarse(path: str) -> os.stat_result:
        return before if path == str(policy) else LSTAT(path)

    with mock.patch.object(os, "lstat", coarse):
        assert not is_fresh(policy)
    policy.unlink()


LSTAT = os.lstat
CHANGES: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text(RULE.format('"*"')),
    "the same text": write_again,
    "another file": move_away_and_back,
    "owner": lambda path: os.chown(path, 0, 1),
    "mode": lambda path: path.chmod(0o600),
    "gone": Path.unlink,
    "time put back": lambda path: (write_again(path), os.utime(path, (0, 0))),
    "directory's mode": lambda path: path.parent.chmod(0o700),
    "another directory": other_directory,
    "users": lambda path: write_again(path.parent.parent / "passwd"),
    "groups": lambda path: write_again(path.parent.parent / "group"),
    "name service": lambda path: (path.parent.parent / "nsswitch.conf").unlink(),
    "its own file gone": lambda path: kept(path).unlink(),
    "its own file torn": lambda path: kept(path).write_bytes(kept(path).read_bytes()[:-9]),
    "another's": lambda path: kept(path).write_bytes(written(policy_of([]), policy="/other")),
    "in the same tick": in_the_same_tick,
}


@root
def test_a_fresh_plan_is_taken_as_it_is(policy: Path) -> None:
    assert is_fresh(policy)
    (policy.parent / "another file").write_text("")  # in the same directory
    assert is_fresh(policy)


@root
@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_whose_ground_has_changed_is_made_anew(policy: Path, change: str) -> None:
    CHANGES[change](policy)
    assert not is_fresh(policy)


@root
@pytest.mark.parametrize("what", ["VERSION", "sys.version", "release", "machine", "dev_mode"])
def test_a_plan_made_for_another_system_is_made_anew(
    policy: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = os.uname()
    if what == "VERSION":
        monkeypatch.setattr(fresh, "VERSION", "0.0.0")
    elif what == "sys.version":
        monkeypatch.setattr(sys, "version", "3.99")
    elif what == "dev_mode":
        monkeypatch.setattr(fresh.sys, "flags", mock.Mock(dev_mode=True))
    else:
        other = mock.Mock(release=system.release, machine=system.machine)
        setattr(other, what, "other")
        monkeypatch.setattr(os, "uname", lambda: other)
    assert not is_fresh(policy)


@root
def test_a_plan_is_stamped_with_interpreter_and_libraries(policy: Path) -> None:
    stamps = plans.read(str(kept(policy))).stamps
    paths = [path for path, stamp in stamps if stamp[0] != fresh.ABSENT]
    for wanted in (r"/python3[.\d]*$", r"/libc[.-]", r"/libseccomp\.so", r"/syscalls\.py$"):
        assert any(re.search(wanted, path) for path in paths), wanted


@root
def test_without_names_a_plan_does_not_hang_on_the_users(policy: Path) -> None:
    policy.write_text(RULE.format(1000))
    prepare(policy)
    write_again(policy.parent.parent / "passwd")
    assert is_fresh(policy)


@root
def test_names_from_elsewhere_are_good_for_ten_minutes_at_a_start(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (policy.parent.parent / "nsswitch.conf").write_text("passwd: files sss\n")
    prepare(policy)
    made = time.time()
    for later, good in ((0, True), (590, True), (601, False), (-5, False)):
        monkeypatch.setattr(fresh.time, "time", lambda later=later: made + later)
        assert is_fresh(policy) == good


@pytest.mark.parametrize(
    ("text", "elsewhere"),
    [
        ("passwd: files systemd\ngroup: compat [NOTFOUND=return] files\nhosts: dns\n", False),
        ("passwd: files # sss\n", False),
        ("passwd:files ldap\n", True),
        ("group: sss files\n", True),
        ("initgroups: files nis\n", True),
        ("", False),
    ],
)
def test_nsswitch_tells_where_names_come_from(tmp_path: Path, text: str, elsewhere: bool) -> None:
    (tmp_path / "nsswitch.conf").write_text(text)
    assert accounts.elsewhere(str(tmp_path / "nsswitch.conf")) == elsewhere


def test_of_two_users_of_a_name_the_first_counts_as_for_getpwnam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [mock.Mock(pw_name="eve", pw_uid=uid) for uid in (5, 6)]
    monkeypatch.setattr("pwd.getpwall", lambda: users)
    monkeypatch.setattr("pwd.getpwnam", lambda name: mock.Mock(pw_uid=7))
    switch = tmp_path / "nsswitch.conf"
    monkeypatch.setattr(accounts, "SWITCH", str(switch))
    assert accounts.Accounts().user_id("eve") == 5
    assert accounts.Accounts().user_id("adam") == 7  # whom no list has, such as systemd's
    switch.write_text("passwd: sss files\n")
    assert accounts.Accounts().user_id("eve") == 7


def test_without_nsswitch_names_come_from_files(tmp_path: Path) -> None:
    assert not accounts.elsewhere(str(tmp_path / "none"))


@root
@pytest.mark.parametrize("how", ["mode", "owner", "directory"])
def test_a_plan_that_others_could_have_written_is_refused_and_said_to_be(
    policy: Path, how: str
) -> None:
    path = kept(policy)
    if how == "mode":
        path.chmod(0o620)
    elif how == "owner":
        os.chown(path, ALICE, 0)
    else:
        path.parent.chmod(0o777)
    warned: list[str] = []
    with mock.patch.object(start, "_make") as made:
        start.plan_for(str(policy), str(path.parent), logged(warned), keep=True)
    assert made.called
    (warning,) = warned
    assert warning.startswith(f"no plan is read from {path.parent}: ")
    with pytest.raises(start.NotPrepared):
        start.read_again(str(policy), str(path.parent), HERE)
    path.parent.chmod(0o755)


@root
def test_a_plan_is_not_written_where_others_could_change_it(policy: Path) -> None:
    anybodys = policy.parent / "anybodys"
    anybodys.mkdir()
    anybodys.chmod(0o777)
    with pytest.raises(PermissionError, match="others than root may write"):
        command.prepare(str(policy), str(anybodys))
    warned: list[str] = []
    plan = start.plan_for(str(policy), str(anybodys), logged(warned), keep=True)
    assert "others than root may write" in warned[0]
    assert plan.decide(ALICE, frozenset(), "ttyS0").allowed  # it is used once
    assert not list(anybodys.iterdir())


@root
def test_a_file_that_a_killed_process_of_this_pid_left_is_no_hindrance(policy: Path) -> None:
    left = kept(policy).with_name(f"{kept(policy).name}.{os.getpid()}")
    left.write_bytes(b"half a plan")
    command.prepare(str(policy), str(policy.parent.parent))
    assert not left.exists()


@root
def test_a_plan_made_for_one_start_is_kept_only_where_that_is_wanted(policy: Path) -> None:
    kept(policy).unlink()
    directory = str(policy.parent.parent)
    for keep in (False, True):
        plan = start.plan_for(str(policy), directory, no_warning, keep=keep)
        assert plan.decide(ALICE, frozenset(), "ttyS0").allowed
        assert kept(policy).exists() == keep
    assert is_fresh(policy)


@root
def test_a_bad_policy_gives_a_plan_that_says_so_and_leaves_the_old_one(policy: Path) -> None:
    before = kept(policy).read_bytes()
    policy.write_text(RULE.format("") + "console = 1\n")
    directory = str(policy.parent.parent)
    assert command.prepare(str(policy), directory) == 1
    plan = start.plan_for(str(policy), directory, no_warning, keep=True)
    assert plan.mistake == f"{policy}:4: console: must be true or false"
    assert (plan.rules, plan.aliases) == ([], {})
    assert plan.filter
    assert not plan.decide(0, frozenset({0}), "ttyS0").allowed
    assert kept(policy).read_bytes() == before


@root
def test_a_reload_wants_a_plan_made_since_the_last_change(policy: Path) -> None:
    directory = str(policy.parent.parent)
    assert start.read_again(str(policy), directory, HERE).policy == str(policy)
    policy.write_text(RULE.format('"*"'))
    with pytest.raises(start.NotPrepared) as caught:
        start.read_again(str(policy), directory, HERE)
    assert str(caught.value) == f"{policy} has changed since: run `ttybrokerd --prepare` first"
    prepare(policy)
    assert start.read_again(str(policy), directory, HERE).decide(BOB, frozenset(), "ttyS0").allowed
    kept(policy).unlink()
    with pytest.raises(start.NotPrepared, match=r"no plan at .*: run `ttybrokerd --prepare` first"):
        start.read_again(str(policy), directory, HERE)


@root
def test_a_mistake_that_may_be_mended_ends_a_daemon_that_will_be_started_again(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.write_text("nonsense")
    clock = mock.Mock(monotonic=mock.Mock(return_value=100.0))
    plan = Plan(make.make(str(policy)).data)
    monkeypatch.setattr(plans, "time", clock)
    assert plan.lacks
    plan.look()
    policy.write_text(RULE.format('"alice"'))
    plan.look()  # nobody would start it again
    plan.ends = True
    with pytest.raises(Mended):
        plan.look()
    plan.look()  # it looks once a second
    clock.monotonic.return_value = 101.0
    with pytest.raises(Mended):
        plan.look()


# names in a deny that nobody knows

DENY = """
[[rule]]
port = "ttyS0"
deny = ["{}"]

[[rule]]
port = "ttyS*"
allow = ["*"]
"""


def started(policy: Path) -> tuple[Plan, list[str]]:
    """The plan for a daemon that starts now, and what it warns of."""
    plan = start.plan_for(str(policy), str(policy.parent.parent), no_warning, keep=True)
    return plan, plan.warnings


def may(plan: Plan, uid: int, name: str = "ttyS0", *gids: int) -> bool:
    return plan.decide(uid, frozenset(gids), name).allowed


@root
@pytest.mark.parametrize("name", ["@ghosts", "ghost"])
def test_a_denied_name_that_nobody_knows_fails_a_reload_and_at_a_start_denies_all(
    policy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept(policy).read_bytes()
    policy.write_text(DENY.format(name))
    kind = "group" if name.startswith("@") else "user"
    unknown = f"{policy}:4: deny: no such {kind}: '{name.lstrip('@')}'"
    for action in (
        lambda: command.prepare(str(policy), str(policy.parent.parent)),
        lambda: command.check(str(policy)),
    ):
        assert action() == 1
        assert capsys.readouterr().err == f"{unknown}; a deny must name one that is known\n"
    assert kept(policy).read_bytes() == before
    plan, warnings = started(policy)
    assert warnings == [f"{unknown}; everybody is denied until it is known"]
    assert not may(plan, ALICE) and not may(plan, 0)
    assert may(plan, ALICE, "ttyS1")
    why = denied(plan.decide(ALICE, frozenset(), "ttyS0"))
    assert "rule ttyS0 (line 2) of the policy denies a user or group that is not known here" in why
    assert kept(policy).read_bytes() == before  # so that the next start asks again


@root
def test_a_denied_name_that_was_known_means_at_a_start_whom_it_meant(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.write_text(DENY.format('@students", "alice'))
    prepare(policy)
    before = kept(policy).read_bytes()
    for service in ("pwd.getpwnam", "grp.getgrnam"):  # it is down
        monkeypatch.setattr(service, mock.Mock(side_effect=KeyError))
    for text in (DENY.format('@students", "alice'), DENY.format("@students") + "\n"):
        policy.write_text(text)
        plan, warnings = started(policy)
        assert "; its number from the last plan is used" in warnings[0]
        assert not may(plan, 5, "ttyS0", GID) and not may(plan, BOB)
        assert may(plan, 5)
        assert not plan.lacks
    policy.write_text(DENY.format("@student"))  # another name
    assert not may(started(policy)[0], 5)
    assert kept(policy).read_bytes() == before
    assert command.prepare(str(policy), str(policy.parent.parent)) == 1


@root
def test_a_plan_that_others_could_have_written_tells_nobody_whom_a_name_means(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.write_text(DENY.format("bob"))
    prepare(policy)
    monkeypatch.setattr("pwd.getpwnam", mock.Mock(side_effect=KeyError))
    policy.write_text(DENY.format("bob") + "\n")
    kept(policy).chmod(0o666)
    plan = start.plan_for(str(policy), str(policy.parent.parent), logged([]), keep=False)
    assert not may(plan, ALICE)


@root
def test_a_daemon_that_lacks_a_name_ends_when_it_may_be_known(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.write_text(DENY.format("ghost"))
    plan, _ = started(policy)
    plan.ends = True
    plan.look()
    write_again(policy.parent.parent / "passwd")
    plan._looked = 0.0
    with pytest.raises(Mended):
        plan.look()
    (policy.parent.parent / "nsswitch.conf").write_text("passwd: files sss\n")
    plan, _ = started(policy)
    plan.ends = True
    plan.look()
    later = time.time() + fresh.ELSEWHERE + 1
    monkeypatch.setattr(fresh.time, "time", lambda: later)
    plan._looked = 0.0
    with pytest.raises(Mended):
        plan.look()


@root
def test_a_denied_group_is_its_members_too(policy: Path) -> None:
    """As group(5) lists them, and by their own group in passwd(5)."""
    (policy.parent.parent / "passwd").write_text(
        f"carol:x:1002:{GID}::/:/bin/sh\ndave:x:1003:3::/:/bin/sh\n+::::::\nnonsense\n"
    )
    policy.write_text(DENY.format("@students"))
    plan, warnings = started(policy)
    assert warnings == []
    assert [may(plan, uid) for uid in (BOB, 1002, 1003, ALICE)] == [False, False, True, True]
    assert not may(plan, ALICE, "ttyS0", GID)
    policy.write_text(RULE.format('"@students"'))
    plan, _ = started(policy)
    assert may(plan, ALICE, "ttyS0", GID)
    assert not may(plan, BOB)  # an allow is for a process that is in it


@root
def test_a_policy_whose_plan_is_too_large_to_be_read_is_a_mistake(
    policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept(policy).read_bytes()
    monkeypatch.setattr(plans, "MAX_BYTES", len(before) + 100)
    policy.write_text(RULE.format(", ".join(map(str, range(500)))))
    assert command.prepare(str(policy), str(policy.parent.parent)) == 1
    assert f"{policy}: its plan has more than " in capsys.readouterr().err
    plan, _ = started(policy)
    assert plan.mistake.startswith(f"{policy}: its plan has more than ")
    assert not may(plan, 5)
    assert kept(policy).read_bytes() == before


words = st.text("abc @,0123456789\u00e9", min_size=1, max_size=6)


@given(st.dictionaries(words, st.builds(Subjects, st.just(False), *[st.frozensets(numbers)] * 2)))
@settings(deadline=None)
def test_the_names_of_a_plan_are_read_as_they_were_written(names: dict[str, Subjects]) -> None:
    whole = policy_of([]).replace(denied=names)
    assert read_names(Plan(written(whole)).names) == names


@root
def test_where_there_is_no_policy_the_shipped_one_holds_until_there_is(
    safe_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = safe_dir / "policy.toml"
    monkeypatch.setattr(fresh, "POLICY", str(mine))
    plan = start.plan_for(None, str(safe_dir), no_warning, keep=True)
    assert (plan.policy, plan.mistake) == (fresh.SHIPPED, "")
    assert start.read_again(None, str(safe_dir), HERE).policy == fresh.SHIPPED
    mine.write_text(RULE.format(1000))
    assert fresh.changed(plan, texts=False) == str(mine)
    assert start.plan_for(None, str(safe_dir), no_warning, keep=True).policy == str(mine)
    missing = start.plan_for(f"{mine}.no", str(safe_dir), no_warning, keep=True)
    assert missing.mistake == f"{mine}.no: No such file or directory"


def test_a_plan_that_is_cut_short_on_its_way_is_no_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the kernel has too little memory, and ends the process that prepares."""

    def cut_short(_path: str, _directory: str, _keep: bool, writing: int) -> None:
        os.write(writing, plans.MAGIC + b"x")
        os._exit(0)

    monkeypatch.setattr(start, "_prepare", cut_short)
    with pytest.raises(OSError, match="no plan: "):
        start.plan_for(None, "/nonexistent", no_warning, keep=False)
