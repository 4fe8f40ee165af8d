"""A file by ZMODEM, from inside Debian's terminal programs, over a UART and over USB."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest

from adapters import Adapters
from figures import note
from lines import NEAR, PAIR, far, quicken
from service import BOB, Service, until
from support.waiting import TIMEOUT

pytestmark = pytest.mark.bare  # a minute or two, and none of it is systemd's

HOME = Path("/home/bob")
SIZE = 256 * 1024
LAUNCHERS = [("ttyrun",), ("ttybroker", "run")]


class Program(NamedTuple):
    """How to start a program, see that it is up, make it send or receive `file`, and leave it."""

    command: str
    ready: str
    send: Callable[[pexpect.spawn], None]
    receive: Callable[[pexpect.spawn], None]
    leave: str


def picocom_sends(screen: pexpect.spawn) -> None:
    picocom_runs(screen, "\x13", "file")


def picocom_receives(screen: pexpect.spawn) -> None:
    picocom_runs(screen, "\x12", "")


def picocom_runs(screen: pexpect.spawn, key: str, file: str) -> None:
    """Wait until picocom has shown the other side's first word.

    If that word comes together with the key, picocom remembers after the transfer that it was to
    read, and waits for more (its loop()).
    """
    screen.expect_exact("**\x18B0")
    screen.send(f"\x01{key}")
    screen.expect_exact("*** file:")
    screen.send(f"{file}\r")
    screen.expect_exact("*** exit status: 0 ***")


def minicom_sends(screen: pexpect.spawn) -> None:
    screen.send("\x01s")
    screen.expect_exact("Upload")
    screen.send("\r")  # zmodem is the first
    screen.expect_exact("Okay")
    screen.send("\r")  # no file is marked: ask for its name
    screen.expect_exact("filename")
    screen.send("file\r")
    minicom_ends(screen)


def minicom_receives(screen: pexpect.spawn) -> None:
    """Press no key: minicom begins by itself at the other side's first word.

    The key that asks for it would race with that (do_terminal() in minicom's main.c).
    """
    minicom_ends(screen)


def minicom_ends(screen: pexpect.spawn) -> None:
    """Wait until it shows what sz or rz say.

    Up to 2.9 it then waits for a key. From 2.10 on its window just goes away, and the key would go
    to the line.
    """
    screen.expect_exact("Transfer complete")
    screen.send("\r")


def cu_sends(screen: pexpect.spawn) -> None:
    cu_runs(screen, "sz -b -q file")


def cu_receives(screen: pexpect.spawn) -> None:
    cu_runs(screen, "rz -b -q -y")


def cu_runs(screen: pexpect.spawn, command: str) -> None:
    """Run the program with the line as its input and output: ~+.

    cu reads each part of that command in another mode.
    """
    until("cu to read keys", lambda: not cooked(screen))
    screen.send("~")
    screen.expect_exact("~")
    screen.send("+")
    until("cu to read a line", lambda: cooked(screen))
    screen.send(f"{command}\r")


def cooked(screen: pexpect.spawn) -> bool:
    """Return whether the program lets its terminal read lines: termios(3)."""
    return bool(termios.tcgetattr(screen.child_fd)[3] & termios.ICANON)


PROGRAMS = {
    "picocom": Program(
        "picocom -b 115200 --send-cmd 'sz -b -q' --receive-cmd 'rz -b -q -y' /dev/{}",
        "Terminal ready", picocom_sends, picocom_receives, "\x01\x18",
    ),
    "minicom": Program(
        "minicom -o -D /dev/{} -b 115200",
        "Welcome to minicom", minicom_sends, minicom_receives, "\x01q\r",
    ),
    "cu": Program("cu -l /dev/{} -s 115200", "Connected.", cu_sends, cu_receives, "\r~."),
}  # fmt: skip


@pytest.fixture(params=["uart", "usb"])
def wire(request: pytest.FixtureRequest, adapters: Adapters) -> tuple[str, str]:
    """Return a port, and the UART at its other end."""
    ends = PAIR if request.param == "uart" else (adapters.plug(0), "ttyS3")
    for name in ends:
        if name.startswith("ttyS"):
            quicken(name)
    return ends


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Return the user's home and a directory of the far end. Neither has a `file` at the end."""
    yield HOME, tmp_path
    (HOME / "file").unlink(missing_ok=True)


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=" ".join)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_file_arrives(
    broker: Service,
    wire: tuple[str, str],
    places: tuple[Path, Path],
    name: str,
    launcher: tuple[str, ...],
) -> None:
    """Each program sends and receives on each kind of port, by one launcher or the other."""
    port, other = wire
    home, elsewhere = places
    sends = (launcher == LAUNCHERS[0]) == (port == NEAR)
    source, sink = (home, elsewhere) if sends else (elsewhere, home)
    data = os.urandom(SIZE)
    (source / "file").write_bytes(data)
    shutil.chown(source / "file", BOB if sends else 0)
    program = PROGRAMS[name]
    words = [*launcher, "--", "sh", "-c", f"exec {program.command.format(port)}"]
    screen = pexpect.spawn(
        words[0], words[1:], cwd=home, preexec_fn=become_bob, timeout=60, encoding="latin-1",
        env={**os.environ, "HOME": str(home), "TERM": "linux", "LANG": "C.UTF-8", "USER": "bob"},
    )  # fmt: skip
    end = far(other)
    os.set_blocking(end, True)  # rz takes EAGAIN for an error
    try:
        screen.expect_exact(program.ready)
        words = ["rz", "-b", "-q", "-y"] if sends else ["sz", "-b", "-q", "file"]
        start = time.monotonic()
        peer = subprocess.Popen(words, cwd=elsewhere, stdin=end, stdout=end)
        try:
            (program.send if sends else program.receive)(screen)
            assert peer.wait(60) == 0
        finally:
            peer.kill()
            peer.wait()
        note("s for 256 KiB by zmodem", time.monotonic() - start)
        until("all of the file", lambda: (sink / "file").stat().st_size == SIZE)
        until("the program to read keys", lambda: not cooked(screen))
        screen.send(program.leave)
        left = time.monotonic()
        screen.expect(pexpect.EOF)
        # pexpect says so at its time limit, too, once the program has ended
        assert time.monotonic() - left < TIMEOUT, "somebody keeps its terminal"
        screen.wait()
        assert screen.exitstatus == 0
    finally:
        screen.close(force=True)
        os.close(end)
    digests = [hashlib.sha256((place / "file").read_bytes()).hexdigest() for place in places]
    assert digests == [hashlib.sha256(data).hexdigest()] * 2


def become_bob() -> None:
    """Become bob, in the child, which has its terminal already."""
    os.initgroups("bob", BOB)
    os.setresgid(BOB, BOB, BOB)
    os.setresuid(BOB, BOB, BOB)
