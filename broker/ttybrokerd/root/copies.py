"""Dead copies: descriptors of holders that were hung up, which they may keep for ever.

To know whether one is still open takes a look into /proc, and each user may keep many. So what one
user keeps is looked at when that user asks. Others pay for few looks.

systemd keeps what is known of them over a restart, as it keeps leases: `keeper`.
"""

from __future__ import annotations

import select

from ttybroker.wire import Holder
from ttybrokerd.root import TYPE_CHECKING, linux
from ttybrokerd.root.copy_record import CopyRecord
from ttybrokerd.root.debts import Debt
from ttybrokerd.root.settings import unpack

if TYPE_CHECKING:
    from ttybrokerd.root.keeper import Keeper
    from ttybrokerd.root.store import KeptCopy

SOME = 4  # copies that are looked at whoever asks, by turns
# Copies that systemd keeps, two descriptors each. ttybroker.service, FileDescriptorStoreMax=, has
# room for them beside its 512 leases.
MOST_KEPT = 256


class DeadCopy:
    """One dead copy: its device, the node's st_dev and st_ino, its user, and its old holder.

    `name` is the port's, as it was asked for. `watcher` is the epoll set that lists the copy.
    `owed`: what the lease left to be paid to the device, as long as that is not paid. `stays`:
    whether it has a place in systemd's store; `kept`: its name there, "" if it is not there yet.
    """

    __slots__ = ("device", "holder", "kept", "name", "node", "owed", "stays", "uid", "watcher")

    def __init__(
        self,
        device: int,
        node: tuple[int, int],
        uid: int,
        holder: Holder,
        name: str,
        watcher: select.epoll,
    ) -> None:
        self.device = device
        self.node = node
        self.uid = uid
        self.holder = holder
        self.name = name
        self.watcher = watcher
        self.owed: Debt | None = None
        self.stays = False
        self.kept = ""

    @classmethod
    def adopted(cls, kept: KeptCopy) -> DeadCopy:
        """Return the dead copy that an earlier broker kept in systemd's store."""
        was = kept.record
        holder = Holder(was.uid, "", was.pid or None, was.program, was.since, "lease", was.label)
        copy = cls(was.rdev, was.node, was.uid, holder, was.name, kept.watcher)
        copy.owed = Debt(was.node, unpack(was.settings), was.exclusive) if was.settings else None
        copy.stays, copy.kept = True, kept.name
        return copy

    def record(self) -> CopyRecord:
        """Return what its watcher does not tell, for the next broker."""
        holder, owed = self.holder, self.owed
        return CopyRecord(self.device, self.node, self.uid, holder.pid or 0, holder.since or 0,
                          self.name, holder.program, holder.label,
                          b"" if owed is None else owed.settings.pack(),
                          owed is not None and owed.exclusive)  # fmt: skip


class DeadCopies:
    """All dead copies that are known."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._all: list[DeadCopy] = []
        self._turn = 0  # at which copy the next turn begins

    def add(self, copy: DeadCopy) -> None:
        """Remember one more, until it is closed, and over a restart if there is a place."""
        # guard: places-for-leases
        copy.stays = sum(one.stays for one in self._all) < MOST_KEPT
        self._all.append(copy)
        if copy.stays:
            self._keeper.take_copy(copy)

    def adopt(self, copy: DeadCopy) -> None:
        """Remember one that an earlier broker kept."""
        self._all.append(copy)

    def owe(self, device: int, debt: Debt | None) -> None:
        """Note what this device is owed now, where copies say that it is owed something."""
        for copy in self._all:
            # guard: paid-is-paid-for-good
            if copy.device == device and copy.owed not in (None, debt):
                copy.owed = debt
                if copy.stays:
                    self._keeper.take_copy(copy)

    def of(self, uid: int) -> int:
        """Return how many copies this user still keeps open."""
        self.forget(uid)
        return sum(copy.uid == uid for copy in self._all)

    def forget(self, uid: int) -> None:
        """Forget this user's copies that are closed, and some of the others'."""
        turn = self._turn + SOME
        self._turn = turn if turn < len(self._all) else 0  # guard: each-copy-has-its-turn
        kept = []
        for at, copy in enumerate(self._all):
            # guard: few-looks-at-copies
            due = copy.uid == uid or 0 <= at - self._turn < SOME
            if due and not _is_open(copy):
                self._close(copy)
            else:
                kept.append(copy)
        self._all = kept

    def forget_closed(self) -> None:
        """Forget all copies that are closed: a daemon begins or ends."""
        closed = {copy for copy in self._all if not _is_open(copy)}
        self._all = [copy for copy in self._all if copy not in closed]
        for copy in closed:
            self._close(copy)

    def users(self, device: int) -> frozenset[int]:
        """Return which users still keep a copy of this device."""
        found: set[int] = set()
        for copy in self._all:
            # guard: one-look-a-user
            if copy.device == device and copy.uid not in found and _is_open(copy):
                found.add(copy.uid)
        return frozenset(found)

    def holders(self) -> dict[int, tuple[Holder, ...]]:
        """Return by device number to whom its copies that are still open were leased.

        This looks at all copies, so it is for a worker.
        """
        found: dict[int, tuple[Holder, ...]] = {}
        for copy in self._all:
            if _is_open(copy):
                found[copy.device] = (*found.get(copy.device, ()), copy.holder)
        return found

    def _close(self, copy: DeadCopy) -> None:
        self._keeper.drop_copy(copy)
        copy.watcher.close()


def _is_open(copy: DeadCopy) -> bool:
    try:
        return linux.still_open(copy.watcher)
    except ValueError:  # guard: copy-forgotten-meanwhile
        return False
