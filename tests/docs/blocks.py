"""The blocks of code in a page of docs/, with the output that the page shows for each."""

from __future__ import annotations

import re
from pathlib import Path

from support.processes import ROOT

_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.S | re.M)


class Block:
    """One example; `output` is None where the page shows none."""

    def __init__(self, page: Path, found: re.Match[str]) -> None:
        self.line = found.string.count("\n", 0, found.start(1)) + 1
        self.name = f"{page.name}:{self.line}"
        self.code = found[1]
        self.output: str | None = found[2]


def blocks(page: str) -> list[Block]:
    """The Python examples of a page, by its path in the repository."""
    path = ROOT / page
    return [Block(path, found) for found in _BLOCK.finditer(path.read_text())]
