"""/run/lock missing, or root's alone, as where systemd 258 has its own way, and in containers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from support.children import as_user
from support.rig import Rig
from support.users import ALICE, BOB
from ttybroker import PortBusy, open_fd

pytestmark = pytest.mark.root

# Run in the daemon before anything else: its /run has the rig's directory, and what `more` makes.
OWN_RUN = """
import ctypes, os
if ctypes.CDLL(None, use_errno=True).unshare(0x20000) != 0:  # CLONE_NEWNS, linux/sched.h
    raise OSError(ctypes.get_errno(), "unshare")
script = '''mount --make-rprivate / && mount --bind {base} /mnt &&
    mount -t tmpfs -o mode=755 own /run && mkdir {base} && mount --bind /mnt {base} && {more}'''
if os.system(script) != 0:
    raise OSError("no /run of its own")
"""


@pytest.mark.parametrize("more", ["true", "mkdir -m 755 /run/lock"], ids=["missing", "of root"])
def test_a_daemon_starts_and_locks_there(rig: Rig, more: str) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    arguments = ["--policy", str(rig.policy), "--socket", str(rig.socket)]
    daemon = rig.daemon(*arguments, hook=OWN_RUN.format(base=rig.base, more=more))
    directory = Path(f"/proc/{daemon.pid}/root/run/lock")
    found = directory.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o755)
    holder = rig.holder(ALICE)
    lock = directory / "LCK..ttyS0"
    assert int(lock.read_text()) == holder.pid
    with pytest.raises(PortBusy):
        as_user(BOB, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
    holder.say()
    holder.result()
    daemon.settled()
    assert list(directory.iterdir()) == []
