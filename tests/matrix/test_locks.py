"""Programs that lock the port by flock(2) work beside a dead copy of it, and twice in one run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest

from matrix.acts import Act, leave, talk
from matrix.namespace import PORT
from matrix.programs import PROGRAMS, Program
from matrix.stage import LOCK, NAMELESS, NODE, Installation, Stage
from matrix.terminal import Terminal
from support.children import Chat
from ttybroker import client
from ttybrokerd.root.locks import parse_pid

pytestmark = pytest.mark.root

# As esptool opens it, with `exclusive`.
EXCLUSIVE = f"""
import serial
with serial.Serial("{NODE}", 115200, exclusive=True) as port:
    port.write(b"hello")
"""

# Has the port, and locks it, while another program runs.
BESIDE = f"""
import os, serial, sys
port = serial.Serial("{NODE}", exclusive=True)
sys.exit(os.spawnvp(os.P_WAIT, sys.argv[1], sys.argv[1:]))"""


@pytest.fixture
def run(stage: Stage, installation: Installation) -> list[str]:
    """`ttybroker run`, with a daemon: a broker of one's own knows of no other's dead copies."""
    stage.rig.daemon(*stage.rig.arguments)
    return installation.launcher("ttybroker run")


@pytest.fixture
def dead_copy(stage: Stage, run: list[str]) -> Iterator[None]:
    """Somebody from whom the port was taken back keeps his descriptor, and its flock."""

    def keep(chat: Chat) -> None:
        with client.connect(str(stage.rig.socket)) as connection:
            descriptor = connection.open(PORT)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        chat.say()
        chat.hear()
        os.close(descriptor)

    holder = stage.rig.child(NAMELESS, keep)
    holder.hear()
    with client.connect(str(stage.rig.socket)) as connection:
        connection.revoke(PORT)
    yield
    holder.say()
    holder.result()


@pytest.mark.usefixtures("dead_copy")
def test_a_program_that_locks_works_beside_a_dead_copy(
    stage: Stage, terminal: Terminal, run: list[str], locking: Program
) -> None:
    locking.act(Act(stage, terminal, run), locking)


@pytest.mark.usefixtures("dead_copy")
@pytest.mark.parametrize("how", [(), ("--via", "notify"), ("--hold", PORT)])
def test_an_exclusive_open_works_beside_a_dead_copy(
    stage: Stage, run: list[str], how: tuple[str, ...]
) -> None:
    done = stage.run(*run[:-1], *how, "--", "python3", "-c", EXCLUSIVE)
    assert (done.status, done.err) == (0, "")
    stage.hear(b"hello")


def test_an_exclusive_open_works_twice_in_one_run(stage: Stage, line: list[str]) -> None:
    code = (
        EXCLUSIVE
        + EXCLUSIVE
        + f"""
one, two = (serial.Serial("{NODE}", exclusive=True) for _ in "12")
two.write(b"again")"""
    )
    done = stage.run(*line, "python3", "-c", code)
    assert (done.status, done.err) == (0, "")
    stage.hear(b"again")
    stage.demand_free(2)


def test_a_program_that_locks_works_beside_another_of_its_run(
    stage: Stage, terminal: Terminal, line: list[str], locking: Program
) -> None:
    """One that looks at the lock file first finds the broker's for the other, and gives up."""
    act = Act(stage, terminal, [*line, "python3", "-c", BESIDE])
    if locking.beside:
        terminal.run(*act.command(locking))
        assert terminal.status() == 1
        assert locking.beside in terminal.printed()
    else:
        locking.act(act, locking)
    stage.demand_free(2)


ALIAS = "gps"
# What each locks without a broker: the name that it was given, or the one behind the link.
BY_NAME = {"cu": ALIAS, "minicom": ALIAS, "C-Kermit": PORT}


@pytest.mark.parametrize("named", BY_NAME)
def test_of_an_alias_a_program_makes_the_lock_that_it_makes_without_a_broker(
    stage: Stage, terminal: Terminal, run: list[str], named: str
) -> None:
    """The broker's own, by the kernel's name, is there as well, and all of them go."""
    calling = next(one for one in PROGRAMS if one.name == named)
    assert stage.run("ln", "-s", PORT, f"/dev/{ALIAS}", uid=0).status == 0  # as udev's SYMLINK
    for before, begin in (([], terminal.run), (run, terminal.again)):
        os.chmod(stage.far.path, 0o600 if before else 0o666)
        act = Act(stage, terminal, before)
        begin(*(word.replace(PORT, ALIAS) for word in act.command(calling)))
        talk(act, calling)
        locks = {name: parse_pid((stage.rig.locks / name).read_bytes())
                 for name in stage.rig.lock_files()}  # fmt: skip
        assert locks.keys() == {f"LCK..{BY_NAME[named]}", *([LOCK] if before else [])}
        assert len(set(locks.values())) == 1, "all name the program"
        leave(act, calling)
        assert terminal.status() == calling.status
        stage.demand_free(2)
