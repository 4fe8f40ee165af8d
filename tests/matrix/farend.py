"""A program at the far end of the port, as if it sat on another machine's."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from support.rig import Rig
from support.waiting import TIMEOUT


class FarEnd:
    """`with FarEnd(rig, master, "rz") as far`: it runs as root in a directory of its own, behind a
    wire. It must not sit on the master itself: what lrzsz does to its terminal at its end
    throws away what is still on the way."""

    def __init__(self, rig: Rig, master: int, *words: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="far-"))
        ours, theirs = socket.socketpair()
        keep = [master, ours.fileno()]
        self._wire = rig.child(0, lambda _chat: relay(master, ours), keep=keep)
        wire = theirs.fileno()
        self._program = subprocess.Popen(words, stdin=wire, stdout=wire, cwd=self.directory)
        ours.close()
        theirs.close()

    def __enter__(self) -> FarEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait()
        self._wire.kill()
        shutil.rmtree(self.directory)

    def result(self, name: str) -> bytes:
        """Drop the carrier and wait for its end; what it has received as `name`. Its status is
        not asked for: that depends on a farewell which a hung-up pty may swallow."""
        self._wire.kill()
        self._program.wait(TIMEOUT)
        return (self.directory / name).read_bytes()


def relay(master: int, far: socket.socket) -> None:
    """The wire, until it is cut."""
    threading.Thread(target=_pump, args=(far.fileno(), master), daemon=True).start()
    _pump(master, far.fileno())


def _pump(source: int, sink: int) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(source, 65536):
            while data:
                data = data[os.write(sink, data) :]
