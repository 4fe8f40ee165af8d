"""Dead copies: what a look at them costs whom, and that none is kept for ever."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from support.users import ALICE, BOB, CAROL
from ttybroker.wire import Holder
from ttybrokerd.root import linux
from ttybrokerd.root.copies import SOME, DeadCopies

MANY = 40
ONE, TWO = 7, 8  # devices


class Kept:
    """Copies, and the looks at them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies = DeadCopies()
        self.open: list[int] = []
        self.looks = 0
        look = linux.still_open

        def still_open(watcher: select.epoll) -> bool:
            self.looks += 1
            return look(watcher)

        monkeypatch.setattr(linux, "still_open", still_open)

    def keep(self, device: int, uid: int, count: int = MANY) -> None:
        for _ in range(count):
            reading, writing = os.pipe()
            os.close(writing)
            self.open.append(reading)
            self.copies.add(device, uid, Holder(uid), linux.weak_reference(reading))

    def close(self) -> None:
        while self.open:
            os.close(self.open.pop())


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    made = Kept(monkeypatch)
    yield made
    made.close()
    for _ in range(MANY):
        made.copies.forget(ALICE)


def test_what_one_keeps_costs_the_others_few_looks(kept: Kept) -> None:
    kept.keep(ONE, ALICE)
    kept.keep(ONE, BOB)
    assert kept.copies.of(CAROL) == 0
    assert kept.looks <= SOME
    assert kept.copies.of(ALICE) == MANY
    kept.looks = 0
    assert kept.copies.users(ONE) == {ALICE, BOB}
    assert kept.looks == 2
    assert kept.copies.users(TWO) == frozenset()
    assert kept.looks == 2


def test_those_that_are_closed_count_for_nothing(kept: Kept) -> None:
    kept.keep(ONE, ALICE, 2)
    kept.keep(TWO, BOB, 1)
    os.close(kept.open.pop(0))
    assert kept.copies.users(ONE) == {ALICE}
    assert kept.copies.holders() == {ONE: (Holder(ALICE),), TWO: (Holder(BOB),)}
    assert kept.copies.of(ALICE) == 1
    kept.close()
    assert kept.copies.users(ONE) == frozenset() and kept.copies.holders() == {}
    assert kept.copies.of(ALICE) == kept.copies.of(BOB) == 0


def test_those_of_a_user_who_never_asks_again_are_forgotten(kept: Kept) -> None:
    kept.keep(ONE, ALICE)
    kept.keep(TWO, BOB)
    for _ in range(MANY):
        os.close(kept.open.pop())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2 * MANY):
        kept.copies.forget(CAROL)
    assert len(os.listdir("/proc/self/fd")) == before - MANY
    assert kept.copies.of(ALICE) == MANY


def test_one_that_is_forgotten_while_a_list_is_made_ends_no_list(kept: Kept) -> None:
    kept.keep(ONE, ALICE, 1)
    kept.copies._all[0][3].close()  # as the loop does, while a worker has the copy in hand
    assert kept.copies.holders() == {}
    kept.copies._all.clear()
