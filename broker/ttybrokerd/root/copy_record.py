"""A dead copy in bytes, for the next broker: whose it was, and what its device is owed.

Values go in, bytes come out, and the other way round; docs/protocol.md has the form. Whatever is
not exactly a record raises `NoRecord`, and nothing else does.
"""

from __future__ import annotations

import math
import struct

from ttybroker.wire import Value, valid_name
from ttybrokerd.root import settings
from ttybrokerd.root.record import MAX_RECORD, NoRecord

KIND = b"ttybroker copy "
MAGIC = KIND + b"\x01"
# magic, rdev, st_dev and st_ino, exclusive, uid, pid, since, length of settings
HEAD = struct.Struct("<16sQQQBIIdH")
_TEXTS = 3


class CopyRecord(Value):
    """One dead copy. `pid` is 0 if it is not known. `since` is in seconds of the epoch.

    `node` is its node's st_dev and st_ino. `settings` are those that the device is owed, packed;
    b"" if it is owed none. `exclusive` as in debts.Debt.
    """

    rdev: int
    node: tuple[int, int]
    uid: int
    pid: int
    since: float
    name: str
    program: str
    label: str = ""
    settings: bytes = b""
    exclusive: bool = False


def encode(record: CopyRecord) -> bytes:
    """Return the record's bytes. Raises NoRecord for one that `decode` would not take."""
    texts = "\0".join((record.name, record.program, record.label, ""))
    try:
        head = HEAD.pack(MAGIC, record.rdev, *record.node, record.exclusive, record.uid, record.pid,
                         record.since, len(record.settings))  # fmt: skip
        data = head + record.settings + texts.encode("utf-8", "surrogateescape")
    except (struct.error, UnicodeEncodeError) as error:
        raise NoRecord(str(error)) from None
    decode(data)
    return data


def decode(data: bytes) -> CopyRecord:
    """Return the record in `data`. Raises NoRecord."""
    if not HEAD.size <= len(data) <= MAX_RECORD or not data.startswith(MAGIC):
        raise NoRecord(f"{len(data)} bytes, or another version")
    _, rdev, device, inode, exclusive, uid, pid, since, size = HEAD.unpack_from(data)
    owed = data[HEAD.size :][:size]
    texts = data[HEAD.size + size :].decode("utf-8", "surrogateescape").split("\0")
    if len(texts) != _TEXTS + 1 or texts[-1] or exclusive > bool(owed):
        raise NoRecord("a flag that cannot be, or texts that are missing or too many")
    name, program, label, _ = texts
    if not valid_name(name) or not math.isfinite(since):
        raise NoRecord("a name or a time that cannot be")
    try:
        if owed:
            settings.unpack(owed)
    except ValueError as error:
        raise NoRecord(str(error)) from None
    return CopyRecord(rdev, (device, inode), uid, pid, since, name, program, label, owed,
                      exclusive == 1)  # fmt: skip
