"""A lease in bytes, for the next broker: all that its descriptors do not tell.

Values go in, bytes come out, and the other way round; docs/protocol.md has the form. Version 2 is
written. Version 1, of commit 7778755, is read too: by prepare/record_1.py, which is loaded for that
alone. Whatever is not exactly a record raises `NoRecord`, and nothing else does.
"""

from __future__ import annotations

import math
import struct

from ttybroker.wire import NO_SESSION, Value, valid_name
from ttybrokerd.root import settings

MAGIC = b"ttybroker lease\x02"
MAGIC_1 = b"ttybroker lease\x01"
MAX_RECORD = 4096  # bytes; confine.FILE_SIZE is no less
# magic, rdev, flags, uid, pid, since, expires, session, length of settings
HEAD = struct.Struct("<16sQBIIdd16sH")
# Flags, by the fields of a record.
_FLAGS = {"pty": 1, "console": 2, "locked": 4, "yield_user": 16, "yield_all": 32, "active": 64}
_LIMITED = 8
_ALL_FLAGS = 127
_TEXTS = 6  # and one more if there are claims
MOST_CLAIMS = 32  # claims that a record has room for; those behind them are not kept


class NoRecord(ValueError):
    """These bytes are not a lease's record; the text says why."""


class Record(Value):
    """One lease.

    `pid` is 0 if it is not known. `since` is in seconds of the epoch. `expires` is in seconds of
    CLOCK_MONOTONIC, which goes on while the machine runs; None if there is no time limit.
    `settings` are the port's as they were found, packed. A lease with NO_SESSION cannot be joined.
    `claims`: user and session of those who lent the port, the next one first. `locked`: the lock
    file is the broker's to remove. `active`: the lease lasts only while its user sits at the
    machine.
    """

    rdev: int
    uid: int
    pid: int
    since: float
    expires: float | None
    settings: bytes
    name: str
    path: str
    lock_name: str
    rule: str
    program: str
    label: str = ""
    session: bytes = NO_SESSION
    claims: tuple[tuple[int, bytes], ...] = ()
    pty: bool = False
    console: bool = False
    locked: bool = False
    yield_user: bool = False
    yield_all: bool = False
    active: bool = False


def encode(record: Record) -> bytes:
    """Return the record's bytes. Raises NoRecord for one that `decode` would not take."""
    flags = sum(bit for field, bit in _FLAGS.items() if getattr(record, field))
    expires = 0.0
    if record.expires is not None:
        flags, expires = flags | _LIMITED, record.expires
    _check(record, expires)
    texts = "\0".join((record.name, record.path, record.lock_name, record.rule, record.program,
                       record.label, ""))  # fmt: skip
    claims = record.claims[:MOST_CLAIMS]
    broken = texts.count("\0") != _TEXTS or len(record.session) != len(NO_SESSION)
    if broken or any(len(number) != len(NO_SESSION) for _, number in claims):
        raise NoRecord("a text with a zero byte in it, or no session")
    if claims:
        texts += " ".join(f"{uid:08x}{number.hex()}" for uid, number in claims) + "\0"
    try:
        head = HEAD.pack(MAGIC, record.rdev, flags, record.uid, record.pid, record.since, expires,
                          record.session, len(record.settings))  # fmt: skip
        data = head + record.settings + texts.encode("utf-8", "surrogateescape")
    except (struct.error, UnicodeEncodeError) as error:
        raise NoRecord(str(error)) from None
    if len(data) > MAX_RECORD:
        raise NoRecord(f"{len(data)} bytes")
    return data


def decode(data: bytes) -> Record:
    """Return the record in `data`. Raises NoRecord.

    One of version 1 can be read only before the process is confined.
    """
    if len(data) > MAX_RECORD:
        raise NoRecord(f"{len(data)} bytes")
    if data.startswith(MAGIC_1):
        from ttybrokerd.prepare.record_1 import renewed

        data = renewed(data)
    if not data.startswith(MAGIC):
        raise NoRecord("another version, or something else altogether")
    if len(data) < HEAD.size:
        raise NoRecord(f"{len(data)} bytes")
    _, rdev, flags, uid, pid, since, expires, session, size = HEAD.unpack_from(data)
    found = data[HEAD.size :][:size]
    texts = data[HEAD.size + size :].decode("utf-8", "surrogateescape").split("\0")
    claims = _claims(texts.pop(_TEXTS)) if len(texts) == _TEXTS + 2 else ()
    if len(texts) != _TEXTS + 1 or texts[-1] or flags & ~_ALL_FLAGS:
        raise NoRecord("a flag that cannot be, or texts that are missing or too many")
    name, path, lock_name, rule, program, label, _ = texts
    limit = expires if flags & _LIMITED else None
    flagged = {field: bool(flags & bit) for field, bit in _FLAGS.items()}
    record = Record(rdev, uid, pid, since, limit, found, name, path, lock_name, rule, program,
                    label, session, claims, **flagged)  # fmt: skip
    _check(record, expires)
    return record


def _claims(text: str) -> tuple[tuple[int, bytes], ...]:
    """Return user and session of each claim in the text.

    Raises NoRecord if it is no list of claims.
    """
    try:
        found = [bytes.fromhex(word) for word in text.split(" ")]
    except ValueError:
        found = []
    size = 4 + len(NO_SESSION)
    if not 0 < len(found) <= MOST_CLAIMS or any(len(one) != size for one in found):
        raise NoRecord("claims that cannot be")
    return tuple((int.from_bytes(one[:4], "big"), one[4:]) for one in found)


def _check(record: Record, expires: float) -> None:
    """Raise NoRecord for a field that no lease has."""
    if not (math.isfinite(record.since) and math.isfinite(expires)):
        raise NoRecord("a time that cannot be")
    if (
        not valid_name(record.name)
        or not record.path.startswith("/")
        or not _file_name(record.lock_name)
    ):
        raise NoRecord("a name or a path that cannot be")
    try:
        settings.unpack(record.settings)
    except ValueError as error:
        raise NoRecord(str(error)) from None


def _file_name(text: str) -> bool:
    """Return whether this is a device's own name, as in a lock file's.

    sysfs has ! where the name has a slash.
    """
    return 0 < len(text) <= 64 and text.isascii() and text.isprintable() and "/" not in text
