"""The policy's drop-ins: which count, in which order, and which are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from support.users import ALICE
from ttybrokerd import start
from ttybrokerd.prepare import accounts, command, files, make
from ttybrokerd.prepare.files import Stamps
from ttybrokerd.root import fresh
from ttybrokerd.root.plan import Plan
from unit.helpers import no_warning

pytestmark = pytest.mark.root

RULE = '[[rule]]\nport = "{}"\nallow = [{}]\n'
ALIAS = '[[rule]]\nport = "{}"\ndevice = "{}"\nallow = [{}]\n'


class Machine:
    """A policy, and the three directories of its drop-ins."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.policy = base / "etc/ttybroker/policy.toml"
        self.etc = base / "etc/ttybroker/policy.d"
        self.run = base / "run/ttybroker/policy.d"
        self.lib = base / "lib/ttybroker/policy.d"
        for directory in (self.etc, self.run, self.lib):
            directory.mkdir(parents=True)
        self.policy.write_text(RULE.format("ttyS*", 1))

    def mistakes(self) -> tuple[str, ...]:
        return make.make(str(self.policy)).mistakes

    def plan(self) -> Plan:
        made = make.make(str(self.policy))
        assert made.mistakes == ()
        return Plan(made.data)

    def rules(self) -> list[str]:
        """Every rule, as people are told of it."""
        rules, mistakes = make.judge(str(self.policy), Stamps(), accounts.Accounts())
        assert mistakes == ()
        decided = self.plan()
        return [str(decided.decide(min(rule.subjects.uids), frozenset(), rule.port.replace("*", "0")
                                   ).rule) for rule in rules.rules]  # fmt: skip

    def started(self) -> Plan:
        """The plan of a daemon that starts."""
        return start.plan_for(str(self.policy), str(self.base), no_warning, keep=True)

    def is_fresh(self) -> bool:
        """Whether a daemon that starts now takes the plan that is kept."""
        with mock.patch.object(start, "_make") as made:
            start.plan_for(str(self.policy), str(self.base), no_warning, keep=True)
        return not made.called


@pytest.fixture
def machine(safe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(safe_dir)
    monkeypatch.setattr(fresh, "POLICY", str(made.policy))
    monkeypatch.setattr(files, "RUN", str(made.run))
    monkeypatch.setattr(files, "SHARED", str(made.lib))
    monkeypatch.setattr(command, "NICE", 0)
    return made


# order and precedence


def test_rules_come_in_the_order_of_file_names_behind_the_policys(machine: Machine) -> None:
    (machine.lib / "10-a.toml").write_text(ALIAS.format("a", "/dev/a", 2))
    (machine.etc / "20-b.toml").write_text("admins = [7]\n" + ALIAS.format("b", "/dev/b", 3))
    (machine.run / "15-c.toml").write_text("# c\n" + ALIAS.format("c", "/dev/c", 4))
    (machine.etc / "readme").write_text("no toml")
    (machine.etc / ".20-b.toml").write_text("an editor's")
    (machine.etc / "20-b.toml.dpkg-new").write_text("dpkg's")
    assert machine.rules() == [
        "ttyS* (line 1)", "a (10-a.toml, line 1)", "c (15-c.toml, line 2)", "b (20-b.toml, line 2)"
    ]  # fmt: skip
    assert machine.plan().is_admin(7, frozenset())


def test_the_first_of_all_that_applies_decides(machine: Machine) -> None:
    (machine.lib / "50.toml").write_text('[[rule]]\nport = "ttyS*"\ndeny = [1, 2]\n')
    (machine.run / "60.toml").write_text(RULE.format("ttyS*", '"*"'))
    plan = machine.plan()
    decisions = [plan.decide(uid, frozenset(), "ttyS0") for uid in (1, 2, 3)]
    assert [decision.allowed for decision in decisions] == [True, False, True]
    assert str(decisions[1].rule) == "ttyS* (50.toml, line 1)"


@pytest.mark.parametrize("mask", ["file", "empty", "null"])
def test_of_two_files_of_a_name_the_first_directorys_counts(machine: Machine, mask: str) -> None:
    for directory, uid in ((machine.lib, 5), (machine.run, 4)):
        (directory / "50.toml").write_text(ALIAS.format("a", "/dev/a", uid))
    assert machine.plan().decide(4, frozenset(), "a").allowed
    assert not machine.plan().decide(5, frozenset(), "a").allowed
    ours = machine.etc / "50.toml"
    if mask == "null":
        ours.symlink_to("/dev/null")
    else:
        ours.write_text(ALIAS.format("a", "/dev/a", 3) if mask == "file" else "")
    plan = machine.plan()
    assert plan.decide(3, frozenset(), "a").allowed == (mask == "file")
    assert not plan.decide(4, frozenset(), "a").allowed


def test_what_is_masked_may_be_bad(machine: Machine) -> None:
    (machine.lib / "50.toml").write_text("nonsense")
    os.chown(machine.lib / "50.toml", ALICE, ALICE)
    assert machine.mistakes()
    (machine.etc / "50.toml").symlink_to("/dev/null")
    assert machine.mistakes() == ()


def test_a_drop_in_may_be_about_another_files_alias(machine: Machine) -> None:
    (machine.etc / "a.toml").write_text('[[rule]]\nport = "gps"\ndeny = [2]\n')
    assert machine.mistakes() == (
        f"{machine.etc}/a.toml:2: port: gps is not a kernel name; an alias needs a device, or "
        "words such as usb",
    )
    (machine.lib / "b.toml").write_text(ALIAS.format("gps", "/dev/a", '"*"'))
    assert not machine.plan().decide(2, frozenset(), "gps").allowed
    (machine.run / "c.toml").write_text(ALIAS.format("gps", "/dev/b", '"*"'))
    assert machine.mistakes() == (f"{machine.run}/c.toml:3: device: gps already means /dev/a",)


def test_the_shipped_policy_has_the_machines_drop_ins(machine: Machine) -> None:
    machine.policy.unlink()
    (machine.lib / "50.toml").write_text(ALIAS.format("gps", "/dev/a", 5))
    made = make.make(fresh.SHIPPED)
    assert made.mistakes == ()
    assert Plan(made.data).decide(5, frozenset(), "gps").allowed


def test_another_policy_has_drop_ins_beside_it_alone(machine: Machine) -> None:
    (machine.lib / "50.toml").write_text(ALIAS.format("a", "/dev/a", 5))
    other = machine.base / "lab.toml"
    other.write_text("")
    (machine.base / "lab.d").mkdir()
    (machine.base / "lab.d/x.toml").write_text(ALIAS.format("b", "/dev/b", 5))
    assert Plan(make.make(str(other)).data).aliases == {"b": "/dev/b"}


# what is refused

NOT_ROOTS = "; a drop-in and its directories must belong to root and be writable by nobody else"


def bad(drop_in: Path) -> None:
    drop_in.write_text("nonsense")


def users(drop_in: Path) -> None:
    drop_in.write_text("")
    os.chown(drop_in, ALICE, ALICE)


def writable(drop_in: Path) -> None:
    drop_in.write_text("")
    drop_in.chmod(0o666)


def link_out(drop_in: Path) -> None:
    other = drop_in.parent.parent / "elsewhere.toml"
    other.write_text("")
    drop_in.symlink_to("../elsewhere.toml")


def users_mask(drop_in: Path) -> None:
    drop_in.symlink_to("/dev/null")
    os.lchown(drop_in, ALICE, ALICE)


def dangling(drop_in: Path) -> None:
    drop_in.symlink_to("gone.toml")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "bad": (bad, "{file}:1: text: "),
    "a user's": (users, "{file}: owned by uid " + str(ALICE) + ", not root"),
    "writable": (writable, "{file}: others than root may write (mode 666)"),
    "link out": (link_out, "{file}: a link out of its directory, to "),
    "a user's mask": (users_mask, "{file}: owned by uid " + str(ALICE)),
    "dangling": (dangling, "{file}: No such file or directory"),
    "a directory": (Path.mkdir, "{file}: not a regular file"),
    "huge": (lambda path: path.write_bytes(b"#" * (1 << 20)), "{policy}: larger than "),
}


@pytest.mark.parametrize("directory", ["etc", "run", "lib"])
@pytest.mark.parametrize("what", REFUSED)
def test_a_drop_in_that_cannot_be_believed_is_a_bad_policy(
    machine: Machine, what: str, directory: str
) -> None:
    make_it, why = REFUSED[what]
    file = getattr(machine, directory) / "50.toml"
    make_it(file)
    (mistake,) = machine.mistakes()
    assert mistake.startswith(why.format(file=file, policy=machine.policy))
    if "root" in why or "owned" in why:
        assert mistake.endswith(NOT_ROOTS)
    plan = machine.started()
    assert plan.mistake == mistake and not plan.rules
    assert not list(machine.base.glob("plan.*"))


def test_a_link_within_its_directory_is_followed(machine: Machine) -> None:
    (machine.lib / "gps.device").write_text(ALIAS.format("gps", "/dev/a", 5))
    (machine.lib / "50.toml").symlink_to("gps.device")
    assert machine.plan().aliases == {"gps": "/dev/a"}


def test_a_directory_that_others_may_write_is_a_bad_policy_though_it_is_empty(
    machine: Machine,
) -> None:
    """Else whoever may write there could take a deny away."""
    machine.run.chmod(0o777)
    assert machine.mistakes() == (
        f"{machine.run}: others than root may write (mode 777){NOT_ROOTS}",
    )
    machine.run.rmdir()
    machine.run.write_text("no directory")
    assert machine.mistakes() == (f"{machine.run}: Not a directory",)


@pytest.mark.parametrize("directory", ["etc", "run", "lib"])
def test_a_directory_that_is_a_link_to_nothing_is_a_bad_policy(
    machine: Machine, directory: str
) -> None:
    """Such as one on a file system that is not mounted yet: a deny may be in it."""
    place = getattr(machine, directory)
    elsewhere = machine.base / "shared"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    (elsewhere / "50.toml").write_text(RULE.format("ttyUSB0", 1))
    assert len(machine.plan().rules) == 2
    elsewhere.rename(machine.base / "unmounted")
    assert machine.mistakes() == (f"{place}: No such file or directory",)


@pytest.mark.parametrize("directory", ["run", "lib"])
def test_admins_are_named_below_etc_alone(machine: Machine, directory: str) -> None:
    file = getattr(machine, directory) / "50.toml"
    file.write_text("\nadmins = [1000]\n")
    assert machine.mistakes() == (f"{file}:2: admins: only files below /etc may name admins",)


def test_every_bad_file_is_named(machine: Machine) -> None:
    for number, directory in enumerate((machine.etc, machine.run, machine.lib)):
        (directory / f"{number}.toml").write_text("\nnonsense")
    assert [mistake.partition(": ")[0] for mistake in machine.mistakes()] == [
        f"{machine.etc}/0.toml:2", f"{machine.run}/1.toml:2", f"{machine.lib}/2.toml:2",
    ]  # fmt: skip


def test_there_are_only_so_many(machine: Machine) -> None:
    for number in range(files.MOST + 1):
        (machine.lib / f"{number}.toml").touch()
    assert machine.mistakes() == (f"{machine.policy}: more than {files.MOST} drop-ins",)
    (machine.lib / "0.toml").unlink()
    assert machine.mistakes() == ()


# --check


def test_check_judges_the_machines_own_with_its_drop_ins(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    file = machine.lib / "50.toml"
    file.write_text(RULE.format("ttyS0", 1))
    assert command.check(None) == 0
    assert capsys.readouterr().err == (
        f"warning: {file}:1: rule: ttyS0 never applies: "
        f"{machine.policy}:1 comes first, about the same ports and users\n"
    )
    file.chmod(0o666)
    assert command.check(None) == 1
    assert "others than root may write" in capsys.readouterr().err


def test_check_judges_a_draft_and_the_drop_ins_beside_it_wherever_they_are(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / "draft.toml"
    draft.write_text(RULE.format("ttyS0", 1))
    (tmp_path / "draft.d").mkdir()
    drop_in = tmp_path / "draft.d/x.toml"
    drop_in.write_text(ALIAS.format("gps", "/dev/a", 1))
    for path in (draft, drop_in, drop_in.parent):
        os.chown(path, ALICE, ALICE)
    assert command.check(str(draft)) == 0
    assert "2 rules, 1 alias: good" in capsys.readouterr().out
    bad(drop_in)
    assert command.check(str(draft)) == 1
    assert capsys.readouterr().err.startswith(f"{drop_in}:1: text: ")


def test_check_names_what_lies_among_the_drop_ins_and_is_not_read(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    for directory, name in ((machine.etc, "20-lab.conf"), (machine.lib, "README")):
        bad(directory / name)
    for kept in ("a.toml~", "a.toml.dpkg-old", ".a.swp"):
        bad(machine.etc / kept)
    assert command.check(None) == 0
    why = "not read: the name of a drop-in ends in .toml"
    assert capsys.readouterr().err == (
        f"warning: {machine.etc}/20-lab.conf: {why}\nwarning: {machine.lib}/README: {why}\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        '"\\u001b]0;x\\u0007" = 1',
        ALIAS.format("gps", "/dev/\\u009b2J", 1) + ALIAS.format("gps", "/dev/\\u202e", 1),
        RULE.format("ttyS0", '"\\u001b[2J"'),
        RULE.format("ttyS0", 1),
    ],
)
def test_neither_a_draft_nor_the_name_of_a_file_speaks_to_the_terminal(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "\x1b[2J\n\x9b"
    (place / "draft.d").mkdir(parents=True)
    (place / "draft.toml").write_text(text)
    (place / "draft.d/\x07.bak").touch()
    status = command.check(str(place / "draft.toml"))
    told = capsys.readouterr()
    lines = [*told.out.splitlines(), *told.err.splitlines()]
    shown = f"{tmp_path}/?[2J??/draft"
    begins = (shown, f"warning: {shown}", "note: ")
    assert lines and all(line.isprintable() and line.startswith(begins) for line in lines)
    assert (f"{shown}.toml: 1 rule, 0 aliases: good" in told.out) == (status == 0)


def test_check_says_that_the_machine_s_policy_is_missing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.policy.unlink()
    assert command.check(None) == 0
    why = "missing: ttybroker.service gives nobody a port without it"
    step = f"to have the shipped rules: install -D -m 644 {fresh.SHIPPED} {machine.policy}"
    assert capsys.readouterr().err == f"warning: {machine.policy}: {why}; {step}\n"


def test_who_has_the_machine_s_policy_in_its_place_is_not_told_to_install_it_there(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.policy.chmod(0o664)
    assert command.check(None) == 1
    why = "others than root may write (mode 664); see whether it says what you wrote; it and its"
    told = f"{machine.policy}: {why} directories must be writable by root alone\n"
    assert capsys.readouterr().err == told


# the plan's stamp

CHANGES: dict[str, Callable[[Machine], object]] = {
    "text": lambda m: (m.lib / "50.toml").write_text(ALIAS.format("a", "/dev/b", 5)),
    "one more": lambda m: (m.lib / "60.toml").touch(),
    "one gone": lambda m: (m.lib / "50.toml").unlink(),
    "one before it": lambda m: (m.etc / "50.toml").touch(),
    "owner": lambda m: os.chown(m.lib / "50.toml", ALICE, 0),
    "directory's mode": lambda m: m.run.chmod(0o700),
    "directory gone": lambda m: m.run.rmdir(),
    "another directory": lambda m: (m.run.rename(m.run.with_name("old")), m.run.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_whose_drop_ins_have_changed_is_made_anew(machine: Machine, change: str) -> None:
    (machine.lib / "50.toml").write_text(ALIAS.format("a", "/dev/a", 5))
    assert command.prepare(str(machine.policy), str(machine.base)) == 0
    assert machine.is_fresh()
    CHANGES[change](machine)
    assert not machine.is_fresh()


def test_a_directory_that_was_not_there_is_in_the_stamp(machine: Machine) -> None:
    for directory in (machine.etc, machine.run, machine.lib):
        directory.rmdir()
    machine.lib.parent.rmdir()
    assert command.prepare(str(machine.policy), str(machine.base)) == 0
    assert machine.is_fresh()
    for directory in (machine.etc, machine.run, machine.lib):
        directory.mkdir(parents=True)
        assert not machine.is_fresh()
        assert command.prepare(str(machine.policy), str(machine.base)) == 0


def test_a_name_made_in_the_same_tick_is_seen(machine: Machine) -> None:
    """What the coarse clock of an old kernel hides, by the checksum of the names."""
    assert command.prepare(str(machine.policy), str(machine.base)) == 0
    before, lstat = os.lstat(machine.run), os.lstat
    (machine.run / "50.toml").touch()

    def coarse(path: str) -> os.stat_result:
        return before if path == str(machine.run) else lstat(path)

    with mock.patch.object(os, "lstat", coarse):
        assert not machine.is_fresh()


def test_a_daemon_with_a_bad_drop_in_ends_when_that_is_mended(machine: Machine) -> None:
    (machine.run / "50.toml").write_text("nonsense")
    plan = Plan(make.make(str(machine.policy)).data)
    assert plan.lacks and fresh.changed(plan, texts=False) is None
    (machine.run / "50.toml").unlink()
    assert fresh.changed(plan, texts=False) == str(machine.run)
