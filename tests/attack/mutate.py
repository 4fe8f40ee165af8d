"""Is each guard needed? Take one away at a time and see its tests fail: make attack MUTATE=1

    python -m attack.mutate --write        and say so in docs/attacks.md, if all are
    python -m attack.mutate [WORD...]      of those whose text or file holds one of the words

In a copy of the tree, and in namespaces of its own, so that nothing of a broken broker is left on
the machine. A test counts as red only if what it says is what the mutant's `why` expects: a
module that does not import, or a daemon that does not start, proves nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from attack import anchors, results
from attack.anchors import Anchor
from attack.mutants import MUTANTS, Mutant
from support.commit import this_commit

ROOT = Path(__file__).parents[2]
FOLDERS = ("broker", "docs", "frontend", "packaging", "tests")
PARTS = (*FOLDERS, "pyproject.toml", "README.md", "Makefile")
PATIENCE = 45  # seconds for one test
LONGEST = 300  # and for all of one mutant's
BROKEN = re.compile("(Import|ModuleNotFound|Syntax|Indentation|Name)Error")
# The pid namespace ends every process with the tests; /run is where they put files and mounts.
APART = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--mount", "sh", "-c",
         'mount -t tmpfs -o mode=755 run /run && exec "$@"', "sh"]  # fmt: skip


class Outcome:
    """What one run of pytest said, by test, with its parameters and without: the texts of its
    failures, [] if it passed."""

    def __init__(self, report: Path, output: str) -> None:
        self.output = output
        self.failures: dict[str, list[str]] = {}
        for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
            path = (case.get("classname") or "").replace(".", "/") + ".py"
            bad = [part for part in case if part.tag in ("failure", "error")]
            name = case.get("name") or ""
            for known_as in {name, name.partition("[")[0]}:
                texts = self.failures.setdefault(f"{path}::{known_as}", [])
                texts += [f"{part.get('message')}\n{part.text}" for part in bad]

    def unproven(self, mutant: Mutant) -> list[str]:
        """Which of the mutant's tests did not fail as they must, and what they did instead."""
        problems = []
        for test in mutant.tests:
            texts = self.failures.get(test)
            if texts is None:
                problems.append(f"{test} did not run:\n{self.output[-2000:]}")
            elif not texts:
                problems.append(f"{test} still passes")
            elif not any(
                re.search(mutant.why, text, re.M) and not BROKEN.search(text) for text in texts
            ):
                problems.append(f"{test} fails, but not with {mutant.why!r}:\n{texts[0][-2000:]}")
        return problems


def run(copy: Path, tests: list[str], longest: int = LONGEST) -> Outcome:
    """Run these tests in the copy."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    command = [*APART, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
               f"--junitxml={report}", "-o", "junit_logging=no", "-o", f"timeout={PATIENCE}",
               *tests]  # fmt: skip
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(command, cwd=copy, env=environment, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=longest)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return Outcome(report, output)


def healthy(copy: Path, mutants: list[Mutant]) -> bool:
    """Whether all the tests pass as long as no guard is missing."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    outcome = run(copy, tests, longest=10 * LONGEST)
    bad = [test for test in tests if outcome.failures.get(test, ["did not run"])]
    if bad:
        print(outcome.output, "\nred before anything was taken away:", *bad, sep="\n")
    return not bad


def attack(copy: Path, mutant: Mutant, places: list[Anchor]) -> list[str]:
    """Take the guard away, run its tests, put it back; what is not proven."""
    whole = {place.path: place.path.read_text() for place in places}
    try:
        for path in whole:
            path.write_text(without(path, mutant, places))
        return run(copy, list(mutant.tests)).unproven(mutant)
    finally:
        for path, text in whole.items():
            path.write_text(text)


def without(path: Path, mutant: Mutant, places: list[Anchor]) -> str:
    """Return the file's text without the guard; the last anchor first, so that lines keep."""
    text = path.read_text()
    for line in sorted((place.line for place in places if place.path == path), reverse=True):
        text = anchors.apply(text, line, mutant.do, python=path.suffix == ".py")
    return text


def described(mutant: Mutant, places: list[Anchor]) -> str:
    """Return in one line which guard it is and where."""
    return f"{places[0].path.name}: {mutant.name}: {mutant.guard}"


def main() -> int:
    """0: each guard's tests went red without it."""
    words = [word for word in sys.argv[1:] if word != "--write"]
    write = "--write" in sys.argv[1:] and not words
    commit = this_commit() if write else ""
    found = anchors.find(ROOT)
    if lost := [mutant.name for mutant in MUTANTS if mutant.name not in found]:
        print(f"no line of the code has `# guard: {lost[0]}`", file=sys.stderr)
        return 2
    mutants = [
        mutant
        for mutant in MUTANTS
        if not words or any(word in described(mutant, found[mutant.name]) for word in words)
    ]
    if not mutants:
        print(f"no mutant for {' or '.join(words)} in tests/attack/mutants.py", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ttybroker-mutants-") as directory:
        copy = Path(directory)
        copy.chmod(0o755)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        print(f"{len(mutants)} guards; first their tests with all of them in place", flush=True)
        if not healthy(copy, mutants):
            return 1
        survivors = 0
        found = anchors.find(copy)
        for number, mutant in enumerate(mutants, 1):
            begin = time.monotonic()
            problems = attack(copy, mutant, found[mutant.name])
            survivors += bool(problems)
            word = "SURVIVES" if problems else "red"
            seconds = time.monotonic() - begin
            print(f"[{number}/{len(mutants)}] {word:8} {seconds:5.1f} s  "
                  f"{described(mutant, found[mutant.name])}", flush=True)  # fmt: skip
            for problem in problems:
                print("    " + problem.replace("\n", "\n    "), flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} guards: without it, its tests fail")
    if write and not survivors:
        results.write(results.of_guards(len(mutants), commit))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
