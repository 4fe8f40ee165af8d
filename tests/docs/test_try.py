"""The commands of docs/try.md, from the first to the last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.children import Orphan
from support.command import environment
from support.processes import ROOT
from support.rig import Rig
from support.screen import Screen
from support.waiting import IN_CREATE, TIMEOUT, Watch

pytestmark = pytest.mark.root

PAGE = (ROOT / "docs" / "try.md").read_text()
SOCAT, TERM, HELLO, RECEIVE, SEND, SPEED = re.findall(r"^```sh\n(.*)\n```$", PAGE, re.M)
RULE = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)[0]


def test_the_page_leads_to_a_flashed_board(rig: Rig, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    sent = os.urandom(20_000)
    (tmp_path / "firmware.bin").write_bytes(sent)
    with _started(rig, SOCAT, tmp_path, until=("board-near", "board-far")):
        near = os.readlink(rig.base / "board-near")
        rule = RULE.replace("/dev/board-near", near).replace("alice", "root")
        rig.rules.append(rule)
        rig.daemon()
        with Screen(rig, *TERM.split()[2:]) as screen:
            screen.shows(b"Quit: Ctrl+]")
            assert _done(rig, HELLO, tmp_path).returncode == 0
            screen.shows(b"hello")
            with _started(rig, RECEIVE, far):
                screen.shows(b"B0100")  # rz is ready: what comes earlier it throws away
                done = _done(rig, SEND, tmp_path)
                assert done.returncode == 0, done.stderr
            screen.shows(b"board: lent")
            screen.shows(b"board: back")
            screen.leave()
        assert (far / "firmware.bin").read_bytes() == sent
        assert _done(rig, SPEED, tmp_path).stdout.strip().isdigit()
    for pid in rig.orphans():  # those that were beside sz and stty
        Orphan(pid).wait()


def _here(rig: Rig, command: str) -> list[str]:
    """The page's command with the rig's paths, and this checkout's ttybroker."""
    ours = command.replace("ttybroker ", f"{sys.executable} -m ttybroker.cli ")
    ours = re.sub(r"/dev/(board-\w+)", rf"{rig.base}/\1", ours)
    return ["sh", "-c", f"exec {ours.removesuffix(' &')}"]


def _done(rig: Rig, command: str, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_here(rig, command), cwd=where, env=environment(rig), text=True,
                          capture_output=True, timeout=TIMEOUT)  # fmt: skip


class _started:
    """What the page ends with &, until the block is left."""

    def __init__(self, rig: Rig, command: str, where: Path, until: tuple[str, ...] = ()) -> None:
        with Watch(rig.base) as watch:
            self.process = subprocess.Popen(_here(rig, command), cwd=where, env=environment(rig))
            for name in until:
                watch.wait(name, IN_CREATE)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.terminate()  # socat takes its links away
        self.process.wait()
