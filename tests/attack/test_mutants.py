"""The list of guards is true: each is in the code, once, and each of its tests exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from attack import results
from attack.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_a_guard_is_in_the_code_and_its_tests_exist(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file}: {mutant.old!r}"
    assert mutant.new != mutant.old
    if mutant.file.endswith(".py"):
        ast.parse(text.replace(mutant.old, mutant.new))
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test


def test_no_guard_is_listed_twice() -> None:
    assert len({mutant.guard for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


def test_the_readme_has_a_row_for_each_file_of_attacks() -> None:
    """The numbers are the last full run's: make attack."""
    rows = results.committed()
    assert sorted(rows) == results.files()
    assert {file: row[0] for file, row in rows.items()} == {
        file: results.title(file) for file in results.files()
    }
