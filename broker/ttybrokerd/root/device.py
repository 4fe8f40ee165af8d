"""From a name to a checked, open device: what a port is, and that what was opened is that port."""

from __future__ import annotations

import errno
import os
import stat
import time

from ttybroker import sysfs
from ttybroker.wire import Value, valid_name
from ttybrokerd.root import TYPE_CHECKING, linux, portname, trust, words
from ttybrokerd.root.debts import Debts
from ttybrokerd.root.plan import Decision
from ttybrokerd.root.refusal import Absent, Refusal, of_device

if TYPE_CHECKING:
    from collections.abc import Mapping

# guard: no-link-at-the-open, no-controlling-terminal
OPEN_FLAGS = os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
QUEUE = "/run/udev/queue"  # is there while udev has work: systemd, src/libudev/libudev-queue.c
NAMING = 5.0  # seconds for a new node's links to come, if udev has no work
CLOSING_TRIES = 20  # a tty that is being closed answers EIO; systemd tries as often
CLOSING_PAUSE = 0.05  # seconds


class Drivers(Value):
    """Device numbers and name prefixes of the drivers of type `serial`: proc_tty_drivers(5)."""

    ranges: tuple[tuple[int, int, int], ...]  # major, first minor, last minor
    families: frozenset[str]  # "ttyS", "ttyUSB"

    def own(self, rdev: int) -> bool:
        """Return whether a serial driver has this device number."""
        major, minor = os.major(rdev), os.minor(rdev)
        return any(m == major and low <= minor <= high for m, low, high in self.ranges)


def parse_drivers(text: str) -> Drivers:
    """Read /proc/tty/drivers: name, node, major, minor or first-last, type.

    See drivers/tty/tty_io.c, show_tty_range(). The driver's name may hold spaces.
    """
    ranges: list[tuple[int, int, int]] = []
    families: set[str] = set()
    for line in text.splitlines():
        fields = line.rsplit(None, 4)
        if len(fields) == 5 and fields[4] == "serial":
            first, _, last = fields[3].partition("-")
            ranges.append((int(fields[2]), int(first), int(last or first)))
            families.add(fields[1].removeprefix("/dev/"))
    return Drivers(tuple(ranges), frozenset(families))


class Target(Value):
    """What a name means to one caller: the node, and what its rule permits of it.

    `path` is the node's. `alias` is the device that the policy gives this name: a path that led to
    the node, or words that fit it. It is None for a kernel name.
    """

    name: str
    path: str
    pty: bool
    console: bool
    alias: str | None = None


class Seen(Value):
    """A node as it was looked at. `directory` and `node` are O_PATH descriptors.

    `kernel_name` is the device's own ("ttyS0"), whatever its node is called. For a pty it is the
    alias, because a pty's number means nothing from one day to the next.
    """

    target: Target
    kernel_name: str
    directory: int
    node: int
    rdev: int

    def close(self) -> None:
        """Give both descriptors back."""
        os.close(self.directory)
        os.close(self.node)


class Devices:
    """The machine's serial ports. Only tests pass other paths."""

    def __init__(
        self,
        directory: str = "/dev",
        drivers: str = "/proc/tty/drivers",
        consoles: str = f"{sysfs.TTYS}/console/active",
        ttys: str = sysfs.TTYS,
    ) -> None:
        self.directory = directory
        self._drivers_path = drivers
        self._consoles_path = consoles
        self._ttys = ttys
        self._drivers = parse_drivers(_read(drivers))
        self.debts = Debts()
        self._noted: dict[str, tuple[int, int]] = {}  # nodes of which udev has a record, by path

    def target(self, name: str, decision: Decision) -> Target:
        """Return what `name` means under `decision`. Raises Refusal as `path`."""
        return self.renew(unresolved(name, decision))

    def renew(self, target: Target) -> Target:
        """Return what the target's name means now: an alias may lead to another node than before.

        Raises Refusal as `path`.
        """
        return target.replace(path=self.path(target.name, target.alias))

    def directories(self, target: Target) -> set[str]:
        """Return the directories to watch for the device of a target.

        When it comes, a name comes into one of them: the node, udev's note, or a link on the way.
        """
        alias, way = target.alias, list[str]()
        if alias is not None and not words.are(alias):
            try:
                trust.resolve(alias, way)
            except OSError:  # it ends where something is missing
                pass
        return {*self.places(), *(step.rpartition("/")[0] or "/" for step in way)}

    def places(self) -> list[str]:
        """Return the directories in which a name comes or goes when a port does.

        They are that of the nodes, and that of udev's notes. udev writes its note when it has made
        the links to a node.
        """
        return [self.directory, sysfs.UDEV] if os.path.isdir(sysfs.UDEV) else [self.directory]

    def path(self, name: str, alias: str | None) -> str:
        """Return the path of the node that `name` means.

        `alias` is the device that the policy gives the name, None if it gives none. An alias's
        links are followed, if only root can change them. Raises Absent if it leads nowhere. Raises
        Refusal EACCES if somebody else could redirect it, ENOTUNIQ if its words fit more than one
        device.
        """
        if alias is None:
            return f"{self.directory}/{name}"
        if words.are(alias):
            return f"{self.directory}/{self._find(alias)}"
        try:
            return trust.resolve_device(alias)
        except trust.Untrusted as error:
            what = f"not safe to open: {error}; name it by a path that only root can change"
            raise Refusal(errno.EACCES, what) from None
        except OSError as error:
            raise _not_found(error, alias, "; is it plugged in?") from None

    def number(self, node: str) -> int | None:
        """Return the device number of this node, None if the node has gone."""
        try:
            return os.stat(node).st_rdev
        except OSError:
            return None

    def named(self, path: str) -> bool:
        """Return whether udev has made its links to the node `path`, or will make none.

        What is true once stays true of the same node. So udev's record of it is remembered: the
        node's times change later, when somebody writes to the device, or when its rights are
        changed.
        """
        try:
            node = os.stat(path)
        except OSError:  # it has gone
            return False
        number = node.st_dev, node.st_ino
        # guard: named-for-this-node-alone
        if self._noted.get(path) == number:
            return True
        if _is_noted(node):
            self._noted[path] = number
            return True
        # A node whose time is yet to come is not new: the clock was set back since.
        new = abs(time.time() - node.st_ctime) < NAMING or os.path.lexists(QUEUE)
        return not new or not os.path.isdir(sysfs.UDEV)

    def nodes(self, aliases: Mapping[str, str]) -> tuple[str, ...]:
        """Return the nodes to which a policy's aliases lead now, but for aliases by words."""
        return tuple(_where(path) for path in aliases.values() if not words.are(path))

    def fits(self, kernel_name: str, wanted: str) -> bool:
        """Return whether the words `wanted` are true of this port, as far as sysfs says."""
        facts = self.facts(kernel_name)
        return facts is not None and words.fit(wanted, facts)

    def facts(self, kernel_name: str, seen: bool = True) -> dict[str, str] | None:
        """Return what is true of this port, by the words' keys; None if sysfs does not say.

        Returns {} if there is no node of the name, and nobody has `seen` the port yet.
        """
        try:
            return sysfs.facts(kernel_name, self._ttys)
        except OSError:
            # guard: unknown-is-not-absent
            return None if seen or os.path.lexists(f"{self.directory}/{kernel_name}") else {}

    def _find(self, wanted: str) -> str:
        """Return the kernel name of the only port that fits the words.

        Raises Absent if none does, Refusal ENOTUNIQ if several do.
        """
        found = [name for name in self.names() if self.fits(name, wanted)]
        if not found:
            raise Absent(errno.ENOENT, f"no device is {wanted}; is it plugged in?")
        if len(found) > 1:  # guard: one-device-fits
            what = f"ambiguous: {' and '.join(found)} are {wanted}"
            advice = "ask the administrator to describe it more closely in the policy"
            raise Refusal(errno.ENOTUNIQ, what, advice=advice)
        return found[0]

    def look(self, target: Target) -> Seen:
        """Look at the node without opening the device: no driver notices, nothing blocks.

        Raises Absent if there is no such node. Raises Refusal: ENOENT if it is no serial port,
        EACCES for an active console that the rule does not admit, ENODEV if the target's words do
        not fit it.
        """
        parent, _, base = target.path.rpartition("/")
        try:
            directory = os.open(parent or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _not_found(error, parent) from None
        try:
            # guard: no-link-at-the-look
            node = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            os.close(directory)
            found = _not_found(error, f"no such port: {target.path}", "; see: ttybroker list")
            raise found from None
        try:
            status = os.fstat(node)
            kernel_name = target.name if target.pty else self._kernel_name(status.st_rdev, base)
            self._judge(target, kernel_name, status)
            self._check_words(target, kernel_name)
        except BaseException:
            os.close(directory)  # guard: close-after-a-failed-look
            os.close(node)  # guard: close-after-a-failed-look
            raise
        return Seen(target, kernel_name, directory, node, status.st_rdev)

    def open(self, seen: Seen, mode: int = os.O_RDWR) -> int:
        """Open what was looked at: non-blocking, close-on-exec, never a controlling terminal.

        `mode` is the access mode of open(2), with O_APPEND and O_SYNC.

        The call may block for as long as the driver likes (30 s behind somebody's stuck close,
        measured). So call it only where workers.py watches. Raises Refusal: ENODEV if the device
        went away or is another now, EIO if it does not answer, EACCES if Landlock or the mount
        forbids it.
        """
        base = seen.target.path.rpartition("/")[2]
        for attempt in range(CLOSING_TRIES):
            try:
                # guard: same-directory-at-the-open
                descriptor = os.open(base, mode | OPEN_FLAGS, dir_fd=seen.directory)
                break
            except OSError as error:
                if error.errno != errno.EIO or attempt == CLOSING_TRIES - 1:
                    raise _open_failed(error) from None
                time.sleep(CLOSING_PAUSE)
        try:
            # By inode: an adapter that is plugged in gets the number of the one pulled before it.
            # guard: same-device-at-the-open
            if not os.path.samestat(os.fstat(descriptor), os.fstat(seen.node)):
                what = "the device changed while it was being opened; try again"
                raise Refusal(errno.ENODEV, what)
        except BaseException:
            os.close(descriptor)  # guard: close-after-a-failed-open
            raise
        return descriptor

    def there(self, target: Target, old: int) -> bool:
        """Return whether the target's node still is the one at which `old` was opened.

        `old` may be hung up.
        """
        try:
            return os.path.samestat(os.lstat(target.path), os.fstat(old))
        except OSError:
            return False

    def open_again(self, target: Target, old: int) -> int:
        """Open the device of the descriptor `old` once more.

        Raises Refusal as `look` and `open`. If another device has its node by now, raises Refusal
        ENODEV and opens nothing.
        """
        seen = self.look(target)
        try:
            # guard: same-device-afresh
            if not os.path.samestat(os.fstat(seen.node), os.fstat(old)):
                raise Refusal(errno.ENODEV, "another device has its node now", advice="ask again")
            return self.open(seen)
        finally:
            seen.close()

    def families(self) -> frozenset[str]:
        """Return the name prefixes of the serial drivers that are loaded now: "ttyS", "ttyUSB"."""
        self._drivers = parse_drivers(_read(self._drivers_path))
        return self._drivers.families

    def names(self) -> list[str]:
        """Return the kernel names of the serial ports that have a node now, in natural order."""
        families = self.families()
        found = []
        for entry in os.listdir(self.directory):
            name = portname.split(entry) if valid_name(entry) else None
            if name and name[0] in families and not self._absent(entry):
                found.append(name)
        return [f"{family}{number}" for family, number in sorted(found)]

    def _absent(self, name: str) -> bool:
        """Return whether this is an 8250 slot without a chip.

        Its type is PORT_UNKNOWN then: include/uapi/linux/serial.h.
        """
        try:
            return _read(f"{self._ttys}/{name}/type").strip() == "0"
        except OSError:
            return False

    def _kernel_name(self, rdev: int, base: str) -> str:
        """Return the device's name by /sys/dev/char, sysfs(5); if it has none there, the node's."""
        try:
            link = os.readlink(f"/sys/dev/char/{os.major(rdev)}:{os.minor(rdev)}")
        except OSError:
            return base
        return link.rpartition("/")[2]

    def _check_words(self, target: Target, kernel_name: str) -> None:
        """Check that the node that was looked at fits the words by which it was found.

        Another device may have come in its place. `kernel_name` is by the number of the very node.
        Raises Refusal ENODEV if the words do not fit.
        """
        wanted = target.alias
        # guard: words-of-the-very-node
        if wanted is not None and words.are(wanted) and not self.fits(kernel_name, wanted):
            what = f"{target.path} is another device by now, and not {wanted}"
            raise Refusal(errno.ENODEV, what, advice="ask again")

    def _judge(self, target: Target, kernel_name: str, status: os.stat_result) -> None:
        if not stat.S_ISCHR(status.st_mode):  # guard: character-device
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no character device"
            raise _not_serial(f"{target.path} is {what}")
        if target.pty:  # its lock has the alias's name, so no serial port may pass for one
            if os.major(status.st_rdev) not in linux.PTY_SLAVES:  # guard: pty-rule
                raise _not_serial(f'{target.path} is no pty, and its rule says class = "pty"')
            return
        if not self._serial(status.st_rdev):  # guard: serial-driver
            raise _not_serial(f"{target.path} belongs to no serial driver (/proc/tty/drivers)")
        if not target.console and kernel_name in self._consoles():  # guard: active-console
            what = f"{target.path} is the active console; a rule may permit that: console = true"
            raise Refusal(errno.EACCES, what)

    def _serial(self, rdev: int) -> bool:
        if not self._drivers.own(rdev):  # its driver may have been loaded since
            self._drivers = parse_drivers(_read(self._drivers_path))
        return self._drivers.own(rdev)

    def _consoles(self) -> list[str]:
        try:
            return _read(self._consoles_path).split()
        except FileNotFoundError:  # a kernel without consoles
            return []


class Glance(Devices):
    """The ports as they are for one list.

    It asks of each port only once what it is. Else each alias with words would ask all ports again.
    """

    def __init__(self, devices: Devices) -> None:
        self.__dict__.update(devices.__dict__)
        self._names: list[str] | None = None
        self._facts: dict[tuple[str, bool], dict[str, str] | None] = {}

    def names(self) -> list[str]:
        """Return what Devices.names() returned at the first call."""
        if self._names is None:
            self._names = super().names()
        return self._names

    def facts(self, kernel_name: str, seen: bool = True) -> dict[str, str] | None:
        """Return what Devices.facts() returned at the first call for this port."""
        key = kernel_name, seen
        if key not in self._facts:
            self._facts[key] = super().facts(kernel_name, seen)
        return self._facts[key]


def unresolved(name: str, decision: Decision) -> Target:
    """Return what `name` means under `decision`, but for its node: `Devices.renew` finds that."""
    rule = decision.rule
    pty, console = (rule.pty, rule.console) if rule is not None else (False, False)
    return Target(name, "", pty, console, decision.device)


def _is_noted(node: os.stat_result) -> bool:
    """Return whether udev has a record of this node. It writes it when it has made the links.

    A record that is older than the node is of an earlier device with this number. The node came at
    the earlier of its two times: udev changes one of them, and who writes to the device changes the
    other.
    """
    try:
        number = f"{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}"
        noted = os.stat(f"{sysfs.UDEV}/c{number}")
    except OSError:
        return False
    # guard: named-before-it-came
    return noted.st_mtime_ns >= min(node.st_mtime_ns, node.st_ctime_ns)


def _where(alias: str) -> str:
    try:
        return trust.resolve_device(alias)
    except OSError:  # not plugged in, or not safe: an open will tell
        return alias


def _not_found(error: OSError, what: str, advice: str = "") -> Refusal:
    """Return the refusal for a path that could not be looked at: Absent if it leads nowhere.

    Any other error, such as no descriptor being left, says nothing about the path.
    """
    text = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return Absent(errno.ENOENT, f"{what}: {text}{advice}")
    return Refusal(of_device(error.errno), f"cannot be looked at: {text}; try later")


def _not_serial(what: str) -> Refusal:
    advice = "ask for another port (ttybroker list), or name another device in the policy"
    return Refusal(errno.ENOENT, f"not a serial port: {what}", advice=advice)


def _open_failed(error: OSError) -> Refusal:
    if error.errno == errno.EIO:
        return Refusal(errno.EIO, "the device does not answer; is it plugged in?")
    what = f"cannot be opened: {error.strerror}"
    if error.errno == errno.EACCES:  # root has the right: Landlock forbids it, or a nodev mount
        advice = "if a reload brought this device into the policy, restart the daemon"
        return Refusal(errno.EACCES, what, advice=advice)
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ELOOP):
        return Refusal(errno.ENODEV, what, advice="is it plugged in?")
    return Refusal(of_device(error.errno), what, advice="try later")


def _read(path: str) -> str:
    return linux.read_file(path).decode("ascii", "replace")
