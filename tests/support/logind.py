"""The files of systemd-logind, as systemd 252 writes them: to a temporary file, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

HOOK = "from ttybrokerd.root import seats; seats.TOP = {!r}"  # in the daemon, before it starts


class Logind:
    """A directory like /run/systemd."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def start(self) -> None:
        """Make its directories."""
        for name in ("seats", "sessions"):
            (self.top / name).mkdir(parents=True)

    def write(self, name: str, fields: dict[str, object]) -> None:
        """Write one file."""
        path = self.top / name
        lines = (f"{key}={value}\n" for key, value in fields.items())
        part = path.with_name(f".#{path.name}")
        part.write_text("# This is private data. Do not parse.\n" + "".join(lines))
        os.chmod(part, 0o644)
        part.rename(path)

    def session(self, uid: int, number: str = "1", seat: str = "seat0", **fields: object) -> None:
        """Write a session's file. It is active unless `fields` says otherwise."""
        usual = {"UID": uid, "USER": "x", "ACTIVE": 1, "STATE": "active", "REMOTE": 0,
                 "TYPE": "tty", "CLASS": "user", "SEAT": seat}  # fmt: skip
        self.write(f"sessions/{number}", {**usual, **fields})

    def sits(self, uid: int | None, number: str = "1", seat: str = "seat0") -> None:
        """Put a user's session in front of a seat; None: nobody's session."""
        front = {} if uid is None else {"ACTIVE": number, "ACTIVE_UID": uid}
        if uid is not None:
            self.session(uid, number, seat)
        self.write(f"seats/{seat}", {"IS_SEAT0": 1, "CAN_MULTI_SESSION": 1, **front})

    def logs_out(self, number: str = "1", seat: str = "seat0") -> None:
        """End a session; nobody's is in front of the seat then."""
        self.sits(None, seat=seat)
        (self.top / "sessions" / number).unlink()

    def unplug(self, seat: str = "seat0") -> None:
        """Remove a seat."""
        (self.top / "seats" / seat).unlink()
