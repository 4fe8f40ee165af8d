"""What a list that is watched costs the daemon, while many ports come and go."""

from __future__ import annotations

import os
import subprocess
import time

from bench import figures
from bench.build import Bench
from bench.figures import Row
from bench.rig import TIMEOUT, USER, Rig, rigs

ROUNDS = 7
SECONDS = 3.0  # of each half of a round
PORTS = 64
CLIENTS = 3  # each opens and closes a port 100 times a second
CHANGES = 4  # of the table for each of these: opened for it, held, being put in order, free


def rows(bench: Bench) -> list[Row]:
    """Return the row."""
    with rigs({"new": bench.builds["new"]}, PORTS) as each:
        rig = each["new"].start()
        clients = [rig.client() for _ in range(CLIENTS)]
        for client in clients:
            client.send("until_told", PORTS)
        calm, watched = [], []
        for _ in range(ROUNDS):
            calm.append(busy(rig))
            with _watcher(rig) as watcher:
                watched.append(busy(rig))
                watcher.terminate()
        opens = sum(len(client.interrupt()) for client in clients)
    more = [after - before for before, after in zip(calm, watched, strict=True)]
    changes = opens * CHANGES / (2 * ROUNDS * SECONDS)
    what = f"a watched list of {PORTS} ports with {changes:,.0f} changes a second, of a core"
    return [figures.middle(what, more, 5.0, unit="%")]


def _watcher(rig: Rig) -> subprocess.Popen[bytes]:
    """Start one, and wait until it has told of all ports."""
    env = {"PATH": "/usr/bin:/bin", "TTYBROKER_SOCKET": str(rig.socket)}
    command = [str(rig.build.commands / "ttybroker"), "list", "--watch", "--json"]
    told = rig.base / "told"
    with told.open("wb") as file:
        watcher = rig.build.start(*command, uid=USER, env=env, stdout=file)
    deadline = time.monotonic() + TIMEOUT
    while not told.stat().st_size:
        if time.monotonic() > deadline:
            raise RuntimeError("list --watch tells nothing")
        time.sleep(0.01)
    return watcher


def busy(rig: Rig) -> float:
    """The daemon's share of a processor in the next SECONDS, in percent."""
    before, began = _spent(rig.pid), time.monotonic()
    time.sleep(SECONDS)
    return 100 * (_spent(rig.pid) - before) / (time.monotonic() - began)


def _spent(pid: int) -> float:
    """Seconds of processor time: proc_pid_stat(5), utime and stime."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
