"""The numbers of users and groups, for the reader of the policy.

getpwnam(3) and getgrnam(3) run the modules that nsswitch.conf(5) lists. Those read files all over
/etc, and may ask LDAP, SSSD or systemd. A confined process reaches none of these, and a look-up
there would find nobody. So names are looked up until `close`; afterwards the answers of before are
all that is known.
"""

from __future__ import annotations

import grp
import pwd

_users: dict[str, int | None] = {}
_groups: dict[str, int | None] = {}
_closed = False


class Unanswered(LookupError):
    """A name that cannot be looked up; the text says why, and what to do."""


def user_id(name: str) -> int | None:
    """Look up the uid of a user.

    None: there is no such user. May block as long as the name service does. Raises Unanswered
    for a new name after `close`.
    """
    if name not in _users:
        _check_open()
        try:
            _users[name] = pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):  # ValueError: a NUL in the name
            _users[name] = None
    return _users[name]


def group_id(name: str) -> int | None:
    """Look up the gid of a group; as `user_id`."""
    if name not in _groups:
        _check_open()
        try:
            _groups[name] = grp.getgrnam(name).gr_gid
        except (KeyError, ValueError):
            _groups[name] = None
    return _groups[name]


def close() -> None:
    """Look nothing up any more."""
    global _closed
    _closed = True


def _check_open() -> None:
    if _closed:
        raise Unanswered("a running daemon looks up no new name: restart it, or write the number")
