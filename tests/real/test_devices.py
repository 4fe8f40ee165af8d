"""What lies under a name: only a serial port is ever opened, and a slow one delays nobody.

Kernel names are looked up in /dev; so the daemon gets a /dev of its own, in a mount namespace of
its own, with nodes that the test makes. No real port is in it: the numbers of the serial nodes
belong to lines without a chip, and the console is what a file says that the test mounts over
the kernel's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import time
from collections.abc import Callable

import pytest

from support.children import Chat, as_user
from support.daemon import Daemon
from support.processes import descriptors
from support.rig import Rig
from support.users import ALICE, BOB, NOBODY
from support.waiting import wait_readable
from ttybroker import BrokerError, NoSuchPort, NotPermitted, aio, client, open_fd, sysfs
from ttybrokerd.root.device import Devices

pytestmark = pytest.mark.root

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

# Run in the daemon before anything else: its /dev is the directory that the test filled.
PRIVATE_DEV = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{{name}} {{arguments}}")
call("unshare", {newns})
call("mount", None, b"/", None, ctypes.c_ulong({private}), None)
call("mount", b"tmpfs", b"{dev}", b"tmpfs", ctypes.c_ulong(0), b"mode=755")
os.mkdir("{dev}/pts", 0o755)
call("mount", b"/dev/pts", b"{dev}/pts", None, ctypes.c_ulong({bind}), None)
call("mount", b"{active}", b"/sys/class/tty/console/active", None, ctypes.c_ulong({bind}), None)
call("mount", b"{drivers}", b"/proc/tty/drivers", None, ctypes.c_ulong({bind}), None)
os.umask(0)
for name, mode, major, minor in {nodes!r}:
    os.mknod("{dev}/" + name, mode, os.makedev(major, minor))
for name, target in {links!r}:
    os.symlink(target, "{dev}/" + name)
with open("{dev}/ttyS21", "w"):
    pass
os.mkdir("{dev}/ttyS22")
with __import__("socket").socket(1) as sock:
    sock.bind("{dev}/ttyS23")
call("mount", b"{dev}", b"/dev", None, ctypes.c_ulong({bind} | {rec}), None)
"""


def start(rig: Rig) -> Daemon:
    """A daemon with a /dev of its own, whose policy lets everybody have every kernel name."""
    pty = rig.port("far")
    rig.rules.append('[[rule]]\nport = "tty*"\nallow = ["*"]\n')
    rig.rules.append('[[rule]]\nport = "ttyS*"\nclass = "pty"\nallow = [4242]\n')
    active = rig.base / "active"
    active.write_text("tty0 ttyS29\n")
    drivers = rig.base / "drivers"
    drivers.write_text(
        "/dev/tty  /dev/tty  5  0 system:/dev/tty\n"
        "serial  /dev/ttyS  4  64-95 serial\n"
        "pty_slave  /dev/pts  136  0-1048575 pty:slave\n"
        "unknown  /dev/tty  4  1-63 console\n"
    )
    (rig.base / "dev").mkdir()
    hook = PRIVATE_DEV.format(
        newns=CLONE_NEWNS,
        private=MS_PRIVATE | MS_REC,
        bind=MS_BIND,
        rec=MS_REC,
        dev=rig.base / "dev",
        active=active,
        drivers=drivers,
        nodes=[
            ("null", stat.S_IFCHR | 0o666, 1, 3),
            ("ttyS20", stat.S_IFIFO | 0o666, 0, 0),
            ("ttyS24", stat.S_IFBLK | 0o666, 7, 250),
            ("ttyS25", stat.S_IFCHR | 0o666, 4, 63),  # a virtual console
            ("ttyS26", stat.S_IFCHR | 0o666, 1, 3),  # /dev/null
            ("ttyS27", stat.S_IFCHR | 0o666, 5, 0),  # /dev/tty
            ("ttyS28", stat.S_IFCHR | 0o666, 5, 2),  # /dev/ptmx
            ("ttyS29", stat.S_IFCHR | 0o666, 4, 95),  # the active console, says the file
            ("ttyS030", stat.S_IFCHR | 0o666, 4, 94),
            ("tty1", stat.S_IFCHR | 0o666, 4, 62),
        ],
        links=[
            ("ttyS7", "/etc/shadow"),
            ("ttyS8", pty.path),
            ("ttyS9", "ttyS9"),
            ("ttyS10", "ttyS29"),
        ],
    )
    daemon = rig.daemon(hook=hook)
    active.unlink()
    drivers.unlink()
    (rig.base / "dev").rmdir()
    return daemon


def test_whatever_is_no_serial_port_is_refused_by_a_look_at_it(rig: Rig) -> None:
    daemon = start(rig)
    cases = {
        "ttyS7": (NoSuchPort, "symbolic link"),
        "ttyS8": (NoSuchPort, "symbolic link"),
        "ttyS9": (NoSuchPort, "symbolic link"),
        "ttyS10": (NoSuchPort, "symbolic link"),
        "ttyS20": (NoSuchPort, "no character device"),
        "ttyS21": (NoSuchPort, "no character device"),
        "ttyS22": (NoSuchPort, "no character device"),
        "ttyS23": (NoSuchPort, "no character device"),
        "ttyS24": (NoSuchPort, "no character device"),
        "ttyS25": (NoSuchPort, "no serial driver"),
        "ttyS26": (NoSuchPort, "no serial driver"),
        "ttyS27": (NoSuchPort, "no serial driver"),
        "ttyS28": (NoSuchPort, "no serial driver"),
        "ttyS29": (NotPermitted, "active console"),
        "tty1": (NoSuchPort, "no serial driver"),
        "ttyS99": (NoSuchPort, "ttyS99"),
    }

    def ask() -> None:
        for name, (kind, why) in cases.items():
            with pytest.raises(kind, match=why) as caught:
                open_fd(name, broker=str(rig.socket))
            assert name in str(caught.value)
        for name in ("ttyS030", "ttyS007", "null", "console", "pts"):  # no kernel name
            with pytest.raises(NotPermitted):
                open_fd(name, broker=str(rig.socket))

    as_user(NOBODY, (), ask)
    daemon.settled()
    assert not any(
        what.startswith("/dev/") and what != "/dev/null"
        for what in descriptors(daemon.pid).values()
    )
    with client.connect(str(rig.socket)) as connection:
        states = {port.name: port.state for port in connection.ports()}
    assert states["far"] == "free"
    assert states["ttyS29"] == "refused"  # it is there
    assert {states.get(name, "gone") for name in cases} <= {"gone", "free", "refused"}


def test_an_alias_that_somebody_else_could_redirect_is_refused(rig: Rig) -> None:
    pty = rig.port("ttyS1")
    directory = rig.base / "theirs"
    directory.mkdir()
    os.chown(directory, ALICE, ALICE)
    (directory / "link").symlink_to(pty.path)
    rule = f'[[rule]]\nport = "gps"\ndevice = "{directory}/link"\nclass = "pty"\nallow = ["*"]\n'
    rig.rules.append(rule)
    own = rig.base / "own"
    own.symlink_to(pty.path)
    rule = f'[[rule]]\nport = "own"\ndevice = "{own}"\nclass = "pty"\nallow = ["*"]\n'
    rig.rules.append(rule)
    rig.rules.append('[[rule]]\nport = "sink"\ndevice = "/dev/null"\nallow = ["*"]\n')
    rig.daemon()
    with client.connect(str(rig.socket)) as connection:
        states = {port.name: port.state for port in connection.ports()}
    assert (states["gps"], states["own"]) == ("refused", "free")
    assert states["sink"] == "refused"  # gone is what may come
    with pytest.raises(NotPermitted, match="not safe to open"):
        as_user(NOBODY, (), lambda: open_fd("gps", broker=str(rig.socket)))
    as_user(NOBODY, (), lambda: os.close(open_fd("own", broker=str(rig.socket))))
    (directory / "link").unlink()
    directory.rmdir()
    own.unlink()


def test_a_confined_daemon_knows_a_device_by_what_sysfs_says(rig: Rig) -> None:
    """Of a port that this machine has, if it has one; it is looked at, and not opened."""
    names = Devices().names()
    place = sysfs.facts(names[0])["path"] if names else "nowhere"
    rig.rules.append(
        f'[[rule]]\nport = "uart"\npath = "{place}"\nallow = ["*"]\nconsole = true\n'
        '[[rule]]\nport = "none"\nusb = "ffff:ffff"\nallow = ["*"]\n'
        f'[[rule]]\nport = "tty*"\npath = "{place}"\nallow = [{BOB}]\n'
        f'[[rule]]\nport = "tty*"\npath = "{place}?"\ndeny = ["*"]\n'
    )
    rig.daemon()
    with client.connect(str(rig.socket)) as connection:
        rows = {port.name: port for port in connection.ports()}
        for name in names[:1]:
            assert connection.check(name, uid=BOB).allowed
            assert connection.check(name, uid=ALICE).rule == ""
    assert (rows["none"].state, rows["none"].device) == ("gone", "usb=ffff:ffff")
    if names:
        assert rows["uart"].device == f"/dev/{names[0]}"
    else:
        assert rows["uart"].state == "gone"
    with pytest.raises(NoSuchPort, match="no device is usb=ffff:ffff; is it plugged in"):
        open_fd("none", broker=str(rig.socket))


# a device that does not open: the daemon reads a FIFO where the driver would keep it

SLOW = """
import os
from ttybrokerd.root.device import Devices
# Now, for they will be out of reach; and to read as well, for it may be told after the test's end.
told = os.open("{told}", os.O_RDWR | os.O_CLOEXEC)
gate = os.open("{gate}", os.O_RDONLY | os.O_CLOEXEC)
true = Devices.open
def open(self, seen, *rest, **more):
    if seen.target.name.startswith("slow"):
        os.write(told, b"x")
        os.read(gate, 1)
    return true(self, seen, *rest, **more)
Devices.open = open
"""


class Slow:
    """`count` ports slow0... whose open blocks until `let_go`, and the port ttyS0."""

    def __init__(self, rig: Rig, count: int, hook: str = "") -> None:
        self.rig = rig
        rig.port("ttyS0")
        for number in range(count):
            rig.port(f"slow{number}", far=True)
        gate, told = rig.base / "gate", rig.base / "told"
        os.mkfifo(gate)
        os.mkfifo(told)
        self._told = os.open(told, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._keep = os.open(told, os.O_WRONLY | os.O_CLOEXEC)
        self._gate = os.open(gate, os.O_RDWR | os.O_CLOEXEC)
        self.daemon = rig.daemon(hook=SLOW.format(told=told, gate=gate) + hook)
        self._paths = (gate, told)

    def stuck(self, count: int) -> None:
        """Wait until so many opens block."""
        while count:
            wait_readable(self._told, f"{count} more opens to block")
            count -= len(os.read(self._told, count))

    def let_go(self) -> None:
        """Let all opens go on, those to come too."""
        os.write(self._gate, b"x" * 500)

    def close(self) -> None:
        """Take the FIFOs away."""
        for descriptor in (self._told, self._keep, self._gate):
            os.close(descriptor)
        for path in self._paths:
            path.unlink()


def ask_for(rig: Rig, number: int) -> Callable[[Chat], None]:
    """Lease a slow port and give it back."""
    return lambda _chat: os.close(open_fd(f"slow{number}", broker=str(rig.socket)))


def by_asyncio(name: str, broker: str) -> int:
    """The other way to wait."""
    return asyncio.run(aio.open_fd(name, broker=broker))


@pytest.mark.parametrize("way", [lambda name, broker: open_fd(name, broker=broker), by_asyncio],
                         ids=["blocking", "asyncio"])  # fmt: skip
def test_who_waits_for_a_device_is_told_so(rig: Rig, way: Callable[[str, str], int]) -> None:
    """Once, while it waits; and then it gets the port."""

    def wait(chat: Chat) -> None:
        client.tell_why = chat.say
        os.close(way("slow0", str(rig.socket)))

    slow = Slow(rig, 1)
    try:
        asker = rig.child(ALICE, wait)
        slow.stuck(1)
        told = asker.hear()
        assert told.startswith("slow0: ") and "another program may be closing it" in told
        slow.daemon.record("slow", port="slow0")
        slow.let_go()
        assert asker.result() is None
    finally:
        for child in rig.children:
            child.kill()
        slow.let_go()
        slow.close()


def quick(rig: Rig) -> Callable[[], float]:
    """How long a lease of the good port takes, at the median."""

    def run() -> float:
        times = []
        for _ in range(21):
            before = time.monotonic()
            descriptor = open_fd("ttyS0", broker=str(rig.socket), wait=5)
            times.append(time.monotonic() - before)
            os.close(descriptor)
        return sorted(times)[10]

    return run


@pytest.mark.alone
@pytest.mark.parametrize("count", [1, 10])
def test_ports_that_do_not_open_delay_no_other(rig: Rig, count: int) -> None:
    slow = Slow(rig, count)
    try:
        askers = [rig.child(ALICE, ask_for(rig, number)) for number in range(count)]
        slow.stuck(count)
        assert as_user(BOB, (), quick(rig)) < 0.25
        with client.connect(str(rig.socket)) as connection:
            states = [port.state for port in connection.ports()]
        assert states.count("opening") == count and states[0] in ("free", "closing")
        with pytest.raises(BrokerError) as caught:
            as_user(BOB, (), lambda: open_fd("slow0", broker=str(rig.socket)))
        assert caught.value.errno == errno.EBUSY
        askers[0].kill()  # who asked may leave meanwhile
        slow.let_go()
        for asker in askers[1:]:
            asker.result()
        assert as_user(BOB, (), quick(rig)) < 0.25
    finally:
        for child in rig.children:
            child.kill()
        slow.let_go()
        slow.close()


def test_sigterm_ends_the_daemon_though_ports_do_not_open(rig: Rig) -> None:
    slow = Slow(rig, 3)
    try:
        for number in range(3):
            rig.child(ALICE, ask_for(rig, number))
        slow.stuck(3)
        slow.daemon.process.send_signal(signal.SIGTERM)
        assert slow.daemon.wait(timeout=5) == 0
        assert not rig.socket.exists()
        for child in rig.children:
            with pytest.raises(BrokerError):
                child.result()
        assert rig.lock_files() == []
    finally:
        slow.close()


PTY = '[[rule]]\nport = "{}"\ndevice = "{}"\nclass = "pty"\n{}\n'
BETWEEN: dict[str, tuple[tuple[str, ...], str]] = {
    "denied": (("slow0 {slow} deny",), "rule slow0 (line "),
    "denied by another name": (("b {slow} deny", "slow0 {slow} allow"), "rule b (line "),
    "another device": (("slow0 {other} allow",), "the policy says something else of it now"),
    "another's denied": (("b {other} deny", "slow0 {slow} allow"), ""),
}


@pytest.mark.parametrize("what", BETWEEN)
def test_a_reload_while_a_port_opens_decides_over_its_grant(rig: Rig, what: str) -> None:
    rules, refused = BETWEEN[what]
    slow = Slow(rig, 1)
    try:
        asker = rig.child(ALICE, ask_for(rig, 0))
        slow.stuck(1)
        text = ""
        for rule in rules:
            name, device, verb = rule.split()
            path = rig.ports["slow0" if device == "{slow}" else "ttyS0"].path
            text += PTY.format(name, path, f'{verb} = ["*"]')
        rig.write_policy(text)
        rig.reload(slow.daemon)
        slow.let_go()
        if refused:
            with pytest.raises(BrokerError) as caught:
                asker.result()
            assert refused in str(caught.value)
        else:
            asker.result()
            slow.daemon.record("release", port="slow0", uid=ALICE)
    finally:
        for child in rig.children:
            child.kill()
        slow.let_go()
        slow.close()


@pytest.mark.alone
def test_a_port_that_vanishes_between_look_and_open_is_gone(rig: Rig) -> None:
    slow = Slow(rig, 1)
    try:
        child = rig.child(ALICE, lambda _chat: open_fd("slow0", broker=str(rig.socket)))
        slow.stuck(1)
        rig.ports["slow0"].close()
        slow.let_go()
        with pytest.raises(BrokerError, match="slow0") as caught:
            child.result()
        assert caught.value.errno in (errno.ENODEV, errno.EIO)
        assert as_user(BOB, (), quick(rig)) < 0.25
    finally:
        slow.let_go()
        slow.close()
