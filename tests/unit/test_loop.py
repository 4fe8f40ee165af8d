"""The event loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from ttybroker import asking
from ttybrokerd.root.loop import NOTHING, ONCE, READ, Loop


@pytest.fixture
def loop(no_leak: None) -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pipes(loop: Loop) -> Iterator[Callable[[], tuple[int, int]]]:
    """Makes pipes; closes whatever of them is open at the end."""
    made: set[int] = set()

    def make() -> tuple[int, int]:
        ends = os.pipe()
        made.update(ends)
        return ends

    yield make
    for descriptor in made:
        os.close(descriptor)


Pipes = Callable[[], tuple[int, int]]


def test_a_handler_is_called_when_there_is_news_and_as_long_as_there_is(
    loop: Loop, pipes: Pipes
) -> None:
    reading, writing = pipes()
    calls: list[int] = []
    loop.add(reading, READ, lambda: calls.append(1))
    loop.turn(0)
    assert calls == []
    os.write(writing, b"x")
    loop.turn(None)
    loop.turn(None)
    assert calls == [1, 1]
    os.read(reading, 1)
    loop.turn(0)
    assert calls == [1, 1]


def test_a_wait_for_longer_than_the_kernel_counts_is_a_long_one(loop: Loop, pipes: Pipes) -> None:
    """epoll_wait(2) takes an int of milliseconds."""
    reading, writing = pipes()
    calls: list[int] = []
    loop.add(reading, READ, lambda: calls.append(1))
    os.write(writing, b"x")
    loop.turn(2.0**31 / 1000)
    loop.turn(asking.MAX_WAIT)
    assert calls == [1, 1]


def test_who_waits_for_nothing_hears_of_a_hang_up_alone(loop: Loop, pipes: Pipes) -> None:
    reading, writing = pipes()
    keep = os.dup(writing)
    calls: list[int] = []
    loop.add(reading, NOTHING, lambda: calls.append(1))
    os.write(writing, b"x")
    loop.turn(0)
    assert calls == []
    loop.change(reading, READ)
    loop.turn(0)
    assert calls == [1]
    loop.change(reading, NOTHING)
    os.dup2(reading, writing)  # both write ends away
    os.close(keep)
    loop.turn(None)
    assert calls == [1, 1]


def test_a_descriptor_removed_is_not_heard_of_again_and_may_be_removed_twice(
    loop: Loop, pipes: Pipes
) -> None:
    reading, writing = pipes()
    calls: list[int] = []
    loop.add(reading, READ, lambda: calls.append(1))
    os.write(writing, b"x")
    loop.remove(reading)
    loop.remove(reading)
    loop.turn(0)
    assert calls == []


def test_a_handler_removed_during_a_turn_is_not_called_in_it(loop: Loop, pipes: Pipes) -> None:
    both = [pipes(), pipes()]
    calls: list[int] = []

    def handler(number: int) -> Callable[[], None]:
        def call() -> None:
            calls.append(number)
            loop.remove(both[1 - number][0])

        return call

    for number, (reading, writing) in enumerate(both):
        os.write(writing, b"x")
        loop.add(reading, READ, handler(number))
    loop.turn(0)
    assert len(calls) == 1


def test_a_number_that_comes_again_during_a_turn_gets_no_stale_news(
    loop: Loop, pipes: Pipes
) -> None:
    both = [pipes(), pipes()]
    fresh = pipes()
    calls: list[str] = []

    def handler(number: int) -> Callable[[], None]:
        def call() -> None:
            calls.append("old")
            other = both[1 - number][0]
            loop.remove(other)
            os.dup2(fresh[0], other)  # closes the old one; its number is another's at once
            loop.add(other, READ, lambda: calls.append("new"))
            loop.remove(both[number][0])

        return call

    for number, (reading, writing) in enumerate(both):
        os.write(writing, b"x")
        loop.add(reading, READ, handler(number))
    loop.turn(0)
    assert calls == ["old"]
    loop.turn(0)
    assert calls == ["old"]
    os.write(fresh[1], b"x")
    loop.turn(None)
    assert calls == ["old", "new"]


def test_a_handler_without_memory_keeps_no_news_from_the_others_and_is_called_again(
    loop: Loop, pipes: Pipes
) -> None:
    """News that is told once would be lost."""
    called: list[str] = []

    def fails() -> None:
        called.append("fails")
        raise MemoryError

    for handler in (lambda: called.append("before"), fails, lambda: called.append("behind")):
        read, write = pipes()
        loop.add(read, READ | (0 if handler is fails else ONCE), handler)
        os.write(write, b"x")
    with pytest.raises(MemoryError):
        loop.turn(0)
    assert sorted(called) == ["before", "behind", "fails"]
    with pytest.raises(MemoryError):
        loop.turn(0)
    assert called[3:] == ["fails"]
