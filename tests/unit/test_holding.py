"""Who has a port, in words."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from ttybroker import holding
from ttybroker.wire import Holder

ME = os.getpid()
ENDED = (1 << 22) + 1  # above the highest pid there can be: proc_sys_kernel(5), pid_max


def said(**fields: object) -> str:
    return holding.holding(Holder(4242, "alice", **fields))  # type: ignore[arg-type]


def test_a_holder_is_told_with_user_program_pid_and_time() -> None:
    now = time.time()
    shown = time.strftime("%H:%M", time.localtime(now))
    line = said(pid=ME, program="picocom", since=now)
    assert line == f"alice has it with picocom (pid {ME}) since {shown}"
    assert said(pid=ME, since=now, label="night run").endswith(f"for 'night run' since {shown}")
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(now - 200_000))
    assert said(pid=ME, since=now - 200_000).endswith(f" since {date}")


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("lock file", f"alice has it with cu (pid {ENDED}), by its lock file"),
        ("flock", f"alice has it with cu (pid {ENDED}), by flock"),
        ("login", f"alice has it with cu (pid {ENDED}), by a login"),
        ("exclusive", "held by a program that set it exclusive"),
    ],
)
def test_an_outsider_is_told_by_what_gave_it_away(how: str, line: str) -> None:
    assert said(pid=ENDED, program="cu", how=how) == line


def test_what_is_not_known_is_left_out() -> None:
    assert holding.holding(Holder(pid=ME)) == f"somebody has it (pid {ME})"


def test_of_an_ended_process_who_keeps_a_copy_is_told() -> None:
    master, slave = os.openpty()
    try:
        device, uid = os.ttyname(slave), os.getuid()
        holder = Holder(uid, "me", ENDED)
        with subprocess.Popen(["sleep", "99"], stdin=slave) as other:
            told = holding.holding(holder, device, broker=ME)
            other.kill()
        assert told.startswith("me has it: its process has ended, ")
        assert told.endswith(f"'s sleep (pid {other.pid}) has a copy")
        assert "cannot be seen from here" in holding.holding(holder, device, broker=ME)
        between = 0.2  # seconds
        with subprocess.Popen(["sleep", "98"], stdin=slave) as earlier:
            time.sleep(between)
            holder = Holder(uid, "me", ENDED, since=time.time())
            time.sleep(between)
            with subprocess.Popen(["cat"], stdin=slave) as later:
                told = holding.holding(holder, device, broker=ME)
                later.kill()
            earlier.kill()
        assert told.endswith(f"'s cat (pid {later.pid}) has a copy, and 1 more")
    finally:
        os.close(master)
        os.close(slave)
