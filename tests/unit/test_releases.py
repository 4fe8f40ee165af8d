"""The table of releases, and what programs are in which version."""

from __future__ import annotations

from pathlib import Path

import pytest

from distro.table import HEAD, PAGE, Found, put
from matrix import table as matrix
from matrix.programs import Program, Since

ROW = Found("trixie", "3.13.5", "demo", "ok (45 s)", "abc1234")


def test_a_row_takes_the_place_of_its_own_and_of_no_other() -> None:
    other = ROW._replace(python="3.14.1", commit="def5678")
    page = put(put(f"before\n{HEAD}after\n", other), ROW)
    again = ROW._replace(result="failed (2 s)", commit="fff0000")
    assert put(page, again) == (
        f"before\n{HEAD}"
        "| trixie | 3.13.5 | demo | failed (2 s) | fff0000 |\n"
        "| trixie | 3.14.1 | demo | ok (45 s) | def5678 |\nafter\n"
    )


def test_the_page_has_the_table() -> None:
    put(PAGE.read_text(), ROW)


def test_a_page_without_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no table"):
        put("nothing\n", ROW)


def test_a_program_is_what_it_is_in_its_version() -> None:
    changes = (Since("2.9", lock="flock"), Since("2.10", command="x -u"))
    program = Program("x", "x", "x", lock="LCK file", since=changes)
    found = {v: (program.at(v).lock, program.at(v).command) for v in ("2.8", "2.9", "2.10")}
    assert found == {
        "2.8": ("LCK file", "x"), "2.9": ("flock", "x"), "2.10": ("flock", "x -u")
    }  # fmt: skip


def test_a_run_on_another_release_adds_its_column_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "programs.md"
    before = matrix.committed()
    missing = {program.name for program in matrix.ALL} - set(before)
    assert missing == set(), "no row in docs/programs.md: make matrix"
    page.write_text(matrix.PAGE.path.read_text())
    monkeypatch.setattr(matrix.PAGE, "path", page)
    monkeypatch.setattr(matrix, "RELEASE", "another")
    found = {(program.name, launcher): matrix.WORKS
             for program in matrix.ALL for launcher in matrix.LAUNCHERS}  # fmt: skip
    found["picocom", "ttyrun"] = matrix.FAILS
    matrix.write(found)
    after = matrix.committed()
    cells = {name: cells.pop("another").split(" ", 1)[1] for name, cells in after.items()}
    assert after == before
    assert cells.pop("picocom") == "fails under ttyrun" and set(cells.values()) == {"works"}
    assert matrix.differences(found) == []
    found["picocom", "ttyrun"] = matrix.WORKS
    assert len(matrix.differences(found)) == 1
