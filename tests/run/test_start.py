"""What the processes of `ttybroker run` load is a part of every start."""

from __future__ import annotations

import subprocess
import sys

from run.conftest import ROOTS

# All that the launcher and the supervisor of a plain run need, and how they get their connection.
# What a structure of ctypes needs is not theirs: with Debian's 3.14 that is sysconfig, which needs
# threading.
LOADS = """
import ctypes, sys
type("Any", (ctypes.Structure,), {"_fields_": [("field", ctypes.c_int)]})
dear = {"enum", "re", "serial", "socket", "threading", "typing"} - set(sys.modules)
sys.path[:0] = sys.argv[1].split(":")
from ttybroker.run import broker, choose, command, daemonised, supervise, trace
choose.launch = lambda job, via: job.connect()
status = command.main(["--", "true"], broker="/nonexistent")
assert "ttybroker.client" in sys.modules
print(status, sorted(dear & set(sys.modules)))
"""


def test_nothing_dear_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-ISc", LOADS, ROOTS], capture_output=True, text=True)
    assert done.stdout == "1 []\n", done


def test_a_user_s_errors_are_pyserial_s() -> None:
    code = "from ttybroker.errors import BrokerError; import serial; print(BrokerError.__bases__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "SerialException" in done.stdout, done
