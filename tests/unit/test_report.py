"""What a list costs: one look at all flocks, however many ports there are."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ttybrokerd.root import linux, report
from ttybrokerd.root.device import Devices
from ttybrokerd.root.locks import LockFiles
from unit.helpers import plan_of

PORTS = 3
RULE = '[[rule]]\nport = "pty{}"\ndevice = "{}"\nclass = "pty"\nallow = ["*"]\n'


def test_a_list_asks_once_for_the_flocks_of_all_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time can cost the kernel 20 ms."""
    ends = [os.openpty() for _ in range(PORTS)]
    rules = [RULE.format(number, os.ttyname(slave)) for number, (_, slave) in enumerate(ends)]
    policy = plan_of("".join(rules))
    fcntl.flock(ends[1][1], fcntl.LOCK_EX)
    asked, read_file = [], linux.read_file

    def read(path: str) -> bytes:
        asked.append(path)
        return read_file(path)

    monkeypatch.setattr(linux, "read_file", read)
    lock_files = LockFiles(str(tmp_path))
    try:
        rows = report.rows(
            Devices(),
            policy,
            lock_files,
            frozenset(),
            lambda name: policy.decide(1000, frozenset(), name),
            everything=False,
        )
    finally:
        lock_files.close()
        for end in ends:
            os.close(end[0])
            os.close(end[1])
    assert [row.port.state for row in rows] == ["free", "busy", "free"]
    assert rows[1].port.holder is not None and rows[1].port.holder.pid == os.getpid()
    assert asked.count("/proc/locks") == 1
