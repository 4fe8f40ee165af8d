"""What one daemon carries: 256 ports that are leased and 2,000 clients that are connected.

The figures of docs/scale.md. There is no limit to miss: a machine's own speed is in them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench import figures
from bench.build import Bench, Build, children, end_children
from bench.figures import Row
from bench.memory import private
from bench.rig import TIMEOUT, USER, Rig
from bench.watch import busy

LEASED, SPARE = 256, 8  # ports; the spare ones are what is opened meanwhile
CLIENTS = 2000
USERS = 8  # among whom both are divided: one may have 256 connections and 64 leases
PER_LEASE = 4  # descriptors that the manager keeps: ttybroker.service, FileDescriptorStoreMax
OPENS = 500
LISTS = 20
MILLISECONDS = 1e3


def rows(bench: Bench) -> list[Row]:
    """Return the rows: of a daemon at rest, with the leases, and with the clients too."""
    with Rig(bench.new, LEASED + SPARE) as rig:
        rig.start()
        asker = rig.client(uid=USER + USERS)
        asker.ask("opens", OPENS, LEASED, SPARE)  # warm
        rig.settled()
        found = _look(rig, "at rest")
        users = [rig.client(uid=USER + user) for user in range(USERS)]
        for user, client in enumerate(users):
            for number in range(user, LEASED, USERS):
                client.ask("first", f"p{number}")
        _until_kept(rig)
        found += _look(rig, f"{LEASED} leases")
        for client in users:
            client.ask("dial", CLIENTS // USERS)
        found += _look(rig, f"{LEASED} leases, {CLIENTS:,} clients")
        found += [_busy(rig), *_list(rig, bench.new), _run(rig, bench.new)]
        for client in users:
            client.ask("let_go")
        return found


def _look(rig: Rig, when: str) -> list[Row]:
    """What the daemon has, and what an open costs a client that connects for it."""
    asker = rig.clients[0]
    count = len(os.listdir(f"/proc/{rig.pid}/fd"))
    spent = [seconds * MILLISECONDS for seconds in asker.ask("opens", OPENS, LEASED, SPARE)]
    return [
        Row(f"{when}: memory, private", private(rig.pid) / 1024, unit="MB"),
        Row(f"{when}: descriptors", count),
        Row(f"{when}: open, p50", figures.percentile(spent, 0.5), unit="ms"),
        Row(f"{when}: open, p95", figures.percentile(spent, 0.95), unit="ms"),
    ]


def _busy(rig: Rig) -> Row:
    what = f"{LEASED} leases, {CLIENTS:,} clients, none of whom does anything: of a core"
    return Row(what, busy(rig), unit="%")


def _list(rig: Rig, build: Build) -> list[Row]:
    ports = LEASED + SPARE
    asked = [rig.clients[0].ask("ports", ports) * MILLISECONDS for _ in range(LISTS)]
    env = {"PATH": "/usr/bin:/bin", "TTYBROKER_SOCKET": str(rig.socket)}
    command = []
    for _ in range(LISTS):
        began = time.perf_counter()
        build.call(build.commands / "ttybroker", "list", uid=USER, env=env)
        command.append((time.perf_counter() - began) * MILLISECONDS)
    return [
        figures.middle(f"list of {ports} ports, asked and answered", asked, None, unit="ms"),
        figures.middle(f"list of {ports} ports, the command", command, None, unit="ms"),
    ]


def _run(rig: Rig, build: Build) -> Row:
    """What `ttybroker run` keeps beside its program."""
    env = {"PATH": "/usr/bin:/bin", "TTYBROKER_SOCKET": str(rig.socket)}
    known = children()
    words = (build.commands / "ttybroker", "run", f"p{LEASED}", "--", "sleep", "infinity")
    program = build.start(*words, uid=USER + USERS, env=env)
    deadline = time.monotonic() + TIMEOUT
    try:
        while (
            _name(program.pid) != "sleep" or len(beside := children() - known - {program.pid}) != 1
        ):
            if time.monotonic() > deadline:
                raise RuntimeError("ttybroker run did not start its program")
            time.sleep(0.01)
        (supervisor,) = beside
        size = private(supervisor) / 1024
    finally:
        program.kill()
        program.wait()
        end_children(known)
    return Row("beside each `ttybroker run`: memory, private", size, unit="MB")


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _until_kept(rig: Rig) -> None:
    """Wait until the manager has the descriptors of all leases: some a second."""
    kept = Path(f"/proc/{rig.store.pid}/fd")
    deadline = time.monotonic() + TIMEOUT
    while len(os.listdir(kept)) < LEASED * PER_LEASE:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the manager has only {len(os.listdir(kept))} descriptors")
        time.sleep(0.1)
