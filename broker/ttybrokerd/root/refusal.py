"""How the root side says no: a value that travels to the client and into the log."""

from __future__ import annotations

import errno

from ttybroker.wire import Holder, Refused

# In an answer these mean what docs/protocol.md says. EBUSY is the same from a device.
OURS = (errno.EINVAL, errno.ENOENT, errno.EACCES, errno.ETIMEDOUT, errno.ECONNREFUSED,
        errno.EPROTO, errno.EDQUOT, errno.ESTALE, errno.ESRCH, errno.EOPNOTSUPP)  # fmt: skip


class Refusal(Exception):
    """An ordinary no.

    `number` is of errno(3). `cause` and `advice` (what to do next) are for a person, on one line.
    Whoever shows them puts the port's name in front and `holder` between. `rule` is the rule of the
    policy that denied it, if one did.
    """

    def __init__(
        self,
        number: int,
        cause: str,
        holder: Holder | None = None,
        rule: str | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(cause)
        self.number = number
        self.cause = cause
        self.holder = holder
        self.rule = rule
        self.advice = advice

    def answer(self) -> Refused:
        """Return the message for the client."""
        return Refused(self.number, self.cause, self.holder, self.advice)

    @property
    def reason(self) -> str:
        """The whole line, for the log."""
        return self.answer().message()

    @classmethod
    def out_of_means(cls, error: OSError | MemoryError) -> Refusal:
        """Return the refusal of a broker that is out of descriptors, memory or the like."""
        if isinstance(error, MemoryError):
            error = OSError(errno.ENOMEM, "no memory is left")
        what = f"the broker is short of a resource: {error.strerror}"
        return cls(of_device(error.errno), what, advice="try later")


class Denied(Refusal):
    """The policy says no to this caller, whatever the device does.

    `for_now`: it allows the caller the port, but something is missing that may yet come.
    """

    for_now = False


class Absent(Refusal):
    """No device has the name now, or another has it than before. A request may wait for one.

    `again`: the seconds after which to look again, although no name has come. None: a name will
    come first.
    """

    again: float | None = None


def busy(holder: Holder, or_else: str = "") -> Refusal:
    """Return EBUSY, naming who has the port; `or_else` is advice beside waiting."""
    advice = "wait for it (wait=SECONDS in Python, --wait SECONDS on the command line)"
    advice += or_else and f", or {or_else}"
    if holder.how == "lease":
        advice += ", or have its holder or an admin take it back (ttybroker revoke)"
    elif holder.how == "login":
        advice += f", or have root see which service it is (systemctl status {holder.pid})"
    elif holder.pid is None:
        advice += ", or have root see who has it open (ttybroker list PORT --copies)"
    return Refusal(errno.EBUSY, "busy", holder, advice=advice)


def of_device(number: int | None) -> int:
    """Return the errno to answer where a system call failed with `number`.

    It is EIO where an answer with that number would mean something else. For example, a driver's
    EINVAL is not the caller's bad name.
    """
    if number is None or number in OURS:  # guard: errno-of-a-device
        return errno.EIO
    return number
