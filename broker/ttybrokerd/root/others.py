"""What programs hold that do not ask the broker: an flock, a login, a lock file.

An flock belongs to an open file description. A holder that was hung up may keep its description
open for ever: a dead copy, which keeps its flock. That is no outsider's lock.

TIOCEXCL shows only on an open device. So a list has what the last open found.
"""

from __future__ import annotations

import os
import time

from ttybroker.wire import Holder, Value
from ttybrokerd.root import TYPE_CHECKING, linux
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.logins import UTMP, Logins
from ttybrokerd.root.paced import Paced
from ttybrokerd.root.processes import process

if TYPE_CHECKING:
    from ttybrokerd.root.device import Seen

LOCKS = "/proc/locks"
MOST = 4 << 20  # bytes of it that are read: 65,000 locks; anybody may take as many


class Taker(Value):
    """A process that took an flock. `uid` is its real one, None if the process has ended."""

    pid: int
    uid: int | None


class Flocks(Paced):
    """All flocks, by proc_locks(5).

    A reading can take the kernel 20 ms and more. Meanwhile no processor can take a lock:
    fs/locks.c, locks_start().
    """

    def __init__(self) -> None:
        super().__init__()
        self._pids: dict[bytes, list[int]] | None = None  # by device and inode; None: too many

    def takers(self, node: int) -> tuple[Taker, ...] | None:
        """Return who took the flocks on the inode behind the descriptor `node`.

        That is as of the last `refresh`. None if that cannot be told, because there are more locks
        than are read. The kernel names the process that took it. That may have ended since: another
        process may hold the description, or a broker that was started again may have made it.
        """
        taken, status = self._pids, os.fstat(node)
        if taken is None:
            return None
        major, minor = os.major(status.st_dev), os.minor(status.st_dev)
        found = taken.get(b"%02x:%02x:%d" % (major, minor, status.st_ino), [])
        return tuple(Taker(pid, _user(pid)) for pid in found)

    def read(self) -> None:
        """Read all locks anew."""
        found = None
        try:
            data = linux.read_file(LOCKS, MOST)
            if len(data) < MOST:  # guard: bounded-proc-locks
                found = _flocks(data)
        except OSError:
            pass
        self._pids = found


def excused(
    takers: tuple[Taker, ...] | None, ghosts: frozenset[int], *, dead: bool | None = None
) -> bool:
    """Return whether dead copies hold all of these flocks, on a port that is not leased.

    The users `ghosts` may have dead copies. A flock is a dead copy's if one of them took it, or if
    this broker did. If the process that took it has ended, `dead` decides: whether there is a dead
    copy, by default whether there are `ghosts`. If nobody can tell who took them, the answer is no.
    """
    dead = bool(ghosts) if dead is None else dead
    for taker in takers or ():
        ghost = dead if taker.uid is None else taker.uid in ghosts or taker.pid == os.getpid()
        if not ghost:  # guard: flock-of-another-is-no-ghosts
            return False
    return bool(takers)  # guard: untold-is-no-excuse


def named(takers: tuple[Taker, ...] | None) -> Holder:
    """Return one of those who took an flock, for a refusal or a list.

    If none lives, the holder has no name.
    """
    for taker in takers or ():
        if taker.uid is not None and (found := process(taker.pid)) is not None:
            found.how = "flock"
            return found
    return Holder(how="flock")


class Others:
    """All that is known of outsiders.

    Its methods may take a while, so the loop must not call them. They raise OSError when the
    process is out of descriptors.
    """

    def __init__(self, files: LockFiles, utmp: str = UTMP) -> None:
        self.files = files
        self._flocks = Flocks()
        self._logins = Logins(utmp)
        self._exclusive: dict[int, tuple[int, float]] = {}  # inode and moment, by device number

    def refresh(self) -> None:
        """Look again at all flocks and logins, unless that was done a moment ago."""
        self._flocks.refresh()
        self._logins.refresh()

    def holder(self, seen: Seen, ghosts: frozenset[int]) -> Holder | None:
        """Return who has the port by a lock file, a login, an flock or TIOCEXCL; None if unknown.

        The port is not opened. Logins and flocks are as of the last `refresh`, TIOCEXCL as of the
        last open. `ghosts` are the users who may keep a dead copy of the port.
        """
        found = self.files.holder(seen.kernel_name)
        found = found or self._logins.holder(seen.kernel_name, seen.rdev)
        takers = self._flocks.takers(seen.node)
        if found is None and takers and not excused(takers, ghosts):
            found = named(takers)
        # Fetched in one step, because an open may remove it meanwhile, in another thread.
        inode, since = self._exclusive.get(seen.rdev, (None, 0.0))
        if found is None and inode == os.fstat(seen.node).st_ino:
            found = Holder(how="exclusive", since=since)
        return found

    def found(self, seen: Seen, exclusive: bool) -> None:
        """Note whether an open has just found the port exclusive."""
        self._exclusive.pop(seen.rdev, None)
        if exclusive:
            self._exclusive[seen.rdev] = os.fstat(seen.node).st_ino, time.time()

    def login(self, device: str, rdev: int) -> Holder | None:
        """Return who has a login on the port with this kernel name and device number; None: nobody.

        That is as of a moment ago.
        """
        return self._logins.holder_now(device, rdev)

    def takers(self, seen: Seen, *, fresh: bool = True) -> tuple[Taker, ...] | None:
        """Return who took the flocks on the port, as `Flocks.takers`.

        With `fresh` that is as of now, which may take a while. Without, it is as of a moment ago.
        """
        self._flocks.refresh(fresh=fresh)
        return self._flocks.takers(seen.node)


def _user(pid: int) -> int | None:
    """Return the real uid of a live process, -1 if it hides; None if it has ended."""
    found = process(pid) if pid > 0 else None
    return None if found is None else -1 if found.uid is None else found.uid


def _flocks(data: bytes) -> dict[bytes, list[int]]:
    taken: dict[bytes, list[int]] = {}
    for line in data.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == b"FLOCK":  # that of one that waits is "->"
            taken.setdefault(fields[5], []).append(int(fields[4]))
    return taken
