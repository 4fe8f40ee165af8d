"""The table of programs: how each is started, spoken to and left."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.metadata import Distribution
from typing import NamedTuple

from matrix import acts
from matrix.acts import Act
from matrix.namespace import INSTALLED

LCK = "LCK file"


class Since(NamedTuple):
    """What is different from a version of the program on; None: as before."""

    version: str
    lock: str | None = None
    command: str | None = None
    status: int | None = None


class Program(NamedTuple):
    """One row. `command` is what people type; `ready` is what it shows when it is up; `quit`
    are tmux's names of the keys that leave it (and ?TEXT to be seen in between). `dialog` is what
    the far end answers: patterns of what it hears, each with the reply; `shows` is in the output.
    `package` is Debian's, or pip:NAME or npm:FOLDER of what `make matrix` installs."""

    name: str
    package: str
    command: str
    quit: tuple[str, ...] = ()
    ready: str = ""
    lock: str = "none"
    status: int = 0
    act: Callable[[Act, Program], None] = acts.converse
    remarks: str = ""
    dialog: tuple[tuple[bytes, bytes], ...] = ()
    shows: str = ""
    beside: str = ""  # says this, and fails, when another process of its run has the port already
    lockless: str = ""  # the command where it may make no lock file; "": the same
    since: tuple[Since, ...] = ()  # the oldest first

    def at(self, version: str) -> Program:
        """As it is in that version."""
        program = self
        for change in self.since:
            if _not_older(version, change.version):
                lock = program.lock if change.lock is None else change.lock
                command = program.command if change.command is None else change.command
                status = program.status if change.status is None else change.status
                program = program._replace(lock=lock, command=command, status=status)
        return program

    def version(self) -> str:
        """Upstream's version: without Debian's epoch and revision. "" if it is not there."""
        kind, _, name = self.package.rpartition(":")
        if kind == "pip":
            places = [str(INSTALLED / folder) for folder in ("python", "labgrid")]
            found = Distribution.discover(name=name, path=places)
            return next((distribution.version for distribution in found), "")
        if kind == "npm":
            about = INSTALLED / name / "node_modules" / "serialport" / "package.json"
            return str(json.loads(about.read_text())["version"]) if about.exists() else ""
        command = ["dpkg-query", "-W", "-f", "${Version}", self.package]
        text = subprocess.run(command, capture_output=True, text=True).stdout.rpartition(":")[2]
        return text.rpartition("-")[0] or text


def _not_older(one: str, other: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", one, "ge", other]).returncode == 0


ROWS = (
    Program(
        "picocom", "picocom", "picocom -b 115200 /dev/ttyS7",
        ("C-a", "C-x"), "Terminal ready", lock="flock",
    ),
    Program(
        "minicom", "minicom", "minicom -D /dev/ttyS7 -b 115200",
        ("C-a", "q", "Enter"), "Welcome to minicom", lock=LCK, beside="owned by someone else",
        since=(Since("2.10", lock="flock"),),
    ),
    Program("tio", "tio", "tio -b 115200 /dev/ttyS7", ("C-t", "q"), "Connected", lock="flock"),
    Program(
        "screen", "screen", "screen /dev/ttyS7 115200",
        ("C-a", "k", "y"), lock="TIOCEXCL", act=acts.detach, remarks="detached and reattached",
    ),
    Program(
        "cu", "cu", "cu -l /dev/ttyS7 -s 115200", ("Enter", "~", "."), "Connected.", lock=LCK,
        lockless="sh -c 'echo lockdir . >config; exec cu -I config -l /dev/ttyS7 -s 115200'",
    ),
    Program(
        "microcom", "microcom", "microcom -p /dev/ttyS7 -s 115200",
        ("C-\\", "?->", "quit", "Enter"), "Escape character", lock=LCK,
        lockless="microcom -f -p /dev/ttyS7 -s 115200",
        since=(Since("2023.09", lock="flock"),),
    ),
    Program(
        "plink", "putty-tools", "plink -serial /dev/ttyS7 -sercfg 115200,8,n,1,N",
        ("C-c",), status=130, remarks="left with Ctrl-C",
    ),
    Program(
        "C-Kermit", "ckermit",
        "kermit -l /dev/ttyS7 -b 115200 -C 'set carrier-watch off, connect, exit 0'",
        ("C-\\", "c"), "Connecting to", lock=LCK,
        lockless="""sh -c 'exec kermit -l 3 -b 115200 3<>/dev/ttyS7 \
                    -C "set carrier-watch off, connect, exit 0"'""",
    ),
    Program(
        "pyserial-miniterm", "python3-serial", "pyserial-miniterm /dev/ttyS7 115200",
        ("C-]",), "--- Miniterm on", lock="flock",
    ),
    Program(
        "python3 -m serial.tools.miniterm", "python3-serial",
        "python3 -m serial.tools.miniterm /dev/ttyS7 115200",
        ("C-]",), "--- Miniterm on", lock="flock",
    ),
    Program(
        "busybox microcom", "busybox-static", "busybox microcom -s 115200 /dev/ttyS7",
        ("C-x",), lock=LCK, remarks="a static program",
    ),
    Program(
        "socat", "socat", "socat -,raw,echo=0,escape=0x1d /dev/ttyS7,raw,echo=0", ("C-]",)
    ),
    Program(
        "lrzsz", "lrzsz", "sh -c 'exec sz -q file <>/dev/ttyS7 >&0'", act=acts.send_file,
        remarks="a file by zmodem",
    ),
    Program(
        "stty", "coreutils", "stty -F /dev/ttyS7 19200 speed", act=acts.set_speed,
        remarks="what it sets is put back at its end",
    ),
    Program(
        "a shell's redirection", "dash",
        """sh -c 'read -r word </dev/ttyS7; echo "$word back" >/dev/ttyS7
                  exec 5<>/dev/ttyS7
                  echo again >&5; read -r word <&5; echo "got $word"; exit 3'""",
        act=acts.redirect, status=3,
    ),
    # From 4.6 on it takes the lock file that the broker made in its name for another's; -u is
    # without lock files.
    Program("ser2net", "ser2net", "ser2net -d -c ser2net.yaml", act=acts.serve, lock=LCK,
        status=1, remarks="from 4.6 on with `-u`; before, its status after SIGTERM is 1",
        lockless="ser2net -u -d -c ser2net.yaml",
        since=(Since("4.6", lock="flock", command="ser2net -u -d -c ser2net.yaml", status=0),),
    ),
    Program("gpsd", "gpsd", "gpsd -N -n -S {free} /dev/ttyS7", act=acts.navigate, lock="TIOCEXCL"),
)  # fmt: skip
PROGRAMS = tuple(program.at(program.version()) for program in ROWS)
