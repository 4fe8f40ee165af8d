"""Whose connection is looked at next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ttybrokerd.root.turns import Turns


def connection(uid: int) -> Any:
    return SimpleNamespace(identity=SimpleNamespace(uid=uid), in_line=False)


def order(turns: Turns) -> list[Any]:
    """All that have news, as they come."""
    found = []
    while turns:
        found.append(turns.next())
    assert turns.next() is None
    return found


def test_many_connections_of_one_do_not_stand_before_anothers() -> None:
    turns = Turns()
    many, bob, eve = [connection(1) for _ in range(250)], connection(2), connection(3)
    for one in (*many, bob, eve):
        turns.add(one)
    assert order(turns)[:5] == [many[0], bob, eve, *many[1:3]]


def test_a_connection_stands_in_line_once_and_again_when_it_was_looked_at() -> None:
    turns, one, other = Turns(), connection(1), connection(1)
    for client in (one, one, other, one):
        turns.add(client)
    assert turns.next() is one
    turns.add(one)
    assert order(turns) == [other, one]


def test_who_took_the_least_time_lately_is_next() -> None:
    turns, busy, other = Turns(), connection(1), connection(2)
    turns.took(1, 0.004, now=100.0)
    turns.took(2, 0.001, now=100.0)
    for client in (busy, other):
        turns.add(client)
    assert order(turns) == [other, busy]


def test_what_a_user_took_long_ago_counts_no_more() -> None:
    turns, once, lately = Turns(), connection(1), connection(2)
    turns.took(1, 0.004, now=100.0)
    for tenth in range(1, 20):
        turns.took(3, 0.0, now=100.0 + tenth / 9)
    turns.took(2, 0.0001, now=103.0)
    for client in (lately, once):
        turns.add(client)
    assert order(turns) == [once, lately]
    assert turns._taken.keys() <= {2, 3}
