"""Programs that nobody here wrote flash a board, while a monitor that lends its port stays open.

`make matrix` does a hundred rounds with sz and a hundred with avrdude. `make test` does three with
sz.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from matrix.bootloader import Bootloader
from matrix.farend import FarEnd
from support.children import Orphan
from support.command import TTYBROKER, environment
from support.rig import Rig
from support.screen import Screen
from support.waiting import TIMEOUT, wait_spoken
from ttybroker import client

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

BOARD = "board"
# How each is started, and what it shows when it listens to the board.
MONITORS = {
    "term": ("term", [BOARD], b"Quit: Ctrl+]"),
    "picocom": (
        "run",
        ["--yield", "--", "picocom", "-q", "-b", "115200", f"/dev/{BOARD}"],
        b"what the program writes while its port is lent is thrown away",
    ),
}
SIZE = 20_000  # bytes for sz
PAGES = 1024  # bytes for avrdude
LOOK = 0.002  # seconds; a far end that is hung up cannot be waited for


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    whole = metafunc.config.getoption("--write-matrix", default=False)
    flashers = [("sz", 100), ("avrdude", 100)] if whole else [("sz", 3)]
    metafunc.parametrize(("flasher", "rounds"), flashers)


@pytest.fixture(params=MONITORS)
def monitor(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Screen]:
    rig.port(BOARD)
    daemon = rig.daemon()
    command, words, listens = MONITORS[request.param]
    with Screen(rig, *words, command=command) as screen:
        screen.shows(listens)
        yield screen
    for pid in rig.orphans():
        Orphan(pid).wait()
    daemon.settled()


def test_not_a_byte_of_the_flash_is_in_the_monitor(
    monitor: Screen, rig: Rig, flasher: str, rounds: int, tmp_path: Path
) -> None:
    port = rig.ports[BOARD]
    for number in range(rounds):
        until(rig, monitors=True)
        flash(rig, flasher, tmp_path)
        until(rig, monitors=True)
        port.write(f"board {number} is up\r\n".encode())
        monitor.shows(f"board {number} is up".encode())
    shown = re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", monitor.seen).replace(b"\r", b"").split(b"\n")
    lines = [line for line in shown if line and b"ttybroker: " not in line]
    assert lines == [f"board {number} is up".encode() for number in range(rounds)]


def has_it(rig: Rig) -> bool:
    """Whether the monitor has the port, and lends it to nobody."""
    with client.connect(str(rig.socket)) as connection:
        (row,) = connection.ports()
    return row.state == "busy" and row.lent is None


def until(rig: Rig, monitors: bool) -> None:
    """Wait until the monitor has the port, or somebody to whom it is lent."""
    end = time.monotonic() + TIMEOUT
    while has_it(rig) != monitors:
        assert time.monotonic() < end
        time.sleep(0.01)


def flash(rig: Rig, flasher: str, there: Path) -> None:
    """Borrow the port, and send something to the board."""
    {"sz": by_sz, "avrdude": by_avrdude}[flasher](rig, there)


def by_sz(rig: Rig, there: Path) -> None:
    """The far end speaks once sz has: then sz has the port, and has set it up."""
    (there / "firmware").write_bytes(content := os.urandom(SIZE))
    with started(rig, "--stdio", BOARD, "--", "sz", "-b", "-q", str(there / "firmware")) as process:
        until(rig, monitors=False)
        wait_spoken(rig.ports[BOARD].master, "what sz sends")
        with FarEnd(rig, rig.ports[BOARD].master, "rz", "-b", "-q", "-y") as far:
            assert process.wait(TIMEOUT) == 0
            until(rig, monitors=True)
            assert far.result("firmware") == content


def by_avrdude(rig: Rig, there: Path) -> None:
    """It writes the board's memory, and reads it again to compare.

    Between a look and a read somebody may open the port, and then there is nothing to read. So the
    far end's reads do not block.
    """
    (there / "firmware").write_bytes(content := os.urandom(PAGES))
    words = ("-q", "-p", "m328p", "-c", "arduino", "-P", f"/dev/{BOARD}", "-b", "115200",
             "-U", f"flash:w:{there / 'firmware'}:r")  # fmt: skip
    master, board = rig.ports[BOARD].master, Bootloader()
    end = time.monotonic() + TIMEOUT
    os.set_blocking(master, False)
    with started(rig, "--", "avrdude", *words) as process:
        while process.poll() is None:
            assert time.monotonic() < end, "avrdude does not end"
            try:
                heard = os.read(master, 4096)
            except OSError:  # EAGAIN; EIO: just now nobody has the port
                time.sleep(LOOK)
            else:
                os.write(master, board.hear(heard))
        out, err = process.communicate()
    os.set_blocking(master, True)
    assert process.returncode == 0, out + err
    assert board.flash[:PAGES] == content


@contextlib.contextmanager
def started(rig: Rig, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ttybroker run` with these words; ended, however the test does."""
    process = subprocess.Popen([*TTYBROKER, "run", *words], env=environment(rig),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
