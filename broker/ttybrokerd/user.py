"""The user that a program becomes if root started it or it is set-user-ID, and the step itself."""

from __future__ import annotations

import os
import pwd

import prctl

from ttybroker.wire import Value
from ttybrokerd.root import TYPE_CHECKING, confine
from ttybrokerd.root.confine import NotConfined

if TYPE_CHECKING:
    from collections.abc import Callable


class User(Value):
    """A user, as a process has it."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def whom(user: str | int | None) -> User:
    """Return the user of this name or uid; for None the real one of a set-user-ID program.

    The latter has the groups of the process. Raises ValueError if there is no user to become.
    """
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
    """Become this user for good. Ends the process if root could be regained."""
    try:
        give_up_everything(user)
    except BaseException as error:
        os.write(2, f"ttybroker: privilege could not be given up: {error}\n".encode())
        os._exit(70)


def give_up_everything(user: User) -> None:
    """Become this user for good, without a capability, and prove that there is no way back.

    Raises NotConfined if the kernel still gives anything; then the process must end.
    """
    uid, gid = user.uid, user.gid
    os.setgroups(user.groups)  # guard: frontend-groups
    os.setresgid(gid, gid, gid)
    confine.cut_bounding_set(())
    os.setresuid(uid, uid, uid)  # guard: frontend-uid
    confine.cut_sets(())  # guard: frontend-capabilities
    prctl.set_no_new_privs(1)
    confine.verify(permitted=0, bounding=0)
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3:
        raise NotConfined("user or group ids are not what they were set to")
    if set(os.getgroups()) != set(user.groups):
        raise NotConfined("supplementary groups are not what they were set to")
    _prove_no_way_back(gid)


def _prove_no_way_back(gid: int) -> None:
    """Try to be root again. Raises NotConfined if any way works.

    A user with gid 0 of his own tries another group.
    """
    other = 0 if gid != 0 else 1
    ways: tuple[Callable[[], None], ...] = (
        lambda: os.setresuid(0, 0, 0),
        lambda: os.setuid(0),
        lambda: os.seteuid(0),
        lambda: os.setresgid(other, other, other),
        lambda: os.setgroups([0]),
    )
    for way in ways:
        try:
            way()
        except PermissionError:
            continue
        # guard: frontend-cannot-come-back
        raise NotConfined("privilege came back after it was given up")
