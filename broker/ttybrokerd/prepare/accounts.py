"""Numbers of users and groups: getpwnam(3), getgrnam(3), and where their names come from."""

from __future__ import annotations

import grp
import pwd

from ttybrokerd.root import linux

SWITCH = "/etc/nsswitch.conf"
FILES = ("/etc/passwd", "/etc/group", SWITCH)
LOCAL = {"files", "compat", "systemd"}  # services that answer from what this machine has


class Accounts:
    """The name service of this system. It may block for as long as LDAP and the like do."""

    def __init__(self) -> None:
        self.asked = False  # whether any name was looked up

    def user_id(self, name: str) -> int | None:
        """The uid of a user, None if there is no such user."""
        self.asked = True
        try:
            return pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):  # ValueError: a NUL in the name
            return None

    def group_id(self, name: str) -> int | None:
        """The gid of a group, None if there is no such group."""
        self.asked = True
        try:
            return grp.getgrnam(name).gr_gid
        except (KeyError, ValueError):
            return None


def elsewhere(switch: str) -> bool:
    """Whether names may come from another machine: nsswitch.conf(5), `passwd` and `group`."""
    try:
        text = linux.read_file(switch).decode("ascii", "replace")
    except FileNotFoundError:  # then it is files alone
        return False
    for line in text.splitlines():
        database, _, services = line.partition("#")[0].partition(":")
        words = {word for word in services.split() if not word.startswith("[")}
        if database.strip() in ("passwd", "group", "initgroups") and words - LOCAL:
            return True
    return False
