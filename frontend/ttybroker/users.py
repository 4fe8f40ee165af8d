"""The name of a user, as this machine's own name service has it: the broker sends uids alone."""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.wire import Holder


def named(holder: Holder) -> Holder:
    """Fill in the name of the holder's user, where it is missing and known here.

    Returns the holder itself. May block as long as the name service does: getpwuid(3),
    nsswitch.conf(5). So it is called where a holder is shown, and nowhere before.
    """
    if holder.uid is not None and not holder.user:
        holder.user = _name(holder.uid)
    return holder


def _name(uid: int) -> str:
    import pwd  # here, for most programs show no holder

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
    return "".join(c if c.isprintable() else "?" for c in name)
