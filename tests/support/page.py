"""The part of a page that a run writes: from `<!-- NAME -->` to `<!-- end of NAME -->`."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


class Part:
    """The part `name` of a page in docs/."""

    def __init__(self, page: str, name: str) -> None:
        self.path = DOCS / page
        self._begin, self._end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"

    def read(self) -> str:
        """What is there."""
        return self._split()[1]

    def write(self, text: str) -> None:
        """Put this in its place."""
        before, _, after = self._split()
        self.path.write_text(f"{before}{self._begin}\n{text}\n{self._end}{after}")

    def _split(self) -> tuple[str, str, str]:
        """The page in three. Raises ValueError where it does not have the part."""
        before, begin, rest = self.path.read_text().partition(self._begin)
        inside, end, after = rest.partition(self._end)
        if not (begin and end):
            raise ValueError(f"{self.path.name} has no part {self._begin.strip()}")
        return before, inside, after
