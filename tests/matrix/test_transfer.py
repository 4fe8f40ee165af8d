"""1 MiB over a brokered port: inside picocom, inside minicom, and without any terminal program."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest

from matrix.farend import FarEnd
from matrix.namespace import PORT
from matrix.stage import Ended, Stage
from matrix.terminal import Terminal
from support.waiting import TIMEOUT

pytestmark = pytest.mark.root

SIZE = 1 << 20
RZ = ("rz", "-b", "-q", "-y")


@pytest.fixture
def digest(stage: Stage) -> Iterator[str]:
    """The sha256 of `file`, SIZE random bytes in the user's home."""
    content = os.urandom(SIZE)
    (stage.home / "file").write_bytes(content)
    yield hashlib.sha256(content).hexdigest()


def received(far: FarEnd) -> str:
    """The same of what has come."""
    return hashlib.sha256(far.result("file")).hexdigest()


def test_picocom_sends_a_file(
    stage: Stage, terminal: Terminal, line: list[str], digest: str
) -> None:
    """The far end speaks when picocom has its command. What arrives with C-s is read by sz, and
    then picocom waits to read it: its loop() looks no second time whether there is something, and
    run_cmd() has made the port blocking (3.1, 2024-07)."""
    terminal.run(*line, "picocom", "-b", "115200", "--send-cmd", "sz -b -q", f"/dev/{PORT}")
    terminal.see("Terminal ready")
    terminal.type("C-a", "C-s")
    terminal.see("*** file:")
    with FarEnd(stage.rig, stage.far.master, *RZ) as far:
        terminal.write("file")
        terminal.type("Enter")
        terminal.see("*** exit status: 0 ***")
        assert received(far) == digest
    assert terminal.status("C-a", "C-x") == 0
    stage.demand_free()


def test_minicom_sends_a_file(
    stage: Stage, terminal: Terminal, line: list[str], digest: str
) -> None:
    """The far end speaks when minicom is past its menus: its first word has a control character,
    and with one on the screen 2.11 draws without end as it closes a window (mc_wclose())."""
    terminal.run(*line, "minicom", "-D", f"/dev/{PORT}", "-b", "115200")
    terminal.see("Welcome to minicom")
    terminal.type("C-a", "s")
    terminal.see("[Upload]")
    terminal.type("Enter")  # zmodem is the first
    terminal.see("[Okay]")
    terminal.type("Enter")  # no file is marked: ask for its name
    terminal.see("enter filename")
    terminal.write("file")
    terminal.type("Enter")
    terminal.see("zmodem upload")
    with FarEnd(stage.rig, stage.far.master, *RZ) as far:
        terminal.until("the end of the upload", lambda: upload_has_ended(terminal.screen()))
        assert received(far) == digest
    terminal.type("Enter", "C-a", "q", "Enter")
    assert terminal.status() == 0
    stage.demand_free()


def upload_has_ended(screen: str) -> bool:
    """minicom waits for a key up to 2.9; from 2.10 on its window just goes away."""
    return "press any key to continue" in screen or "upload" not in screen


@pytest.mark.parametrize("port", [("--stdio", PORT), (PORT,)], ids=["descriptor", "open"])
def test_sz_sends_a_file_by_itself(
    stage: Stage, bare: list[str], digest: str, port: tuple[str, ...]
) -> None:
    sz = ["sz", "-b", "-q", "file"]
    words = sz if len(port) == 2 else ["sh", "-c", f"exec {' '.join(sz)} <>/dev/{PORT} >&0"]
    with FarEnd(stage.rig, stage.far.master, *RZ) as far:
        done = stage.run(*bare, *port, "--", *words)
        assert (done.status, done.err.strip()) == (0, "")
        assert received(far) == digest
    stage.demand_free()


def test_socat_sends_a_file_on_a_descriptor_it_finds_open(
    stage: Stage, bare: list[str], digest: str
) -> None:
    words = ["socat", "-u", "OPEN:file", "FD:3,raw,echo=0"]
    program = stage.start(*bare, "--fd", "3", PORT, "--", *words)
    content = stage.far.read(SIZE)
    out, err = program.communicate(timeout=TIMEOUT)
    assert Ended(program.returncode, out.decode(), err.decode()) == Ended(0, "", "")
    assert hashlib.sha256(content).hexdigest() == digest
    stage.demand_free()
