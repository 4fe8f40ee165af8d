"""What is said of a ModemManager that runs, by files as the kernel and udev have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttybroker import cli, modems, sysfs
from ttybroker.wire import PortInfo

CANDIDATE = "I:12\nE:ID_BUS=usb\nE:ID_MM_CANDIDATE=1\n"


class Machine:
    """A /proc, a sysfs with an adapter, and udev's data."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name in ("proc/1", "proc/27", "proc/self", "udev", "class"):
            (base / name).mkdir(parents=True)
        (base / "proc/1/comm").write_text("systemd\n")
        (base / "proc/27/comm").write_text("ModemManager\n")
        self.port("ttyUSB0", "pci/usb1/1-4/1-4:1.0/ttyUSB0/tty", "188:0")
        (base / "devices/pci/usb1/1-4/dev").write_text("189:3\n")
        self.port("ttyS0", "pnp0/tty", "4:64")

    def port(self, name: str, below: str, number: str) -> None:
        at = self.base / "devices" / below / name
        at.mkdir(parents=True)
        (at / "dev").write_text(f"{number}\n")
        (self.base / "class" / name).symlink_to(at)
        self.says(number, CANDIDATE)

    def says(self, number: str, text: str) -> None:
        (self.base / "udev" / f"c{number}").write_text(text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(modems, "_PROC", str(tmp_path / "proc"))
    monkeypatch.setattr(sysfs, "TTYS", str(tmp_path / "class"))
    monkeypatch.setattr(sysfs, "UDEV", str(tmp_path / "udev"))
    return made


def probed() -> list[str]:
    return modems.probed(["/dev/ttyUSB0", "/dev/ttyS0", "/dev/pts/1", "/dev/ttyUSB9"])


def test_an_adapter_that_nobody_took_from_it_is_named(machine: Machine) -> None:
    assert probed() == ["/dev/ttyUSB0"]


@pytest.mark.parametrize("number", ["188:0", "189:3"], ids=["port", "USB device"])
@pytest.mark.parametrize("what", ["DEVICE", "PORT"])
def test_one_that_was_is_not(machine: Machine, number: str, what: str) -> None:
    machine.says(number, f"{CANDIDATE}E:ID_MM_{what}_IGNORE=1\n")
    assert probed() == []


def test_nothing_is_said_where_none_runs_or_udev_has_not_looked(machine: Machine) -> None:
    (machine.base / "udev/c188:0").unlink()
    assert probed() == []
    machine.says("188:0", CANDIDATE)
    (machine.base / "proc/27/comm").write_text("ModemManager2\n")
    assert probed() == []


def test_the_command_says_it_below_the_list(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    cli._warn_of_probes([PortInfo(name, device, "free", "") for name, device in
                         (("gps", "/dev/ttyUSB0"), ("ttyS0", "/dev/ttyS0"))])  # fmt: skip
    said = capsys.readouterr().err
    assert "ModemManager runs, and may write to gps even while" in said
    assert "ttybrokerd --udev-rules" in said
