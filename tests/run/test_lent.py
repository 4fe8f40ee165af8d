"""`run --yield`: what is written around the time when the port is lent goes where it belongs."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator

import pytest

from run.conftest import Device
from ttybroker.errors import DeviceGone
from ttybroker.run.ptyproxy import Line
from ttybroker.wire import Holder


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.close()


@pytest.fixture
def line(device: Device) -> Iterator[Line]:
    made = Line()
    made.begin(os.open(device.node, os.O_RDWR | os.O_NOCTTY), "ttyS0")
    yield made
    made.let_go()
    made.close()


@pytest.fixture
def program(line: Line) -> Iterator[int]:
    """The program's descriptor."""
    fd = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    yield fd
    os.close(fd)


def test_what_was_written_before_the_port_is_lent_is_sent(
    device: Device, line: Line, program: int
) -> None:
    os.write(program, b"before")
    line._lend(Holder())
    assert device.hear(6) == b"before"


def test_what_was_written_while_the_port_was_lent_is_not_sent_when_it_is_back(
    device: Device, line: Line, program: int
) -> None:
    """Even if we have not read it: the news may come first."""
    line._lend(Holder())
    os.write(program, b"meanwhile")
    line._take(os.open(device.node, os.O_RDWR | os.O_NOCTTY))
    os.write(program, b"after")
    while line.to_port or not device.readable():
        line.turn()
    assert device.hear(5) == b"after"


def test_a_port_that_was_hung_up_before_we_heard_that_it_is_lent_comes_back(
    device: Device, line: Line, program: int
) -> None:
    os.write(program, b"too late")
    os.close(device.far)
    line._lend(Holder())
    assert not line.done()
    device.far, near = os.openpty()
    line._take(near)
    os.write(program, b"after")
    while line.to_port or not device.readable():
        line.turn()
    assert device.hear(5) == b"after"


def test_a_port_that_is_hung_up_again_when_it_comes_is_waited_for(
    device: Device, line: Line
) -> None:
    line._lend(Holder())
    line._take(hung_up())
    assert (line.port, line.done()) == (-1, False)


def test_a_port_that_is_hung_up_before_the_program_begins_is_closed_and_another_can_be_used(
    device: Device,
) -> None:
    line = Line()
    dead = hung_up()
    with pytest.raises(DeviceGone, match="ttyS0: taken back, or hung up"):
        line.begin(dead, "ttyS0")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(dead)
    line.begin(os.open(device.node, os.O_RDWR | os.O_NOCTTY), "ttyS0")
    program = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
    os.write(program, b"here")
    line.turn()
    assert device.hear(4) == b"here"
    os.close(program)
    line.let_go()
    line.close()


@pytest.mark.parametrize("program_sets_one", [False, True])
def test_a_program_whose_port_was_lent_before_it_began_has_its_speed_unless_it_sets_one(
    device: Device, program_sets_one: bool
) -> None:
    line = Line()
    program = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
    if program_sets_one:
        set_speed(program, termios.B57600)
    set_speed(device.near, termios.B1200)
    line._take(os.open(device.node, os.O_RDWR | os.O_NOCTTY))
    line.turn()
    expected = termios.B57600 if program_sets_one else termios.B1200
    assert [termios.tcgetattr(fd)[5] for fd in (program, device.near)] == [expected] * 2
    os.close(program)
    line.let_go()
    line.close()


def set_speed(fd: int, speed: int) -> None:
    settings = termios.tcgetattr(fd)
    settings[4:6] = [speed, speed]
    termios.tcsetattr(fd, termios.TCSANOW, settings)


def hung_up() -> int:
    far, near = os.openpty()
    os.close(far)
    return near
