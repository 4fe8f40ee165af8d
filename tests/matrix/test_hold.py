"""`--hold`: one lease from the start of a run to its end, with what arrives between two opens."""

from __future__ import annotations

import os

import pytest

from matrix.namespace import PORT
from matrix.stage import NODE, Stage
from support.waiting import read_until

pytestmark = pytest.mark.root

VIA = pytest.mark.parametrize("via", ["auto", "notify", "pty"])
# Sets the port up, writes, lets go, and reads when it is told to. $0 is the port or its pty.
TWICE = """stty -F $0 19200 raw -echo; echo up >$0; echo closed; read line
stty -F $0 speed; head -c 6 <$0"""


@VIA
def test_what_arrives_between_two_opens_is_there_and_settings_last(
    stage: Stage, bare: list[str], via: str
) -> None:
    process = stage.start(*bare, "--via", via, "--hold", PORT, "--", "sh", "-c", TWICE, NODE)
    stage.hear(b"up")
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"closed\n"
    assert stage.lock_pid() == process.pid
    stage.say(b"answer")
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.communicate(timeout=10)[0] == b"19200\nanswer"
    stage.demand_free(2)


@VIA
@pytest.mark.parametrize("how", [(PORT,), ("--fd", "3", PORT)], ids=["open", "fd"])
def test_who_waits_has_it_at_the_end_of_the_run_and_not_before(
    stage: Stage, bare: list[str], via: str, how: tuple[str, ...]
) -> None:
    script = "exec 3>&-; echo closed; read line; echo last"
    words = ["--via", via, "--hold", *how, "--", "sh", "-c", script, NODE]
    holder = stage.start(*bare, *words)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"closed\n"
    refused = stage.run(*bare, PORT, "--", "sh", "-c", f"echo x >{NODE}")
    assert refused.status != 0 and "busy" in refused.err
    screen, terminal = os.openpty()
    queue = ("--wait", "10", "--hold", PORT)
    waiter = stage.start(*bare, *queue, "--", "sh", "-c", f"echo up >{NODE}", stderr=terminal)
    os.close(terminal)
    read_until(screen, b"has it")
    assert len(stage.rig.lock_files()) == 1
    assert holder.communicate(b"\n", timeout=10)[0] == b"last\n"
    stage.hear(b"up")
    assert waiter.wait(10) == 0
    os.close(screen)
    stage.demand_free(2)
