"""What the name service says is a number or a printable name, or it is nothing."""

from __future__ import annotations

import pytest

from ttybrokerd.prepare.names import MAX_NAME, Names, NamesProcess


class Says(Names):
    """A name service that gives the same answer to every question."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def _ask(self, question: str, about: str) -> bytes:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "number"),
    [(b"0", 0), (b"1000", 1000), (b"4294967294", 4294967294)]
    + [(bad, None) for bad in (b"", b"-1", b"4294967295", b"1e3", b" 7", b"99999999999", b"0x1")],
)
def test_an_id_is_a_number_that_an_id_can_be(answer: bytes, number: int | None) -> None:
    assert Says(answer).user_id("alice") == number
    assert Says(answer).group_id("alice") == number


def test_a_name_is_printable() -> None:
    assert Says(b"al\x1b[2J\xffe\n").user_name(1000) == "al?[2J?e?"


def test_who_is_known_is_found_and_who_is_not_is_nobody() -> None:
    here = Names()
    assert here.user_id("root") == here.group_id("root") == 0
    assert here.user_name(0) == "root"
    assert here.user_name(60199) == ""
    for name in ("no-such-user", "", "a\0b", "x" * 5000):
        assert here.user_id(name) is None
        assert here.group_id(name) is None


@pytest.mark.parametrize("name", ["a\0b", "x" * (MAX_NAME + 1), "é" * MAX_NAME])
def test_what_can_be_no_name_is_not_asked(name: str) -> None:
    process = NamesProcess.__new__(NamesProcess)  # without a process: to ask would fail
    assert process.user_id(name) is None
    assert process.group_id(name) is None
