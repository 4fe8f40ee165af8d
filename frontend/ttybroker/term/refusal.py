"""The broker's refusal, in the words of `ttybroker term`. Loaded only for a refusal."""

from __future__ import annotations

import errno
import os

from ttybroker.errors import BrokerError
from ttybroker.holding import holding
from ttybroker.login import too_old


def refusal(error: BrokerError, name: str, waited: float | None = None) -> str:
    """Return the line for the broker's refusal, after so many seconds in the queue.

    For a busy port it has its own advice, because the broker's advice is also for other programs.
    """
    try:
        if error.errno == errno.EACCES and not error.meant:
            return f"{error}{too_old()}"
        holder = error.holder
        if error.errno not in (errno.EBUSY, errno.ETIMEDOUT) or holder is None:
            return str(error)
        state = "busy" if error.errno == errno.EBUSY else "timed out"
        if holder.how != "lease":  # the broker's advice names the lock file
            return f"{name}: {state}: {holding(holder)}; {error.advice}".removesuffix("; ")
        who_has = error.left_behind or holding(holder)
    except BrokerError:
        return str(error)
    wait = f"wait for it: ttybroker term --wait 60 {name}"
    if state == "timed out":
        wait = f"wait longer: ttybroker term --wait {max(60, round(2 * (waited or 0)))} {name}"
    own = holder.uid == os.geteuid() or os.geteuid() == 0
    if "--take" in error.advice:
        wait += f", borrow it: ttybroker term --take {name}"
    who = "take it back" if own else "have its holder or an admin take it back"
    taken = f"{who}: ttybroker revoke {name}"
    return f"{name}: {state}: {who_has}; {wait}, or {taken}"
