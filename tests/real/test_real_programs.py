"""Programs that know nothing of the broker: whoever locks in whatever way is seen and named."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

from support.children import Chat, as_user
from support.daemon import Daemon
from support.ptys import Pty
from support.rig import Rig
from support.users import ALICE, NOBODY
from support.waiting import IN_CREATE, Watch
from ttybroker import PortBusy, client, open_fd, wire

pytestmark = pytest.mark.root

TIOCEXCL = 0x540C


def row(rig: Rig) -> wire.PortInfo:
    """The port as root's list shows it."""
    with client.connect(str(rig.socket)) as connection:
        return next(port for port in connection.ports() if port.name == "ttyS0")


def busy(rig: Rig) -> wire.Holder:
    """Who has it, by the words of the refusal."""
    with pytest.raises(PortBusy, match="ttyS0: busy") as caught:
        as_user(ALICE, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
    assert caught.value.holder is not None
    return caught.value.holder


def lock_by_flock(pty: Pty, _rig: Rig) -> None:
    """As picocom, tio and pyserial do."""
    fcntl.flock(os.open(pty.path, os.O_RDWR | os.O_NOCTTY), fcntl.LOCK_EX)


def lock_by_exclusive(pty: Pty, _rig: Rig) -> None:
    """As screen does."""
    fcntl.ioctl(os.open(pty.path, os.O_RDWR | os.O_NOCTTY), TIOCEXCL)


def lock_by_text(_pty: Pty, rig: Rig) -> None:
    """As minicom and cu do."""
    rig.lock().write_bytes(b"%10d\n" % os.getpid())


def lock_by_short_text(_pty: Pty, rig: Rig) -> None:
    """As some do."""
    rig.lock().write_bytes(b"%d" % os.getpid())


def lock_by_binary(_pty: Pty, rig: Rig) -> None:
    """As microcom does."""
    rig.lock().write_bytes(os.getpid().to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("lock", "how"),
    [
        (lock_by_flock, "flock"),
        (lock_by_exclusive, "exclusive"),
        (lock_by_text, "lock file"),
        (lock_by_short_text, "lock file"),
        (lock_by_binary, "lock file"),
    ],
)
def test_an_outsiders_lock_is_respected_and_named_until_it_ends(
    rig: Rig, daemon: Daemon, lock: Callable[[Pty, Rig], None], how: str
) -> None:
    rig.expected_locks.add("LCK..ttyS0")

    def outsider(chat: Chat) -> None:
        lock(rig.ports["ttyS0"], rig)
        chat.say("locked")
        chat.hear()

    child = rig.child(0, outsider)
    child.hear()
    holder = busy(rig)
    assert holder.how == how
    if how != "exclusive":  # the kernel does not tell who set it
        assert (holder.uid, holder.pid) == (0, child.pid) and holder.program
        seen = row(rig)
        assert seen.state == "busy"
        assert seen.holder is not None and (seen.holder.how, seen.holder.pid) == (how, child.pid)
    waiting = rig.holder(NOBODY, wait=30)
    while row(rig).waiting != 1:
        pass
    child.say()
    child.result()
    if how == "exclusive":
        rig.ports["ttyS0"].forget_exclusive()
    waiting.hear()  # the outsider has left: who waited gets the port
    assert rig.lock().read_bytes() == b"%10d\n" % waiting.pid
    waiting.say()
    waiting.result()
    rig.expected_locks.clear()


@pytest.mark.parametrize("program", ["picocom", "minicom"])
def test_a_terminal_program_is_seen_and_waited_for(rig: Rig, daemon: Daemon, program: str) -> None:
    if shutil.which(program) is None:
        pytest.fail(f"{program} is not installed: apt-get install {program}")
    path = rig.ports["ttyS0"].path
    terminal = Pty()
    rig.ports["terminal"] = terminal
    link = rig.base / "ttyS0"  # minicom's lock is by this name, and so is the broker's for a pty
    link.symlink_to(path)
    inside = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
    if program == "picocom":
        command = ["picocom", "--noinit", path]
    else:
        # its lock directory is compiled in; a private one takes that place for it alone
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c"]
        command += [f'mount --bind {rig.locks} /var/lock && exec minicom -D "$0"', str(link)]
        rig.expected_locks.add("LCK..ttyS0")
    with Watch(rig.locks) as watch:
        process = subprocess.Popen(
            command,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            env={**os.environ, "TERM": "vt100", "HOME": str(rig.base)},
        )
        os.close(inside)
        try:
            if program == "minicom":
                watch.wait("LCK..ttyS0", IN_CREATE)
                terminal.read(200)
                holder = busy(rig)
                assert (holder.how, holder.program) == ("lock file", program)
            else:
                terminal.read(200)  # it has told its settings: it has opened and locked
                holder = busy(rig)
                assert (holder.how, holder.pid, holder.program) == ("flock", process.pid, program)
                waiting = rig.holder(NOBODY, wait=30)
                while row(rig).waiting != 1:
                    pass
                terminal.write(b"\x01\x18")  # C-a C-x: leave
                process.wait(15)
                waiting.hear()
                waiting.say()
                waiting.result()
        finally:
            process.kill()
            process.wait()
            link.unlink()
            rig.lock().unlink(missing_ok=True)
            rig.expected_locks.clear()
