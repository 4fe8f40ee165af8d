"""Attacks on other opens: signals arrive all the time, and none of them fails because of us.

tests/run/test_interrupted.py has the same programs, less often, and that of a 32-bit machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.test_launcher_whole import Port, orphans, port
from run.conftest import Rig, rig
from run.test_interrupted import FILES, LOOP, NAMED, REDIRECTIONS, ticks

__all__ = ["orphans", "port", "rig", "ticks"]

YAMA = pytest.mark.parametrize(
    "env", [{}, {"TEST_PTRACE_SCOPE": "1"}], ids=["Yama 0", "as under Yama 1"]
)


@YAMA
@NAMED
@FILES
def test_opens_beside_a_timer(
    rig: Rig,
    tmp_path: Path,
    ticks: str,
    ports: tuple[str, ...],
    path: str,
    flags: int,
    env: dict[str, str],
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
) -> None:
    """Source: signal(7), interruption of system calls by signal handlers.

    Promise: beside a timer that ticks every 200 µs, without SA_RESTART, no open of a file fails.
    """
    opens = scale(300, 10_000)
    words = ("--", ticks, path, str(flags), str(opens))
    assert rig.run(*ports, *words, env=env, cwd=tmp_path) == (0, "0\n", "")
    count("opens beside a timer", opens)


@YAMA
@NAMED
@REDIRECTIONS
def test_redirections_while_children_end(
    rig: Rig,
    tmp_path: Path,
    ports: tuple[str, ...],
    what: str,
    env: dict[str, str],
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
) -> None:
    """Source: dash, which handles SIGCHLD without SA_RESTART.

    Promise: the redirections of a shell whose children end meanwhile do not fail.
    """
    for _ in range(scale(1, 20)):
        done = rig.run(*ports, "--", "dash", "-c", LOOP % what, env=env, cwd=tmp_path)
        assert done == (0, "done\n", "")
    count("redirections while children end", 300 * scale(1, 20))


@pytest.mark.root
def test_under_ttyrun(
    port: Port,
    ticks: str,
    scale: Callable[[int, int], int],
    count: Callable[[str, int], None],
) -> None:
    """Promise: both hold under the launcher, with the broker's own process beside the program."""
    program = port.launcher.base / "ticks"
    shutil.copy(ticks, program)  # where its caller may execute it
    opens, rounds = scale(300, 10_000), scale(1, 20)

    def run(*words: str) -> tuple[int, str, str]:
        done = port.launcher.run(*words, env={"PATH": "/usr/bin:/bin"})
        return done.returncode, done.stdout, done.stderr

    for ports in ((), ("demo",)):
        for path, flags in (("/etc/hostname", 0), ("/etc/hostname", 0o2000000), ("/dev/null", 1)):
            words = ("--", str(program), path, str(flags), str(opens))
            assert run(*ports, *words) == (0, "0\n", "")
            count("opens beside a timer", opens)
        for what in ("< /etc/hostname", "> /dev/null"):
            for _ in range(rounds):
                assert run(*ports, "--", "/bin/dash", "-c", LOOP % what) == (0, "done\n", "")
                count("redirections while children end", 300)
