"""Numbers of users and groups: getpwnam(3), getgrnam(3), and where their names come from."""

from __future__ import annotations

import grp
import pwd

from ttybrokerd.root import linux

SWITCH = "/etc/nsswitch.conf"
FILES = ("/etc/passwd", "/etc/group", SWITCH)
LOCAL = {"files", "compat", "systemd"}  # services that answer from what this machine has


class Accounts:
    """The name service of this system. It may block for as long as LDAP and the like do.

    Where names come from this machine alone, its files are read once: getpwnam(3) reads them
    anew for each name, which for thousands takes seconds.
    """

    def __init__(self) -> None:
        self.asked = False  # whether any name was looked up
        self._users: dict[str, int] | None = None
        self._groups: dict[str, int] | None = None

    def user_id(self, name: str) -> int | None:
        """The uid of a user, None if there is no such user."""
        self.asked = True
        if self._users is None:
            everybody = [] if elsewhere(SWITCH) else pwd.getpwall()
            self._users = {user.pw_name: user.pw_uid for user in reversed(everybody)}  # first wins
        try:
            return self._users[name] if name in self._users else pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):  # ValueError: a NUL in the name
            return None

    def group_id(self, name: str) -> int | None:
        """The gid of a group, None if there is no such group."""
        self.asked = True
        if self._groups is None:
            all_groups = [] if elsewhere(SWITCH) else grp.getgrall()
            self._groups = {group.gr_name: group.gr_gid for group in reversed(all_groups)}
        try:
            return self._groups[name] if name in self._groups else grp.getgrnam(name).gr_gid
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
