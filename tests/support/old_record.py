"""Frozen: ttybrokerd/record.py of commit 7778755, which writes version 1. Not to be improved.

A daemon of that commit may have left such records in systemd's store.

A lease in bytes, for the next broker: what of it no descriptor tells.

One record is a fixed head, little-endian, and then texts in UTF-8, each ended by a zero byte:

    magic    16 bytes; the last is the version, and another version is no record
    rdev u64, flags u8 (1 pty, 2 console, 4 locked by the broker, 8 limited in time)
    uid u32, pid u32 (0 = unknown), since f64 (seconds of the epoch)
    expires f64 (seconds of CLOCK_MONOTONIC, which goes on while the machine runs)
    settings: iflag, oflag, cflag, lflag, ispeed, ospeed u32, cc 32 bytes: termios(3)
    name, path, lock_name, rule, user, program

Values in, bytes out, and back; whatever is not exactly that raises `NoRecord`, and nothing else.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from support.old_wire import valid_name

MAGIC = b"ttybroker lease\x01"
MAX_RECORD = 4096  # bytes; confine.FILE_SIZE is no less
NCCS = 32  # asm-generic/termbits.h has 19, the C library 32
_HEAD = struct.Struct(f"<16sQBIIdd6I{NCCS}s")
_PTY, _CONSOLE, _LOCKED, _LIMITED = 1, 2, 4, 8
_ALL = _PTY | _CONSOLE | _LOCKED | _LIMITED
_TEXTS = 6

Settings = list[int | list[bytes | int]]  # as termios.tcgetattr() has it


class NoRecord(ValueError):
    """These bytes are not a lease's record; the text says why."""


class Record(NamedTuple):
    """One lease. `locked` is whether the lock file is the broker's to remove; `settings` are the
    terminal's as they were found."""

    rdev: int
    pty: bool
    console: bool
    locked: bool
    uid: int
    pid: int
    since: float
    expires: float | None
    settings: Settings
    name: str
    path: str
    lock_name: str
    rule: str
    user: str
    program: str


def encode(record: Record) -> bytes:
    """The record's bytes. Raises NoRecord for one that `decode` would not take."""
    flags = record.pty * _PTY | record.console * _CONSOLE | record.locked * _LOCKED
    expires = 0.0
    if record.expires is not None:
        flags, expires = flags | _LIMITED, record.expires
    *numbers, characters = record.settings
    texts = (record.name, record.path, record.lock_name, record.rule, record.user, record.program)
    try:
        head = _HEAD.pack(MAGIC, record.rdev, flags, record.uid, record.pid, record.since, expires,
                          *numbers, _characters(characters))  # fmt: skip
        data = head + "".join(f"{text}\0" for text in texts).encode("utf-8", "surrogateescape")
    except (struct.error, UnicodeEncodeError) as error:
        raise NoRecord(str(error)) from None
    decode(data)
    return data


def decode(data: bytes) -> Record:
    """The record in `data`. Raises NoRecord."""
    if not _HEAD.size < len(data) <= MAX_RECORD:
        raise NoRecord(f"{len(data)} bytes")
    magic, rdev, flags, uid, pid, since, expires, *numbers, characters = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise NoRecord("another version, or something else altogether")
    texts = data[_HEAD.size :].decode("utf-8", "surrogateescape").split("\0")
    if len(texts) != _TEXTS + 1 or texts[-1]:
        raise NoRecord("texts are missing, or too many")
    name, path, lock_name, rule, user, program, _ = texts
    if flags & ~_ALL or not (math.isfinite(since) and math.isfinite(expires)):
        raise NoRecord("a flag or a time that cannot be")
    if not valid_name(name) or not path.startswith("/") or not _file_name(lock_name):
        raise NoRecord("a name or a path that cannot be")
    settings: Settings = [*numbers, [bytes([value]) for value in characters]]
    return Record(rdev, bool(flags & _PTY), bool(flags & _CONSOLE), bool(flags & _LOCKED), uid,
                  pid, since, expires if flags & _LIMITED else None, settings, name, path,
                  lock_name, rule, user, program)  # fmt: skip


def _characters(values: int | list[bytes | int]) -> bytes:
    """The control characters; VMIN and VTIME are ints where they are in force."""
    if isinstance(values, int) or len(values) != NCCS:
        raise NoRecord("settings that are none")
    return b"".join(value if isinstance(value, bytes) else bytes([value]) for value in values)


def _file_name(text: str) -> bool:
    """A device's own name in a lock file's: sysfs has ! where the name has a slash."""
    return 0 < len(text) <= 64 and text.isascii() and text.isprintable() and "/" not in text
