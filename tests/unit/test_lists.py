"""Whose list is made next."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

from ttybroker import wire
from ttybrokerd.root import requests
from ttybrokerd.root.lists import AT_ONCE, Lists
from ttybrokerd.root.refusal import Refusal


class Making:
    """The lists that are being made: users, in order; `begun` are all that ever were."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.now: list[int] = []
        self.lists = Lists(self.begin)

    def begin(self, client: Any, _request: wire.List) -> None:
        self.begun.append(client.identity.uid)
        self.now.append(client.identity.uid)

    def ask(self, uid: int) -> Any:
        client: Any = SimpleNamespace(identity=SimpleNamespace(uid=uid))
        self.lists.ask(client, wire.List())
        return client

    def finish(self) -> None:
        self.lists.done(self.now.pop(0))


def test_at_most_two_lists_are_made_at_once() -> None:
    making = Making()
    for uid in range(5):
        making.ask(uid)
    assert making.now == [0, 1]
    for left in (3, 2, 1):
        making.finish()
        assert len(making.now) == min(AT_ONCE, left + 1)
    assert making.begun == [0, 1, 2, 3, 4]


def test_of_one_user_one_list_is_made_at_a_time() -> None:
    making = Making()
    for _ in range(3):
        making.ask(1)
    assert making.now == [1]
    making.finish()
    assert making.begun == [1, 1]


def test_users_take_turns_for_lists() -> None:
    making = Making()
    for _ in range(100):
        making.ask(1)
    making.ask(2)
    for _ in range(50):
        making.ask(3)
    making.ask(4)
    while len(making.begun) < 8:
        making.finish()
    assert making.begun == [1, 2, 1, 3, 4, 1, 3, 1]


def test_who_is_gone_gets_no_list() -> None:
    making = Making()
    making.ask(1)
    gone = [making.ask(1), making.ask(1)]
    making.ask(1)
    for one in gone:
        making.lists.withdraw(one)
    making.finish()
    making.finish()
    assert making.begun == [1, 1]
    assert not making.lists._waiting
    assert not making.now


def test_a_list_that_cannot_be_made_is_a_refusal() -> None:
    def no_descriptors() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def no_memory() -> None:
        raise MemoryError

    for job, number in ((no_descriptors, errno.EMFILE), (no_memory, errno.ENOMEM)):
        told = requests._within_means(job)
        assert isinstance(told, Refusal)
        assert told.number == number
