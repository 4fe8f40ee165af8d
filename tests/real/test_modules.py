"""What a process that stays root has loaded: to audit it is to read these files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import prctl
import pytest

from support.children import as_user
from support.processes import ROOT
from support.rig import Rig
from support.users import NOBODY
from ttybroker import client, open_fd

pytestmark = pytest.mark.root

# As the installed command does: isolated, without site. Each event of the log that tells of a plan
# is followed by what is loaded then, beyond what the interpreter itself has, and what it needs
# for a structure of ctypes: with Debian's 3.14 that is sysconfig, and with it threading.
DAEMON = """
import ctypes, os, sys
type("Any", (ctypes.Structure,), {{"_fields_": [("field", ctypes.c_int)]}})
bare = set(sys.modules)
sys.path[:0] = {paths!r}
from ttybrokerd import daemon
from ttybrokerd.root import server

def report(self, event, report=server.Server.report_plan):
    report(self, event)
    loaded = sorted(set(sys.modules) - bare)
    os.write(2, f"loaded at {{event}}: {{' '.join(loaded)}}\\n".encode())

server.Server.report_plan = report
sys.exit(daemon.main(sys.argv[1:]))
"""

OURS = {
    "ttybroker", "ttybroker.landlock", "ttybroker.sysfs", "ttybroker.version", "ttybroker.wire",
    "ttybrokerd", "ttybrokerd.daemon", "ttybrokerd.start",
}  # fmt: skip
LIBRARIES = {"prctl", "_prctl"}
STANDARD = {
    "__future__", "_bisect", "_ctypes", "_queue", "_socket",
    "_struct", "binascii", "bisect", "ctypes", "ctypes._endian", "errno", "fcntl", "gc", "math",
    "resource", "select", "struct", "termios", "types",
    "_math_integer", "math.integer",  # a part of math, from Python 3.15 on
}  # fmt: skip


def root_side() -> set[str]:
    """The package that stays root, and the modules in it."""
    folder = ROOT / "broker/ttybrokerd/root"
    names = {f"ttybrokerd.root.{path.stem}" for path in folder.glob("*.py")}
    return names - {"ttybrokerd.root.__init__"} | {"ttybrokerd.root"}


def loaded(process: subprocess.Popen[str], event: str) -> set[str]:
    """What it says is loaded at this event."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith(f"loaded at {event}: "):
            return set(line.partition(": ")[2].split())
    raise AssertionError("".join(said))


def test_a_daemon_that_serves_has_loaded_the_root_side_and_little_else(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["nobody"]')
    rig.write_policy()
    site = Path(prctl.__file__).parent
    paths = [str(ROOT / "broker"), str(ROOT / "frontend"), str(site)]
    process = subprocess.Popen(
        [sys.executable, "-ISB", "-c", DAEMON.format(paths=paths), *rig.arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        allowed = OURS | LIBRARIES | STANDARD | root_side()
        assert loaded(process, "start") - allowed == set()
        as_user(NOBODY, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket), wait=5)))
        with client.connect(str(rig.socket)) as connection:
            connection.ports()
            connection.check("ttyS0")
        assert rig.prepare().returncode == 0
        process.send_signal(signal.SIGHUP)
        now = loaded(process, "reload")
        assert now - allowed == set()
        assert root_side() - now == set()
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
