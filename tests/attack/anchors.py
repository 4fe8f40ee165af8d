"""Find the security checks by their anchors in the code, and take one away.

An anchor is a comment `# guard: NAME` (`/* guard: NAME */` in C) at the end of a line of the
guarded statement, or on a line of its own above it. It may give several names, with commas. In
Python an anchor stands for the smallest statement, exception handler or element of a list or
tuple that covers the line; in C it stands for the line.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("broker", "frontend", "packaging")
KINDS = (".py", ".c")
ANCHOR = re.compile(r"(?:#|/\*) guard: ([a-z0-9-]+(?:, [a-z0-9-]+)*)")


class Do(Enum):
    """What becomes of the anchored code, if it is not replaced by a given text."""

    REMOVE = "put `pass` in its place; drop it from its list"
    NEVER = "let its condition be false; let its handler catch nothing"
    ALWAYS = "let its condition be true"


class Anchor(NamedTuple):
    """One place in the code: the line, counted from 0, that bears the comment."""

    path: Path
    line: int


def find(root: Path) -> dict[str, list[Anchor]]:
    """Return the anchors of the tree `root` by their names."""
    found: dict[str, list[Anchor]] = {}
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*"))]
    for path in paths:
        if path.suffix in KINDS and path.parent.name != "build":  # which `make install` fills
            for line, text in enumerate(path.read_text().split("\n")):
                if match := ANCHOR.search(text):
                    for name in match[1].split(", "):
                        found.setdefault(name, []).append(Anchor(path, line))
    return found


def apply(text: str, line: int, do: Do | str, python: bool = True) -> str:
    """Return `text` with `do` done to what the anchor on `line` stands for.

    A text replaces it; of an `if` it replaces the condition.
    """
    lines = text.split("\n")
    own_line = ANCHOR.match(lines[line].strip()) is not None
    if python:
        return _in_python(text, line, own_line, do)
    line += own_line
    lines[line] = _in_c(lines[line], do)
    return "\n".join(lines)


def _in_c(line: str, do: Do | str) -> str:
    if isinstance(do, str):
        return do
    condition = {Do.NEVER: "(0)", Do.ALWAYS: "(1)"}
    code, slash, comment = line.partition("/*")
    return re.sub(r"\(.*\)", condition[do], code) + slash + comment if do in condition else ""


def _in_python(text: str, line: int, own_line: bool, do: Do | str) -> str:
    node = _anchored(text, line, own_line)
    if do is Do.REMOVE and isinstance(node, ast.expr):
        lines = text.split("\n")
        assert node.end_lineno
        return "\n".join(lines[: node.lineno - 1] + lines[node.end_lineno :])
    if do is Do.REMOVE:
        return _replace(text, node, "pass")
    if isinstance(do, str) and isinstance(node, ast.If):
        return _replace(text, node.test, do)
    if isinstance(do, str):
        return _replace(text, node, textwrap.indent(do, " " * node.col_offset).lstrip())
    if isinstance(node, ast.ExceptHandler):
        assert node.type and do is Do.NEVER
        return _replace(text, node.type, "()")
    condition = next(part.test for part in ast.walk(node) if isinstance(part, _CONDITIONAL))
    return _replace(text, condition, str(do is Do.ALWAYS))


_CONDITIONAL = (ast.If, ast.While, ast.IfExp)
_Unit = ast.stmt | ast.ExceptHandler | ast.expr


def _anchored(text: str, line: int, own_line: bool) -> _Unit:
    """Return the smallest unit that covers the line; the first below an anchor's own line."""
    units = list(_units(text))
    if own_line:
        return min((unit for unit in units if unit.lineno > line + 1), key=lambda u: u.lineno)
    covering = [u for u in units if u.lineno <= line + 1 <= (u.end_lineno or 0)]
    return min(covering, key=lambda unit: (unit.end_lineno or 0) - unit.lineno)


def _units(text: str) -> Iterator[_Unit]:
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            yield node
        elif isinstance(node, ast.List | ast.Tuple):
            for part in node.elts:
                before = lines[part.lineno - 1][: part.col_offset]
                if part.lineno > node.lineno and not before.strip():
                    yield part


def _replace(text: str, node: _Unit, new: str) -> str:
    data = text.encode()  # ast counts columns in bytes
    starts = [0]
    for piece in data.split(b"\n"):
        starts.append(starts[-1] + len(piece) + 1)
    assert node.end_lineno and node.end_col_offset is not None
    begin = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    return (data[:begin] + new.encode() + data[end:]).decode()
