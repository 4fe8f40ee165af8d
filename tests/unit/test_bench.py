"""The parts of `make bench` that could lie: the count of lines, the verdict, the exit status."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import figures, report
from bench.__main__ import main
from bench.figures import Row
from bench.lines import count
from support.page import Part

SOURCE = '''#!/usr/bin/python3
"""A docstring
of two lines.
"""

import os  # a comment behind code is code

# A comment alone, and a blank line, are not.

TEXT = """a string that is used
counts

with its blank line"""


class A:
    """A docstring."""

    def one(self) -> int:
        r"""Another."""
        return (
            # a comment between brackets

            1
        )

    async def two(self): "docstring"; return 2


def three():
    """Only a docstring."""
'''


def test_lines_of_code_are_no_blanks_comments_and_docstrings(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(SOURCE)
    # import, 4 of TEXT, class, def one, 3 of return, async def, def three
    assert count(file) == 12


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "verdict"),
    [
        (0.60, 0.60, False, "ok"),
        (0.61, 0.60, False, "missed"),
        (1.50, 1.50, True, "ok"),
        (1.49, 1.50, True, "missed"),
        (math.nan, 0.60, False, "missed"),
        (math.nan, 1.50, True, "missed"),
        (9.99, None, False, ""),
    ],
)
def test_a_figure_beyond_its_limit_is_missed(
    value: float, limit: float | None, at_least: bool, verdict: str
) -> None:
    row = Row("a thing", value, limit, at_least)
    assert row.verdict == verdict
    assert figures.table([row]).endswith(verdict or "9.99")


def test_a_missed_limit_is_named_and_is_the_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [Row("the good", 1.0, 1.3), Row("the bad", 1.4, 1.3), Row("the unlimited", 5.0)]
    assert report.show(rows, {"new": "abc"}, as_json=False) == 1
    told = capsys.readouterr()
    assert told.err == "missed: the bad: 1.4, limit at most 1.30\n"
    assert [line.split()[-1] for line in told.out.splitlines()[2:4]] == ["ok", "missed"]


def test_what_is_missed_by_less_than_is_shown_is_still_missed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report.show([Row("the close one", 1.3004, 1.3)], {}, as_json=False) == 1
    assert "1.3004" in capsys.readouterr().err


def test_no_limit_missed_is_exit_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.show([Row("the good", 1.0, 1.3)], {"new": "abc"}, as_json=False) == 0
    assert capsys.readouterr().err == ""


def test_json_names_the_commits_and_has_the_same_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report.show([Row("the bad", 1.4, 1.3)], {"new": "abc", "old": "def"}, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["commits"] == {"new": "abc", "old": "def"}
    assert told["rows"][0]["what"] == "the bad" and told["rows"][0]["verdict"] == "missed"


def test_a_written_table_replaces_the_one_of_its_part_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# P\n<!-- a -->\nold\n<!-- end of a -->\nmid\n<!-- b -->\n<!-- end of b -->\n")
    part = Part("page.md", "a")
    part.path = page
    monkeypatch.setattr(report, "PARTS", {("scale",): part})
    report.write([Row("the good", 1.0, 1.3)], {"new": "abc", "old": "def"}, ["scale"])
    before, inside, after = (
        page.read_text().partition("<!-- a -->\n")[0],
        part.read(),
        "mid\n<!-- b",
    )
    assert before == "# P\n" and after in page.read_text() and "old\n" not in inside
    assert (
        "Commit abc beside def." in inside and figures.table([Row("the good", 1.0, 1.3)]) in inside
    )


def test_a_table_that_no_page_has_a_part_for_is_not_written_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report.write([Row("the good", 1.0)], {"new": "abc"}, ["opens"])
    assert "not written" in capsys.readouterr().err


def test_every_part_that_is_written_is_in_its_page() -> None:
    assert all(part.read() for part in report.PARTS.values())


def test_an_unknown_topic_is_refused_and_not_left_out() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["opens", "openings"])
    assert ended.value.code == 2


def test_pairs_are_compared_and_not_the_medians() -> None:
    row = figures.ratio("new/old", [1.0, 4.0, 9.0], [2.0, 8.0, 9.0], 0.6)
    assert row.value == 0.5 and row.ok


def test_jobs_run_in_turn_in_changing_order() -> None:
    order: list[str] = []
    times = figures.interleave(
        2, {name: lambda name=name: order.append(name) or 1.5 for name in "ab"}
    )
    assert order == ["b", "a", "a", "b"]
    assert times == {"a": [1.5, 1.5], "b": [1.5, 1.5]}
