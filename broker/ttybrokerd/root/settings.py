"""What of a port outlives a lease, as one value: read it, keep it in the record, put it back.

A passed descriptor may change all of this without any privilege. The driver keeps it over the last
close, or as long as a dead copy is open:

* the line discipline, and the one that `c_line` arms for the next open
* the speed, by any number
* the flags and the divisor of setserial(8); the flag low_latency sets an FTDI's latency timer
* RS-485, stopped output, a break, the loop in the chip, the window's size

What takes a privilege is root's will and stays: closing_wait, the type, the IRQ.

All of it goes by ioctl(2), with numbers and bytes of the kernel's own. What the C library's
tcgetattr(3) says of a speed depends on its version.
"""

from __future__ import annotations

import errno
import fcntl
import struct
import termios

from ttybroker.wire import Value
from ttybrokerd.root import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from collections.abc import Callable

N_TTY = 0  # include/uapi/linux/tty.h
# struct termios2 of asm-generic/termbits.h: four words of flags, c_line, 19 characters, two speeds.
TERMIOS2 = 44
_CFLAG, _LINE = 8, 16  # where in it
# struct serial_struct of linux/serial.h: these two are there on every machine, its end is not.
SERIAL = 72
_FLAGS, _DIVISOR = 16, 24
# Its flags that a holder may set: ASYNC_USR_MASK of linux/tty_flags.h, and ASYNC_HARDPPS_CD, which
# the discipline N_PPS sets and leaves.
HOLDERS = 0x3430 | 0x800
RS485 = 32  # struct serial_rs485
WINDOW = 8  # struct winsize
_PACKED = struct.Struct(f"<B{TERMIOS2}s{WINDOW}sIiI{RS485}s")
SIZE = _PACKED.size  # bytes of packed settings: 97
_HAS_SERIAL, _HAS_OUTPUTS, _HAS_RS485 = 1, 2, 4
_INT = struct.Struct("i")
_NOT_HERE = (errno.ENOTTY, errno.EINVAL)  # this kind of device has no such thing


class Settings(Value):
    """A port's settings, as they were found. None: this kind of device does not have it.

    `termios` (44 bytes) has no `c_line`. `serial` is the flags of `HOLDERS` and the divisor.
    `outputs` is TIOCM_OUT1 or 0.
    """

    termios: bytes
    window: bytes
    serial: tuple[int, int] | None
    outputs: int | None
    rs485: bytes | None

    def pack(self) -> bytes:
        """Return `SIZE` bytes for the lease's record.

            has      u8: 1 serial, 2 outputs, 4 rs485; what is not there is zeros
            termios  44 bytes, as TCGETS2 gives them
            window   8 bytes, as TIOCGWINSZ gives them
            serial   flags u32, divisor i32
            outputs  u32
            rs485    32 bytes, as TIOCGRS485 gives them

        Numbers are little-endian where they are not the kernel's own bytes.
        """
        has = _HAS_SERIAL * (self.serial is not None) | _HAS_OUTPUTS * (self.outputs is not None)
        has |= _HAS_RS485 * (self.rs485 is not None)
        return _PACKED.pack(has, self.termios, self.window, *self.serial or (0, 0),
                            self.outputs or 0, self.rs485 or b"")  # fmt: skip

    def without_hupcl(self) -> Settings:
        """Return the same settings, with which the modem lines stay as they are at a hang-up."""
        (cflag,) = struct.unpack_from("I", self.termios, _CFLAG)
        attributes = _with(self.termios, "I", _CFLAG, cflag & ~termios.HUPCL)
        return Settings(attributes, self.window, self.serial, self.outputs, self.rs485)


# The settings of a port that has not been looked at.
NONE = Settings(bytes(TERMIOS2), bytes(WINDOW), None, None, None)


def unpack(data: bytes) -> Settings:
    """Return the settings that `pack` made these bytes of. Raises ValueError for any others."""
    if len(data) != SIZE:
        raise ValueError(f"settings of {len(data)} bytes")
    has, attributes, window, flags, divisor, outputs, rs485 = _PACKED.unpack(data)
    found = Settings(attributes, window, (flags, divisor) if has & _HAS_SERIAL else None,
                     outputs if has & _HAS_OUTPUTS else None,
                     rs485 if has & _HAS_RS485 else None)  # fmt: skip
    if found.pack() != data or flags & ~HOLDERS or outputs & ~linux.TIOCM_OUT1 or data[1 + _LINE]:
        raise ValueError("settings that cannot be")
    return found


def read(tty: int) -> Settings:
    """Return what is set now, without what `clean` takes away.

    Raises OSError if the device does not answer, or if a line discipline is attached that does not.
    """
    attributes = fcntl.ioctl(tty, linux.TCGETS2, bytes(TERMIOS2))
    attributes = _with(attributes, "B", _LINE, N_TTY)  # guard: no-discipline-for-the-next-open
    serial = _asked(tty, linux.TIOCGSERIAL, SERIAL)
    outputs = _asked(tty, termios.TIOCMGET, _INT.size)
    return Settings(
        attributes,
        fcntl.ioctl(tty, termios.TIOCGWINSZ, bytes(WINDOW)),
        None if serial is None else _holders(serial),
        None if outputs is None else _INT.unpack(outputs)[0] & linux.TIOCM_OUT1,
        _asked(tty, linux.TIOCGRS485, RS485),
    )


def plain(tty: int) -> bool:
    """Return whether the line discipline is N_TTY.

    Raises OSError on a descriptor that is hung up.
    """
    return int(_INT.unpack(fcntl.ioctl(tty, termios.TIOCGETD, bytes(_INT.size)))[0]) == N_TTY


def clean(tty: int) -> None:
    """Take away what a dead copy leaves on a port and nobody wants to find. Raises OSError."""
    for _, step in _CLEAN:
        step(tty)


def put_back(
    tty: int, settings: Settings, *, discipline: bool = True, terminal: bool = True
) -> list[str]:
    """Set all of it, whatever the holder left; return which steps failed, each with its cause.

    Without `discipline`, all but the line discipline is set, and so nothing waits. Without
    `terminal`, all is set but termios and the window, which somebody else has set by now.
    """
    failed = []
    for what, step in (*_CLEAN[not discipline :], *_steps(settings, terminal)):
        try:
            step(tty)
        except OSError as error:
            failed.append(f"{what}: {error.strerror}")
    return failed


def keep_lines(tty: int, settings: Settings) -> None:
    """Have the modem lines stay as they are at a hang-up. Raises OSError.

    It sets termios alone. The rest is put back after the hang-up, because until then a writer may
    keep the processor busy.
    """
    _put(tty, linux.TCSETS2, settings.without_hupcl().termios)


def holds(tty: int, settings: Settings) -> bool:
    """Return whether all that can be asked is set so, and still is: somebody may go on setting."""
    try:
        return plain(tty) and not _looped(tty) and read(tty) == settings
    except OSError:
        return False


def _steps(settings: Settings, terminal: bool) -> list[tuple[str, Callable[[int], object]]]:
    """Return the steps that set these settings, in their order, each with a name for people.

    The order counts: the serial flags say what a speed means.
    """
    steps: list[tuple[str, Callable[[int], object]]] = [("break", _end_break)]
    serial, rs485 = settings.serial, settings.rs485
    if serial is not None:
        steps.append(("serial flags", lambda tty: _put_serial(tty, serial)))
    if rs485 is not None:
        steps.append(("RS-485", lambda tty: _put_rs485(tty, rs485)))
    if terminal:
        steps.append(("termios", lambda tty: _put(tty, linux.TCSETS2, settings.termios)))
    if settings.outputs is not None:
        number = termios.TIOCMBIS if settings.outputs else termios.TIOCMBIC
        line = _INT.pack(linux.TIOCM_OUT1)
        steps.append(("OUT1", lambda tty: _put(tty, number, line)))
    if terminal:
        steps.append(("window", lambda tty: _put(tty, termios.TIOCSWINSZ, settings.window)))
    return steps


def _put(tty: int, number: int, value: bytes) -> None:
    fcntl.ioctl(tty, number, value)


def _end_discipline(tty: int) -> None:
    """Set the line discipline N_TTY.

    This comes first, because under some disciplines no other call works. If it is N_TTY already,
    nothing is set: even then the kernel would wait, without limit, for output to be sent (tty_io.c,
    tty_ioctl()). Do not call it where somebody may go on writing.
    """
    if plain(tty):
        return
    try:
        termios.tcflush(tty, termios.TCOFLUSH)
    except termios.error:  # a discipline that does not know of output has none
        pass
    fcntl.ioctl(tty, termios.TIOCSETD, _INT.pack(N_TTY))


def _end_stop(tty: int) -> None:
    """Start output that is stopped.

    It may be stopped by tcflow(3), or because an XOFF came. Only who stops it by hand can then
    start it in both cases: tty_io.c, start_tty().
    """
    fcntl.ioctl(tty, termios.TCXONC, termios.TCOOFF)
    fcntl.ioctl(tty, termios.TCXONC, termios.TCOON)


def _end_loop(tty: int) -> None:
    _if_here(tty, termios.TIOCMBIC, _INT.pack(linux.TIOCM_LOOP))


def _end_break(tty: int) -> None:
    _if_here(tty, linux.TIOCCBRK, 0)


def _put_serial(tty: int, serial: tuple[int, int]) -> None:
    now = fcntl.ioctl(tty, linux.TIOCGSERIAL, bytes(SERIAL))
    if _holders(now) != serial:  # else it would put a warning into the kernel's log
        (flags,) = struct.unpack_from("I", now, _FLAGS)
        # guard: holders-flags-alone
        now = _with(now, "I", _FLAGS, flags & ~HOLDERS | serial[0])
        fcntl.ioctl(tty, linux.TIOCSSERIAL, _with(now, "i", _DIVISOR, serial[1]))


def _put_rs485(tty: int, rs485: bytes) -> None:
    if _asked(tty, linux.TIOCGRS485, RS485) != rs485:  # some drivers can be asked, and not set
        fcntl.ioctl(tty, linux.TIOCSRS485, rs485)


def _looped(tty: int) -> bool:
    lines = _asked(tty, termios.TIOCMGET, _INT.size)
    return lines is not None and bool(_INT.unpack(lines)[0] & linux.TIOCM_LOOP)


def _holders(serial: bytes) -> tuple[int, int]:
    (flags,) = struct.unpack_from("I", serial, _FLAGS)
    (divisor,) = struct.unpack_from("i", serial, _DIVISOR)
    return flags & HOLDERS, divisor


def _with(data: bytes, kind: str, at: int, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(kind, changed, at, value)
    return bytes(changed)


def _asked(tty: int, number: int, size: int) -> bytes | None:
    """Return what the device says; None if this kind of device has no such thing."""
    try:
        return fcntl.ioctl(tty, number, bytes(size))
    except OSError as error:
        if error.errno in _NOT_HERE:
            return None
        raise


def _if_here(tty: int, number: int, value: bytes | int) -> None:
    try:
        fcntl.ioctl(tty, number, value)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise


_CLEAN: tuple[tuple[str, Callable[[int], object]], ...] = (
    ("line discipline", _end_discipline),  # guard: discipline-first
    ("stopped output", _end_stop),  # guard: start-stopped-output
    ("loop", _end_loop),
)
