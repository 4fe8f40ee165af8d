"""What a list costs: one look at all flocks, however many ports there are."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from ttybrokerd.root import linux, report
from ttybrokerd.root.copies import DeadCopies
from ttybrokerd.root.device import Devices
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.logins import UTMP
from ttybrokerd.root.others import Others
from ttybrokerd.root.peer import Identity
from unit.helpers import plan_of, process

PORTS = 3
RULE = '[[rule]]\nport = "pty{}"\ndevice = "{}"\nclass = "pty"\nallow = ["*"]\n'


def test_a_list_asks_once_for_the_flocks_and_the_logins_of_all_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time can cost the kernel 20 ms."""
    ends = [os.openpty() for _ in range(PORTS)]
    rules = [RULE.format(number, os.ttyname(slave)) for number, (_, slave) in enumerate(ends)]
    policy = plan_of("".join(rules))
    asked, read_file = [], linux.read_file

    def read(path: str, most: int = 1 << 20) -> bytes:
        asked.append(path)
        return read_file(path, most)

    monkeypatch.setattr(linux, "read_file", read)
    lock_files = LockFiles(str(tmp_path))
    code = "import fcntl; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX)"
    with process(code, os.ttyname(ends[1][1])) as child:
        look = report.Look(
            Devices(),
            Judge(policy, Devices()).of(Identity(1000, 1000, frozenset(), 1)),
            Others(lock_files),
            DeadCopies(mock.Mock()),
            frozenset(),
            everything=False,
        )
        rows = look.rows()
    lock_files.close()
    for end in ends:
        os.close(end[0])
        os.close(end[1])
    assert [row.port.state for row in rows] == ["free", "busy", "free"]
    assert rows[1].port.holder is not None and rows[1].port.holder.pid == child.pid
    assert asked.count("/proc/locks") == 1
    assert asked.count(UTMP) == 1
