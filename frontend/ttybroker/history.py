"""`ttybroker history`: who had a port, from the records of the daemon in the journal."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import time
from shutil import which

from ttybroker import listing
from ttybroker.say import printable
from ttybroker.users import name_of

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

_TITLES = ("FROM", "TO", "USER", "PROGRAM", "PORT", "ENDED")
# Anybody can write to the journal under any name. `_UID` is the kernel's word:
# systemd.journal-fields(7).
_OURS = ("_UID=0", "SYSLOG_IDENTIFIER=ttybrokerd")
_EVENTS = ("grant", "adopt", "revoke", "release")


class NoJournal(Exception):
    """The journal cannot be read; the text says why."""


class Lease:
    """Who had a port. `began` and `ended` are in seconds of the epoch; None: not known."""

    def __init__(self, record: Record, began: float | None) -> None:
        self.port, self.device = record.text("PORT"), record.text("DEVICE")
        self.uid, self.pid = record.number("UID"), record.number("PID")
        self.program, self.label = record.text("PROGRAM"), record.text("LABEL")
        self.began = began
        self.ended: float | None = None
        self.why = ""
        self.by = ""

    def fields(self) -> dict[str, object]:
        """Return the fields for a program."""
        return {
            "port": self.port,
            "device": self.device or None,
            "uid": self.uid,
            "user": None if self.uid is None else name_of(self.uid) or None,
            "pid": self.pid,
            "program": self.program or None,
            "label": self.label or None,
            "from": self.began,
            "to": self.ended,
            "ended": self.why or None,
            "by": self.by or None,
        }

    def row(self) -> tuple[str, ...]:
        """Return the cells of its row in the table."""
        user = "?" if self.uid is None else name_of(self.uid) or f"uid {self.uid}"
        program = f"{self.program} ({self.pid})" if self.pid else self.program
        label = f" for {self.label!r}" if self.label else ""
        why = f"{self.why} by {self.by}" if self.by else self.why
        cells = _moment(self.began), _moment(self.ended), user, program + label, self.port, why
        return tuple(map(printable, cells))


class Record:
    """One record of the daemon, as journalctl(1) prints it: JSON, all values texts."""

    def __init__(self, line: str) -> None:
        """Read one line of journalctl's JSON. Raises ValueError if it is no record."""
        self._fields = json.loads(line)
        if not isinstance(self._fields, dict):
            raise ValueError(line)

    @property
    def at(self) -> float:
        """Return when it was written, in seconds of the epoch. Raises ValueError without a moment.

        The field has 64 bits of microseconds: systemd.journal-fields(7). "nan" and the like are not
        moments.
        """
        microseconds = int(str(self._fields.get("__REALTIME_TIMESTAMP")))
        if not 0 <= microseconds < 1 << 64:
            raise ValueError(microseconds)
        return microseconds / 1e6

    def text(self, name: str) -> str:
        """Return a value as it was before the daemon escaped it; "" if there is none."""
        value = self._fields.get(f"TTYBROKER_{name}")
        if not isinstance(value, str):
            return ""
        try:
            return codecs.decode(value, "unicode_escape")
        except ValueError:
            return value

    def number(self, name: str) -> int | None:
        """Return a value that is a number; None if there is none."""
        value = self.text(name)
        number = value.isdecimal() and value.isascii() and len(value) <= 10  # 32 bits
        return int(value) if number else None


def read(port: str) -> list[Lease]:
    """Return the leases of the port, the oldest first. Raises NoJournal.

    `port` is the name that the request had, or the name of the device.
    """
    ours = [*_OURS, *(f"TTYBROKER_EVENT={event}" for event in _EVENTS)]
    wanted = [*ours, f"TTYBROKER_PORT={port}", "+", *ours, f"TTYBROKER_DEVICE=/dev/{port}"]
    lines, _ = _journalctl("--output=json", "--all", *wanted)
    found = leases(lines)
    if not found:  # with JSON it does not say that there is no journal, or none for this user
        _, said = _journalctl("--lines=0")
        if said:
            raise NoJournal(said)
    return found


def _journalctl(*words: str) -> tuple[list[str], str]:
    """Return the output of journalctl(1), and its messages. Raises NoJournal."""
    try:
        done = subprocess.run(
            ["journalctl", "--no-pager", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise NoJournal(f"journalctl: {error.strerror}") from None
    said = " ".join(printable(line.strip()) for line in done.stderr.splitlines()).rstrip(".")
    if done.returncode:
        raise NoJournal(said or f"journalctl ended with status {done.returncode}")
    return done.stdout.splitlines(), said


def leases(lines: Iterable[str]) -> list[Lease]:
    """Make leases of records.

    The journal may begin after the grant of a lease. Then the beginning of that lease is unknown.
    """
    found: list[Lease] = []
    held: dict[str, Lease] = {}  # by device
    for line in lines:
        try:
            record = Record(line)
            event, at = record.text("EVENT"), record.at
        except ValueError:  # a record of somebody else
            continue
        who = record.number("UID"), record.number("PID")
        device = record.text("DEVICE")
        if event == "revoke":
            for one in held.values():
                # An earlier daemon did not name the device here.
                if (one.uid, one.pid) == who and device in ("", one.device):
                    one.by = record.text("BY")
            continue
        lease = held.get(device)
        if lease is None or event == "grant" or (lease.uid, lease.pid) != who:
            lease = held[device] = Lease(record, at if event == "grant" else None)
            found.append(lease)
        if event == "release":
            lease.ended, lease.why = at, record.text("REASON")
            lease.by = lease.by if lease.why == "revoked" else ""
            del held[device]
    return found


def show(found: list[Lease]) -> None:
    """Print the table."""
    listing.table(_TITLES, [lease.row() for lease in found], lambda _: ())


def show_json(found: list[Lease]) -> None:
    """Print a JSON array, one object a lease; what is not known is null."""
    print(json.dumps([lease.fields() for lease in found], indent=2))


def hint(port: str) -> str:
    """Return the next step for somebody who may not read the whole journal, or has none."""
    if which("journalctl") is None:
        return "; without systemd the records are on ttybrokerd's standard error"
    if os.geteuid() == 0:
        return ""
    return f"; root and group adm read the whole journal: sudo ttybroker history {port}"


def _moment(when: float | None) -> str:
    return "" if when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
