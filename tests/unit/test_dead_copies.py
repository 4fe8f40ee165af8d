"""Dead copies: what a look at them costs whom, and that none is kept for ever."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from support.users import ALICE, BOB, CAROL
from ttybroker.wire import Holder
from ttybrokerd.root import linux
from ttybrokerd.root.copies import MOST_KEPT, SOME, DeadCopies, DeadCopy
from ttybrokerd.root.debts import Debt
from ttybrokerd.root.settings import NONE

MANY = 40
ONE, TWO = 7, 8  # devices


class Keeper:
    """Which copies are kept, and how often each was taken."""

    def __init__(self) -> None:
        self.taken: list[DeadCopy] = []

    def take_copy(self, copy: DeadCopy) -> None:
        self.taken.append(copy)

    def drop_copy(self, copy: DeadCopy) -> None:
        self.taken = [one for one in self.taken if one is not copy]


class Kept:
    """Copies, and the looks at them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keeper = Keeper()
        self.copies = DeadCopies(self.keeper)  # type: ignore[arg-type]
        self.open: list[int] = []
        self.looks = 0
        look = linux.still_open

        def still_open(watcher: select.epoll) -> bool:
            self.looks += 1
            return look(watcher)

        monkeypatch.setattr(linux, "still_open", still_open)

    def keep(
        self, device: int, uid: int, count: int = MANY, owed: Debt | None = None
    ) -> list[DeadCopy]:
        made = []
        for _ in range(count):
            reading, writing = os.pipe()
            os.close(writing)
            self.open.append(reading)
            watcher = linux.weak_reference(reading)
            made.append(DeadCopy(device, (1, 2), uid, Holder(uid), "ttyS0", watcher))
            made[-1].owed = owed
            self.copies.add(made[-1])
        return made

    def close(self) -> None:
        while self.open:
            os.close(self.open.pop())


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    made = Kept(monkeypatch)
    yield made
    made.close()
    made.copies.forget_closed()


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
    kept.copies._all[0].watcher.close()  # as the loop does, while a worker has the copy in hand
    assert kept.copies.holders() == {}
    kept.copies._all.clear()


def test_all_that_are_closed_are_forgotten_at_the_begin_and_the_end(kept: Kept) -> None:
    kept.keep(ONE, ALICE)
    (left,) = kept.keep(TWO, BOB, 1)
    for reading in kept.open[:MANY]:
        os.close(reading)
    del kept.open[:MANY]
    kept.copies.forget_closed()
    assert kept.keeper.taken == kept.copies._all == [left]


def test_no_more_are_kept_than_have_places_and_a_place_is_taken_again(kept: Kept) -> None:
    kept.keep(ONE, ALICE, MOST_KEPT + 1)
    assert len(kept.keeper.taken) == MOST_KEPT
    assert kept.copies.of(ALICE) == MOST_KEPT + 1
    os.close(kept.open.pop(0))
    kept.copies.forget_closed()
    (last,) = kept.keep(ONE, ALICE, 1)
    assert len(kept.keeper.taken) == MOST_KEPT and kept.keeper.taken[-1] is last


def test_what_is_paid_is_kept_as_paid_once_and_of_that_device_alone(kept: Kept) -> None:
    debt = Debt((1, 2), NONE, True)
    first, other = kept.keep(ONE, ALICE, 1, debt)[0], kept.keep(TWO, ALICE, 1, debt)[0]
    kept.keep(ONE, BOB, 1)
    kept.keeper.taken.clear()
    kept.copies.owe(ONE, debt)
    assert kept.keeper.taken == []
    for _ in range(2):
        kept.copies.owe(ONE, None)
    kept.copies.owe(ONE, debt)
    assert kept.keeper.taken == [first]
    assert (first.owed, other.owed) == (None, debt)
    assert (first.record().settings, first.record().exclusive) == (b"", False)
    assert (other.record().settings, other.record().exclusive) == (NONE.pack(), True)
