"""Whether a plan still holds: nothing that it was made from has changed, and it is for this system.

The paths of policies and of their plans are here, too.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from binascii import crc32

from ttybroker.version import VERSION
from ttybrokerd.root import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from ttybrokerd.root.plan import Plan

POLICY = "/etc/ttybroker/policy.toml"
SHIPPED = os.path.join(os.path.dirname(os.path.dirname(__file__)), "prepare", "policy.toml")
ELSEWHERE = 600.0  # seconds for which names from LDAP and the like are good at a start
# What a stamp says of a path. ABSENT: nothing is there. PLACE: inode, owner and mode; it is for a
# directory on the way, whose times change with every name made in it. FILE: size and times as well.
# TEXT: also the checksum of its text, because it was so young that its times might not tell the
# next change.
ABSENT, PLACE, FILE, TEXT = range(4)


def policy_path(named: str | None) -> str:
    """Return the policy's path: `named`, else /etc/ttybroker/policy.toml, else the shipped one."""
    return named or (POLICY if os.path.lexists(POLICY) else SHIPPED)


def kept_at(directory: str, policy: str) -> str:
    """Return where the plan for this policy is kept.

    Two policies may have the same checksum. The plan tells whose it is.
    """
    return f"{directory}/plan.{crc32(os.fsencode(policy)):08x}"


def made_for() -> str:
    """Return the system that a plan of this process is for. Its libraries are among the stamps."""
    system = os.uname()
    mode = "development" if sys.flags.dev_mode else "production"
    return f"{VERSION} {mode} {system.release} {system.machine} {sys.executable} {sys.version}"


def listing(names: list[str]) -> bytes:
    """Return the names of a directory as bytes: a TEXT has their checksum."""
    return os.fsencode("\0".join(sorted(names)))


def stamp(path: str, kind: int) -> tuple[int, ...]:
    """Return what STAMP of plan.py holds of this path now.

    That is ABSENT if nothing is there, or if it cannot be looked at. Raises OSError if it cannot be
    read, for a TEXT.
    """
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # ValueError: a NUL in it
        return (ABSENT, *[0] * 9)
    times = (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if kind >= FILE else (0, 0, 0)
    checksum = 0
    if kind == TEXT:
        isdir = stat.S_ISDIR(status.st_mode)
        checksum = crc32(listing(os.listdir(path)) if isdir else linux.read_file(path))
    owner = (status.st_uid, status.st_gid, status.st_mode)
    return (kind, status.st_dev, status.st_ino, *times, *owner, checksum)


def changed(plan: Plan, *, texts: bool) -> str | None:
    """Return the first path that is not as it was when the plan was made, None if all are.

    Without `texts` no file is read: a confined process may look at files that it cannot read.
    """
    for path, was in plan.stamps:
        kind = was[0] or PLACE
        if kind == TEXT and not texts:
            kind = FILE
        try:
            now = stamp(path, kind)
        except OSError:
            return path
        if now[1:-1] != was[1:-1] or (kind == TEXT and now[-1] != was[-1]):
            return path
    return None


def why_stale(plan: Plan, policy: str, system: str, *, texts: bool) -> str | None:
    """Return why this plan is not the one for this policy on this `system`, None if it is.

    `texts` is as in `changed`.
    """
    if plan.policy != policy:
        return f"it was made for {plan.policy}"
    if plan.made_for != system:  # guard: plan-of-another-system
        return "it was made for another system"
    path = changed(plan, texts=texts)
    return None if path is None else f"{path} has changed since"


def too_old(plan: Plan) -> bool:
    """Return whether names from LDAP and the like must be looked up again at a start."""
    return plan.elsewhere and not 0 <= time.time() - plan.made < ELSEWHERE
