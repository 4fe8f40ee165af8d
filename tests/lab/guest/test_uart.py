"""A user without any right to a UART has all of it by open_tty: settings, lines, breaks, bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import serial

from adapters import Adapters
from lines import PAIR, breaks, count, lines, loop, quicken, unsent
from service import BOB, Service
from support.children import Chat
from ttybroker import BrokeredSerial, open_tty

RATES = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)
SIZE, CHUNK, AHEAD = 256 * 1024, 4096, 16384  # bytes


@pytest.fixture(autouse=True)
def _nodes_are_roots_alone() -> Iterator[None]:
    """Give the nodes to root: udev, where it runs, gives them to dialout."""
    paths = [f"/dev/{name}" for name in ("ttyS1", "ttyS2", *PAIR)]
    before = [os.stat(path) for path in paths]
    for path in paths:
        os.chown(path, 0, 0)
        os.chmod(path, 0o600)
    yield
    for path, was in zip(paths, before, strict=True):
        os.chown(path, was.st_uid, was.st_gid)
        os.chmod(path, stat.S_IMODE(was.st_mode))


@contextmanager
def both(one: str = "ttyS1", other: str = "ttyS2") -> Iterator[tuple[BrokeredSerial, ...]]:
    """Open the two ends of a wire, by the broker, with no bytes on the way between them."""
    with open_tty(one, timeout=10, write_timeout=10) as near:
        with open_tty(other, timeout=10, write_timeout=10) as end:
            near.reset_input_buffer()
            end.reset_input_buffer()
            yield near, end


def exchange(near: BrokeredSerial, end: BrokeredSerial, text: bytes = b"every byte") -> None:
    """Check that the same words arrive, both ways."""
    for source, sink in ((near, end), (end, near)):
        source.write(text)
        assert sink.read(len(text)) == text


def test_the_node_itself_does_not_open(broker: Service) -> None:
    def attempt(_chat: Chat) -> None:
        with pytest.raises(PermissionError):
            os.open("/dev/ttyS1", os.O_RDWR)
        with pytest.raises(serial.SerialException, match="Permission denied"):
            serial.Serial("/dev/ttyS1")
        with both() as ends:
            exchange(*ends)
            with pytest.raises(PermissionError):
                os.open(f"/proc/self/fd/{ends[0].fd}", os.O_RDWR)

    broker.child(BOB, attempt).result()


def test_every_baud_rate(broker: Service) -> None:
    def try_all(_chat: Chat) -> None:
        with both() as ends:
            for rate in RATES:
                for port in ends:
                    port.baudrate = rate
                    wanted = getattr(termios, f"B{rate}")
                    assert termios.tcgetattr(port.fd)[4:6] == [wanted, wanted]
                exchange(*ends)

    broker.child(BOB, try_all).result(60)


@pytest.mark.parametrize(
    ("bits", "parity", "stops", "flags"),
    [
        (7, serial.PARITY_EVEN, 1, termios.CS7 | termios.PARENB),
        (8, serial.PARITY_NONE, 2, termios.CS8 | termios.CSTOPB),
        (7, serial.PARITY_ODD, 2, termios.CS7 | termios.PARENB | termios.PARODD | termios.CSTOPB),
    ],
    ids=["7E1", "8N2", "7O2"],
)
def test_character_format(broker: Service, bits: int, parity: str, stops: int, flags: int) -> None:
    def try_it(_chat: Chat) -> None:
        with both() as ends:
            for port in ends:
                port.apply_settings({"bytesize": bits, "parity": parity, "stopbits": stops})
                mask = termios.CSIZE | termios.PARENB | termios.PARODD | termios.CSTOPB
                assert termios.tcgetattr(port.fd)[2] & mask == flags
            exchange(*ends)

    broker.child(BOB, try_it).result()


def test_rts_and_cts(broker: Service) -> None:
    """RTS is CTS where the chip is looped; without CTS, rtscts holds the output back."""

    def try_it(_chat: Chat) -> None:
        with open_tty("ttyS1", timeout=10, rtscts=True) as port:
            assert termios.tcgetattr(port.fd)[2] & termios.CRTSCTS
        with open_tty("ttyS1", timeout=10) as port:
            loop(port.fd)
            port.rts = True
            assert port.cts
            port.rts = False
            assert not port.cts
            port.rtscts = True
            port.write(b"stays")
            assert unsent(port.fd) == 5
            port.rts = True
            port.rtscts = False
            assert port.read(5) == b"stays"

    broker.child(BOB, try_it).result()


def test_dtr_and_dsr(broker: Service) -> None:
    def try_it(chat: Chat) -> None:
        with open_tty("ttyS1", timeout=10) as port:
            for value in (False, True):
                port.dtr = port.rts = value
                chat.say()
                chat.hear()
            loop(port.fd)
            for value in (False, True):
                port.dtr = value
                assert port.dsr is value

    child = broker.child(BOB, try_it)
    child.hear()
    assert not lines("ttyS1") & {"DTR", "RTS"}
    child.say()
    child.hear()
    assert lines("ttyS1") >= {"DTR", "RTS"}
    child.say()
    child.result()


def test_a_loop_ends_with_its_lease(broker: Service) -> None:
    """The kernel keeps it over the last close, and the next user would talk to himself."""

    def try_it(_chat: Chat) -> None:
        with open_tty("ttyS1") as port:
            loop(port.fd)
        with both() as ends:
            exchange(*ends)

    broker.child(BOB, try_it).result()


def test_a_break_is_sent_and_received(broker: Service, adapters: Adapters) -> None:
    """The emulation does not carry one from port to port; QEMU itself sends what arrives."""

    def try_it(chat: Chat) -> int:
        with open_tty("ttyS1", timeout=10) as port:
            port.send_break(0.01)
            port.break_condition = True
            port.break_condition = False
            before = breaks(port.fd)
            chat.say()
            assert port.read(1) == b"\0"
            return breaks(port.fd) - before

    before = count("ttyS1", "brk")
    child = broker.child(BOB, try_it)
    child.hear()
    adapters.send_break("ttyS1")
    assert child.result() == 1
    assert count("ttyS1", "brk") == before + 1


@pytest.mark.bare  # the bytes are the driver's, which is the same in both
def test_256_kib_both_ways_at_once(broker: Service) -> None:
    for name in PAIR:
        quicken(name)

    def transfer(_chat: Chat) -> list[tuple[int, str, str]]:
        with both(*PAIR) as (near, end):
            for port in (near, end):
                port.apply_settings({"baudrate": 115200, "timeout": 80, "write_timeout": 80})
            with ThreadPoolExecutor() as pool:
                ways = [pool.submit(carry, near, end), pool.submit(carry, end, near)]
                return [way.result() for way in ways]

    def carry(source: BrokeredSerial, sink: BrokeredSerial) -> tuple[int, str, str]:
        """Send no further ahead of the reader than the kernel has room for (64 KiB, tty_buffer.c).

        The baud rate does not slow the emulation.
        """
        data, got = os.urandom(SIZE), b""
        for at in range(0, SIZE, CHUNK):
            source.write(data[at : at + CHUNK])
            got += sink.read(at + CHUNK - AHEAD - len(got)) if at >= AHEAD else b""
        got += sink.read(SIZE - len(got))
        return len(got), hashlib.sha256(data).hexdigest(), hashlib.sha256(got).hexdigest()

    ways = broker.child(BOB, transfer).result(100)
    assert [length for length, _, _ in ways] == [SIZE, SIZE], [count(n, "oe") for n in PAIR]
    assert all(sent == got for _, sent, got in ways)
