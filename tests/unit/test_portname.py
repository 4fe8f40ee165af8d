"""Names and globs, held against the regular expressions and the fnmatch that they replace."""

from __future__ import annotations

import fnmatch
import re
import time

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ttybrokerd.root.portname import matches, split

pytestmark = pytest.mark.timeout(300)  # thousands of examples: a minute on a busy machine

KERNEL_NAME = re.compile(r"([A-Za-z]+)(0|[1-9][0-9]{0,4})")
BACKWARDS = re.compile(r"\[(.-.)+!")  # in [z-a!] fnmatch takes the ! for the first character
CLOSE = st.text("aSz09-", max_size=8)  # so that they often match
GLOBS = st.text("aSz09-*?[]!_", min_size=1, max_size=10)


@given(st.text(max_size=10) | st.text("ttyS019-_é٣", max_size=9))
@settings(deadline=None, max_examples=1500)
@example("ttyS0")
@example("ttyS00")
@example("ttyS99999")
@example("ttyS100000")
@example("0")
@example("é0")
@example("ttyS0\n")
@example("ttyS٣")
def test_a_kernel_name_is_letters_and_a_number(text: str) -> None:
    match = KERNEL_NAME.fullmatch(text)
    assert split(text) == (match and (match[1], int(match[2])))


@given(CLOSE, GLOBS)
@settings(deadline=None, max_examples=5000)
@example("ttyS0", "ttyS*")
@example("ttyS0", "*[0-9]")
@example("ab", "a[!b]")
@example("[", "[")
@example("[]", "[[]]")
@example("]", "[]]")
@example("-", "[a--]")
@example("b", "[a--b]")
@example("c", "[a-c-e]")
@example("d", "[a-c-e]")
@example("z", "[z-a]")
@example("a", "[!z-a]")
@example("!", "[!!]")
@example("!", "[!]")
@example("", "**")
def test_a_glob_matches_what_fnmatch_says(name: str, glob: str) -> None:
    assume(not BACKWARDS.search(glob))
    assert matches(name, glob) == fnmatch.fnmatchcase(name, glob)


@given(st.text("aS0-]", max_size=4), st.lists(st.text("aS0-]!", max_size=5), max_size=3))
@settings(deadline=None, max_examples=5000)
def test_so_do_sets(name: str, sets: list[str]) -> None:
    glob = "".join(f"[{inside}]" for inside in sets) or "*"
    assume(not BACKWARDS.search(glob))
    assert matches(name, glob) == fnmatch.fnmatchcase(name, glob)


@pytest.mark.parametrize("glob", ["*a" * 32 + "b", "*" * 64 + "b", "[a-z]*" * 10 + "b"])
def test_no_glob_takes_long(glob: str) -> None:
    start = time.process_time()
    for _ in range(100):
        assert not matches("a" * 64, glob)
    assert time.process_time() - start < 5
