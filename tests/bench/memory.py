"""The memory of a daemon at rest and of a forked backend."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess

from bench.build import Bench, Build, children, end_children
from bench.figures import Row
from bench.rig import Rig, read_line

OPENS = 1000  # of 8 ports in turn
# A program as in the README: started as root, with nothing loaded but what it needs.
FRONTEND = """
import os, sys
sys.path.append(sys.argv[1])
from ttybroker import open_fd
from ttybrokerd import init_backend
init_backend(policy=sys.argv[2], lock_dir=sys.argv[3], user="nobody")
for turn in range(int(sys.argv[4])):
    os.close(open_fd(f"p{turn % 8}", wait=5))
print("done", flush=True)
sys.stdin.read()
"""


def rows(bench: Bench) -> list[Row]:
    """Return the rows."""
    rest = {name: _at_rest(build) for name, build in bench.builds.items()}
    forked = {name: _forked(build) for name, build in bench.builds.items()}
    what = "daemon at rest, private, by the unit's ExecStart but without systemd"
    return [
        Row(what, rest["new"], 4.2, unit="MB", old=rest.get("old")),
        Row(f"forked backend after {OPENS:,} opens, private", forked["new"], 3.0, unit="MB",
            old=forked.get("old")),
    ]  # fmt: skip


def private(pid: int) -> int:
    """Return the KiB of memory that this process shares with none."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def resident(pid: int) -> int:
    """Return the KiB of memory that this process has."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def _at_rest(build: Build) -> float:
    """Started as the unit starts it: its command, its environment, no more. After one lease."""
    names = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Rig(build, 1) as rig, names:
        # First another one: what it prepares is there when the service starts, as most times.
        rig.start()
        rig.kill()
        rig.tidy()
        words = _exec_start(build)
        if "--names" in words:  # an option of 7778755: nobody answers there
            names.bind(str(build.base / "run/ttybroker/names"))
            names.listen()
        rig.start([*words, *rig.places])
        client = rig.client()
        client.ask("first", "p0")
        client.ask("let_go")
        rig.settled()
        client.close()
        return private(rig.pid) / 1024


def _exec_start(build: Build) -> list[str]:
    """The command of ttybroker.service, as installed."""
    unit = (build.units / "ttybroker.service").read_text()
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.partition("=")[2])


def _forked(build: Build) -> float:
    with Rig(build, 8) as rig:
        known = children()
        arguments = (str(build.code), str(rig.policy), str(rig.locks), str(OPENS))
        program = build.start(
            *build.python("-c", FRONTEND, *arguments), text=True, env=dict(os.environ),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            read_line(program.stdout, "the program with a backend")
            (backend,) = children() - known - {program.pid}
            return private(backend) / 1024
        finally:
            program.communicate()
            end_children(known)
