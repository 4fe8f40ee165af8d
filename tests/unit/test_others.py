"""What outsiders hold: flocks by the kernel's list of them, and whose a dead copy excuses."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.namespaces import sees_dead_takers
from ttybrokerd.root import linux, others, paced
from ttybrokerd.root.others import Flocks, Others, Taker, excused, named
from ttybrokerd.root.paced import Paced
from unit.helpers import process as helper

LOCK = "import fcntl; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_{})"


@pytest.fixture
def terminal() -> Iterator[tuple[int, int, str]]:
    """A pty: the slave's descriptor, an O_PATH descriptor of it, and its path."""
    master, slave = os.openpty()
    path = os.ttyname(slave)
    node = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    yield slave, node, path
    for descriptor in (master, slave, node):
        os.close(descriptor)


def takers(node: int) -> tuple[Taker, ...]:
    flocks = Flocks()
    flocks.refresh()
    found = flocks.takers(node)
    assert found is not None
    return found


def test_who_has_an_flock_is_found_and_nobody_when_it_is_gone(
    terminal: tuple[int, int, str],
) -> None:
    _slave, node, path = terminal
    assert takers(node) == ()
    with helper(LOCK.format("EX"), path) as child:
        assert takers(node) == (Taker(child.pid, os.getuid()),)
        holder = named(takers(node))
        assert (holder.pid, holder.uid, holder.how) == (child.pid, os.getuid(), "flock")
    assert takers(node) == ()


def test_all_who_share_an_flock_are_found(terminal: tuple[int, int, str]) -> None:
    _slave, node, path = terminal
    with helper(LOCK.format("SH"), path) as one, helper(LOCK.format("SH"), path) as two:
        assert {taker.pid for taker in takers(node)} == {one.pid, two.pid}


@sees_dead_takers
def test_an_flock_whose_taker_has_ended_still_counts_and_blames_no_dead_process(
    terminal: tuple[int, int, str],
) -> None:
    slave, node, _path = terminal
    child = os.fork()
    if child == 0:
        fcntl.flock(slave, fcntl.LOCK_EX)
        os._exit(0)
    os.waitpid(child, 0)
    assert takers(node) == (Taker(child, None),)
    holder = named(takers(node))
    assert (holder.pid, holder.uid, holder.how) == (None, None, "flock")


def test_other_locks_and_other_nodes_are_not_taken_for_an_flock(
    terminal: tuple[int, int, str], tmp_path: Path
) -> None:
    _slave, node, path = terminal
    with open(tmp_path / "file", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code = "import fcntl, os; fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX)"
        with helper(code, path):
            assert takers(node) == ()


def test_more_locks_than_are_read_tell_nothing_of_anybody(
    terminal: tuple[int, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slave, node, _path = terminal
    fcntl.flock(slave, fcntl.LOCK_EX)
    line = b"1: FLOCK  ADVISORY  WRITE 1 00:00:1 0 EOF\n"
    monkeypatch.setattr(others, "MOST", len(line))
    asked = []

    def read(path: str, most: int) -> bytes:
        asked.append(most)
        return (line * 9)[:most]

    monkeypatch.setattr(linux, "read_file", read)
    flocks = Flocks()
    flocks.refresh()
    assert flocks.takers(node) is None
    assert asked == [len(line)]
    assert named(None).pid is None


ALICE, BOB = 60101, 60102
ONE, TWO = os.getpid() + 1, os.getpid() + 2


@pytest.mark.parametrize(
    ("found", "ghosts", "dead", "excuse"),
    [
        ((Taker(ONE, None),), {ALICE}, None, True),  # of a broker before, or of who handed it on
        ((Taker(ONE, None),), set(), None, False),  # no dead copy is known
        ((Taker(ONE, None),), set(), True, True),  # but there is one
        ((Taker(ONE, ALICE),), {ALICE}, None, True),
        ((Taker(ONE, BOB),), {ALICE}, None, False),  # an outsider's, beside it
        ((Taker(ONE, BOB),), set(), True, False),
        ((Taker(ONE, -1),), {ALICE}, True, False),  # somebody, who hides
        ((Taker(ONE, ALICE), Taker(TWO, BOB)), {ALICE}, None, False),
        ((Taker(ONE, None), Taker(TWO, BOB)), {ALICE}, None, False),
        ((Taker(os.getpid(), 0),), set(), None, True),  # this broker's own
        ((), {ALICE}, True, False),
        (None, {ALICE}, True, False),  # cannot be told
    ],
)
def test_beside_a_dead_copy_only_its_own_flock_means_nothing(
    found: tuple[Taker, ...] | None, ghosts: set[int], dead: bool | None, excuse: bool
) -> None:
    assert excused(found, frozenset(ghosts), dead=dead) is excuse


class Counted(Paced):
    """Counts how often it is read."""

    def __init__(self, took: float = 0.0) -> None:
        super().__init__()
        self.took = took
        self.reads = 0

    def read(self) -> None:
        self.reads += 1
        time.sleep(self.took)


def test_what_is_dear_is_read_once_for_all_who_ask_meanwhile() -> None:
    read = Counted(took=0.05)
    threads = [threading.Thread(target=read.refresh) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read.reads == 1


def test_who_must_know_what_is_now_is_told_that_and_not_oftener_than_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = [1000.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    read = Counted(took=0.02)
    read.refresh()
    now[0] += 0.03
    read.refresh()
    assert read.reads == 1
    read.refresh(fresh=True)
    assert read.reads == 2
    assert slept == [0.02, pytest.approx(paced.REST * 0.02 - 0.03), 0.02]
    now[0] += 1
    read.refresh()
    assert read.reads == 3


def test_what_could_not_be_read_is_read_again() -> None:
    class Failing(Counted):
        def read(self) -> None:
            super().read()
            if self.reads == 1:
                raise OSError("out of descriptors")

    read = Failing(took=0.01)
    with pytest.raises(OSError):
        read.refresh()
    read.refresh()
    assert read.reads == 2


def test_another_device_with_the_same_number_was_not_found_exclusive(
    terminal: tuple[int, int, str], tmp_path: Path
) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    files: Any = SimpleNamespace(holder=lambda _: None)
    known = Others(files)
    one: Any = SimpleNamespace(kernel_name="x", rdev=7, node=terminal[0])
    new: Any = SimpleNamespace(kernel_name="x", rdev=7, node=other)
    known.found(one, True)
    found = known.holder(one, frozenset())
    assert found is not None and found.how == "exclusive"
    assert known.holder(new, frozenset()) is None
    known.found(one, False)
    assert known.holder(one, frozenset()) is None
    os.close(other)


def test_an_open_that_finds_a_port_free_while_it_is_listed_ends_no_list(
    terminal: tuple[int, int, str],
) -> None:
    """Lists and opens are made by different threads. What one of them raises ends the broker."""

    class Racing(dict[int, tuple[int, float]]):
        """Somebody else takes the entry away as soon as it was seen."""

        def __contains__(self, key: object) -> bool:
            return super().pop(key, None) is not None  # type: ignore[call-overload, no-any-return]

    files: Any = SimpleNamespace(holder=lambda _: None)
    known, one = Others(files), SimpleNamespace(kernel_name="x", rdev=7, node=terminal[0])
    seen: Any = one
    known._exclusive = Racing()
    known.found(seen, True)
    known.holder(seen, frozenset())


def test_while_the_locks_are_read_anew_the_last_reading_counts(
    terminal: tuple[int, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who asks in this moment is told of somebody whom nobody knows."""
    _slave, node, _path = terminal
    flocks = Flocks()
    flocks.refresh()
    meanwhile: list[tuple[Taker, ...] | None] = []
    read = linux.read_file

    def slow(path: str, most: int) -> bytes:
        meanwhile.append(flocks.takers(node))
        return read(path, most)

    monkeypatch.setattr(linux, "read_file", slow)
    flocks.read()
    assert meanwhile == [()]
