"""Attacks on names and paths: what is opened is what was named, whatever is moved meanwhile.

Races between look and open (CWE-367; Bishop and Dilger, Checking for Race Conditions in File
Accesses, 1996; CVE-2018-15664 is a later one of that kind) are run for real: one process swaps as
fast as it can, the other looks and opens. Single swaps at the worst moment
are in tests/unit/test_device.py; overlong, binary and look-alike names one by one in
tests/real/test_hostile.py, here come whole families of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import select
import signal
import stat
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attack.libc import call, libc, own_mounts
from support.children import Chat, Child, as_user
from support.place import PLACE
from support.processes import PR_SET_PDEATHSIG, descriptors, prctl
from support.ptys import Pty
from support.raw import answer, connect, message
from support.rig import Rig
from support.users import ALICE, BOB, CAROL
from ttybroker import BrokerError, asking, client, open_fd, wire
from ttybrokerd.root.device import Devices, Target
from ttybrokerd.root.refusal import Refusal

pytestmark = pytest.mark.root

RENAME_EXCHANGE = 2  # linux/fs.h
MS_NODEV, MS_BIND = 0x4, 0x1000  # sys/mount.h
MNT_DETACH = 2
IN_OPEN = 0x20  # sys/inotify.h
PORT, BAIT = os.makedev(1, 3), os.makedev(1, 5)  # /dev/null and /dev/zero stand in: they open
DRIVERS = "serial  /dev/null  1  3 serial\nunknown  /dev/zero  1  5 system\n"


def mount(source: Path | str, target: Path, kind: str | None, flags: int) -> None:
    """mount(2)."""
    words = [os.fsencode(source), os.fsencode(target), kind and kind.encode()]
    call("mount", *words, ctypes.c_ulong(flags), None)


class Racer:
    """A child that swaps until it is told to end; `swaps` is how often it has."""

    def __init__(self, swap: Callable[[], object]) -> None:
        self._shared = mmap.mmap(-1, 8)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                done = 0
                while True:
                    swap()
                    done += 1
                    struct.pack_into("Q", self._shared, 0, done)
            finally:
                os._exit(1)

    @property
    def swaps(self) -> int:
        """So many till now."""
        return int(struct.unpack_from("Q", self._shared)[0])

    def end(self) -> None:
        """Stop it; it must have been swapping all the time."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSIGNALED(status), "the racer ended by itself"


class Opens:
    """How often a node was opened: inotify(7)."""

    def __init__(self, path: Path | str) -> None:
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        call("inotify_add_watch", self._fd, os.fsencode(path), IN_OPEN)

    def any(self) -> bool:
        """Whether it was at all. (The same event twice in a row is told once.)"""
        seen = bool(select.select([self._fd], [], [], 0)[0])
        os.close(self._fd)
        return seen


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's on a file system with devices."""
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="ttybroker-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def prepare(place: Path) -> Devices:
    """place/dev with the port, and place/bait beside it."""
    (place / "drivers").write_text(DRIVERS)
    (place / "consoles").touch()
    (place / "dev").mkdir()
    os.mknod(place / "dev/port", stat.S_IFCHR | 0o600, PORT)
    os.mknod(place / "bait", stat.S_IFCHR | 0o600, BAIT)
    return Devices(str(place / "dev"), str(place / "drivers"), str(place / "consoles"))


def exchange(one: Path, other: Path) -> Callable[[], object]:
    """Swap two names in one step: renameat2(2)."""
    here, there = os.fsencode(one), os.fsencode(other)
    return lambda: call("renameat2", -100, here, -100, there, RENAME_EXCHANGE)


def race(
    devices: Devices, racer: Racer, swaps: int, met: str, say: Callable[[str], None]
) -> Counter[str]:
    """Look and open until there were so many swaps, and the outcome `met`, without which the two
    never ran at a time; how often it came to what."""
    target = Target("port", f"{devices.directory}/port", pty=False, console=False)
    outcomes: Counter[str] = Counter()
    before, next_word = len(descriptors(os.getpid())), 0
    while racer.swaps < swaps or not outcomes[met]:
        try:
            seen = devices.look(target)
            try:
                descriptor = devices.open(seen)
            finally:
                seen.close()
        except Refusal as refusal:
            outcomes[errno.errorcode[refusal.number]] += 1
        else:
            status = os.fstat(descriptor)
            assert stat.S_ISCHR(status.st_mode) and status.st_rdev == PORT, status
            os.close(descriptor)
            outcomes["opened"] += 1
        if racer.swaps >= next_word:
            say(f"{racer.swaps:,} of {swaps:,} swaps, {dict(outcomes)}")
            next_word += swaps // 10
    racer.end()
    assert len(descriptors(os.getpid())) == before
    assert set(outcomes) <= {"opened", "ENOENT", "ENODEV"}, outcomes
    return outcomes


@pytest.mark.parametrize("what", ["node", "recreated node", "symlink", "link to its like", "fifo"])
def test_a_swap_between_look_and_open_gains_nothing(
    place: Path,
    what: str,
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
    progress: Callable[[str], None],
) -> None:
    """Source: CWE-367; open(2), O_NOFOLLOW and O_PATH; renameat2(2), RENAME_EXCHANGE.

    Promise: opened is the device that was looked at, or nothing. No link is followed, not even
    to a device of the same number; that is why nobody ever opens what it leads to.
    """
    devices = prepare(place)
    port, other = place / "dev/port", place / "dev/other"
    leads_to = place / "bait"
    if what == "node":
        os.mknod(other, stat.S_IFCHR | 0o600, BAIT)
    elif what == "fifo":
        os.mkfifo(other)
    else:
        if what == "link to its like":
            leads_to = place / "like"
            os.mknod(leads_to, stat.S_IFCHR | 0o600, PORT)
        other.symlink_to(leads_to)
    opens = Opens(leads_to)

    def recreate() -> None:
        for rdev in (BAIT, PORT):
            port.unlink()
            os.mknod(port, stat.S_IFCHR | 0o600, rdev)

    swap = recreate if what == "recreated node" else exchange(port, other)
    outcomes = race(devices, Racer(swap), scale(20_000, 1_000_000), "ENODEV", progress)
    assert outcomes["opened"] and outcomes["ENOENT"], "the race was none"
    assert what == "node" or not opens.any(), "what the link leads to was opened"
    count("swaps between look and open", scale(20_000, 1_000_000))
    count("of them met by an open", outcomes["ENODEV"])


def test_a_swap_of_the_directory_gains_nothing(
    place: Path,
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
    progress: Callable[[str], None],
) -> None:
    """Source: CVE-2018-15664 (docker cp), a directory on the way that becomes another.

    Promise: the directory that was looked into is the one that is opened in.
    """
    devices = prepare(place)
    other = place / "other"
    other.mkdir()
    os.mknod(other / "port", stat.S_IFCHR | 0o600, BAIT)
    opens = Opens(other / "port")
    swaps = scale(20_000, 1_000_000)
    outcomes = race(devices, Racer(exchange(place / "dev", other)), swaps, "ENOENT", progress)
    assert outcomes["opened"] and outcomes["ENOENT"] and not outcomes["ENODEV"], outcomes
    assert not opens.any(), "the other directory's node was opened"
    count("swaps between look and open", swaps)


def test_a_bind_mount_between_look_and_open_gains_nothing(
    place: Path,
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
    progress: Callable[[str], None],
) -> None:
    """Source: mount(2), MS_BIND: another node under the same name, in the same directory.

    Promise: opened is the device that was looked at, or nothing.
    """
    swaps = scale(5_000, 100_000)

    def run(chat: Chat) -> Counter[str]:
        own_mounts()
        devices = prepare(place)
        port, bait = place / "dev/port", place / "bait"
        over, under = os.fsencode(bait), os.fsencode(port)

        def swap() -> None:
            libc.mount(over, under, None, ctypes.c_ulong(MS_BIND), None)
            libc.umount2(under, MNT_DETACH)

        return race(devices, Racer(swap), swaps, "ENOENT", chat.say)

    child = Child(run, 0)
    try:
        while isinstance(outcomes := child.hear(600), str):
            progress(outcomes)
    finally:
        child.kill()
    assert outcomes["opened"] and outcomes["ENOENT"], "the race was none"
    count("swaps between look and open", swaps)
    count("of them met by an open", outcomes["ENODEV"])


def test_the_link_of_an_alias_is_swapped_while_it_is_asked_for(
    rig: Rig,
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
    progress: Callable[[str], None],
) -> None:
    """Source: udev(7) makes and removes /dev/serial/by-id links; here somebody else does, too.

    Promise: who gets the alias gets one of the devices that root's links lead to, alone, and
    whatever a user could redirect is never opened.
    """
    one, two, bait = rig.port("one"), rig.port("two"), Pty()
    directory, theirs = rig.base / "by-id", rig.base / "theirs"
    directory.mkdir()
    theirs.mkdir()
    (theirs / "link").symlink_to(bait.path)
    os.chown(theirs, ALICE, ALICE)
    for name, leads_to in (("port", one.path), ("a", two.path), ("b", theirs / "link")):
        (directory / name).symlink_to(leads_to)
    alias = f'[[rule]]\nport = "alias"\ndevice = "{directory}/port"\nclass = "pty"\nallow = ["*"]\n'
    rig.rules.append(alias)
    rig.daemon()
    opens = Opens(bait.path)
    turns = [exchange(directory / "port", directory / name) for name in ("a", "b")]
    held = mmap.mmap(-1, 64)
    leases = scale(100, 5_000)

    def run(_chat: Chat) -> Counter[int]:
        outcomes: Counter[int] = Counter()
        while outcomes.total() < leases:
            try:
                descriptor = open_fd("alias", broker=str(rig.socket))
            except BrokerError as error:
                outcomes[error.errno or 0] += 1
                continue
            device = {one.number: 0, two.number: 1}[os.fstat(descriptor).st_rdev]
            held[device] += 1
            assert held[device] == 1, "two have it"
            held[device] -= 1
            os.close(descriptor)
            outcomes[0] += 1
        return outcomes

    racer = Racer(lambda: [turn() for turn in turns])
    children = [rig.child(uid, run) for uid in (ALICE, BOB, CAROL)]
    outcomes = sum((child.result(3600) for child in children), Counter[int]())
    swaps = 2 * racer.swaps
    racer.end()
    assert set(outcomes) <= {0, errno.EBUSY, errno.EACCES, errno.ENODEV}, outcomes
    assert all(outcomes[number] for number in (0, errno.EACCES)), outcomes
    assert not opens.any(), "a user's link was followed"
    progress(f"{swaps:,} swaps, {dict(outcomes)}")
    count("swaps of an alias's link", swaps)
    count("leases of it meanwhile", outcomes[0])
    bait.close()
    for path in [*directory.iterdir(), theirs / "link"]:
        path.unlink()
    directory.rmdir()
    theirs.rmdir()


def test_the_device_is_another_when_who_waited_gets_its_turn(rig: Rig) -> None:
    """Source: udev(7): an adapter that is plugged in may get the name that another had.

    Promise: who waited for a name gets the device that has it by then, as one who asks anew would,
    and its lease, its lock and its holder are those of that device.
    """
    rig.port("one")
    two = rig.port("two")
    node = rig.base / "ports/node"
    node.parent.mkdir()
    node.touch()
    mount(rig.ports["one"].path, node, None, MS_BIND)
    try:
        rule = f'[[rule]]\nport = "alias"\ndevice = "{node}"\nclass = "pty"\nallow = ["*"]\n'
        rig.rules.append(rule)
        rig.daemon()
        holder = rig.holder(BOB, "alias")

        def wait(chat: Chat) -> None:
            descriptor = open_fd("alias", broker=str(rig.socket), wait=10)
            chat.say(os.fstat(descriptor).st_rdev)
            chat.hear()

        waiting = rig.child(ALICE, wait)
        with client.connect(str(rig.socket)) as connection:
            while not any(port.waiting for port in connection.ports()):
                pass
        call("umount2", os.fsencode(node), MNT_DETACH)
        mount(two.path, node, None, MS_BIND)
        holder.say()
        holder.result()
        assert waiting.hear() == two.number
        with client.connect(str(rig.socket)) as connection:
            states = {port.name: port.state for port in connection.ports()}
        assert states == {"one": "free", "two": "busy", "alias": "busy"}
        waiting.say()
        waiting.result()
    finally:
        call("umount2", os.fsencode(node), MNT_DETACH)
        node.unlink()
        node.parent.rmdir()


def test_no_device_number_of_another_driver_is_a_port(
    place: Path, scale: Callable[[int, int], int], count: Callable[[str, int], None]
) -> None:
    """Source: Documentation/admin-guide/devices.txt; the kernel's own list of serial drivers is
    read here in another way than the broker's.

    Promise: a node is a port by its number in a serial driver's range, whatever it is called;
    /dev/mem called ttyS5 is none. Nothing is opened to find that out.
    """
    serial: set[tuple[int, int]] = set()
    for line in Path("/proc/tty/drivers").read_text().splitlines():
        found = re.search(r"\s(\d+)\s+(\d+)(?:-(\d+))?\s+serial$", line)
        if found:
            first, last = int(found[2]), int(found[3] or found[2])
            serial |= {(int(found[1]), minor) for minor in range(first, last + 1)}
    (place / "consoles").touch()
    devices = Devices(str(place), "/proc/tty/drivers", str(place / "consoles"))
    target = Target("ttyS5", str(place / "ttyS5"), pty=False, console=False)
    tried = 0
    for major in range(512):
        for minor in (*range(scale(4, 256)), 64, 255, 256, 1 << 19):
            for kind in (stat.S_IFCHR, stat.S_IFBLK):
                os.mknod(target.path, kind | 0o600, os.makedev(major, minor))
                try:
                    seen = devices.look(target)
                except Refusal as refusal:
                    assert refusal.number == errno.ENOENT, refusal
                    assert kind == stat.S_IFBLK or (major, minor) not in serial
                else:
                    seen.close()
                    assert kind == stat.S_IFCHR and (major, minor) in serial, (major, minor)
                os.unlink(target.path)
                tried += 1
    count("device numbers", tried)


def test_a_node_on_a_nodev_mount_is_no_device(place: Path) -> None:
    """Source: mount(8), nodev: there a node is a name without a device.

    Promise: it is refused by the kernel's word, and nothing stays open.
    """

    def run(_chat: Chat) -> tuple[int, str]:
        own_mounts()
        mount("tmpfs", place, "tmpfs", MS_NODEV)
        devices = prepare(place)
        before = len(descriptors(os.getpid()))
        seen = devices.look(Target("port", str(place / "dev/port"), pty=False, console=False))
        with pytest.raises(Refusal) as caught:
            devices.open(seen)
        seen.close()
        assert len(descriptors(os.getpid())) == before
        return caught.value.number, caught.value.reason

    child = Child(run, 0)
    try:
        number, reason = child.result()
    finally:
        child.kill()
    assert number == errno.EACCES and "Permission denied" in reason


# The daemon tells what its Python opens, but for the kernel's own files.
TELL = """
import os, sys
def tell(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link",
                 "os.remove", "os.symlink", "os.chdir", "os.chmod", "os.chown"):
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else ""
        if not path.startswith(("/proc/", "/sys/")):
            try:
                os.write({pipe}, os.fsencode(path) + b"\\0")
            except BrokenPipeError:  # the test is over
                pass
sys.addaudithook(tell)
"""
GRAMMAR = re.compile(rb"[A-Za-z][A-Za-z0-9_-]{0,63}")
CHECKING = struct.pack("<IH", wire.NOBODY, 0)
KINDS = {  # version and kind, and what stands before the name
    (1, wire.OPEN): bytes(8),
    (1, wire.REVOKE): b"",
    (1, wire.CHECK): CHECKING,
    (2, wire.OPEN): bytes(32),
    (2, wire.REVOKE): bytes(4),
    (2, wire.CHECK): CHECKING,
}
# digits and letters that are none of ours, an override, a space without width, case that folds
LOOKALIKES = "\u0660\u0966\u07c0\uff10\U0001d7ce\uff54\uff59\u202e\u200b\u0441\u017fK\u0130"
_letters = st.sampled_from(list(b"abyzABYZ0189_-"))
_strange = st.sampled_from(
    [b"", b"/", b".", b"..", b"\0", b"\n", b" ", b"%s", b"*", b"?", b"[a]", b"~", b"\\", b"\x7f"]
    + [text.encode() for text in LOOKALIKES]
    + [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"a" * 64, b"ttyS", b"gps", b"/dev/", b"../"]
)
names = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=70).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(_letters, min_size=1, max_size=70).map(bytes),
    st.lists(st.one_of(_strange, _letters.map(lambda n: bytes([n]))), max_size=12).map(b"".join),
    st.sampled_from([b"ttyS0", b"gps", b"gpsx"]).flatmap(
        lambda name: st.tuples(st.integers(0, len(name)), _strange).map(
            lambda cut: name[: cut[0]] + cut[1] + name[cut[0] :]
        )
    ),
)


def test_no_name_leads_anywhere_but_where_the_policy_says(
    rig: Rig, scale: Callable[[int, int], int], count: Callable[[str, int], None]
) -> None:
    """Source: CWE-22 and CWE-20; Unicode TR 36 on look-alikes; the fuzzer is hypothesis.

    Promise: what is outside of the grammar is refused as such by every request that has a name;
    what is in it but not in the policy is refused as such; and neither makes the broker open
    anything at all.
    """
    rig.port("gps", "allow = [4242]")
    rig.rules.append('[[rule]]\nport = "ttyS*"\nallow = [4242]\n')
    read, write = os.pipe2(os.O_NONBLOCK)
    daemon = rig.daemon(hook=TELL.format(pipe=write), pass_fds=(write,))
    with contextlib.suppress(BlockingIOError):
        while os.read(read, 65536):
            pass
    asked: Counter[str] = Counter()

    def opened() -> set[bytes]:
        told = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(read, 65536):
                told += part
        return set(told.split(b"\0")) - {b""}

    def relay(chat: Chat) -> None:
        """hypothesis loads parts of itself late, and ALICE may not read the checkout."""
        sock = connect(rig)
        while (datagram := chat.hear(3600)) is not None:
            sock.send(datagram)
            chat.say(answer(sock))

    alice = rig.child(ALICE, relay)
    alice.say(asking.encode_request(wire.Check("gps")))
    alice.hear()
    opened()

    @settings(max_examples=scale(300, 30_000), deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(names, st.sampled_from(list(KINDS)))
    def ask(name: bytes, how: tuple[int, int]) -> None:
        version, kind = how
        alice.say(message(kind, KINDS[how] + name, version))
        reply, paths = alice.hear(), opened()
        if GRAMMAR.fullmatch(name) is None:
            asked["no name"] += 1
            assert isinstance(reply, wire.Refused) and reply.errno == errno.EINVAL, reply
        elif kind == wire.CHECK:
            asked["not his"] += 1
            assert isinstance(reply, wire.Verdict) and not reply.allowed, reply
        else:
            asked["not his"] += 1
            assert isinstance(reply, wire.Refused) and reply.errno == errno.EACCES, reply
        assert not paths, f"{name!r} made it open {paths}"

    ask()
    alice.say(None)
    alice.result()
    assert asked["no name"] and asked["not his"], asked
    as_user(4242, (), lambda: os.close(open_fd("gps", broker=str(rig.socket))))
    assert b"/dev/pts" in opened()  # or nothing of this would have been told
    daemon.stop()  # it tells of what it opens as long as it runs
    os.close(write)
    os.close(read)
    assert daemon.output().isascii()
    count("names", asked.total())
