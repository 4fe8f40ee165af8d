"""Rules for udev, by which others leave the policy's adapters alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttybrokerd import daemon
from ttybrokerd.prepare import udev
from ttybrokerd.prepare.accounts import Accounts
from ttybrokerd.prepare.policy import Text, parse

IGNORE = 'ENV{ID_MM_DEVICE_IGNORE}="1", ENV{ID_MM_PORT_IGNORE}="1"'


def made(*rules: str) -> list[str]:
    """The lines for these aliases, without what stands around them."""
    text = "".join(f'[[rule]]\nallow = ["*"]\n{rule}\n' for rule in rules)
    policy = parse([Text("p", text.encode())], Accounts())
    whole = udev.rules(policy)
    assert whole.startswith(udev.HEAD) and whole.endswith(udev.END)
    return [line for line in whole[len(udev.HEAD) : -len(udev.END)].split("\n") if line]


def test_an_alias_by_a_link_of_udevs_or_a_node() -> None:
    assert made('port = "gps"\ndevice = "/dev/serial/by-id/usb-A*[1]-if00"') == [
        "# gps",
        f'SUBSYSTEM=="tty", KERNEL=="serial/by-id/usb-A[*][[]1]-if00", {IGNORE}',
        f'SUBSYSTEM=="tty", SYMLINK=="serial/by-id/usb-A[*][[]1]-if00", {IGNORE}',
    ]


def test_a_link_elsewhere_is_said_to_have_no_rule_and_a_pty_has_none() -> None:
    told = made('port = "gps"\ndevice = "/srv/gps\\n\\"x"',
                'port = "p"\ndevice = "/dev/pts/1"\nclass = "pty"')  # fmt: skip
    assert told[0] == "# gps" and len(told) == 2
    assert told[1].startswith("# no rule: '/srv/gps\\n\"x' is no name of udev's")


def test_an_alias_by_words_has_a_line_for_each_parent_that_they_are_about() -> None:
    rule = 'port = "gps"\nusb = "0403:6001"\nserial = "A5*"\ninterface = 10\ndriver = "ftdi_sio"'
    usb = '{idVendor}=="0403", ATTRS{idProduct}=="6001", ATTRS{serial}=="A5*"'
    assert made(rule) == [
        "# gps",
        f'SUBSYSTEM=="tty", ATTRS{usb}, ENV{{.TTYBROKER}}="gps 1"',
        'SUBSYSTEM=="tty", ENV{.TTYBROKER}=="gps 1", ATTRS{bInterfaceNumber}=="0a", '
        'ENV{.TTYBROKER}="gps 2"',
        f'SUBSYSTEM=="tty", ENV{{.TTYBROKER}}=="gps 2", DRIVERS=="ftdi_sio", {IGNORE}',
        'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ENV{BRLTTY_BRAILLE_DRIVER}=="?*", '
        f"ATTR{usb.replace('ATTRS', 'ATTR')}, "
        'ENV{BRLTTY_BRAILLE_DRIVER}="", ENV{SYSTEMD_WANTS}=""',
    ]
    assert made('port = "gps"\npath = "pci*/usb1/1-4*"')[1:] == [
        f'SUBSYSTEM=="tty", DEVPATH=="/devices/pci*/usb1/1-4*/*", {IGNORE}'
    ]


def test_what_means_something_else_to_udev_is_any_character() -> None:
    assert made('port = "gps"\nserial = "a|b\\"c\\\\d"')[1].count('ATTRS{serial}=="a?b?c?d"') == 1


def test_no_path_begins_a_line() -> None:
    """It would be a rule of whoever wrote the path. Nor does a terminal obey any."""
    device = r"/dev/a\r\nKERNEL==\"*\", RUN+=\"x\"\u007f\u009b\u202eé"
    shown = '"a??KERNEL==?[*]?, RUN+=?x????é"'
    assert made(f'port = "gps"\ndevice = "{device}"')[1:] == [
        f'SUBSYSTEM=="tty", {key}=={shown}, {IGNORE}' for key in ("KERNEL", "SYMLINK")
    ]


def test_a_serial_number_is_left_as_it_is() -> None:
    *_, brltty = made('port = "gps"\nserial = "ATTRS1"')
    assert 'ATTR{serial}=="ATTRS1"' in brltty


def test_kernel_names_are_no_aliases() -> None:
    assert made('port = "ttyUSB*"\nusb = "0403:6001"') == []


def test_the_command_prints_them_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / "p.toml"
    draft.write_text('[[rule]]\nport = "gps"\ndevice = "/dev/ttyUSB0"\nallow = []\n')
    assert daemon.main(["--udev-rules", "--policy", str(draft)]) == 0
    assert 'KERNEL=="ttyUSB0"' in capsys.readouterr().out
    draft.write_text("rule = 1\n")
    assert daemon.main(["--udev-rules", "--policy", str(draft)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and f"{draft}:1: rule" in said.err
