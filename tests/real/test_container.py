"""The example of a program in namespaces of its own: what the broker knows of it is the outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from support.children import Orphan
from support.processes import ROOT
from support.rig import Rig, lock_text
from support.users import ALICE
from support.waiting import TIMEOUT, wait_readable

pytestmark = pytest.mark.root

# Says who and where it believes to be, answers a line, and waits to be told to end.
PROGRAM = """
import glob, os, sys, ttybroker
port = ttybroker.open_tty("ttyS0", timeout=10)
print(os.getuid(), os.getpid(), len(os.listdir("/run")), glob.glob("/dev/tty?*"), flush=True)
port.write(port.read_until(b"?") + b"!")
sys.stdin.read()
"""


@pytest.fixture
def visible() -> Iterator[Path]:
    """The user side and the example, where every user can read them."""
    base = Path(tempfile.mkdtemp(prefix="ttybroker-container-", dir="/run"))
    try:
        shutil.copytree(ROOT / "frontend/ttybroker", base / "site/ttybroker")
        shutil.copytree(Path(serial.__file__).parent, base / "site/serial")
        shutil.copy(ROOT / "packaging/examples/container.sh", base)
        base.chmod(0o755)
        yield base
    finally:
        shutil.rmtree(base)


def contained(rig: Rig, visible: Path, code: str) -> subprocess.Popen[bytes]:
    """Start this Python program in the example, as ALICE."""
    options = ["--ro-bind", visible / "site", "/site", "--setenv", "PYTHONPATH", "/site"]
    return subprocess.Popen(
        [visible / "container.sh", *options, "/usr/bin/python3", "-c", code],
        user=ALICE,
        group=ALICE,
        extra_groups=[],
        env={"PATH": os.environ["PATH"], "TTYBROKER_SOCKET": str(rig.socket)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def ended(rig: Rig, container: subprocess.Popen[bytes]) -> int:
    """Wait for its end, and for that of its process 1, which bwrap leaves behind; its status."""
    status = container.wait(TIMEOUT)
    for pid in rig.orphans():
        Orphan(pid).wait()
    return status


def test_the_policy_sees_the_outer_user_and_the_lock_names_a_process_that_exists(
    rig: Rig, visible: Path
) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    daemon = rig.daemon()
    container = contained(rig, visible, PROGRAM)
    assert container.stdin is not None and container.stdout is not None
    with container, container.stdin:
        grant = daemon.record("grant", port="ttyS0", uid=ALICE)
        pid = int(grant.fields["pid"])
        wait_readable(container.stdout.fileno(), "the program's word")
        uid, inner_pid, in_run, nodes = container.stdout.readline().decode().split(" ", 3)
        assert (uid, in_run, nodes) == ("0", "1", "[]\n")  # root, with the socket and no port

        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in status)
        assert fields["Uid"].split("\t")[0] == str(ALICE)
        assert fields["NSpid"].split("\t")[0] == str(pid) != inner_pid
        assert fields["NSpid"].split("\t")[-1] == inner_pid
        assert rig.lock().read_bytes() == lock_text(pid)

        rig.ports["ttyS0"].write(b"are you there?")
        assert rig.ports["ttyS0"].read(15) == b"are you there?!"
        container.stdin.close()
        assert ended(rig, container) == 0
    daemon.record("release", port="ttyS0", pid=pid)
    assert not rig.lock().exists()


def test_its_root_is_not_the_policys(rig: Rig, visible: Path) -> None:
    rig.port("ttyS0", "allow = [0]")
    daemon = rig.daemon()
    code = "import ttybroker\ntry: ttybroker.open_fd('ttyS0')\nexcept OSError as e: print(e)"
    container = contained(rig, visible, code)
    said, _ = container.communicate(timeout=TIMEOUT)
    assert ended(rig, container) == 0
    assert said.startswith(b"ttyS0: not permitted: ")
    daemon.record("refuse", port="ttyS0", uid=ALICE)
