"""A number that a user gives is taken as it is meant, or refused in one line: never a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.children import Orphan
from support.command import TTYBROKER, environment
from support.daemon import Daemon
from support.rig import Rig
from support.waiting import TIMEOUT, wait_readable
from ttybroker import client
from ttybroker.run import command
from ttybroker.term import options

pytestmark = pytest.mark.root

NUMBERS = ("-0", "-1", "nan", "inf", "3000000", "1e300", "1e400", "1" + 30 * "0", 5000 * "9",
           "0x10", "\udcff")  # fmt: skip
TERM = ("term", "ttyS0", "--linger", "0")
RUN = ("run", "--stdio", "ttyS0")
# Each option that has a number, as the words before and after that.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "term BPS": (TERM, ()),
    "term --baud": ((*TERM, "--baud"), ()),
    "term --databits": ((*TERM, "--databits"), ()),
    "term --stopbits": ((*TERM, "--stopbits"), ()),
    "term --rts": ((*TERM, "--rts"), ()),
    "term --dtr": ((*TERM, "--dtr"), ()),
    "term --wait": ((*TERM, "--wait"), ()),
    "term --linger": (("term", "ttyS0", "--linger"), ()),
    "term --exit-char": ((*TERM, "--exit-char"), ()),
    "term --menu-char": ((*TERM, "--menu-char"), ()),
    "run --wait": (("run", "--wait"), ("--stdio", "ttyS0", "--", "true")),
    "run --fd": (("run", "--fd"), ("ttyS0", "--", "true")),
    "revoke --hold": (("revoke", "--hold"), ("ttyS0",)),
    "check --user": (("check", "--user"), ("ttyS0",)),
}


def test_every_option_with_a_number_is_tried() -> None:
    numbers = {"BPS", "SECONDS", "NUMBER", "5|6|7|8", "1|2", "0|1"}
    ours = {f"term --{option.name}" for option in options._ALL if option.value in numbers}
    ours |= {f"run {word}" for word in re.findall(r"(--\w+) (?:SECONDS|N)\b", command.USAGE)}
    assert ours == set(OPTIONS) - {"term BPS", "revoke --hold", "check --user"}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_is_taken_or_refused_in_one_line(rig: Rig, daemon: Daemon, option: str) -> None:
    for number in NUMBERS:
        status, lines = tried(rig, option, number)
        assert len(lines) <= 1, (number, lines)
        assert status in (0, 1, 2, -signal.SIGTERM), number
        assert status == 0 or lines[0].startswith("ttybroker: "), (number, lines)


def tried(rig: Rig, option: str, number: str) -> tuple[int, list[str]]:
    """Run the command with this number to its end. Return its exit status, and what it said."""
    before, after = OPTIONS[option]
    wait = "--wait" in option
    holder = rig.holder(0) if wait or "--hold" in option else None
    process = started(rig, *before, number, *after)
    try:
        if option == "term --linger" and stays(rig, process) and hears_the_line(rig, process):
            process.send_signal(signal.SIGTERM)
        elif wait and holder is not None and waits(rig, process):
            holder.say()
        _, told = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    if holder is not None:
        holder.kill()
    for pid in rig.orphans():  # what was beside a run
        Orphan(pid).wait()
    return process.returncode, told.decode(errors="replace").splitlines()


@pytest.mark.parametrize("text", ["baud = nan", "wait = 1e400", "linger = -inf", "baud = true",
                                  f"baud = 1{30 * '0'}", f"linger = {5000 * '9'}",
                                  "exit-char = -0.0", f"menu-char = {5000 * '['}"])  # fmt: skip
def test_a_number_of_a_profile_is_taken_or_refused_in_one_line(
    rig: Rig, daemon: Daemon, tmp_path: Path, text: str
) -> None:
    (tmp_path / "ttybroker").mkdir()
    (tmp_path / "ttybroker/term.toml").write_text(f"[ttyS0]\n{text}\n")
    more = [] if text.startswith("linger") else ["--linger", "0"]
    done = subprocess.run(
        [*TTYBROKER, "term", "ttyS0", *more],
        env=environment(rig, XDG_CONFIG_HOME=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
    taken = text == "wait = 1e400"  # as long as can be
    assert done.returncode == (0 if taken else 2), done.stderr
    assert taken or done.stderr.startswith(f"ttybroker: term: {tmp_path}/ttybroker/term.toml: ")


def started(rig: Rig, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*TTYBROKER, *map(os.fsencode, words)],
        env=environment(rig, XDG_CONFIG_HOME=str(rig.base / "no-config")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stays(rig: Rig, process: subprocess.Popen[bytes]) -> bool:
    """Wait until it has the port or has ended; return whether it has the port."""
    with client.connect(str(rig.socket)) as broker:
        return until(process, lambda: broker.ports(("ttyS0",))[0].state == "busy")


def waits(rig: Rig, process: subprocess.Popen[bytes]) -> bool:
    """Wait until it is in the queue or has ended; return whether it is in the queue."""
    with client.connect(str(rig.socket)) as broker:
        return until(process, lambda: broker.ports(("ttyS0",))[0].waiting > 0)


def hears_the_line(rig: Rig, process: subprocess.Popen[bytes]) -> bool:
    """Return whether it shows what the far end sends. With --linger 0 it ends first."""
    assert process.stdout is not None
    rig.ports["ttyS0"].write(b"x")
    wait_readable(process.stdout.fileno(), "a byte from the line")
    return process.stdout.read(1) == b"x"


def until(process: subprocess.Popen[bytes], there: Callable[[], bool]) -> bool:
    end = time.monotonic() + TIMEOUT
    while process.poll() is None:
        if there():
            return True
        assert time.monotonic() < end, "it neither ends nor gets there"
        time.sleep(0.01)
    return False
