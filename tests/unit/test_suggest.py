"""`ttybroker suggest`: the rule is good TOML, and its words are true of the device."""

from __future__ import annotations

import tomllib

import pytest

from ttybroker import cli, suggest, sysfs
from ttybrokerd.root import portname

PLACE = "pci0/usb1/1-2/1-2:1.0"
UART = {"path": "pnp0/00:01"}


def device(
    monkeypatch: pytest.MonkeyPatch, serial: str = "A1", facts: dict[str, str] | None = None
) -> None:
    """A port of which sysfs says this; an adapter, if it is not told: no pty is one."""
    usb = {"usb": "0403:6001", "serial": serial, "interface": "10", "driver": "ftdi_sio",
           "path": PLACE}  # fmt: skip
    found = usb if facts is None else facts
    monkeypatch.setattr(sysfs, "facts", lambda name: found if name == "ttyUSB0" else {})


def suggested() -> dict[str, object]:
    (rule,) = tomllib.loads(suggest.rule("ttyUSB0", "/dev/ttyUSB0", "alice"))["rule"]
    assert isinstance(rule, dict)
    return rule


def test_an_adapter_is_known_by_its_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch)
    assert suggested() == {"port": "board", "usb": "0403:6001", "serial": "A1", "interface": 10,
                           "allow": ["alice"]}  # fmt: skip


def test_one_without_a_number_is_known_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch, serial="")
    assert suggested() == {"port": "board", "usb": "0403:6001", "path": "pci0/usb1/1-2/1-2:1.0",
                           "interface": 10, "allow": ["alice"]}  # fmt: skip


def test_a_port_of_the_board_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch, facts=UART)
    assert suggested() == {"port": "ttyUSB0", "allow": ["alice"]}


@pytest.mark.parametrize("said", ['A"1', "a b", "*", "[x]", "A\\1", "Gerät", "\x1b[2J", "x\ny"])
def test_a_device_that_says_strange_things_gets_a_rule_that_fits(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device(monkeypatch, serial=said)
    serial = suggested()["serial"]
    assert isinstance(serial, str) and serial.isascii() and serial.isprintable()
    assert " " not in serial and portname.matches(said, serial)
    assert serial == "?" or not portname.matches("B2", serial)


def test_the_words_are_those_of_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch)
    assert suggest.words("/dev/ttyUSB0") == {
        "usb": "0403:6001", "serial": "A1", "interface": 10, "driver": "ftdi_sio", "path": PLACE,
    }  # fmt: skip
    device(monkeypatch, facts=UART)
    assert suggest.words("/dev/ttyUSB0") == UART


def test_nothing_is_said_of_a_device_that_sysfs_does_not_know() -> None:
    assert suggest.words("/dev/ttyUSB4095") == {}


def test_a_port_that_is_not_there_has_no_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["suggest", "ttyUSB4095"]) == 1
    said = (
        "ttybroker: ttyUSB4095: there is no device /dev/ttyUSB4095; is it plugged in? "
        "Write the kernel's name of the port, such as ttyUSB0\n"
    )
    assert capsys.readouterr() == ("", said)
