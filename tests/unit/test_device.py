"""What a port is. Nodes are made in directories of the tests' own; those with a serial port's
number are looked at and never opened: only ptys are."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from ttybrokerd.root import device
from ttybrokerd.root.device import (
    CLOSING_TRIES,
    OPEN_FLAGS,
    Devices,
    Drivers,
    Target,
    parse_drivers,
)
from ttybrokerd.root.plan import Decision, Rule
from ttybrokerd.root.refusal import Refusal

pytestmark = pytest.mark.usefixtures("no_leak")
root = pytest.mark.root

DRIVERS = """\
/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
/dev/vc/0            /dev/vc/0       4       0 system:vtmaster
rfcomm               /dev/rfcomm   216 0-255 serial
acm                  /dev/ttyACM   166 0-255 serial
a driver with spaces /dev/ttyX     200 7 serial
a_name_longer_than_its_column /dev/ttyLONG 201 0-1 serial
usbserial            /dev/ttyUSB   188 0-511 serial
serial               /dev/ttyS       4 64-95 serial
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
unknown              /dev/tty        4 1-63 console
"""
S0, USB0 = os.makedev(4, 64), os.makedev(188, 0)


@pytest.fixture
def dev(safe_dir: Path) -> Path:
    """A directory for nodes, beside it what /proc and /sys would say."""
    (safe_dir / "drivers").write_text(DRIVERS)
    (safe_dir / "consoles").write_text("tty0 ttyS1\n")
    (safe_dir / "dev").mkdir()
    (safe_dir / "dev").chmod(0o755)
    safe_dir.chmod(0o755)
    return safe_dir / "dev"


@pytest.fixture
def devices(dev: Path) -> Devices:
    return Devices(str(dev), str(dev.parent / "drivers"), str(dev.parent / "consoles"))


@pytest.fixture
def pty(no_leak: None) -> Iterator[str]:
    """The path of a pty's slave."""
    master, slave = os.openpty()
    yield os.ttyname(slave)
    os.close(master)
    os.close(slave)


def node(path: Path, rdev: int, kind: int = stat.S_IFCHR) -> None:
    os.mknod(path, kind | 0o600, rdev)


def target(path: Path | str, *, pty: bool = False, console: bool = False) -> Target:
    return Target("port", str(path), pty, console)


def refused(devices: Devices, what: Target) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        devices.look(what)
    return caught.value.number, caught.value.reason


# the kernel's list


def test_serial_drivers_and_no_others_are_read_from_the_kernels_list() -> None:
    drivers = parse_drivers(DRIVERS)
    assert drivers.ranges == (
        (216, 0, 255), (166, 0, 255), (200, 7, 7), (201, 0, 1), (188, 0, 511), (4, 64, 95),
    )  # fmt: skip
    assert drivers.families == {"rfcomm", "ttyACM", "ttyX", "ttyLONG", "ttyUSB", "ttyS"}


def test_the_list_of_the_kernel_that_runs_is_read() -> None:
    with open("/proc/tty/drivers", encoding="ascii") as file:
        drivers = parse_drivers(file.read())
    assert not drivers.own(os.makedev(5, 0))
    assert not drivers.own(os.makedev(136, 0))


def test_an_empty_list_owns_nothing() -> None:
    assert parse_drivers("") == Drivers((), frozenset())


@pytest.mark.parametrize(
    ("major", "minor", "own"),
    [
        (4, 63, False), (4, 64, True), (4, 95, True), (4, 96, False), (4, 1, False),
        (5, 0, False), (5, 1, False), (136, 0, False), (188, 511, True), (188, 512, False),
        (200, 6, False), (200, 7, True), (200, 8, False), (64, 4, False), (0, 0, False),
    ],
)  # fmt: skip
def test_a_number_belongs_to_a_driver_by_major_and_minor(major: int, minor: int, own: bool) -> None:
    assert parse_drivers(DRIVERS).own(os.makedev(major, minor)) == own


# looking


@root
def test_a_serial_port_is_seen_and_its_descriptors_are_given_back(
    devices: Devices, dev: Path
) -> None:
    node(dev / "ttyS0", S0)
    what = target(dev / "ttyS0")
    seen = devices.look(what)
    try:
        assert (seen.target, seen.rdev) == (what, S0)
        assert os.readlink(f"/proc/self/fd/{seen.node}") == str(dev / "ttyS0")
        assert os.readlink(f"/proc/self/fd/{seen.directory}") == str(dev)
        for descriptor in (seen.node, seen.directory):
            assert not os.get_inheritable(descriptor)
            with open(f"/proc/self/fdinfo/{descriptor}") as file:
                flags = int(file.read().split("flags:")[1].split()[0], 8)
            assert flags & os.O_PATH, "the device was opened and not looked at"
    finally:
        seen.close()


def symlink_to(destination: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(destination)


def char(major: int, minor: int) -> Callable[[Path], None]:
    return lambda path: node(path, os.makedev(major, minor))


STEP = "ask for another port (ttybroker list), or name another device in the policy"
NO_CHAR = f"not a serial port: {{path}} is no character device; {STEP}"
NO_DRIVER = f"not a serial port: {{path}} belongs to no serial driver (/proc/tty/drivers); {STEP}"
LINK = f"not a serial port: {{path}} is a symbolic link; {STEP}"


@root
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (symlink_to("/etc/shadow"), LINK),
        (symlink_to("/dev/null"), LINK),
        (symlink_to("../real"), LINK),  # to a serial port
        (symlink_to("nowhere"), LINK),
        (os.mkfifo, NO_CHAR),
        (Path.touch, NO_CHAR),
        (Path.mkdir, NO_CHAR),
        (lambda path: node(path, S0, stat.S_IFBLK), NO_CHAR),
        (char(4, 1), NO_DRIVER),  # a virtual console
        (char(4, 0), NO_DRIVER),
        (char(5, 0), NO_DRIVER),
        (char(5, 1), NO_DRIVER),
        (char(1, 1), NO_DRIVER),  # memory
        (char(136, 0), NO_DRIVER),  # a pty, and no rule that says so
        (char(4, 96), NO_DRIVER),
    ],
)  # fmt: skip
def test_what_is_no_serial_port_is_no_such_port(
    devices: Devices, dev: Path, make: Callable[[Path], None], why: str
) -> None:
    node(dev.parent / "real", S0)
    path = dev / "ttyS7"
    make(path)
    assert refused(devices, target(path)) == (errno.ENOENT, why.format(path=path))


def test_a_node_that_is_missing_is_no_such_port(devices: Devices, dev: Path) -> None:
    number, reason = refused(devices, target(dev / "ttyS9"))
    assert number == errno.ENOENT
    assert reason == (f"no such port: {dev}/ttyS9: No such file or directory; see: ttybroker list")
    number, reason = refused(devices, target(dev / "gone/ttyS9"))
    assert (number, reason) == (errno.ENOENT, f"{dev}/gone: No such file or directory")


@pytest.mark.parametrize("call", ["open", "fstat"])
def test_a_broker_out_of_means_does_not_say_that_there_is_no_port(
    devices: Devices, dev: Path, mocker: MockerFixture, call: str
) -> None:
    (dev / "ttyS1").touch()
    mocker.patch(f"os.{call}", side_effect=OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises((Refusal, OSError)) as caught:
        devices.look(target(dev / "ttyS1"))
    mocker.stopall()
    number = getattr(caught.value, "number", None) or getattr(caught.value, "errno", None)
    assert number == errno.EMFILE


@root
def test_the_active_console_needs_a_rule_that_says_so(devices: Devices, dev: Path) -> None:
    node(dev / "ttyS1", os.makedev(4, 65))
    number, reason = refused(devices, target(dev / "ttyS1"))
    assert number == errno.EACCES
    assert "active console" in reason
    devices.look(target(dev / "ttyS1", console=True)).close()


@root
def test_without_a_console_at_all_nothing_is_one(devices: Devices, dev: Path) -> None:
    node(dev / "ttyS1", os.makedev(4, 65))
    (dev.parent / "consoles").unlink()
    devices.look(target(dev / "ttyS1")).close()


@root
def test_a_driver_loaded_later_is_known(devices: Devices, dev: Path) -> None:
    node(dev / "ttyNEW0", os.makedev(240, 3))
    assert refused(devices, target(dev / "ttyNEW0"))[0] == errno.ENOENT
    (dev.parent / "drivers").write_text(DRIVERS + "new /dev/ttyNEW 240 0-7 serial\n")
    devices.look(target(dev / "ttyNEW0")).close()
    assert "ttyNEW" in devices.families()


@root
def test_when_the_kernel_does_not_tell_nothing_is_left_open(devices: Devices, dev: Path) -> None:
    node(dev / "ttyX9", os.makedev(200, 9))
    (dev.parent / "drivers").unlink()
    with pytest.raises(OSError):
        devices.look(target(dev / "ttyX9"))


def test_a_pty_is_a_port_only_where_a_rule_says_so(devices: Devices, pty: str) -> None:
    assert refused(devices, target(pty)) == (errno.ENOENT, NO_DRIVER.format(path=pty))
    devices.look(target(pty, pty=True)).close()


@root
@pytest.mark.parametrize("rdev", [S0, os.makedev(128, 0), os.makedev(144, 0), os.makedev(1, 3)])
def test_where_a_rule_says_pty_only_a_pty_will_do(devices: Devices, dev: Path, rdev: int) -> None:
    node(dev / "node", rdev)
    number, reason = refused(devices, target(dev / "node", pty=True))
    assert (number, reason) == (
        errno.ENOENT,
        f'not a serial port: {dev}/node is no pty, and its rule says class = "pty"; {STEP}',
    )


# opening: ptys alone


def test_a_port_is_opened_as_it_must_be(devices: Devices, pty: str) -> None:
    seen = devices.look(target(pty, pty=True))
    descriptor = devices.open(seen)
    try:
        assert os.ttyname(descriptor) == pty
        assert not os.get_inheritable(descriptor)
        assert not os.get_blocking(descriptor)
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            flags = int(file.read().split("flags:")[1].split()[0], 8)
        assert flags & os.O_ACCMODE == os.O_RDWR
        assert OPEN_FLAGS & os.O_NOCTTY
        assert OPEN_FLAGS & os.O_NOFOLLOW
    finally:
        os.close(descriptor)
        seen.close()


def gone(devices: Devices, path: Path, change: Callable[[], object], pty: str) -> Refusal:
    """Look at a pty's node in a directory of our own, have it changed, open it."""
    node(path, os.stat(pty).st_rdev)
    seen = devices.look(target(path, pty=True))
    change()
    try:
        with pytest.raises(Refusal) as caught:
            os.close(devices.open(seen))
    finally:
        seen.close()
    return caught.value


@root
def test_a_node_that_vanishes_between_look_and_open_is_gone(
    devices: Devices, dev: Path, pty: str
) -> None:
    path = dev / "ttyUSB0"
    assert gone(devices, path, path.unlink, pty).number == errno.ENODEV


@root
@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, char(1, 3), symlink_to("/dev/null")])
def test_a_node_that_is_another_between_look_and_open_is_gone(
    devices: Devices, dev: Path, pty: str, make: Callable[[Path], None]
) -> None:
    path = dev / "ttyUSB0"
    refusal = gone(devices, path, lambda: (path.unlink(), make(path)), pty)
    assert refusal.number == errno.ENODEV
    assert "changed while it was being opened" in refusal.reason or path.is_symlink()


@root
def test_the_directory_that_was_looked_at_is_the_one_opened_in(devices: Devices, dev: Path) -> None:
    """With /dev/null as the device: a pty opens nowhere but in its own file system."""
    (dev.parent / "drivers").write_text(DRIVERS + "null /dev/null 1 3 serial\n")
    (dev / "sub").mkdir()
    node(dev / "sub/port", os.makedev(1, 3))
    seen = devices.look(target(dev / "sub/port"))
    (dev / "sub").rename(dev / "moved")
    (dev / "sub").mkdir()
    (dev / "sub/port").touch()
    descriptor = devices.open(seen)
    try:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == f"{dev}/moved/port"
    finally:
        os.close(descriptor)
        seen.close()


class Stubborn:
    """An os.open that fails with an errno a number of times; counts, and notes the pauses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> None:
        self.opens = 0
        self.pauses: list[float] = []
        really = os.open

        def failing(*args: Any, **options: Any) -> int:
            self.opens += 1
            if self.opens <= times:
                raise OSError(number, os.strerror(number))
            return really(*args, **options)

        monkeypatch.setattr(device.os, "open", failing)
        monkeypatch.setattr(device.time, "sleep", self.pauses.append)


def test_a_port_that_is_being_closed_is_tried_until_it_opens(
    devices: Devices, pty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = devices.look(target(pty, pty=True))
    with monkeypatch.context() as patch:
        stubborn = Stubborn(patch, errno.EIO, 3)
        os.close(devices.open(seen))
    seen.close()
    assert (stubborn.opens, len(stubborn.pauses)) == (4, 3)


def test_a_port_that_never_answers_is_tried_a_bounded_number_of_times(
    devices: Devices, pty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = devices.look(target(pty, pty=True))
    with monkeypatch.context() as patch:
        stubborn = Stubborn(patch, errno.EIO, 10**6)
        with pytest.raises(Refusal) as caught:
            devices.open(seen)
    seen.close()
    assert (caught.value.number, stubborn.opens) == (errno.EIO, CLOSING_TRIES)
    assert 0 < sum(stubborn.pauses) <= 2
    assert "plugged in" in caught.value.reason


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.ENXIO, errno.ENODEV), (errno.ENODEV, errno.ENODEV), (errno.ELOOP, errno.ENODEV),
     (errno.ENOENT, errno.ENODEV), (errno.EBUSY, errno.EBUSY), (errno.EMFILE, errno.EMFILE)],
)  # fmt: skip
def test_any_other_failure_is_told_at_once(
    devices: Devices, pty: str, monkeypatch: pytest.MonkeyPatch, number: int, told: int
) -> None:
    seen = devices.look(target(pty, pty=True))
    with monkeypatch.context() as patch:
        stubborn = Stubborn(patch, number, 10**6)
        with pytest.raises(Refusal) as caught:
            devices.open(seen)
    seen.close()
    assert (caught.value.number, stubborn.opens, stubborn.pauses) == (told, 1, [])
    assert os.strerror(number) in caught.value.reason


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPROTO, errno.EDQUOT, errno.ESRCH])
def test_a_drivers_errno_is_not_the_callers_mistake(
    devices: Devices, pty: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """In an answer EINVAL is a bad name, EPROTO a broken message, and so on."""
    seen = devices.look(target(pty, pty=True))
    with monkeypatch.context() as patch:
        Stubborn(patch, number, 10**6)
        with pytest.raises(Refusal) as caught:
            devices.open(seen)
    seen.close()
    assert caught.value.number == errno.EIO
    assert os.strerror(number) in caught.value.reason


# names


@root
def test_the_ports_there_are_in_natural_order_and_nothing_else(devices: Devices, dev: Path) -> None:
    for name in ("ttyS10", "ttyS2", "ttyUSB0", "ttyACM1", "rfcomm0", "tty1", "ttyAMA0", "null",
                 "ttyS", "ttyS03", "ttyS1x", "ttyS\udcff1", "console", "ttyS 1"):  # fmt: skip
        (dev / os.fsencode(name).decode("utf-8", "surrogateescape")).touch()
    assert devices.names() == ["rfcomm0", "ttyACM1", "ttyS2", "ttyS10", "ttyUSB0"]


@root
def test_a_slot_without_a_chip_is_no_port(
    devices: Devices, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ttyS4", "ttyS5", "ttyS6"):
        (dev / name).touch()
    types = {"/sys/class/tty/ttyS4/type": "0\n", "/sys/class/tty/ttyS5/type": "4\n"}
    really = device._read

    def read(path: str) -> str:
        if path.startswith("/sys/class/tty/"):
            if path not in types:
                raise FileNotFoundError(path)
            return types[path]
        return really(path)

    monkeypatch.setattr(device, "_read", read)
    assert devices.names() == ["ttyS5", "ttyS6"]


def decision(alias: str | None, *, pty: bool = False, console: bool = False) -> Decision:
    rule = Rule(1, "", "gps", True, None, console, pty)
    return Decision(True, True, rule, alias)


def test_a_name_means_the_node_of_that_name_and_locks_it_by_that_name(
    devices: Devices, dev: Path
) -> None:
    found = devices.target("ttyS0", decision(None, console=True))
    assert found == Target("ttyS0", f"{dev}/ttyS0", pty=False, console=True)
    refusal = Decision(False, True, None, None)
    assert devices.target("ttyS0", refusal) == Target("ttyS0", f"{dev}/ttyS0", False, False)


@root
def test_an_alias_means_where_its_links_lead_and_locks_the_kernels_name(
    devices: Devices, dev: Path
) -> None:
    node(dev / "ttyUSB0", USB0)
    (dev / "by-id").symlink_to("ttyUSB0")
    found = devices.target("gps", decision(f"{dev}/by-id"))
    assert found == Target("gps", f"{dev}/ttyUSB0", False, False, alias=f"{dev}/by-id")
    with closing(devices.look(found)) as seen:
        assert seen.kernel_name == "ttyUSB0"
    node(dev / "ttyUSB1", USB0)
    (dev / "by-id").unlink()
    (dev / "by-id").symlink_to("ttyUSB1")
    assert devices.renew(found).path == f"{dev}/ttyUSB1"


@root
def test_a_device_is_locked_by_the_kernels_name_whatever_its_node_is_called(
    devices: Devices, dev: Path
) -> None:
    node(dev / "modem", os.makedev(4, 64))
    with closing(devices.look(Target("modem", f"{dev}/modem", pty=False, console=True))) as seen:
        assert seen.kernel_name == "ttyS0"


def test_a_pty_is_locked_by_its_alias(devices: Devices, pty: str) -> None:
    with closing(devices.look(Target("gps", pty, pty=True, console=False))) as seen:
        assert seen.kernel_name == "gps"


@root
def test_an_alias_that_leads_nowhere_is_no_such_port(devices: Devices, dev: Path) -> None:
    (dev / "by-id").symlink_to("ttyUSB7")
    with pytest.raises(Refusal) as caught:
        devices.target("gps", decision(f"{dev}/by-id"))
    assert (caught.value.number, caught.value.reason) == (
        errno.ENOENT,
        f"{dev}/by-id: No such file or directory; is it plugged in?",
    )
