"""`ttybroker suggest`: the rule is good TOML, and its words are true of the device."""

from __future__ import annotations

import os
import tomllib

import pytest

from ttybroker import cli, suggest, sysfs
from ttybrokerd.prepare.globs import is_kernels
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


def test_a_mistyped_device_is_told_with_the_one_that_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = ["tty", "tty1", "ttyUSB4094", "pty0", "console"]
    monkeypatch.setattr(os, "listdir", {"/sys/class/tty": devices}.__getitem__)
    assert cli.main(["suggest", "ttyUBS4094"]) == 1
    said = "ttybroker: ttyUBS4094: there is no device /dev/ttyUBS4094; did you mean ttyUSB4094?\n"
    assert capsys.readouterr().err == said


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


@pytest.mark.parametrize("serial", ["A1", 'A"1', "", "x\ny"])
def test_the_lines_of_a_list_can_be_pasted_into_a_rule(
    serial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device(monkeypatch, serial=serial)
    said = suggest.words("/dev/ttyUSB0")
    pasted = "\n".join(suggest.lines(said))
    (rule,) = tomllib.loads(f'[[rule]]\nport = "gps"\n{pasted}\nallow = [1000]\n')["rule"]
    assert {key: rule[key] for key in said} == said and all(suggest.lines(said))


def test_nothing_is_said_of_a_device_that_sysfs_does_not_know() -> None:
    assert suggest.words("/dev/ttyUSB4095") == {}


@pytest.mark.parametrize("name", ["ttyS0", "ttyUSB12", "ttymxc0", "gsmtty1", "rfcomm0", "noz3"])
def test_the_kernel_s_names_of_ports_are_names_of_rules(name: str) -> None:
    assert suggest.is_port(name) and is_kernels(name)


@pytest.mark.parametrize("name", ["tty", "null", "ptmx", "zero"])
def test_what_is_no_port_has_no_rule(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not suggest.is_port(name) and not is_kernels(name)
    assert cli.main(["suggest", name]) == 1
    said = f"ttybroker: {name}: /dev/{name} is no serial port; a kernel's name is meant, such as "
    output, errors = capsys.readouterr()
    assert output == "" and errors.replace("/dev/pts/ptmx", "/dev/ptmx") == f"{said}ttyUSB0\n"


def test_a_virtual_console_is_no_port() -> None:
    assert not suggest.is_port("tty1") and not suggest.is_port("tty63")


def test_a_link_of_udev_s_has_the_rule_of_its_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device(monkeypatch, facts=UART)
    monkeypatch.setattr("os.path.realpath", lambda _: "/dev/ttyUSB0")
    assert cli.main(["suggest", "null"]) == 0  # a device that is there
    assert 'port = "ttyUSB0"\n' in capsys.readouterr().out


def test_a_port_that_is_not_there_has_no_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["suggest", "ttyUSB4095"]) == 1
    said = (
        "ttybroker: ttyUSB4095: there is no device /dev/ttyUSB4095; is it plugged in? "
        "Write the kernel's name of the port, such as ttyUSB0\n"
    )
    assert capsys.readouterr() == ("", said)
