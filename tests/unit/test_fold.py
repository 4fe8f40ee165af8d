"""Refusals in the log: some lines of a user in a second, and the number of the rest."""

from __future__ import annotations

from typing import Any

from ttybrokerd.root.fold import LINES, SECOND, USERS, Fold
from ttybrokerd.root.log import NOTICE


class Folded:
    """A fold, what it wrote, and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.wrote: list[tuple[str, dict[str, Any]]] = []
        log: Any = lambda event, _level, **fields: self.wrote.append((event, fields))  # noqa: E731
        self.fold = Fold(log, lambda: self.now)

    def refuse(self, uid: int, times: int = 1) -> None:
        for _ in range(times):
            self.fold("refuse", NOTICE, uid, reason="no")

    def counts(self) -> list[tuple[int | None, int]]:
        return [(at["uid"], at["count"]) for event, at in self.wrote if event == "folded"]


def test_few_refusals_have_a_line_each_and_no_count() -> None:
    folded = Folded()
    for _ in range(3):
        folded.refuse(1, LINES)
        folded.now += SECOND
    assert folded.wrote == [("refuse", {"uid": 1, "reason": "no"})] * 3 * LINES
    assert folded.fold.tick() is None


def test_of_ten_thousand_refusals_some_are_written_and_the_rest_is_counted() -> None:
    folded = Folded()
    folded.refuse(1, 10_009)
    assert len(folded.wrote) == LINES
    assert folded.fold.tick() == SECOND
    folded.now += SECOND
    assert folded.fold.tick() is None
    (event, last) = folded.wrote[-1]
    assert (event, last["uid"], last["reason"]) == (
        "folded", 1, "and 9,999 more refusals, cut-offs and joins")  # fmt: skip


def test_one_users_refusals_fold_no_other_users() -> None:
    folded = Folded()
    folded.refuse(1, 1000)
    folded.refuse(2)
    assert folded.wrote[-1] == ("refuse", {"uid": 2, "reason": "no"})


def test_every_refusal_is_written_or_counted_once() -> None:
    folded = Folded()
    for round_ in range(50):
        folded.refuse(1, round_)
        folded.now += 0.3
    folded.fold.end()
    lines = sum(event == "refuse" for event, _ in folded.wrote)
    assert lines + sum(count for _, count in folded.counts()) == sum(range(50))
    assert folded.fold.tick() is None


def test_the_count_is_written_when_the_daemon_ends() -> None:
    folded = Folded()
    folded.refuse(1, LINES + 5)
    folded.fold.end()
    assert folded.counts() == [(1, 5)]


def test_the_number_of_users_that_are_counted_is_bounded() -> None:
    folded = Folded()
    for uid in range(10 * USERS):
        folded.refuse(uid)
    assert len(folded.fold._users) == USERS + 1
    assert len(folded.wrote) == USERS + LINES
    folded.fold.end()
    assert folded.counts() == [(None, 9 * USERS - LINES)]
