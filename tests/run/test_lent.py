"""`run --yield`: what is written around the time when the port is lent goes where it belongs."""

from __future__ import annotations

import os
import tty
from collections.abc import Iterator

import pytest

from run.conftest import Device
from ttybroker.run.ptyproxy import Line
from ttybroker.wire import Holder


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.close()


@pytest.fixture
def line(device: Device) -> Iterator[Line]:
    made = Line(os.open(device.node, os.O_RDWR | os.O_NOCTTY))
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


def test_a_port_that_is_hung_up_before_the_program_begins_is_a_refusal() -> None:
    with pytest.raises(OSError, match="hung up"):
        Line(hung_up())


def hung_up() -> int:
    far, near = os.openpty()
    os.close(far)
    return near
