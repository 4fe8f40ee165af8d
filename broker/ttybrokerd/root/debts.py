"""What a device is owed at its next grant: settings that may not be back as they were found."""

from __future__ import annotations

import os

from ttybroker.wire import Value
from ttybrokerd.root import TYPE_CHECKING

if TYPE_CHECKING:
    from ttybrokerd.root.settings import Settings


class Debt(Value):
    """What one device is owed. `node` tells which: another adapter may get the same number.

    `node` is the node's st_dev and st_ino. `exclusive`: the exclusive flag of a dead copy may still
    be set.
    """

    node: tuple[int, int]
    settings: Settings
    exclusive: bool


class Debts:
    """At most one debt for each device number.

    The worker of a lease writes the debt of its own device.
    """

    def __init__(self) -> None:
        self._all: dict[int, Debt] = {}

    def owe(self, descriptor: int, settings: Settings, exclusive: bool) -> None:
        """Remember that the device of this descriptor is owed these settings."""
        status = os.fstat(descriptor)
        self._all[status.st_rdev] = Debt((status.st_dev, status.st_ino), settings, exclusive)

    def due(self, descriptor: int) -> Debt | None:
        """Return what the device of this descriptor is owed; None if nothing."""
        status = os.fstat(descriptor)
        debt = self._all.get(status.st_rdev)
        # guard: debt-of-the-same-device
        return debt if debt is not None and debt.node == (status.st_dev, status.st_ino) else None

    def of(self, rdev: int) -> Debt | None:
        """Return what the device with this number is owed, whatever its node is now."""
        return self._all.get(rdev)

    def remember(self, rdev: int, debt: Debt) -> None:
        """Remember what an earlier broker owed to a device."""
        self._all[rdev] = debt

    def forget(self, rdev: int) -> None:
        """Forget the debt: the device is in order, or gone."""
        self._all.pop(rdev, None)
