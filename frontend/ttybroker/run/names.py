"""Which paths are ports: by their names, and by what a path leads to."""

from __future__ import annotations

import os

from ttybroker.run import target
from ttybroker.wire import valid_name

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ttybroker.wire import PortInfo

# Decided by the string alone, where no alias has that path: ports are not called so.
_NEVER = frozenset(("/dev/tty", "/dev/null", "/dev/zero", "/dev/full", "/dev/ptmx"))
_NEVER_BELOW = ("/dev/pts/", "/sys/")


def is_serial_name(name: str) -> bool:
    """Return whether `name` looks like a kernel name of a serial port: tty, letters, a number."""
    if not (name.startswith("tty") and name.isascii() and name.isalnum()):
        return False
    letters = name[3:].rstrip("0123456789")
    return letters.isalpha() and len(letters) + 3 < len(name)


def could_be_alias(name: str) -> bool:
    """Return whether `name` may be an alias that the user may not have.

    Such an alias is not in the list, and there is no such node. Only the broker can tell.
    """
    return valid_name(name) and not os.path.lexists(f"/dev/{name}")


def _leads_out_of_proc(path: str) -> bool:
    """Return whether this path below /proc passes a directory or descriptor of a process."""
    return not {"fd", "cwd", "root", ".."}.isdisjoint(path.split("/"))


class Names:
    """Which paths are brokered: those of `wanted`, or every port if that is empty."""

    def __init__(self, wanted: tuple[str, ...], ports: Iterable[PortInfo]) -> None:
        self._wanted = wanted
        self.paths: dict[str, str] = {}
        self._others: dict[str, str] = {}
        self.update(ports)

    def update(self, ports: Iterable[PortInfo]) -> None:
        """Take over the list as it is now: adapters come and go, and aliases with them."""
        devices = {port.name: port.device for port in ports}
        names = self._wanted or tuple(devices)
        paths = {f"/dev/{name}": name for name in names}
        # A node that has a name of its own here keeps it; else the first alias has it.
        for name in names:
            paths.setdefault(devices.get(name) or f"/dev/{name}", name)
        self.paths = paths
        self._others = {
            path: name
            for name, device in devices.items()
            for path in (f"/dev/{name}", device)
            if path and path not in paths
        }

    def of(self, path: str) -> str | None:
        """Return the port at this very path.

        Names of serial ports that are not in the list count too, because the broker has something
        to say about them.
        """
        name = self.paths.get(path)
        if name is None and not self._wanted and path.startswith("/dev/tty"):
            return path[5:] if is_serial_name(path[5:]) else None
        return name

    def of_missing(self, name: str) -> str | None:
        """Return the port that /dev/NAME means if nothing is there.

        It may be an alias that is not in the list.
        """
        if (known := self.of(f"/dev/{name}")) is not None:
            return known
        return name if not self._wanted and could_be_alias(name) else None

    def unnamed(self, path: str) -> str:
        """Return the line for a port that the user may have and this run does not name.

        "" if that is not so, or if the kernel lets the user open the node.
        """
        name = self._others.get(path) if self._wanted else None
        if name is None or os.access(path, os.R_OK | os.W_OK):
            return ""
        names = " ".join((*self._wanted, name))
        return f"{name}: not named in this run, so not brokered; write: {names} -- PROGRAM"

    def is_new(self, node: str) -> bool:
        """Return whether the node is a serial port that the list did not have when it was made."""
        return node not in self.paths and is_serial_name(node.rpartition("/")[2])


class Finder:
    """Find the port that a process means.

    ports: asks the broker for its list, or raises OSError. tell: gets a line for the user if a
    process means a port that this run does not name.
    """

    def __init__(
        self, names: Names, ports: Callable[[], list[PortInfo]], tell: Callable[[str], None]
    ) -> None:
        self._names = names
        self._ports = ports
        self._tell = tell

    def listed(self, name: str) -> bool:
        """Return whether the broker has the port in its list."""
        return f"/dev/{name}" in self._names.paths

    def quick(self, pid: int, dirfd: int, path: str, flags: int, *, ours: bool) -> str | None:
        """Do as `find`, and never wait. Raises BlockingIOError where only `find` can tell.

        ours: whether the process's paths lead where ours do (`target.same_view`).
        """
        name = self.by_name(path)
        if name is not None or self._never(path):
            return name
        if target.descriptor_of(pid, path) is not None:
            return self._of_descriptor(pid, path)
        whole = target.absolute(pid, dirfd, path) if ours else None
        if whole is not None and whole.startswith("/proc/") and not _leads_out_of_proc(whole):
            return None
        if whole is None or whole.startswith("/proc/") or target.of_itself(pid, whole):
            raise BlockingIOError
        try:
            node = target.device_now(whole, follow=not flags & os.O_NOFOLLOW)
        except FileNotFoundError:
            try:
                target.device_now(whole, follow=False)
            except FileNotFoundError:
                return None  # nothing there, and no link that leads to nothing
            raise BlockingIOError from None
        if node is None:
            return None
        if self._names.is_new(node):
            raise BlockingIOError
        return self.by_name(node)

    def find(self, pid: int, dirfd: int, path: str, flags: int, resolve: int = 0) -> str | None:
        """Return the port that the process means by this path, or None.

        flags: of open(2); resolve: of openat2(2). Follows links, so it may wait for a disk.
        """
        if resolve:
            node = target.device_resolved(pid, dirfd, path, resolve)
            return None if node is None else self.by_name(node)
        name = self.by_name(path)
        if name is not None or self._never(path):
            return name
        if target.descriptor_of(pid, path) is not None:
            return self._of_descriptor(pid, path)
        place = target.locate(pid, dirfd, path)
        try:
            node = target.device_behind(place, follow=not flags & os.O_NOFOLLOW)
        except FileNotFoundError:
            last = target.dangling_name(place)
            return self._names.of_missing(last) if last else None
        if node is None:
            return None
        if self._names.is_new(node):
            try:
                self._names.update(self._ports())
            except OSError:
                pass  # the open itself will say it
        return self.by_name(node)

    def by_name(self, path: str) -> str | None:
        """Return the port with this name."""
        name = self._names.of(path)
        if name is None and (line := self._names.unnamed(path)):
            self._tell(line)
        return name

    def _never(self, path: str) -> bool:
        return path in _NEVER or (path.startswith(_NEVER_BELOW) and "/../" not in path)

    def _of_descriptor(self, pid: int, path: str) -> str | None:
        """Return the port that the process has open, if this path is that of a descriptor."""
        try:
            return self._names.of(os.readlink(f"/proc/{pid}/fd/{target.descriptor_of(pid, path)}"))
        except OSError:
            return None
