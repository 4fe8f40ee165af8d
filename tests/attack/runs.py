"""Attacks that need a process to themselves, with their lines passed on as they come."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.processes import ROOT, python_path

TESTS = Path(__file__).parents[1]


class Run:
    """`python -m attack.MODULE ARGUMENTS`, begun at once."""

    def __init__(self, *arguments: object) -> None:
        paths = f"{TESTS}:{python_path()['PYTHONPATH']}"
        self.arguments = arguments
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, progress: Callable[[str], None]) -> str:
        """Pass on its lines until it ends; the last of them. Fails if it failed."""
        assert self.process.stdout is not None
        lines: list[str] = []
        with self.process:
            for line in self.process.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("attack "):
                    progress(lines[-1])
        assert self.process.returncode == 0, "\n".join([f"{self.arguments} failed", *lines[-60:]])
        return lines[-1]
