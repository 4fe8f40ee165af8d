"""A session keeps the groups that it began with. Loaded for a refusal alone."""

from __future__ import annotations

import os


def too_old() -> str:
    """Return "; this session began before you were in lab: log in again", "" if it did not.

    The broker goes by the groups of the process, as the kernel does. May block as long as the name
    service does.
    """
    import grp
    import pwd

    try:
        entry = pwd.getpwuid(os.getuid())
        given = set(os.getgrouplist(entry.pw_name, entry.pw_gid))
        missing = sorted(given - {entry.pw_gid, os.getgid(), *os.getgroups()})
        names = ", ".join(grp.getgrgid(gid).gr_name for gid in missing)
    except (KeyError, OSError):  # no account of that name here
        return ""
    return f"; this session began before you were in {names}: log in again" if names else ""
