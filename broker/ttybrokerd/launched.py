"""What `ttyrun` does as root: find its broker, and stop being root.

a daemon listens ──> become the caller, and ask the daemon as everybody does
nobody listens   ──> start a backend of its own (backend.py), and become the caller
"""

from __future__ import annotations

import errno
import os

from ttybroker.wire import SOCKET
from ttybrokerd import user
from ttybrokerd.root import locks
from ttybrokerd.root.linux import socket


def start(
    policy: str | None = None, lock_dir: str = locks.DIRECTORY, listener: str = SOCKET
) -> str | None:
    """Become the caller, for good, and return the path of the daemon's socket.

    None if this process has a backend. policy, lock_dir: as for `init_backend`. listener: where a
    daemon would listen. Raises OSError, PolicyError, or ValueError for a caller who is root; ends
    the process as `user.become` does.
    """
    caller = user.whom(None)
    if _listens(listener, caller.uid):  # guard: ttyrun-asks-the-daemon
        user.become(caller)  # guard: ttyrun-asks-as-its-caller
        return listener
    from ttybrokerd.backend import start_alone  # much that is not needed where a daemon is

    start_alone(caller, policy, lock_dir)
    return None


def _listens(path: str, uid: int) -> bool:
    """Return whether a daemon, or systemd for it, listens there. It is tried as the user `uid`.

    If that cannot be told, the answer is yes, because there must be no second table beside the
    daemon's.
    """
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        os.seteuid(uid)  # guard: ttyrun-probes-as-its-caller
        return probe.connect_ex(path) not in (errno.ENOENT, errno.ECONNREFUSED)
    finally:
        os.seteuid(0)
        probe.close()
