"""A lease's record of version 1, of commit 7778755, as one of version 2.

A daemon that is started for the first time after such a one has this loaded. It reads the records
before it is confined.
"""

from __future__ import annotations

import struct

from ttybroker.wire import NO_SESSION
from ttybrokerd.root import record, settings
from ttybrokerd.root.record import NoRecord
from ttybrokerd.root.settings import Settings

_TERMIOS = struct.Struct("<6I32s")  # iflag, oflag, cflag, lflag, ispeed, ospeed, cc
_HEAD = struct.Struct(f"<16sQBIIdd{_TERMIOS.size}s")
_FLAGS = 15  # the first four are those of version 2
_TEXTS = 6
# What the codes of speeds mean in asm-generic/termbits.h: 0 to 15, and from 0x1001 on.
_SLOW = (0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400)
_FAST = (57600, 115200, 230400, 460800, 500000, 576000, 921600, 1000000, 1152000, 1500000,
         2000000, 2500000, 3000000, 3500000, 4000000)  # fmt: skip
_CODES = {**dict(enumerate(_SLOW)), **dict(enumerate(_FAST, 0x1001))}
_BOTHER, _CBAUD, _USUAL = 0x1000, 0x100F, 9600


def renewed(data: bytes) -> bytes:
    """Return the same record in version 2. Raises NoRecord for what cannot be one of version 1."""
    if len(data) < _HEAD.size:
        raise NoRecord(f"{len(data)} bytes")
    _, rdev, flags, uid, pid, since, expires, found = _HEAD.unpack_from(data)
    *texts, rest = data[_HEAD.size :].split(b"\0")
    if len(texts) != _TEXTS or rest or flags & ~_FLAGS:
        raise NoRecord("a flag that cannot be, or texts that are missing or too many")
    name, path, lock_name, rule, _user, program = texts
    packed = _of_tcgetattr(found).pack()
    head = record.HEAD.pack(record.MAGIC, rdev, flags, uid, pid, since, expires, NO_SESSION,
                            len(packed))  # fmt: skip
    return head + packed + b"\0".join((name, path, lock_name, rule, program, b"", b""))


def _of_tcgetattr(data: bytes) -> Settings:
    """Return the settings of a record of version 1, which are those of tcgetattr(3).

    Its speeds are codes; from glibc 2.42 on they are bits a second. For a speed that has no code of
    its own it has only the code that says so.
    """
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = _TERMIOS.unpack(data)
    into, out = _code(ispeed), _code(ospeed)
    bits = out[0] | (into[0] << 16 if into != out else 0)
    cflag = cflag & ~(_CBAUD | _CBAUD << 16) | bits
    attributes = struct.pack("4Ix19sII", iflag, oflag, cflag, lflag, characters[:19], into[1],
                             out[1])  # fmt: skip
    return Settings(attributes, bytes(settings.WINDOW), None, None, None)


def _code(speed: int) -> tuple[int, int]:
    """Return the code of a speed, and its bits a second."""
    rate = _USUAL if speed == _BOTHER else _CODES.get(speed, speed)
    return next((code for code, known in _CODES.items() if known == rate), _BOTHER), rate
