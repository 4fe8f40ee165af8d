"""What a test needs to know about the namespaces in which it runs: namespaces(7)."""

from __future__ import annotations

import os

import pytest

PROC_PID_INIT_INO = 0xEFFFFFFC  # include/linux/proc_ns.h: the first namespace of pids

# An flock of a broker that has ended is then one of nobody knows whom, and nobody's is excused.
sees_dead_takers = pytest.mark.skipif(
    os.stat("/proc/self/ns/pid").st_ino != PROC_PID_INIT_INO,
    reason="in a pid namespace /proc/locks has no line of a process that has ended",
)
