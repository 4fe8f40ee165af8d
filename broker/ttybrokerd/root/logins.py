"""Logins on serial ports: a getty that waits for somebody, or somebody who has logged in.

A getty makes no lock file and no flock. Where there is a utmp(5), it writes itself into that. The
file may be stale, so it is a hint only. What counts is the kernel's word that the port is the
getty's controlling terminal: proc_pid_stat(5), tty_nr. Where there is no utmp, as on Debian 13,
every process is asked for its terminal.
"""

from __future__ import annotations

import os
import struct
import time

from ttybroker.wire import Holder
from ttybrokerd.root import linux
from ttybrokerd.root.paced import Paced
from ttybrokerd.root.processes import process

UTMP = "/run/utmp"
INIT_PROCESS, USER_PROCESS = 5, 7  # from a getty that starts to somebody who is logged in
LINGER = 0.5  # seconds for which an ended login counts: systemd hangs its port up meanwhile
_RECORD = struct.Struct("hi32s")  # its first fields: bits/utmp.h of glibc
# The record is longer where its times have 64 bits: bits/wordsize.h, TIME64_COMPAT32.
SIZE = 400 if os.uname().machine in ("aarch64", "loongarch64") else 384
MOST = 1 << 20  # bytes of utmp that are read
# Majors of devices whose numbers say nothing. Each devpts instance numbers its own ptys, so a
# process in a container may have a terminal of the same number.
AMBIGUOUS: tuple[int, ...] = tuple(linux.PTY_SLAVES)


class Logins(Paced):
    """All logins. One reading serves all who ask meanwhile."""

    rest = 40.0  # each open asks; without a utmp a reading would cost more than all else

    def __init__(self, utmp: str = UTMP) -> None:
        super().__init__()
        self._utmp = utmp
        self._by_line: dict[bytes, list[int]] | None = None  # None: there is no utmp
        self._by_terminal: dict[int, list[int]] = {}
        self._last: dict[int, tuple[float, Holder]] = {}

    def holder_now(self, device: str, rdev: int) -> Holder | None:
        """Return the same as `holder`, as of a moment ago."""
        if os.major(rdev) not in AMBIGUOUS:  # of those no reading tells
            self.refresh()
        return self.holder(device, rdev)

    def holder(self, device: str, rdev: int) -> Holder | None:
        """Return who has a login on the port with this kernel name and device number, if anybody.

        What the last `refresh` found counts. A login that has ended counts for LINGER seconds more,
        because the hang-up comes later than the end of its process.
        """
        if os.major(rdev) in AMBIGUOUS:
            return None
        now = time.monotonic()
        # Each map is fetched once, because another thread may replace it meanwhile.
        by_line, pids = self._by_line, self._by_terminal.get(rdev, [])
        if by_line is not None:
            pids = by_line.get(device.encode(), [])
        for pid in pids:
            # guard: login-by-the-kernels-word
            if _terminal(pid) == rdev and (found := process(pid)) is not None:
                found.how = "login"
                self._last[rdev] = now, found
                return found
        seen, last = self._last.get(rdev, (now - LINGER, None))
        if now - seen < LINGER:  # guard: login-lingers
            return last
        self._last.pop(rdev, None)
        return None

    def read(self) -> None:
        """Read utmp; where there is none, look at every process."""
        try:
            self._by_line = _logged_in(linux.read_file(self._utmp, MOST))
        except OSError:  # this system keeps no account of logins
            self._by_line, self._by_terminal = None, _terminals()


def _logged_in(data: bytes) -> dict[bytes, list[int]]:
    """Return the processes that utmp names, by line."""
    found: dict[bytes, list[int]] = {}
    for at in range(0, len(data) - SIZE + 1, SIZE):
        kind, pid, line = _RECORD.unpack_from(data, at)
        if INIT_PROCESS <= kind <= USER_PROCESS:
            found.setdefault(line.rstrip(b"\0"), []).append(pid)
    return found


def _terminals() -> dict[int, list[int]]:
    """Return one process for each controlling terminal, by device number.

    It is the first that the kernel lists, the oldest: the session's leader while that lives.
    """
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            terminal = _terminal(int(entry))
            if terminal is not None:
                found.setdefault(terminal, [int(entry)])
    return found


def _terminal(pid: int) -> int | None:
    """Return the device number of a process's controlling terminal, None if it has none."""
    try:
        fields = linux.read_start(f"/proc/{pid}/stat", 512).rpartition(b")")[2].split(None, 5)
    except (FileNotFoundError, ProcessLookupError):
        return None
    number = int(fields[4])  # as new_encode_dev() of linux/kdev_t.h
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00) or None
