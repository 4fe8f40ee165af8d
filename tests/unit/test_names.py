"""What is said of a name that is no port's."""

from __future__ import annotations

import os
import socket

import pytest

from ttybroker import InvalidName, open_tty
from ttybroker.names import did_you_mean, not_a_name


def test_a_path_leads_to_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {"/dev/serial/by-id/usb-FTDI_A6-if00-port0": "/dev/ttyUSB0", "/dev/x": "/tmp/x"}
    monkeypatch.setattr(os.path, "realpath", lambda path: links.get(path, path))
    monkeypatch.setattr(os.path, "exists", links.__contains__)
    assert not_a_name("/dev/ttyS0") == "'/dev/ttyS0': not a port's name; write ttyS0"
    assert not_a_name("/dev/serial/by-id/usb-FTDI_A6-if00-port0").endswith("; write ttyUSB0")
    assert not_a_name("/dev/x").endswith("; write x")


@pytest.mark.parametrize("link", ["/dev/serial/by-id/gps", "/dev/serial/by-path/x\0"])
def test_a_link_that_no_device_has_is_told_as_that(link: str) -> None:
    """Its last word is nobody's name: whoever writes it is refused again."""
    what = "not a port's name, and no device has this link; see: ttybroker list"
    assert not_a_name(link) == f"{link!r}: {what}"


@pytest.mark.parametrize(
    "text", ["../etc", "/etc/passwd", "/dev/pts/3", "/dev/input/mice", "/dev/", "/dev/\0", "5"]
)
def test_other_words_are_told_what_a_name_is(text: str) -> None:
    what = "not a port's name: a letter, then up to 63 letters, digits, - or _"
    assert not_a_name(text) == f"{text!r}: {what}"
    assert len(not_a_name("/" * 10_000)) < 200


def test_a_program_that_opens_a_path_is_told_the_name() -> None:
    ours, broker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, broker, pytest.raises(InvalidName) as error:
        open_tty("/dev/ttyS0", broker=ours)
    assert str(error.value) == "'/dev/ttyS0': not a port's name; write ttyS0"


def test_only_a_similar_name_is_suggested() -> None:
    assert did_you_mean("ttS0", ["gps", "ttyS0"]) == "; did you mean ttyS0?"
    assert did_you_mean("gps", ["ttyS0"]) == did_you_mean("gps", []) == ""


@pytest.mark.parametrize("typed", ["ttyUSB0", "ttyACM0", "ttyAMA0", "TTYACM0"])
def test_a_port_of_another_kind_is_not_suggested(typed: str) -> None:
    """Whoever follows the line would talk to another device."""
    assert did_you_mean(typed, ["ttyS0", "ttyS10"]) == ""
    assert did_you_mean("ttyUBS0", ["ttyS0", "ttyUSB0"]) == "; did you mean ttyUSB0?"
    assert did_you_mean("ttys0", ["ttyS0"]) == "; did you mean ttyS0?"
    assert did_you_mean("TTYUSB0", ["ttyS0", "ttyUSB0"]) == "; did you mean ttyUSB0?"
    assert did_you_mean("BOARD", ["board"]) == "; did you mean board?"
    assert did_you_mean("ttyS99", ["ttyS9"]) == "; did you mean ttyS9?"


def test_a_device_that_is_there_was_meant() -> None:
    """The policy denies it: another port is no help, and `revoke` would take back the wrong one."""
    assert did_you_mean("nul", ["null1"]) == "; did you mean null1?"
    assert did_you_mean("null", ["null1"]) == ""
