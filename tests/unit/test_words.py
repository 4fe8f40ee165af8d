"""What a device is, by sysfs: an alias whose rule says so, in directories of the tests' own."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ttybroker import sysfs
from ttybrokerd.root import device, report, trust, words
from ttybrokerd.root.copies import DeadCopies
from ttybrokerd.root.device import Devices, Glance, Target
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.refusal import Absent, Refusal
from unit.helpers import plan_of

pytestmark = pytest.mark.root

FTDI = {"usb": "0403:6001", "serial": "A1", "interface": "0", "driver": "ftdi_sio"}
PLACE = "pci0000:00/0000:00:14.0/usb1/1-{0}/1-{0}:1.{1}"


class Machine:
    """A /dev with nodes that nobody opens, and the sysfs that says what is behind them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.sys = base / "sys"
        self.dev = base / "dev"
        self.dev.mkdir()
        (self.sys / "class/tty").mkdir(parents=True)
        (base / "drivers").write_text(
            "usbserial /dev/ttyUSB 188 0-511 serial\nacm /dev/ttyACM 166 0-255 serial\n"
            "serial /dev/ttyS 4 64-95 serial\n"
        )
        (base / "consoles").write_text("tty0\n")
        self.devices = Devices(
            str(self.dev),
            str(base / "drivers"),
            str(base / "consoles"),
            str(self.sys / "class/tty"),
        )

    def port(self, name: str, below: str, major: int, minor: int) -> Path:
        """A node, and its directory in sysfs in which the device `below` is."""
        os.mknod(self.dev / name, stat.S_IFCHR | 0o600, os.makedev(major, minor))
        at = self.sys / "devices" / below
        (at / "tty" / name).mkdir(parents=True)
        (self.sys / "class/tty" / name).symlink_to(f"../../devices/{below}/tty/{name}")
        return at

    def driver(self, at: Path, bus: str, name: str) -> None:
        """A device's driver."""
        there = self.sys / f"bus/{bus}/drivers/{name}"
        there.mkdir(parents=True, exist_ok=True)
        (at / "driver").symlink_to(os.path.relpath(there, at))

    def usb(self, at: Path, vendor: str, product: str, serial: str | None, interface: str) -> None:
        """The device of the interface at this place."""
        (at / "bInterfaceNumber").write_text(f"{interface}\n")
        (at.parent / "idVendor").write_text(f"{vendor}\n")
        (at.parent / "idProduct").write_text(f"{product}\n")
        if serial is not None:
            (at.parent / "serial").write_text(f"{serial}\n")

    def ftdi(self, number: int, serial: str | None = "A1", interface: int = 0) -> Path:
        """An adapter, as drivers/usb/serial makes one: its port has a directory of its own."""
        place = PLACE.format(number, interface)
        at = self.port(f"ttyUSB{number}", f"{place}/ttyUSB{number}", 188, number)
        self.driver(at, "usb-serial", "ftdi_sio")
        self.driver(at.parent, "usb", "ftdi_sio")
        self.usb(at.parent, "0403", "6001", serial, f"{interface:02x}")
        return at

    def facts(self, name: str) -> dict[str, str]:
        return sysfs.facts(name, str(self.sys / "class/tty"))


@pytest.fixture
def machine(safe_dir: Path) -> Machine:
    return Machine(safe_dir)


# what sysfs says


def test_an_adapter_of_the_usb_serial_drivers(machine: Machine) -> None:
    machine.ftdi(3, serial="A1 B", interface=17)
    assert machine.facts("ttyUSB3") == {
        "usb": "0403:6001", "serial": "A1 B", "interface": "17", "driver": "ftdi_sio",
        "path": PLACE.format(3, 17),
    }  # fmt: skip


def test_a_port_without_a_driver(machine: Machine) -> None:
    machine.port("ttyS0", "pnp0/00:00", 4, 64)
    assert machine.facts("ttyS0") == {"path": "pnp0/00:00"}


def test_a_modem_of_cdc_acm_without_a_serial_number(machine: Machine) -> None:
    at = machine.port("ttyACM0", PLACE.format(2, 1), 166, 0)
    machine.driver(at, "usb", "cdc_acm")
    machine.usb(at, "2341", "0043", None, "01")
    assert machine.facts("ttyACM0") == {
        "usb": "2341:0043", "serial": "", "interface": "1", "driver": "cdc_acm",
        "path": PLACE.format(2, 1),
    }  # fmt: skip


@pytest.mark.parametrize("below", ["pnp0/00:00", "pnp0/00:00/00:00:0/00:00:0.0"])
def test_a_uart_of_either_kernel(machine: Machine, below: str) -> None:
    """Since Linux 6.5 it has a port of its own in between, with a driver called so."""
    at = machine.port("ttyS0", below, 4, 64)
    machine.driver(machine.sys / "devices/pnp0/00:00", "pnp", "serial")
    if below != "pnp0/00:00":
        machine.driver(at, "serial-base", "port")
        machine.driver(at.parent, "serial-base", "ctrl")
    assert machine.facts("ttyS0") == {"driver": "serial", "path": below}


def test_what_sysfs_does_not_know(machine: Machine) -> None:
    with pytest.raises(OSError):
        machine.facts("ttyS0")
    assert not machine.devices.fits("ttyS0", "driver=*")


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("usb=0403:6001", True),
        ("usb=0403:6001 serial=A1 interface=0 driver=ftdi_sio", True),
        ("usb=0403:*", True),
        ("serial=A?", True),
        ("usb=0403:6001 serial=A2", False),
        ("usb=0403:6002 serial=A1", False),
        ("interface=1", False),
        ("driver=cp210x", False),
        ("path=pci*", False),  # nothing is known of it here
        ("serial=A", False),
    ],
)
def test_all_words_must_fit(wanted: str, fits: bool) -> None:
    assert words.fit(wanted, FTDI) == fits


# what an alias means

WANTED = "usb=0403:6001 serial=A1"


def refused(machine: Machine, wanted: str = WANTED) -> Refusal:
    with pytest.raises(Refusal) as caught:
        machine.devices.path("gps", wanted)
    return caught.value


def test_an_alias_means_the_device_that_fits_its_words(machine: Machine) -> None:
    machine.ftdi(0, "B7")
    machine.ftdi(4)
    machine.port("ttyS0", "platform/serial8250", 4, 64)
    assert machine.devices.path("gps", WANTED) == f"{machine.dev}/ttyUSB4"
    assert machine.devices.path("x", f"path={PLACE.format(0, 0)}") == f"{machine.dev}/ttyUSB0"
    missing = refused(machine, "serial=Z*")
    assert (missing.number, missing.cause) == (
        errno.ENOENT, "no device is serial=Z*; is it plugged in?"
    )  # fmt: skip


def test_two_devices_that_fit_are_named_and_neither_is_meant(machine: Machine) -> None:
    machine.ftdi(4)
    machine.ftdi(11)
    both = refused(machine)
    assert (both.number, both.cause) == (
        errno.ENOTUNIQ, f"ambiguous: ttyUSB4 and ttyUSB11 are {WANTED}"
    )  # fmt: skip
    assert "describe it more closely" in both.answer().message()


def test_another_device_that_comes_before_the_look_is_not_taken(machine: Machine) -> None:
    at = machine.ftdi(4)
    path = machine.devices.path("gps", WANTED)
    target = Target("gps", path, False, False, WANTED)
    machine.devices.look(target).close()
    (at.parent.parent / "serial").write_text("B7\n")
    with pytest.raises(Refusal, match="is another device by now, and not usb=0403") as caught:
        machine.devices.look(target)
    assert caught.value.number == errno.ENODEV
    machine.devices.look(target.replace(alias=None)).close()  # by its kernel's name it may be had


def test_words_are_no_place_for_landlock(machine: Machine) -> None:
    assert machine.devices.nodes({"gps": WANTED, "x": "/dev/x"}) == ("/dev/x",)


# what a deny by words is about


@pytest.mark.parametrize(
    ("change", "denied"),
    [
        (lambda machine: None, True),
        (lambda machine: machine.ftdi(11), True),  # two that fit are denied, both
        (lambda machine: shutil.rmtree(machine.sys), True),  # nothing says what it is
        (lambda machine: (machine.base / "sys/devices" / PLACE.format(4, 0)).parent.joinpath(
            "serial").write_text("B7"), False),
    ],
    ids=["one", "two", "no sysfs", "another"],
)  # fmt: skip
def test_a_device_that_is_denied_by_words_is_denied_by_its_kernels_name(
    machine: Machine, change: object, denied: bool
) -> None:
    machine.ftdi(4)
    assert callable(change)
    change(machine)
    policy = f'[[rule]]\nport = "gps"\n{toml(WANTED)}\ndeny = ["*"]\n'
    judge = Judge(plan_of(policy), machine.devices)
    target = Target("ttyUSB4", f"{machine.dev}/ttyUSB4", False, False)
    who = Identity(5, 5, frozenset(), 1)
    if denied:
        with pytest.raises(Refusal, match="rule gps"):
            judge.of(who).check_device(target, "ttyUSB4", "")
    else:
        judge.of(who).check_device(target, "ttyUSB4", "")
    judge.of(who).check_device(target.replace(pty=True), "ttyUSB4", "")


# rules about kernel names whose devices are something

RULES = """
[[rule]]
port = "ttyUSB*"
serial = "B*"
deny = [5]

[[rule]]
port = "ttyUSB*"
usb = "0403:6001"
allow = ["*"]
max_lease = 9
"""


def judge_of(machine: Machine, policy: str = RULES) -> tuple[Judge, Identity]:
    return Judge(plan_of(policy), machine.devices), Identity(5, 5, frozenset(), 1)


def decided(machine: Machine, name: str, policy: str = RULES) -> tuple[bool, str]:
    judge, who = judge_of(machine, policy)
    decision = judge.of(who).decide(name)
    return decision.allowed, str(decision.rule)


def test_a_rule_with_words_is_about_the_devices_that_fit(machine: Machine) -> None:
    machine.ftdi(0)
    machine.ftdi(1, "B7")
    other = machine.ftdi(2, "C1").parent.parent
    (other / "idProduct").write_text("6015\n")
    assert decided(machine, "ttyUSB0") == (True, "ttyUSB* (line 7)")
    assert decided(machine, "ttyUSB1") == (False, "ttyUSB* (line 2)")
    assert decided(machine, "ttyUSB2") == (False, "None")
    assert decided(machine, "ttyUSB0", RULES.replace("ttyUSB*", "ttyUSB0"))[0]
    assert not decided(machine, "ttyUSB1", RULES.replace("ttyUSB*", "ttyUSB0"))[0]


def test_of_what_sysfs_does_not_know_the_denials_hold_and_nothing_is_allowed(
    machine: Machine,
) -> None:
    machine.ftdi(0)
    shutil.rmtree(machine.sys)
    assert decided(machine, "ttyUSB0") == (False, "ttyUSB* (line 2)")
    assert decided(machine, "ttyUSB0", RULES.replace("[5]", "[6]")) == (False, "None")


def test_what_is_not_there_is_judged_when_it_comes(machine: Machine) -> None:
    """Else nobody could wait for it. Whoever saw a device is told when nothing is known of it."""
    policy = DESK + '[[rule]]\nport = "gps"\nserial = "A1"\nallow = [6]\n'
    assert machine.devices.facts("ttyUSB0", seen=False) == {}
    assert machine.devices.facts("ttyUSB0") is None
    assert decided(machine, "ttyUSB0", policy) == (True, "ttyUSB* (line 1)")
    judge, who = judge_of(machine, policy)
    target = Target("ttyUSB0", f"{machine.dev}/ttyUSB0", False, False)
    rule = str(judge.of(who).allowed("ttyUSB0").rule)
    machine.ftdi(0)
    with pytest.raises(Refusal, match="another device has its name by now"):
        judge.of(who).check_device(target, "ttyUSB0", rule)
    assert "no rule of the policy" in had(machine, policy)


def test_what_cannot_be_read_is_unknown_and_so_denied(machine: Machine) -> None:
    """As when the broker is out of descriptors, or the device goes just now."""
    serial = machine.ftdi(4, "B1").parent.parent / "serial"
    assert serial.read_text().strip() == "B1"
    serial.unlink()
    serial.mkdir()  # EISDIR
    assert machine.devices.facts("ttyUSB4") is None
    assert not decided(machine, "ttyUSB4")[0]


def test_a_denial_by_words_holds_under_an_alias(machine: Machine) -> None:
    machine.ftdi(1, "B7")
    device = f"{machine.dev}/ttyUSB1"
    alias = f'[[rule]]\nport = "gps"\ndevice = "{device}"\nallow = ["*"]\n'
    judge, who = judge_of(machine, RULES + alias)
    with pytest.raises(Refusal, match=r"rule ttyUSB\* \(line 2\)"):
        judge.of(who).check_device(Target("gps", device, False, False, device), "ttyUSB1", "")


def test_another_device_than_the_one_that_was_judged_is_not_taken(machine: Machine) -> None:
    at = machine.ftdi(0)
    judge, who = judge_of(machine)
    rule = str(judge.of(who).allowed("ttyUSB0").rule)
    target = Target("ttyUSB0", f"{machine.dev}/ttyUSB0", False, False)
    judge.of(who).check_device(target, "ttyUSB0", rule)
    (at.parent.parent / "serial").write_text("B7\n")
    with pytest.raises(Refusal, match="another device has its name by now") as caught:
        judge.of(who).check_device(target, "ttyUSB0", rule)
    assert caught.value.number == errno.ENODEV


def test_a_decision_among_a_thousand_rules_looks_at_the_device_once(machine: Machine) -> None:
    machine.ftdi(0)
    rules = "".join(RULES.replace("B*", f"B{number}") for number in range(500))
    plan, looked = plan_of(rules), list[str]()

    def facts(name: str, seen: bool) -> dict[str, str]:
        looked.append(name)
        return machine.facts(name)

    plan.facts = facts
    assert plan.decide(5, frozenset(), "ttyUSB0").allowed
    assert looked == ["ttyUSB0"]


# rules about what no other rule names

DESK = '[[rule]]\nport = "ttyUSB*"\nallow = [5]\nunnamed = true\n'
OTHERS = {
    "a glob for others": 'port = "tty*"\nallow = [6]',
    "a denial of others": 'port = "ttyUSB0"\ndeny = [6]',
    "the same glob": 'port = "ttyUSB*"\nallow = [6]',
    "words": 'port = "ttyUSB*"\nserial = "A*"\nallow = [6]',
    "an alias by words": 'port = "gps"\nserial = "A1"\nallow = [6]',
    "one with a number": 'port = "board1"\nserial = "A1"\nallow = [6]',
    "an alias by words that fit two": 'port = "gps"\ndriver = "ftdi_sio"\nallow = [6]',
    "an alias by a link": 'port = "gps"\ndevice = "{}/by-id"\nallow = [6]',
}
NOT_OTHERS = {
    "nothing": 'port = "ttyS*"\nallow = [6]',
    "other words": 'port = "ttyUSB*"\nserial = "C*"\nallow = [6]',
    "another's alias": 'port = "gps"\nserial = "B7"\nallow = [6]',
    "another's link": 'port = "gps"\ndevice = "{}/ttyUSB1"\nallow = [6]',
    "a link to nothing": 'port = "gps"\ndevice = "{}/nothing"\nallow = [6]',
}


def rows(judge: Judge, who: Identity) -> list[report.Listed]:
    """What a list has for the user."""
    others: Any = mock.Mock(holder=lambda seen, users: None)
    ruling, copies = judge.of(who), DeadCopies(mock.Mock())
    return report.Look(judge._devices, ruling, others, copies, frozenset(), everything=False).rows()


def had(machine: Machine, policy: str, name: str = "ttyUSB0") -> str:
    """Why the user may not have the port, "" if he may; and the list says the same."""
    judge, who = judge_of(machine, policy)
    found = rows(judge, who)
    try:
        decision = judge.of(who).allowed(name)
        judge.of(who).look(machine.devices.target(name, decision), str(decision.rule)).close()
        why = ""
    except Refusal as refusal:
        why = refusal.cause
    assert (name in [row.port.name for row in found]) == (why == "")
    return why


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
@pytest.mark.parametrize("other", [*OTHERS, *NOT_OTHERS])
def test_what_any_other_rule_names_is_not_unnamed(machine: Machine, other: str, order: int) -> None:
    machine.ftdi(0)
    machine.ftdi(1, "B7")
    os.chmod(machine.base, 0o755)
    (machine.dev / "by-id").symlink_to("ttyUSB0")
    text = {**OTHERS, **NOT_OTHERS}[other].format(machine.dev)
    policy = "".join([DESK, f"[[rule]]\n{text}\n"][::order])
    why = had(machine, policy)
    assert why.startswith("not permitted: ") if other in OTHERS else why == "", why


def test_an_alias_by_words_with_a_number_is_had_and_listed(machine: Machine) -> None:
    machine.ftdi(0)
    assert had(machine, '[[rule]]\nport = "board1"\nserial = "A1"\nallow = [5]\n', "board1") == ""


SITTING = '[[rule]]\nport = "ttyUSB*"\nallow = [5]\nwhile = "active"\n'
UNNAMED = DESK + '[[rule]]\nport = "gps"\ndevice = "{}/gps"\nallow = [6]\n'
DENIED = UNNAMED.replace("unnamed = true\n", "").replace("allow = [6]", "deny = [5]")


def redirectable(machine: Machine) -> None:
    os.chmod(machine.dev, 0o777)


def second_node(machine: Machine) -> None:
    os.mknod(machine.dev / "gps", stat.S_IFCHR | 0o600, os.makedev(188, 0))


@pytest.mark.parametrize("change", [redirectable, second_node])
@pytest.mark.parametrize("policy", [UNNAMED, DENIED], ids=["unnamed", "denied"])
def test_a_list_shows_no_port_that_an_open_denies_for_its_other_name(
    machine: Machine, policy: str, change: Callable[[Machine], None]
) -> None:
    machine.ftdi(0)
    os.chmod(machine.base, 0o755)
    assert had(machine, policy.format(machine.dev)) == ""
    trust._directories.clear()
    change(machine)
    assert "gps" in had(machine, policy.format(machine.dev))


def test_a_list_shows_as_refused_what_is_for_who_sits_there(machine: Machine) -> None:
    """The launcher asks for what is listed, and so tells why it is refused."""
    machine.ftdi(0)
    judge, who = judge_of(machine, SITTING)
    assert [(row.rdev, row.port.state) for row in rows(judge, who)] == [(None, "refused")]
    judge.seat({"seat0": who.uid})
    assert [row.port.state for row in rows(judge, who)] == ["free"]


def test_a_list_says_of_a_device_that_udev_has_not_named_that_it_is_not_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an open does, who may wait for it."""
    machine.ftdi(0)
    machine.ftdi(1)
    os.chmod(machine.base, 0o755)
    monkeypatch.setattr(sysfs, "UDEV", str(machine.base / "udev"))
    (machine.base / "udev").mkdir()
    (machine.base / "udev/c188:0").touch()
    judge, who = judge_of(machine, UNNAMED.format(machine.dev))
    found = {row.port.name: (row.rdev is not None, row.port.state) for row in rows(judge, who)}
    assert found == {"ttyUSB0": (True, "free"), "ttyUSB1": (False, "gone")}


def test_a_list_follows_each_link_once_and_after_udev_was_asked_about_all_ports(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its cost is the product of both, and a link that udev makes meanwhile is missed."""
    for number in range(9):
        machine.ftdi(number)
    os.chmod(machine.base, 0o755)
    links = [f'[[rule]]\nport = "l{number}"\ndevice = "{machine.dev}/l{number}"\nallow = [6]\n'
             for number in range(9)]  # fmt: skip
    done, path, named = list[str](), Devices.path, Devices.named

    def follow(self: Devices, name: str, alias: str | None) -> str:
        if alias is not None:
            done.append("follow")
        return path(self, name, alias)

    def ask(self: Devices, node: str) -> bool:
        done.append("ask")
        return named(self, node)

    monkeypatch.setattr(Devices, "path", follow)
    monkeypatch.setattr(Devices, "named", ask)
    judge, who = judge_of(machine, DESK + "".join(links))
    assert len(rows(judge, who)) == 9
    assert done == ["ask"] * 9 + ["follow"] * 9


def test_whose_alias_it_is_is_said(machine: Machine) -> None:
    machine.ftdi(0)
    os.chmod(machine.base, 0o755)
    alias = f'[[rule]]\nport = "gps"\ndevice = "{machine.dev}/ttyUSB0"\nallow = [6]\n'
    why = "it is gps, and rule ttyUSB* (line 1) is about ports that no other rule names"
    assert had(machine, DESK + alias) == f"not permitted: {why}"


LINKED = 'port = "gps"\ndevice = "{}/by-id"\n'
TO_COME = {
    "unnamed": f"{DESK}[[rule]]\n{LINKED}allow = [6]\n",
    "denied": f'[[rule]]\nport = "ttyUSB*"\nallow = [5]\n[[rule]]\n{LINKED}deny = [5]\n',
}


@pytest.mark.parametrize("kind", TO_COME)
def test_nobody_has_a_new_device_before_udev_has_made_its_links(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The kernel makes the node first. Who waits for it is granted it when udev is done."""
    machine.ftdi(0)
    os.chmod(machine.base, 0o755)
    judge, who = judge_of(machine, TO_COME[kind].format(machine.dev))
    rule = str(judge.of(who).allowed("ttyUSB0").rule)
    target = Target("ttyUSB0", f"{machine.dev}/ttyUSB0", False, False)
    monkeypatch.setattr(sysfs, "UDEV", str(machine.base / "udev"))
    judge.of(who).look(target, rule).close()  # no udev, and no links
    (machine.base / "udev").mkdir()
    assert str(machine.base / "udev") in machine.devices.directories(target)
    with pytest.raises(Absent, match="udev has not named it yet"):
        judge.of(who).look(target, rule)
    with monkeypatch.context() as later:
        later.setattr(device, "NAMING", 0.0)  # it is not new: udev has nothing to say of it
        judge.of(who).look(target, rule).close()
    (machine.base / "udev/c188:0").touch()
    judge.of(who).look(target, rule).close()
    (machine.dev / "by-id").symlink_to("ttyUSB0")
    with pytest.raises(Refusal, match="gps"):
        judge.of(who).look(target, rule)
    assert not machine.devices.named(f"{machine.dev}/gone")


@pytest.fixture
def plugged(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """ttyUSB0 has just come, and udev has not looked at it yet."""
    machine.ftdi(0)
    os.chmod(machine.base, 0o755)
    (machine.base / "udev").mkdir()
    monkeypatch.setattr(sysfs, "UDEV", str(machine.base / "udev"))
    monkeypatch.setattr(device, "QUEUE", str(machine.base / "queue"))
    return machine


def looks(machine: Machine, kind: str) -> None:
    """What a user does whom the rule about an alias would not let have ttyUSB0. Raises Refusal."""
    judge, who = judge_of(machine, TO_COME[kind].format(machine.dev))
    rule = str(judge.of(who).allowed("ttyUSB0").rule)
    target = Target("ttyUSB0", f"{machine.dev}/ttyUSB0", False, False)
    judge.of(who).look(target, rule).close()


@pytest.mark.parametrize("kind", TO_COME)
def test_links_that_udev_makes_while_they_are_followed_are_names(
    plugged: Machine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It is done between two steps of the judge."""
    path = Devices.path

    def just_before(self: Devices, name: str, alias: str | None) -> str:
        try:
            return path(self, name, alias)
        finally:
            if alias is not None and not (plugged.dev / "by-id").is_symlink():
                (plugged.dev / "by-id").symlink_to("ttyUSB0")
                (plugged.base / "udev/c188:0").touch()

    monkeypatch.setattr(Devices, "path", just_before)
    with pytest.raises(Refusal, match="udev has not named it yet"):
        looks(plugged, kind)
    with pytest.raises(Refusal, match="gps"):
        looks(plugged, kind)


@pytest.mark.parametrize("kind", TO_COME)
def test_a_new_device_may_take_a_link_over_from_another(plugged: Machine, kind: str) -> None:
    """As the second of two that call themselves the same."""
    plugged.ftdi(1)
    (plugged.dev / "by-id").symlink_to("ttyUSB1")
    with pytest.raises(Absent, match="udev has not named it yet"):
        looks(plugged, kind)
    (plugged.base / "udev/c188:0").touch()
    looks(plugged, kind)


@pytest.mark.parametrize("kind", TO_COME)
def test_what_udev_noted_of_the_device_before_is_not_about_this_one(
    plugged: Machine, kind: str
) -> None:
    noted, node = plugged.base / "udev/c188:0", plugged.dev / "ttyUSB0"
    noted.touch()
    before = node.stat().st_ctime_ns - 10**9
    os.utime(noted, ns=(before, before))
    with pytest.raises(Absent, match="udev has not named it yet"):
        looks(plugged, kind)
    os.utime(node, ns=(before, before))  # long ago, and the other time is that of its rights
    looks(plugged, kind)


@pytest.mark.parametrize("kind", TO_COME)
def test_a_node_that_udev_has_named_stays_named(plugged: Machine, kind: str) -> None:
    """Whoever writes to the device changes one of the node's times, and setfacl the other."""
    noted, node = plugged.base / "udev/c188:0", plugged.dev / "ttyUSB0"
    noted.touch()
    looks(plugged, kind)
    before = node.stat().st_ctime_ns - 10**9
    os.utime(noted, ns=(before, before))
    looks(plugged, kind)
    os.mknod(plugged.dev / "next", stat.S_IFCHR | 0o600, os.makedev(188, 0))
    (plugged.dev / "next").rename(node)  # another adapter, of which that is no record
    with pytest.raises(Absent, match="udev has not named it yet"):
        looks(plugged, kind)


@pytest.mark.parametrize("kind", TO_COME)
def test_a_node_stays_new_no_longer_because_the_clock_is_set_back(
    plugged: Machine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with pytest.raises(Absent, match="udev has not named it yet"):
        looks(plugged, kind)
    earlier = time.time() - 86400
    monkeypatch.setattr(time, "time", lambda: earlier)
    looks(plugged, kind)


@pytest.mark.parametrize("kind", TO_COME)
def test_as_long_as_udev_is_at_work_no_device_is_old(
    plugged: Machine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As at the start of the machine, where it comes to a device long after the kernel."""
    monkeypatch.setattr(device, "NAMING", 0.0)
    (plugged.base / "queue").touch()
    with pytest.raises(Absent, match="udev has not named it yet") as caught:
        looks(plugged, kind)
    assert caught.value.again is not None  # nothing is told when udev has no more work
    (plugged.base / "queue").unlink()
    looks(plugged, kind)


@pytest.mark.parametrize("kind", TO_COME)
def test_an_alias_that_others_could_redirect_may_be_a_name(plugged: Machine, kind: str) -> None:
    (plugged.dev / "by-id").symlink_to("ttyUSB1")
    (plugged.base / "udev/c188:0").touch()
    looks(plugged, kind)
    trust._directories.clear()
    os.chmod(plugged.dev, 0o777)
    with pytest.raises(Refusal, match="gps"):
        looks(plugged, kind)


@pytest.mark.parametrize("kind", TO_COME)
def test_another_node_of_the_device_is_a_name(plugged: Machine, kind: str) -> None:
    """As root makes one for a container."""
    (plugged.base / "udev/c188:0").touch()
    os.mknod(plugged.dev / "by-id", stat.S_IFCHR | 0o600, os.makedev(188, 1))
    looks(plugged, kind)
    (plugged.dev / "by-id").unlink()
    os.mknod(plugged.dev / "by-id", stat.S_IFCHR | 0o600, os.makedev(188, 0))
    with pytest.raises(Refusal, match="gps"):
        looks(plugged, kind)


def test_a_device_of_which_nothing_is_known_is_not_unnamed_where_words_decide(
    machine: Machine,
) -> None:
    machine.ftdi(0)
    words_of_another = '[[rule]]\nport = "gps"\nserial = "Z*"\nallow = [6]\n'
    assert had(machine, DESK + words_of_another) == ""
    shutil.rmtree(machine.sys)
    assert had(machine, DESK) == ""
    assert "no rule of the policy" in had(machine, DESK + words_of_another)


def test_of_two_such_rules_the_first_decides(machine: Machine) -> None:
    machine.ftdi(0)
    narrow = DESK.replace("ttyUSB*", "ttyUSB0").replace("[5]", '["*"]')
    assert decided(machine, "ttyUSB0", DESK + narrow) == (True, "ttyUSB* (line 1)")
    assert decided(machine, "ttyUSB0", narrow + DESK) == (True, "ttyUSB0 (line 1)")
    assert decided(machine, "ttyUSB0", DESK + DESK) == (True, "ttyUSB* (line 1)")


def toml(wanted: str) -> str:
    """The words as a rule has them."""
    return "\n".join(f'{key} = "{glob}"' for key, glob in (w.split("=") for w in wanted.split(" ")))


def test_a_rule_says_it_in_words_of_its_own() -> None:
    text = 'usb = "0403:60A1"\npath = "p=1"\ninterface = 1\nserial = "A*"\ndriver = "ftdi_sio"'
    policy = plan_of(f'[[rule]]\nport = "gps"\n{text}\nallow = ["*"]\n')
    wanted = "usb=0403:60a1 serial=A* interface=1 driver=ftdi_sio path=p=1"
    assert policy.aliases == {"gps": wanted}
    assert words.are(wanted) and not words.are("/dev/ttyUSB0")
    assert words.fit("path=p=1", {"path": "p=1"})


def test_a_list_asks_each_device_once_however_many_aliases_have_words(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a list takes as many looks as there are aliases times devices."""
    for number in range(5):
        machine.ftdi(number, f"A{number}")
    asked: list[str] = []
    usual = sysfs.facts
    monkeypatch.setattr(
        sysfs, "facts", lambda name, ttys: (asked.append(name), usual(name, ttys))[1]
    )
    glance = Glance(machine.devices)
    for number in range(5):
        assert glance.path("gps", f"serial=A{number}") == f"{machine.dev}/ttyUSB{number}"
    assert sorted(asked) == glance.names()
    machine.devices.path("gps", "serial=A1")  # an open asks anew
    assert len(asked) == 10
