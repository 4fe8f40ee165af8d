"""Who a client is, by the kernel's word alone."""

from __future__ import annotations

import errno
import os

from ttybroker.wire import Holder, Value
from ttybrokerd.root import linux, processes
from ttybrokerd.root.linux import socket
from ttybrokerd.root.refusal import Refusal


class Identity(Value):
    """A caller as the kernel described it.

    `pid` 0: the caller lives in another pid namespace, or its pid is not known yet (before the
    forked backend's first message).
    """

    uid: int
    gid: int
    groups: frozenset[int]
    pid: int

    def sent(self, credentials: tuple[int, int, int]) -> bool:
        """Return whether a message with these SCM_CREDENTIALS (pid, uid, gid) is this caller's."""
        return credentials == (self.pid, self.uid, self.gid)  # guard: sender-pid, sender-uid


def at_connect(sock: socket.socket) -> Identity:
    """Return the peer of an accepted connection: SO_PEERCRED and SO_PEERGROUPS, unix(7).

    Raises OSError if the kernel does not tell.
    """
    pid, uid, gid = linux.peer_credentials(sock)
    groups = frozenset(linux.peer_groups(sock)) | {gid}
    return Identity(uid, gid, groups, pid)


def groups_now(sock: socket.socket, caller: Identity) -> Identity:
    """Return the caller with the groups that its process has now: proc_pid_status(5).

    They may differ from those at connect. The peer's pidfd (unix(7), SO_PEERPIDFD, Linux 6.5)
    guards against a pid that was used again. Without a pidfd, and for a peer of another pid
    namespace, the groups stay those of the connect.
    """
    try:
        pidfd = linux.peer_pidfd(sock)
    except OSError:
        return caller
    try:
        groups = _groups(caller.pid)
        if not groups or linux.ended(pidfd):
            return caller
        return caller.replace(groups=groups | {caller.gid})  # guard: groups-as-they-are-now
    except OSError:  # the kernel is out of memory
        return caller
    finally:
        os.close(pidfd)


def acts_for(caller: Identity, pid: int) -> Holder:
    """Return the process on whose behalf a caller asks: a live one of the caller's own uid.

    The number of a thread means its process, because the end of that can be heard. Raises Refusal
    EACCES if there is no such process, or if it is another user's.
    """
    pid = int(processes.status(pid).get(b"Tgid", pid))  # guard: process-of-a-thread
    if not owns(caller.uid, pid):  # guard: owner-of-the-named-process
        what = f"process {pid} does not exist, or belongs to another user"
        raise Refusal(errno.EACCES, what, advice="name one of yours")
    return Holder(caller.uid, "", pid, processes.program(pid))


def owns(uid: int, pid: int) -> bool:
    """Return whether this is a live process of this user. All are root's, too.

    Ask again before you use the pid for something: another user's process may have it by then.
    """
    try:
        if os.stat(f"/proc/{pid}").st_uid == uid:  # in a tenth of the time that its status takes
            return True
    except OSError:
        return False
    # Root owns the directory: the process is not dumpable, or it is another user's.
    ids = processes.uids(pid)[:2]
    return uid in ids or (uid == 0 and bool(ids))


def _groups(pid: int) -> frozenset[int]:
    found = processes.status(pid)
    listed = found.get(b"Groups", b"").split() + found.get(b"Gid", b"").split()
    return frozenset(map(int, listed))
