"""The lines of the daemon's log, parsed."""

from __future__ import annotations

import re
from typing import NamedTuple

_record = re.compile(r'(\w+)=(?:"([^"]*)"|(\S*))')


class Record(NamedTuple):
    """One line of the daemon's log."""

    event: str
    fields: dict[str, str]
    text: str


def parse_record(line: str) -> Record:
    """Parse a line such as `ttybrokerd: grant port=ttyS0 user="a b"`."""
    event, _, rest = line.removeprefix("ttybrokerd: ").partition(" ")
    fields = {m[1]: m[2] if m[2] is not None else m[3] for m in _record.finditer(rest)}
    return Record(event, fields, line)
