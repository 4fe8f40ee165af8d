"""The main job on real input: lrzsz moves a file over a brokered port, in both modes, both ways."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.children import Chat, as_user
from support.rig import Rig, lock_text
from support.users import ALICE, NOBODY
from support.waiting import IN_CREATE, Watch
from ttybroker import PortBusy, open_fd

pytestmark = pytest.mark.root

SIZE = 4 << 20
SEND, RECEIVE = ["sz", "-b", "-q", "file"], ["rz", "-b", "-q", "-y"]


@pytest.fixture
def ends() -> Iterator[tuple[Path, Path]]:
    """A directory of nobody's and one of the far end's."""
    if shutil.which("sz") is None or shutil.which("rz") is None:
        pytest.fail("sz and rz are not installed: apt-get install lrzsz")
    base = Path(tempfile.mkdtemp(dir="/run", prefix="ttybroker-files-"))
    try:
        near, far = base / "near", base / "far"
        near.mkdir()
        far.mkdir()
        os.chmod(base, 0o755)
        os.chown(near, NOBODY, NOBODY)
        yield near, far
    finally:
        shutil.rmtree(base)


def relay(master: int, far: socket.socket) -> None:
    """The wire between the port and the far end's program, which must not sit on the master
    itself: what lrzsz does to its terminal at its end throws away what is still on the way."""
    threading.Thread(target=pump, args=(far.fileno(), master), daemon=True).start()
    pump(master, far.fileno())
    far.shutdown(socket.SHUT_WR)  # hung up: as a modem drops its carrier


def pump(source: int, sink: int) -> None:
    """Copy until the end."""
    with contextlib.suppress(OSError):
        while data := os.read(source, 65536):
            while data:
                data = data[os.write(sink, data) :]


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["daemon", "forked"])
@pytest.mark.parametrize("direction", ["sends", "receives"])
def test_nobody_moves_a_file_with_lrzsz(
    rig: Rig, ends: tuple[Path, Path], mode: str, direction: str
) -> None:
    near, far = ends
    pty = rig.port("ttyS0")
    if mode == "daemon":
        rig.daemon()
    rig.write_policy()
    source, target = (near, far) if direction == "sends" else (far, near)
    (source / "file").write_bytes(os.urandom(SIZE))
    near_command, far_command = (SEND, RECEIVE) if direction == "sends" else (RECEIVE, SEND)

    def move(chat: Chat) -> tuple[int, float]:
        if mode == "forked":
            rig.backend()
        assert os.getresuid() == (NOBODY,) * 3
        with pytest.raises(PermissionError):
            os.open(pty.path, os.O_RDWR | os.O_NOCTTY)
        descriptor = open_fd("ttyS0", broker=str(rig.socket) if mode == "daemon" else None)
        os.set_blocking(descriptor, True)  # sz and rz know no other
        chat.say("leased")
        chat.hear()
        program = subprocess.Popen(near_command, stdin=descriptor, stdout=descriptor, cwd=near)
        os.close(descriptor)
        status = program.wait()
        ended = time.monotonic()
        chat.say((status, ended))
        chat.hear()  # lives on: the lock must go with the descriptor, not with the process
        return status, ended

    mover = rig.child(0 if mode == "forked" else NOBODY, move)
    assert mover.hear() == "leased"
    with Watch(rig.locks) as locks, Watch(target) as files:
        began = time.monotonic()
        mover.say()
        assert rig.lock().read_bytes() == lock_text(mover.pid)
        if mode == "daemon":
            with pytest.raises(PortBusy) as caught:
                as_user(ALICE, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
            holder = caught.value.holder
            assert holder is not None
            assert (holder.uid, holder.user, holder.pid) == (NOBODY, "nobody", mover.pid)
        ours, theirs = socket.socketpair()
        wire = rig.child(0, lambda _chat: relay(pty.master, ours), keep=[pty.master, ours.fileno()])
        other_end = subprocess.Popen(
            far_command, stdin=theirs.fileno(), stdout=theirs.fileno(), cwd=far
        )
        ours.close()
        theirs.close()
        files.wait("file", IN_CREATE)
        status, ended = mover.hear()
        assert locks.gone("LCK..ttyS0") - ended < 0.1
        assert status == 0
        other_end.wait()  # rz's own status depends on a farewell that a hung-up pty may swallow
        wire.result()
    mover.say()
    mover.result()
    if mode == "forked":
        rig.orphan().wait()
    digests = [hashlib.sha256((at / "file").read_bytes()).hexdigest() for at in (near, far)]
    assert digests[0] == digests[1]
    seconds = ended - began
    print(f"{mode}: nobody {direction} {SIZE} bytes in {seconds:.2f} s, sha256 {digests[0]}")
