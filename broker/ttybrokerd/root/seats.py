"""Who sits at the machine: the user of the active session of each local seat.

systemd-logind says so in files below /run/systemd. Their form is systemd's own ("private data").
libsystemd reads the same fields: sd_seat_get_active(3), sd_session_get_class(3). They are read
here, because that is less code than a D-Bus client, or than a helper that lives beside the broker.
A seat whose fields are missing, or say something else, is empty.
"""

from __future__ import annotations

import os

from ttybrokerd.root import TYPE_CHECKING, trust

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = "/run/systemd"
MOST = 1 << 16  # bytes of a file: a seat's lists all of its sessions
MOST_SEATS = 64


def make_place() -> None:
    """Make the directory, because logind may come later.

    A confined process cannot read what was not there when Landlock confined it.
    """
    try:
        os.mkdir(TOP)
        os.chmod(TOP, 0o755)
    except OSError:  # it is there; or it cannot be, and then nobody sits anywhere
        pass


def look(hear: Callable[[str], None]) -> dict[str, int]:
    """Return the uid of the user who sits at each seat, by seat; {} if there is no logind.

    `hear` is called with each directory whose changes are to be told, before it is read. If it
    raises OSError, nobody sits anywhere, because nobody would hear when that ends.
    """
    found: dict[str, int] = {}
    try:
        for directory in (TOP, f"{TOP}/seats", f"{TOP}/sessions"):
            hear(directory)  # guard: unheard-seats-are-empty
        for seat in os.listdir(f"{TOP}/seats")[:MOST_SEATS]:
            uid = _user(seat)
            # guard: number-of-a-length
            if uid.isdecimal() and len(uid) <= 10 and int(uid) < 0xFFFFFFFF:
                found[seat] = int(uid)
    except OSError:  # not there, or not yet
        return {}
    return found


def _user(seat: str) -> str:
    """Return the uid of the user who sits at the seat, as text; "" if nobody does.

    A greeter is nobody, and so is a user of whom the files make no sense.
    """
    sits = _fields(f"seats/{seat}")
    uid, session = sits.get("ACTIVE_UID", ""), sits.get("ACTIVE", "")
    if not session.isalnum():  # guard: session-is-a-name
        return ""
    # A session that is closing stays its seat's until its last process has ended.
    wanted = {"SEAT": seat, "UID": uid, "ACTIVE": "1", "STATE": "active", "REMOTE": "0",
              "CLASS": "user"}  # fmt: skip
    # guard: session-of-a-user
    return uid if wanted.items() <= _fields(f"sessions/{session}").items() else ""


def _fields(name: str) -> dict[str, str]:
    """Return what a file says; {} if it is not there, or others than root could write it."""
    try:
        text = trust.read(f"{TOP}/{name}", MOST).decode("ascii", "replace")  # guard: logind-is-root
    except (OSError, ValueError):
        return {}
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, _, value in pairs}
