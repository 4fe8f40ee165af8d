"""Every link between the pages leads to a file, and every page can be reached from the README. What
docs/architecture.md says is in a file is there."""

from __future__ import annotations

import re
from pathlib import Path

from support.processes import ROOT

_FILE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`(?:, `((?:[A-Z]\w+\.)?\w+)`)?")
_FOLDERS = ("", "broker", "broker/ttybrokerd", "frontend")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def links(page: Path) -> set[Path]:
    """The files that a page links to."""
    return {(page.parent / target).resolve() for target in _LINK.findall(page.read_text())}


def test_every_link_leads_to_a_file() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        missing = [str(target) for target in links(page) if not target.is_file()]
        assert not missing, f"{page.name}: {missing}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            todo += links(page)
    assert set(ROOT.glob("docs/*.md")) <= reached


def test_the_files_and_functions_that_the_architecture_names_are_there() -> None:
    named = _FILE.findall((ROOT / "docs/architecture.md").read_text())
    assert len(named) > 50
    for file, function in named:
        found = [path for at in _FOLDERS if (path := ROOT / at / file).is_file()]
        assert found, file
        word = re.compile(rf"(?:def|class) {function.rpartition('.')[2]}\b")
        assert not function or word.search(found[0].read_text()), f"{file}: {function}"
