"""Logins on serial ports: who waits at a port for somebody to log in, or has logged in there.

A getty keeps no lock file and no flock; it writes itself into utmp(5), and the port is its
controlling terminal. The first is only a hint, for the file may be stale; the second is the
kernel's word: proc_pid_stat(5), tty_nr.
"""

from __future__ import annotations

import os
import struct

from ttybroker.wire import Holder
from ttybrokerd.root import linux
from ttybrokerd.root.locks import process

UTMP = "/run/utmp"
INIT_PROCESS, LOGIN_PROCESS, USER_PROCESS = 5, 6, 7  # a getty starting; waiting; somebody is in
_RECORD = struct.Struct("hi32s")  # and more: bits/utmp.h of glibc
# Where a time is 64 bits wide in it the record is longer: bits/wordsize.h, TIME64_COMPAT32.
SIZE = 400 if os.uname().machine in ("aarch64", "loongarch64") else 384


def holder(device: str, rdev: int, path: str = UTMP) -> Holder | None:
    """Who has a login on the port with this kernel name and device number, if anybody."""
    try:
        data = linux.read_file(path)
    except OSError:  # there is none: this system keeps no account of logins
        return None
    for at in range(0, len(data) - SIZE + 1, SIZE):
        kind, pid, line = _RECORD.unpack_from(data, at)
        login = INIT_PROCESS <= kind <= USER_PROCESS and line.rstrip(b"\0") == device.encode()
        if login and _terminal(pid) == rdev and (found := process(pid)) is not None:
            found.how = "login"
            return found
    return None


def _terminal(pid: int) -> int | None:
    """The device number of a process's controlling terminal, None if it has none."""
    try:
        fields = linux.read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None
    number = int(fields[4])  # as new_encode_dev() of linux/kdev_t.h
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)
