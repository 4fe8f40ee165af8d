"""What outlives a lease: read, packed and put back. UARTs and FTDIs are in the lab."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
import tty
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from ttybrokerd.root import linux, settings
from ttybrokerd.root.settings import Settings

N_PPS, N_NULL = 18, 27
BOTHER, CBAUD = 0o010000, 0o010017


@pytest.fixture
def port() -> Iterator[int]:
    master, slave = os.openpty()
    tty.setraw(slave)
    yield slave
    os.close(slave)
    os.close(master)


def with_line(attributes: bytes, line: int) -> bytes:
    return attributes[:16] + bytes([line]) + attributes[17:]


def but(value: Settings, **other: object) -> Settings:
    """The same, with other fields."""
    return Settings(**{**vars(value), **other})


VALUES = st.builds(
    Settings,
    termios=st.binary(min_size=44, max_size=44).map(lambda data: with_line(data, 0)),
    window=st.binary(min_size=8, max_size=8),
    serial=st.none()
    | st.tuples(
        st.integers(0, 2**32 - 1).map(lambda flags: flags & settings.HOLDERS),
        st.integers(-(2**31), 2**31 - 1),
    ),
    outputs=st.sampled_from([None, 0, linux.TIOCM_OUT1]),
    rs485=st.none() | st.binary(min_size=32, max_size=32),
)


@given(VALUES)
def test_what_is_packed_is_unpacked(value: Settings) -> None:
    data = value.pack()
    assert len(data) == settings.SIZE == 97
    assert settings.unpack(data) == value


@given(st.binary(max_size=120) | st.binary(min_size=97, max_size=97))
def test_any_bytes_are_settings_or_none(data: bytes) -> None:
    try:
        assert settings.unpack(data).pack() == data
    except ValueError:
        pass


def test_what_no_port_could_be_set_to_is_refused() -> None:
    whole = Settings(bytes(44), bytes(8), (settings.HOLDERS, 1), linux.TIOCM_OUT1, bytes(32))
    for wrong in (
        but(whole, termios=with_line(whole.termios, N_NULL)),
        but(whole, serial=(settings.HOLDERS | 4, 1)),
        but(whole, outputs=linux.TIOCM_LOOP),
    ):
        with pytest.raises(ValueError, match="cannot be"):
            settings.unpack(wrong.pack())
    with pytest.raises(ValueError, match="cannot be"):
        settings.unpack(b"\0" + whole.pack()[1:])
    with pytest.raises(ValueError, match="96 bytes"):
        settings.unpack(whole.pack()[:-1])


def free_speed(rate: int) -> Callable[[int], None]:
    """A speed that has no number of its own, as pyserial sets it."""

    def act(port: int) -> None:
        data = bytearray(fcntl.ioctl(port, linux.TCGETS2, bytes(44)))
        (cflag,) = struct.unpack_from("I", data, 8)
        struct.pack_into("I", data, 8, cflag & ~CBAUD & ~(CBAUD << 16) | BOTHER)
        struct.pack_into("II", data, 36, rate, rate)
        fcntl.ioctl(port, linux.TCSETS2, bytes(data))

    return act


def arm(line: int) -> Callable[[int], None]:
    """The discipline with which the next open begins."""

    def act(port: int) -> None:
        data = fcntl.ioctl(port, linux.TCGETS2, bytes(44))
        fcntl.ioctl(port, linux.TCSETS2, with_line(data, line))

    return act


def attach(line: int) -> Callable[[int], None]:
    def act(port: int) -> None:
        fcntl.ioctl(port, termios.TIOCSETD, struct.pack("i", line))

    return act


def cooked(port: int) -> None:
    attributes = termios.tcgetattr(port)
    attributes[0] |= termios.IXON
    attributes[3] |= termios.ICANON | termios.ECHO
    attributes[6][termios.VINTR] = b"x"
    termios.tcsetattr(port, termios.TCSANOW, attributes)


def resize(port: int) -> None:
    fcntl.ioctl(port, termios.TIOCSWINSZ, struct.pack("4H", 50, 132, 0, 0))


def stop(port: int) -> None:
    termios.tcflow(port, termios.TCOOFF)


def raw_state(port: int) -> tuple[bytes, ...]:
    """The kernel's word, c_line with it, without the code that is tested."""
    asked = ((linux.TCGETS2, 44), (termios.TIOCGWINSZ, 8), (termios.TIOCGETD, 4))
    return tuple(fcntl.ioctl(port, number, bytes(size)) for number, size in asked)


@pytest.mark.parametrize(
    "act", [free_speed(250000), arm(N_NULL), attach(N_NULL), cooked, resize, stop]
)
@pytest.mark.parametrize("found", [free_speed(14400), cooked, resize, lambda port: None])
def test_what_was_found_is_put_back(
    port: int, found: Callable[[int], None], act: Callable[[int], None]
) -> None:
    found(port)
    before, was = raw_state(port), settings.read(port)
    act(port)
    assert settings.put_back(port, settings.unpack(was.pack())) == []
    assert raw_state(port) == before
    assert settings.holds(port, was)
    assert os.write(port, b"x") == 1  # 0, or EAGAIN, where output is stopped


@pytest.mark.parametrize("act", [free_speed(250000), attach(N_NULL), cooked, resize])
def test_that_somebody_sets_it_again_is_seen(port: int, act: Callable[[int], None]) -> None:
    found = settings.read(port)
    assert settings.holds(port, found)
    act(port)
    assert not settings.holds(port, found)


@pytest.mark.parametrize("act", [attach(N_NULL), arm(N_NULL), stop])
def test_what_is_handed_out_is_clean(port: int, act: Callable[[int], None]) -> None:
    """Also if the discipline is one under which nothing but this call works."""
    os.set_blocking(port, False)
    before = raw_state(port)
    act(port)
    settings.clean(port)
    assert settings.plain(port)
    assert settings.read(port).termios == before[0]
    assert os.write(port, b"x") == 1


def test_a_port_that_has_the_usual_discipline_is_not_set_to_it(
    port: int, mocker: MockerFixture
) -> None:
    """TIOCSETD waits for output, without limit, even if it changes nothing."""
    asked = mocker.spy(fcntl, "ioctl")
    settings.clean(port)
    assert termios.TIOCSETD not in [call.args[1] for call in asked.call_args_list]


def test_without_hupcl_is_without_that_alone(port: int) -> None:
    attributes = termios.tcgetattr(port)
    attributes[2] |= termios.HUPCL
    termios.tcsetattr(port, termios.TCSANOW, attributes)
    found = settings.read(port)
    assert settings.put_back(port, found.without_hupcl()) == []
    attributes[2] &= ~termios.HUPCL
    assert termios.tcgetattr(port) == attributes


def test_each_step_that_fails_is_named_and_the_others_are_taken(
    port: int, mocker: MockerFixture
) -> None:
    found = settings.read(port)
    real = fcntl.ioctl

    def failing(descriptor: int, number: int, *value: bytes) -> object:
        if number == linux.TCSETS2:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, number, *value)

    resize(port)
    mocker.patch("ttybrokerd.root.settings.fcntl.ioctl", failing)
    assert settings.put_back(port, found) == ["termios: Invalid argument"]
    mocker.stopall()
    assert raw_state(port)[1] == found.window


def test_a_device_that_is_dead_fails_in_each_step(port: int, mocker: MockerFixture) -> None:
    found = settings.read(port)
    dead = OSError(errno.EIO, "Input/output error")
    mocker.patch("ttybrokerd.root.settings.fcntl.ioctl", side_effect=dead)
    failed = settings.put_back(port, but(found, serial=(0, 0), outputs=0, rs485=bytes(32)))
    assert [what.partition(": ")[0] for what in failed] == [
        "line discipline", "stopped output", "loop", "break", "serial flags", "RS-485",
        "termios", "OUT1", "window",
    ]  # fmt: skip
    assert not settings.holds(port, found)


class Chip:
    """A driver that has all there is, as the kernel's ioctls would show it: RS-485 is in no
    driver that can be had here, and the flags of setserial(8) are on no pty."""

    def __init__(self, real: Callable[..., bytes]) -> None:
        self.real = real
        self.values = {linux.TIOCGSERIAL: bytes(72), linux.TIOCGRS485: bytes(32)}
        self.set: list[int] = []

    def __call__(self, tty: int, number: int, value: bytes | int = b"") -> bytes:
        if number in self.values:
            return self.values[number]
        if number - 1 in self.values and isinstance(value, bytes):
            self.set.append(number)
            self.values[number - 1] = value
            return b""
        return self.real(tty, number, value)


def test_a_holders_flags_divisor_and_rs485_are_put_back_and_roots_stay(
    port: int, mocker: MockerFixture
) -> None:
    """And nothing is set that is so already: the kernel's log warns of a speed by flags."""
    chip = Chip(fcntl.ioctl)
    mocker.patch("ttybrokerd.root.settings.fcntl.ioctl", chip)
    serial = bytearray(72)
    struct.pack_into("I", serial, 16, 0x10002040)  # low_latency, and others
    chip.values[linux.TIOCGSERIAL] = bytes(serial)
    found = settings.read(port)
    assert found.serial == (0x2000, 0)
    assert settings.put_back(port, found) == [] and chip.set == []
    changed = bytearray(serial)
    struct.pack_into("I", changed, 16, 0x30000870)  # spd_cust, HARDPPS_CD; and one by root
    struct.pack_into("i", changed, 24, 12)
    struct.pack_into("H", changed, 44, 77)  # closing_wait, by root
    chip.values[linux.TIOCGSERIAL] = bytes(changed)
    chip.values[linux.TIOCGRS485] = b"\1" + bytes(31)
    assert not settings.holds(port, found)
    assert settings.put_back(port, found) == []
    struct.pack_into("I", changed, 16, 0x30002040)
    struct.pack_into("i", changed, 24, 0)
    assert chip.values[linux.TIOCGSERIAL] == bytes(changed)
    assert chip.values[linux.TIOCGRS485] == bytes(32)
    assert settings.holds(port, found)
