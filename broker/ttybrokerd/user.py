"""Whom a program becomes that root started, or that is set-user-ID, and the step itself."""

from __future__ import annotations

import os
import pwd

from ttybroker.wire import Value
from ttybrokerd.root import confine


class User(Value):
    """A user as a process has it."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def whom(user: str | int | None) -> User:
    """Return the user of this name or uid; for None the real one of a set-user-ID program, with
    the groups that it has. Raises ValueError if there is nobody to become."""
    if user is None:
        if os.getuid() == 0:
            raise ValueError("started as root itself: say whom to become, init_backend(user=...)")
        return User(os.getuid(), os.getgid(), tuple(os.getgroups()))
    try:
        entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except KeyError:
        raise ValueError(f"no such user: {user}") from None
    if entry.pw_uid == 0:  # guard: frontend-is-not-root
        raise ValueError("the frontend must not stay root: name another user")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_uid, entry.pw_gid, groups)


def become(user: User) -> None:
    """Become this user for good; ends the process if privilege could be got back."""
    try:
        confine.give_up_everything(user.uid, user.gid, user.groups)
    except BaseException as error:
        os.write(2, f"ttybroker: privilege could not be given up: {error}\n".encode())
        os._exit(70)
