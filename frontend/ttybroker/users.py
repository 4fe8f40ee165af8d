"""The name of a user, by this machine's own name service: the broker sends only uids."""

from __future__ import annotations

from ttybroker.say import printable
from ttybroker.wire import Holder


def named(holder: Holder) -> Holder:
    """Return the holder with its user's name, if that is missing and known here.

    May block as long as the name service does: getpwuid(3), nsswitch.conf(5). So it is called only
    when a holder is shown.
    """
    if holder.uid is None or holder.user:
        return holder
    user = name_of(holder.uid)
    return Holder(holder.uid, user, holder.pid, holder.program, holder.since, holder.how,
                  holder.label)  # fmt: skip


def name_of(uid: int) -> str:
    """Return the printable name of this uid, "" if it has none here. May block."""
    import pwd  # here, for most programs show no holder

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
    return printable(name)
