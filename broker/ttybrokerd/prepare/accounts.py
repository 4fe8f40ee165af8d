"""Numbers of users and groups: getpwnam(3), getgrnam(3), and where names come from."""

from __future__ import annotations

import grp
import pwd

from ttybrokerd.root import linux

SWITCH = "/etc/nsswitch.conf"
FILES = ("/etc/passwd", "/etc/group", SWITCH)
LOCAL = {"files", "compat", "systemd"}  # services that answer from what this machine has


class Accounts:
    """The name service of this system. It may block for as long as LDAP and the like do.

    If all names come from this machine, its files are read once. getpwnam(3) reads them again for
    each name, which takes seconds for thousands of names.
    """

    def __init__(self) -> None:
        self.asked = False  # whether any name was looked up
        self._users: dict[str, int] | None = None
        self._groups: dict[str, grp.struct_group] | None = None
        self._primary: dict[int, set[int]] | None = None  # uids by gid

    def user_id(self, name: str) -> int | None:
        """Return the uid of a user, None if there is no such user."""
        self.asked = True
        if self._users is None:
            everybody = [] if elsewhere(SWITCH) else pwd.getpwall()
            self._users = {user.pw_name: user.pw_uid for user in reversed(everybody)}  # first wins
        try:
            return self._users[name] if name in self._users else pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):  # ValueError: a NUL in the name
            return None

    def group_id(self, name: str) -> int | None:
        """Return the gid of a group, None if there is no such group."""
        group = self._group(name)
        return None if group is None else group.gr_gid

    def members(self, name: str) -> frozenset[int]:
        """Return the uids of the members of a group.

        Members are the users whom group(5) lists, and those whose own group it is in passwd(5). A
        member without an account is left out. So is a user whose own group only another machine
        knows.
        """
        group = self._group(name)
        if group is None:
            return frozenset()
        if self._primary is None:
            self._primary = _primary(FILES[0])
        listed = {self.user_id(member) for member in group.gr_mem}
        return frozenset(listed - {None} | self._primary.get(group.gr_gid, set()))  # type: ignore[arg-type]

    def _group(self, name: str) -> grp.struct_group | None:
        self.asked = True
        if self._groups is None:
            all_groups = [] if elsewhere(SWITCH) else grp.getgrall()
            self._groups = {group.gr_name: group for group in reversed(all_groups)}
        try:
            return self._groups[name] if name in self._groups else grp.getgrnam(name)
        except (KeyError, ValueError):
            return None


def _primary(passwd: str) -> dict[int, set[int]]:
    """Return the uids in this file by their own group: passwd(5)."""
    found: dict[int, set[int]] = {}
    try:
        lines = linux.read_file(passwd).decode("utf-8", "surrogateescape").splitlines()
    except OSError:  # then no name is known either
        return found
    for fields in (line.split(":") for line in lines):
        if len(fields) > 3 and fields[2].isdecimal() and fields[3].isdecimal():
            found.setdefault(int(fields[3]), set()).add(int(fields[2]))
    return found


def elsewhere(switch: str) -> bool:
    """Return whether names may come from other machines: nsswitch.conf(5), `passwd` and `group`."""
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
