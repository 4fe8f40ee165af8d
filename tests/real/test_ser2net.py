"""The example of ser2net: several clients on one port, who has it is told, and it comes free."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.children import Orphan
from support.command import TTYBROKER, environment
from support.rig import Rig
from support.waiting import TIMEOUT
from ttybroker import PortBusy, client, open_fd

pytestmark = pytest.mark.root

EXAMPLE = Path(__file__).parents[2] / "packaging/examples/ser2net"
SER2NET = shutil.which("ser2net") or "/usr/sbin/ser2net"
FREE = 1.0  # seconds from ser2net's end until the port is free


@contextlib.contextmanager
def serving(rig: Rig, directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """ser2net by the example's own file and command; its process and TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = (EXAMPLE / "ser2net.yaml").read_text().replace("localhost,2217", f"127.0.0.1,{port}")
    (directory / "board.yaml").write_text(text.replace("/var/log/ser2net", str(directory)))
    unit = (EXAMPLE / "ser2net-board.service").read_text()
    command = unit.partition("ExecStart=/usr/bin/ttybroker ")[2].partition("\n")[0]
    assert command.startswith('run --for "TCP port 2217" board -- /usr/sbin/ser2net -n -u -c ')
    process = subprocess.Popen(
        [*TTYBROKER, "run", "--for", "TCP port 2217", "board", "--",
         SER2NET, "-n", "-u", "-c", str(directory / "board.yaml")],
        env=environment(rig),
    )  # fmt: skip
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()
        for pid in rig.orphans():
            Orphan(pid).wait()


def connected(port: int) -> socket.socket:
    """A client, when it serves. RFC 2217 has modem lines, and a pty has none: it speaks telnet."""
    end = time.monotonic() + TIMEOUT
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), TIMEOUT)
        assert time.monotonic() < end, "ser2net does not serve"


def receive(sock: socket.socket, wanted: bytes) -> None:
    """Wait until this has come; telnet's negotiation comes before it."""
    heard = b""
    while wanted not in heard:
        heard += (data := sock.recv(4096))
        assert data, heard


def test_clients_share_the_port_and_others_are_told_of_them(rig: Rig, tmp_path: Path) -> None:
    far = rig.port("board").master
    daemon = rig.daemon()
    with serving(rig, tmp_path) as (process, port):
        with connected(port) as one, connected(port) as two:
            daemon.record("grant", port="board", label="TCP port 2217")
            one.sendall(b"hello")
            assert os.read(far, 100) == b"hello"
            os.write(far, b"world")
            receive(one, b"world")
            receive(two, b"world")
            with pytest.raises(PortBusy, match="for 'TCP port 2217'"):
                open_fd("board", broker=str(rig.socket))
            process.kill()
            start = time.monotonic()
            daemon.record("release", port="board")
            assert time.monotonic() - start < FREE
        with client.connect(str(rig.socket)) as broker:
            assert broker.ports()[0].state == "free"
    said = (tmp_path / "board.log").read_bytes()
    assert b"hello" in said and b"world" in said
