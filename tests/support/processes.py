"""Facts about a process (descriptors, children, name), and prctl(2) for the tests' own."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36  # sys/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int | bytes) -> None:
    """Call prctl(2) with one argument."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def descriptors(pid: int) -> dict[int, str]:
    """Return the open descriptors of a process, and what they are."""
    found = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
    return found


def accounts(pid: int) -> list[dict[str, str]]:
    """Return what the kernel says of each thread of a process: proc_pid_status(5)."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            pairs = (line.partition(":") for line in (thread / "status").read_text().splitlines())
            found.append({key: value.strip() for key, _, value in pairs})
    assert found, f"process {pid} has ended"
    return found


def watches(pid: int) -> int:
    """Return how many inotify watches a process has: proc_pid_fdinfo(5)."""
    found = 0
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += file.read_text().count("inotify wd:")
    return found


def children(of: int | None = None) -> set[int]:
    """Return the children of a process; of this one with those inherited as a subreaper."""
    with open(f"/proc/{of}/task/{of}/children" if of else "/proc/thread-self/children") as file:
        return {int(pid) for pid in file.read().split()}


def name_of(pid: int) -> str:
    """Return the name of a process, "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def python_path() -> dict[str, str]:
    """Return the environment in which the tests' interpreter finds both source roots."""
    return {"PYTHONPATH": f"{ROOT / 'broker'}:{ROOT / 'frontend'}"}
