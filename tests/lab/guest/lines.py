"""The kernel's own view of a UART: its lines and counters, whoever has the port."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
from pathlib import Path

from service import PATIENT

# What ../machine.py has: UARTs, two that are wired to each other, and one whose bytes go anywhere.
UARTS = 8 if os.uname().machine == "x86_64" else 4
PAIR = NEAR, FAR = ("ttyS4", "ttyS5") if UARTS == 8 else ("ttyS1", "ttyS2")
LONE = "ttyS7" if UARTS == 8 else "ttyS3"
QUIET = 300  # ms

TIOCM_LOOP = 0x8000  # asm-generic/termios.h: outputs come back as inputs
TIOCGICOUNT = 0x545D
TIOCOUTQ = 0x5411


def lines(name: str) -> set[str]:
    """Return the modem lines that are up on ttyS<n>: "RTS", "DTR", and those of the other end."""
    return set(_row(name).rpartition(" ")[2].split("|"))


def count(name: str, what: str) -> int:
    """Return one of the counters of ttyS<n>: tx, rx, fe, pe, brk, oe."""
    found = re.search(rf"\b{what}:(\d+)", _row(name))
    return int(found[1]) if found else 0


def uarts() -> list[str]:
    """Return what the driver says about each UART.

    The driver's name is "serial", and from Linux 7 on "serial_8250".
    """
    (path,) = Path("/proc/tty/driver").glob("serial*")
    return path.read_text().splitlines()[1:]


def _row(name: str) -> str:
    number = name.removeprefix("ttyS")
    for row in uarts():
        if row.startswith(f"{number}:"):
            return row
    raise AssertionError(f"no {name} in /proc/tty/driver/serial*")


def breaks(descriptor: int) -> int:
    """Return how many breaks have arrived: struct serial_icounter_struct of linux/serial.h."""
    counters = struct.unpack("20i", fcntl.ioctl(descriptor, TIOCGICOUNT, bytes(80)))
    return counters[9]


def quicken(name: str) -> None:
    """Make ttyS<n> interrupt once for 8 bytes, as it did at boot.

    One that ever had less than 2400 baud does it for each byte from then on (8250_port.c,
    UART_FCR_TRIGGER_1), which makes the emulation five times as slow.
    """
    Path(f"/sys/class/tty/{name}/rx_trig_bytes").write_text("8")


def loop(descriptor: int) -> None:
    """Connect the chip's outputs to its inputs: RTS to CTS, DTR to DSR."""
    fcntl.ioctl(descriptor, termios.TIOCMBIS, struct.pack("I", TIOCM_LOOP))


def unsent(descriptor: int) -> int:
    """Return the number of bytes that wait to go out."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, TIOCOUTQ, bytes(4)))[0])


def raw(descriptor: int, *, xon: bool = False) -> None:
    """Make the port carry bytes as they are. With `xon` the other end may stop it by XOFF."""
    settings = termios.tcgetattr(descriptor)
    settings[0] = termios.IXON if xon else 0
    settings[1] = settings[3] = 0
    settings[2] = termios.CS8 | termios.CREAD | termios.CLOCAL | termios.HUPCL
    settings[4] = settings[5] = termios.B115200
    termios.tcsetattr(descriptor, termios.TCSANOW, settings)


def receive(descriptor: int, size: int) -> bytes:
    """Return exactly this many bytes."""
    poll, got = select.poll(), b""
    poll.register(descriptor, select.POLLIN)
    while len(got) < size:
        assert poll.poll(PATIENT * 1000), f"{len(got)} of {size} bytes came"
        got += os.read(descriptor, size - len(got))
    return got


def swallow(descriptor: int, until: bytes) -> None:
    """Read until this has come and then nothing more for a moment.

    A wire keeps bytes that nobody reads, and the next test that opens its end would find them.
    """
    poll, said = select.poll(), b""
    poll.register(descriptor, select.POLLIN)
    while poll.poll(QUIET if until in said else PATIENT * 1000):
        said += os.read(descriptor, 4096)
    assert until in said, said


def far(name: str) -> int:
    """Open the other end of a wire as root, without the broker: raw, and emptied."""
    descriptor = os.open(f"/dev/{name}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    raw(descriptor)
    termios.tcflush(descriptor, termios.TCIOFLUSH)
    return descriptor
