"""`ttybroker suggest`: the rule is good TOML, and its words are true of the device."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from serial.tools import list_ports_linux

from ttybroker import cli, suggest
from ttybrokerd.root import portname, words

PLACE = "/sys/devices/pci0/usb1/1-2/1-2:1.0"


def device(monkeypatch: pytest.MonkeyPatch, **said: object) -> None:
    """An adapter that says this of itself: no pty is one."""
    usb = {"vid": 0x0403, "pid": 0x6001, "serial_number": "A1", "usb_interface_path": PLACE,
           "device_path": f"{PLACE}/ttyUSB0", "read_line": lambda *_: "0a"}  # fmt: skip
    found = SimpleNamespace(**{**usb, **said})
    monkeypatch.setattr(list_ports_linux, "SysFS", lambda _device: found)


def suggested() -> dict[str, object]:
    (rule,) = tomllib.loads(suggest.rule("ttyUSB0", "/dev/ttyUSB0", "alice"))["rule"]
    assert isinstance(rule, dict)
    return rule


def test_an_adapter_is_known_by_its_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch)
    assert suggested() == {"port": "board", "usb": "0403:6001", "serial": "A1", "interface": 10,
                           "allow": ["alice"]}  # fmt: skip


def test_one_without_a_number_is_known_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch, serial_number=None)
    assert suggested() == {"port": "board", "usb": "0403:6001", "path": "pci0/usb1/1-2/1-2:1.0",
                           "interface": 10, "allow": ["alice"]}  # fmt: skip


def test_a_port_of_the_board_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch, vid=None, usb_interface_path=None, device_path="/sys/devices/pnp0/00:01")
    assert suggested() == {"port": "ttyUSB0", "allow": ["alice"]}


@pytest.mark.parametrize("said", ['A"1', "a b", "*", "[x]", "A\\1", "Gerät", "\x1b[2J", "x\ny"])
def test_a_device_that_says_strange_things_gets_a_rule_that_fits(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device(monkeypatch, serial_number=said)
    serial = suggested()["serial"]
    assert isinstance(serial, str) and serial.isascii() and serial.isprintable()
    assert " " not in serial and portname.matches(said, serial)
    assert serial == "?" or not portname.matches("B2", serial)


def test_its_driver_is_the_one_by_which_the_broker_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since Linux 6.5 the serial core has a device of its own between driver and port."""
    sys = tmp_path.resolve()
    port = sys / "devices/pnp0/00:01/00:01:0/00:01:0.0"
    (port / "tty/ttyS4").mkdir(parents=True)
    (sys / "class/tty").mkdir(parents=True)
    (sys / "class/tty/ttyS4").symlink_to(f"../../{port.relative_to(sys)}/tty/ttyS4")
    for at, driver in ((port, "serial-base/drivers/port"),
                       (port.parent, "serial-base/drivers/ctrl"),
                       (port.parent.parent, "pnp/drivers/serial")):  # fmt: skip
        (sys / "bus" / driver).mkdir(parents=True)
        (at / "driver").symlink_to(sys / "bus" / driver)
    device(monkeypatch, vid=None, usb_interface_path=None, device_path=str(port))
    assert suggest.words("/dev/ttyS4")["driver"] == "serial"
    assert words.facts("ttyS4", str(sys / "class/tty"))["driver"] == "serial"


def test_a_port_without_a_driver_has_no_such_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device(monkeypatch, vid=None, usb_interface_path=None, device_path=str(tmp_path))
    assert "driver" not in suggest.words("/dev/ttyS4")


def test_a_port_that_is_not_there_has_no_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["suggest", "ttyUSB4095"]) == 1
    said = "ttybroker: ttyUSB4095: there is no device /dev/ttyUSB4095; is it plugged in?\n"
    assert capsys.readouterr() == ("", said)
