"""How much code stays root: lines of the project's modules that a serving daemon has loaded."""

from __future__ import annotations

import ast
import io
import json
import signal
import tokenize
from pathlib import Path

from bench.build import Bench, Build
from bench.figures import Row
from bench.rig import Rig

LIMIT = 3600
EMPTY = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
         tokenize.ENDMARKER}  # fmt: skip
# Runs the daemon's main(). At its end it says what is loaded, by the descriptor that it has.
DAEMON = """
import sys
sys.path.append(sys.argv.pop(1))
import os
serving, leave = os.getpid(), os._exit
def tell():
    if os.getpid() == serving:
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        os.write(2, b"\\nmodules " + repr(files).replace("'", '"').replace("None", "null").encode())
def tell_and_leave(status):
    tell()
    leave(status)
os._exit = tell_and_leave
from ttybrokerd.daemon import main
status = main(sys.argv[1:])
tell()
leave(status)
"""


def rows(bench: Bench) -> list[Row]:
    """Return the row."""
    found = {name: sum(map(count, _loaded(build))) for name, build in bench.builds.items()}
    what = "code lines in the process that stays root"
    return [Row(what, found["new"], LIMIT, old=found.get("old"))]


def count(file: Path) -> int:
    """Count the lines of code of a Python file: no blanks, no comments, no docstrings."""
    source = file.read_text()
    docstrings = _docstrings(ast.parse(source))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in EMPTY and token.start not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def _docstrings(tree: ast.Module) -> set[tuple[int, int]]:
    """Where docstrings begin: (line, column)."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            text = first.value if isinstance(first, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found.add((text.lineno, text.col_offset))
    return found


def _loaded(build: Build) -> list[Path]:
    """The build's own files that its daemon has loaded after it served a client."""
    with Rig(build, 1) as rig:
        rig.start([*build.python("-c", DAEMON, str(build.code)), *rig.places])
        client = rig.client()
        client.ask("first", "p0")
        client.ask("let_go")
        rig.settled()
        assert rig.daemon is not None
        rig.daemon.send_signal(signal.SIGTERM)
        rig.daemon.wait(20)
        _, found, told = rig.log.read_text().rpartition("\nmodules ")
    if not found:
        raise RuntimeError(f"{build.name}: the daemon did not say what it has loaded")
    files = [Path(file) for file in json.loads(told) if file]
    own = [build.code / "ttybroker", build.code / "ttybrokerd"]
    return sorted({file for file in files if own[0] in file.parents or own[1] in file.parents})
