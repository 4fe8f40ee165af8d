"""How the root side says no: a value that travels to the client and into the log."""

from __future__ import annotations

import errno

from ttybroker.wire import Holder, held_by


class Refusal(Exception):
    """An ordinary no. `number` is of errno(3); `reason` is one line for a person, naming the
    cause and the next step; whoever answers the client puts the port's name before it. `rule`
    is the policy's that denied it, if one did."""

    def __init__(
        self, number: int, reason: str, holder: Holder | None = None, rule: str | None = None
    ) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason
        self.holder = holder
        self.rule = rule

    @classmethod
    def out_of_means(cls, error: OSError) -> Refusal:
        """Return a refusal because the broker is out of descriptors, memory or the like."""
        return cls(error.errno or errno.EIO, f"the broker cannot: {error.strerror}; try later")


def busy(holder: Holder) -> Refusal:
    """EBUSY, naming who has the port."""
    return Refusal(errno.EBUSY, f"busy: {held_by(holder)}", holder)
