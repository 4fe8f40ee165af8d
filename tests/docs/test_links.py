"""Every link between the pages leads to a file, and every page can be reached from the README."""

from __future__ import annotations

import re
from pathlib import Path

from support.processes import ROOT

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
