"""Open a port for a request, as far as the policy and the descriptors that are left allow.

This runs where workers.py watches. For a request that waited, the node is looked at anew, because
it may be another by now.
"""

from __future__ import annotations

import errno
import resource

from ttybrokerd.root import TYPE_CHECKING, port
from ttybrokerd.root.lease import Lease
from ttybrokerd.root.refusal import Absent, Refusal

if TYPE_CHECKING:
    from ttybrokerd.root.connection import OpenRequest
    from ttybrokerd.root.device import Devices, Seen
    from ttybrokerd.root.judge import Judge
    from ttybrokerd.root.others import Others

RESERVE = 32  # descriptors that no user's lease takes, for what root asks for


class Opener:
    """Opens ports for requests."""

    def __init__(self, judge: Judge, devices: Devices, others: Others) -> None:
        self._judge = judge
        self._devices = devices
        self._others = others

    def open(
        self, key: int, request: OpenRequest, seen: Seen | None, ghosts: frozenset[int]
    ) -> tuple[Lease, int] | Refusal:
        """Return the lease of the device with the number `key`, and the holder's descriptor.

        `seen` is what was looked at just now, which is then closed; None for a request that waited.
        `ghosts` as in port.acquire(). Returns a Refusal on a failure, with nothing left behind.
        """
        try:
            if seen is None:
                ruling = self._judge.of(request.client.identity)
                seen = ruling.look(request.target, request.rule)
        except Refusal as refusal:
            return refusal
        except (OSError, MemoryError) as error:
            return Refusal.out_of_means(error)
        if (no := _why_not(key, request, seen)) is not None:
            seen.close()
            return no
        lease = Lease(key, request, seen.target, request.rule, request.pid, seen.kernel_name,
                      self._others.files)  # fmt: skip
        return port.acquire(lease, self._devices, seen, self._others, ghosts)


def _why_not(key: int, request: OpenRequest, seen: Seen) -> Refusal | None:
    """Return why what was looked at is not opened, None if it may be."""
    if seen.rdev != key:  # guard: renamed-device
        return Absent(errno.ENODEV, "another device has this name now; ask again")
    try:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError as error:
        return Refusal.out_of_means(error)
    # guard: descriptors-for-root
    if request.uid != 0 and seen.node >= most - RESERVE:  # the kernel gives the lowest
        what = "the broker has no descriptor left for it"
        return Refusal(errno.EMFILE, what, advice="try later")
    return None
