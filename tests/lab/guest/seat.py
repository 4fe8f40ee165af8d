"""Sessions at the machine, by PAM and logind."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from service import run, until

MANAGER = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")


def session(uid: int) -> str:
    """Return the user's session with a seat, "" if there is none.

    It comes from logind itself. loginctl prints it as JSON with --output=json in systemd 252, and
    with --json=short in 257.
    """
    answer = json.loads(run("busctl", "--json=short", "call", *MANAGER, "ListSessions"))
    sessions = answer["data"][0]  # each a name, uid, user, seat and path
    return next((name for name, whose, _, seat, _ in sessions if whose == uid and seat), "")


@contextlib.contextmanager
def login(uid: int, terminal: int) -> Iterator[str]:
    """Start a session of the user on this virtual terminal, by PAM, and return its name.

    logind calls it opening until the user's own systemd is up. That takes a second, in which it may
    be active. The broker does not believe it then.
    """
    unit = f"login-on-{terminal}.service"
    run("systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--uid={uid}",
        "--property=PAMName=login", f"--property=TTYPath=/dev/tty{terminal}",
        "--property=StandardInput=tty-force", "--property=StandardOutput=tty",
        "sleep", "600")  # fmt: skip
    try:
        until("a session", lambda: session(uid))
        name = session(uid)
        until("its opening", lambda: of(name, "State") != "opening")
        yield name
    finally:
        run("systemctl", "stop", unit)
        until("the end of the session", lambda: not session(uid))


def activate(name: str) -> None:
    """Bring a session to the front, as Ctrl-Alt-F2 does."""
    run("loginctl", "activate", name)
    until("the switch", lambda: of(name, "Active") == "yes")


def lock(name: str) -> None:
    """Say that its screen is locked, as a desktop does: org.freedesktop.login1(5)."""
    path = json.loads(run("busctl", "--json=short", "call", *MANAGER, "GetSession", "s", name))
    session = ("org.freedesktop.login1", path["data"][0], "org.freedesktop.login1.Session")
    run("busctl", "call", *session, "SetLockedHint", "b", "true")
    until("the lock", lambda: of(name, "LockedHint") == "yes")


def of(name: str, what: str) -> str:
    """Return a property of a session."""
    return run("loginctl", "show-session", "--value", "-p", what, name)
