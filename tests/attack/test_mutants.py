"""The list of guards is true: each has its anchor in the code, and each of its tests exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attack import anchors, mutate, results
from attack.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
SEVERAL_LINES = {"close-after-a-failed-look", "watch-for-unplugging"}


PLACES = anchors.find(ROOT)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_guard_is_in_the_code_and_its_tests_exist(mutant: Mutant) -> None:
    places = PLACES[mutant.name]
    for path in {place.path for place in places}:
        text = mutate.without(path, mutant, places)
        assert text != path.read_text()
        if path.suffix == ".py":
            compile(text, path, "exec")
    assert mutant.tests
    # What pytest-timeout ends may have stopped for another reason.
    assert not re.search(mutant.why, "E   Failed: Timeout (>45.0s) from pytest-timeout.", re.M)
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test


def test_every_anchor_has_its_mutant_and_none_has_two() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert set(PLACES) - set(names) == set(), "`# guard: NAME` in the code, no mutant in mutants.py"
    assert set(names) - set(PLACES) == set(), "mutant, but no `# guard: NAME` in the code"
    assert len(names) == len(set(names))


def test_an_anchor_stands_once_or_for_the_lines_of_one_file() -> None:
    assert all(len({place.path for place in places}) == 1 for places in PLACES.values())
    assert {name for name, places in PLACES.items() if len(places) > 1} == SEVERAL_LINES


def test_the_page_has_a_row_for_each_file_of_attacks() -> None:
    """The numbers are those of each file's last full run: make attack."""
    rows = results.committed()
    assert sorted(rows) == results.files()
    assert {file: row[0] for file, row in rows.items()} == {
        file: results.title(file) for file in results.files()
    }
