"""Every setting of a port that a holder can change, by the kernel's own ioctls: set and read."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lines import TIOCM_LOOP, unsent

TCGETS2, TCSETS2 = 0x802C542A, 0x402C542B
TIOCGSERIAL, TIOCSSERIAL = 0x541E, 0x541F
TIOCGEXCL, TIOCVHANGUP, TIOCSBRK = 0x80045440, 0x5437, 0x5427
TIOCM_OUT1 = 0x2000
BOTHER, CBAUD = 0o010000, 0o010017
LOW_LATENCY, SPEED_FLAGS, SPD_CUST = 0x2000, 0x1030, 0x30  # linux/tty_flags.h
N_PPP, N_HDLC, N_PPS, N_NULL = 3, 13, 18, 27

HDLC = os.uname().machine == "x86_64"  # Debian has n_hdlc for amd64 alone

Act = Callable[[int], None]


def nothing(_fd: int) -> None:
    """Leave the port as it is."""


def speed(rate: int) -> Act:
    """Set any speed, whether termios has a constant for it or not."""

    def act(fd: int) -> None:
        data = bytearray(fcntl.ioctl(fd, TCGETS2, bytes(44)))
        (cflag,) = struct.unpack_from("I", data, 8)
        struct.pack_into("I", data, 8, cflag & ~CBAUD & ~(CBAUD << 16) | BOTHER)
        struct.pack_into("II", data, 36, rate, rate)
        fcntl.ioctl(fd, TCSETS2, bytes(data))

    return act


def odd(fd: int) -> None:
    """Set everything that tcsetattr(3) can."""
    found = termios.tcgetattr(fd)
    found[0] = termios.IGNBRK | termios.ISTRIP | termios.IXOFF
    found[1] = found[3] = 0
    found[2] = termios.CS5 | termios.CSTOPB | termios.PARENB | termios.PARODD | termios.CREAD
    found[4] = found[5] = termios.B300
    found[6][termios.VSTART], found[6][termios.VSTOP] = b"q", b"x"
    termios.tcsetattr(fd, termios.TCSANOW, found)


def without_hupcl(fd: int) -> None:
    found = termios.tcgetattr(fd)
    found[2] &= ~termios.HUPCL
    termios.tcsetattr(fd, termios.TCSANOW, found)


def by_lines(fd: int) -> None:
    """Flow control by RTS and CTS."""
    found = termios.tcgetattr(fd)
    found[2] |= termios.CRTSCTS
    termios.tcsetattr(fd, termios.TCSANOW, found)


def broken(fd: int) -> None:
    """Send a break without an end."""
    fcntl.ioctl(fd, TIOCSBRK)


def serial_flags(flags: int, divisor: int = 0) -> Act:
    """Set serial flags, as setserial(8) does."""

    def act(fd: int) -> None:
        data = bytearray(fcntl.ioctl(fd, TIOCGSERIAL, bytes(72)))
        (now,) = struct.unpack_from("I", data, 16)
        struct.pack_into("I", data, 16, now & ~SPEED_FLAGS & ~LOW_LATENCY | flags)
        struct.pack_into("i", data, 24, divisor)
        fcntl.ioctl(fd, TIOCSSERIAL, bytes(data))

    return act


def discipline(number: int) -> Act:
    """Attach this line discipline."""

    def act(fd: int) -> None:
        fcntl.ioctl(fd, termios.TIOCSETD, struct.pack("i", number))

    return act


def armed(number: int) -> Act:
    """Make the next open attach this line discipline."""

    def act(fd: int) -> None:
        data = bytearray(fcntl.ioctl(fd, TCGETS2, bytes(44)))
        data[16] = number
        fcntl.ioctl(fd, TCSETS2, bytes(data))

    return act


def output(line: int) -> Act:
    """Set one of the chip's outputs that is not a modem line."""

    def act(fd: int) -> None:
        fcntl.ioctl(fd, termios.TIOCMBIS, struct.pack("I", line))

    return act


def stopped(fd: int) -> None:
    termios.tcflow(fd, termios.TCOOFF)


def window(fd: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", 50, 132, 0, 0))


def exclusive(fd: int) -> None:
    fcntl.ioctl(fd, termios.TIOCEXCL)


def all_of(*acts: Act) -> Act:
    """Do one after the other."""

    def act(fd: int) -> None:
        for one in acts:
            one(fd)

    return act


EVERYTHING = all_of(
    odd, serial_flags(SPD_CUST, 12), output(TIOCM_LOOP | TIOCM_OUT1), window, exclusive, stopped
)
ACTS: dict[str, Act] = {
    "nothing": nothing,
    "everything": EVERYTHING,
    "everything, N_NULL": all_of(EVERYTHING, discipline(N_NULL)),
    "nothing of setserial": serial_flags(0),
    "c_line N_NULL": all_of(without_hupcl, armed(N_NULL)),
}
UART_ACTS: dict[str, Act] = {
    "another speed": all_of(speed(28800), serial_flags(LOW_LATENCY, 7)),
    "N_PPP": all_of(odd, discipline(N_PPP)),
    **({"N_HDLC": all_of(odd, discipline(N_HDLC))} if HDLC else {}),
    "N_PPS": all_of(odd, discipline(N_PPS)),
    "c_line N_PPP": all_of(odd, armed(N_PPP)),
}
# What root has made of the port before the lease.
FOUND: dict[str, dict[str, Act]] = {
    "UART": {
        "usual": nothing,
        "unusual": all_of(
            speed(14400), without_hupcl, serial_flags(LOW_LATENCY), output(TIOCM_OUT1)
        ),
        "setserial's": serial_flags(SPD_CUST, 24),
    },
    "PL011": {
        "usual": nothing,
        "unusual": all_of(speed(14400), without_hupcl, serial_flags(LOW_LATENCY)),
    },
    "FTDI": {
        "usual": nothing,
        "unusual": all_of(speed(250000), serial_flags(LOW_LATENCY)),
    },
}


def cases(kind: str) -> list[tuple[str, Act, str, Act]]:
    """Return how a port is found and what its holder does. A UART found as usual gets all of it."""
    acts = {"usual": {**ACTS, **UART_ACTS} if kind == "UART" else ACTS}
    return [
        (how, prepare, what, act)
        for how, prepare in FOUND[kind].items()
        for what, act in acts.get(how, ACTS).items()
    ]


def opened(name: str) -> int:
    """Open the port as root, without the broker."""
    return os.open(f"/dev/{name}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)


@contextmanager
def direct(name: str) -> Iterator[int]:
    """Open the port as `opened` does, until the end of the block."""
    fd = opened(name)
    try:
        yield fd
    finally:
        os.close(fd)


def look(fd: int) -> dict[str, object]:
    """Return all that can be read."""
    attributes = fcntl.ioctl(fd, TCGETS2, bytes(44))
    serial = fcntl.ioctl(fd, TIOCGSERIAL, bytes(72))
    (flags,), (divisor,) = struct.unpack_from("I", serial, 16), struct.unpack_from("i", serial, 24)
    (lines,) = struct.unpack("I", fcntl.ioctl(fd, termios.TIOCMGET, bytes(4)))
    timer = Path(f"/sys/class/tty/{os.path.basename(os.ttyname(fd))}/device/latency_timer")
    return {
        "discipline": struct.unpack("i", fcntl.ioctl(fd, termios.TIOCGETD, bytes(4)))[0],
        "termios": attributes.hex(" ", 4),
        "serial": (hex(flags), divisor),
        "all of serial": serial.hex(),
        "outputs": hex(lines & (TIOCM_LOOP | TIOCM_OUT1)),
        "window": fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)).hex(),
        "latency": timer.read_text().strip() if timer.exists() else "",
    }


def sends(fd: int) -> bool:
    """Return whether written bytes go out."""
    os.write(fd, b"U")
    end = time.monotonic() + 5
    while unsent(fd):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def set_anew(name: str, as_booted: dict[str, bytes], act: Act) -> None:
    """Put a port into the state with which a test begins."""
    with direct(name) as fd:
        fcntl.ioctl(fd, termios.TIOCSETD, struct.pack("i", 0))
        termios.tcflow(fd, termios.TCOON)
        fcntl.ioctl(fd, termios.TIOCMBIC, struct.pack("I", TIOCM_LOOP | TIOCM_OUT1))
        fcntl.ioctl(fd, TIOCSSERIAL, as_booted["serial"])
        fcntl.ioctl(fd, TCSETS2, as_booted["termios"])
        act(fd)


def state(name: str) -> dict[str, bytes]:
    """Return the state for `set_anew`."""
    with direct(name) as fd:
        return {
            "serial": fcntl.ioctl(fd, TIOCGSERIAL, bytes(72)),
            "termios": fcntl.ioctl(fd, TCGETS2, bytes(44)),
        }
