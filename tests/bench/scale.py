"""Memory, many clients, and a port that is stuck."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from bench import figures
from support.children import Chat, Child
from support.processes import PR_SET_CHILD_SUBREAPER, children, prctl, python_path
from support.rig import Rig
from support.users import NOBODY
from ttybroker import client

OPENS = 1000
CLIENTS = 1000
USERS = 5  # among whom the clients are divided: one may have 256
CYCLES = 50  # of one child in one timing
ROUNDS = 30
STUCK = """
import threading
from ttybrokerd.root.device import Devices
opened = Devices.open
def stuck(self, seen, *mode):
    if seen.target.name == "stuck":
        threading.Event().wait()
    return opened(self, seen, *mode)
Devices.open = stuck
"""


def run() -> None:
    """Print the tables."""
    for part in (_forked, _crowd, _stuck):
        rig = Rig()
        try:
            part(rig)
        finally:
            rig.close()


def _private(pid: int) -> int:
    """KiB of memory that this process shares with none."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


FRONTEND = """
import os, sys
from ttybroker import open_fd
from ttybrokerd import init_backend
init_backend(policy=sys.argv[1], lock_dir=sys.argv[2], user="nobody")
for _ in range(int(sys.argv[3])):
    os.close(open_fd("ttyS0", wait=5))
print("done", flush=True)
sys.stdin.read()
"""


def _forked(rig: Rig) -> None:
    """A program as in the README: started as root, with nothing loaded but what it needs."""
    rig.port("ttyS0")
    rig.write_policy()
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # to find the backend
    command = [sys.executable, "-c", FRONTEND, str(rig.policy), str(rig.locks), str(OPENS)]
    frontend = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **python_path()},
    )
    assert frontend.stdout is not None and frontend.stdout.readline() == b"done\n"
    (backend,) = children() - {frontend.pid}
    size = _private(backend) / 1024
    figures.table("Memory of a forked backend (at most 3 MB private)",
                  [(f"after {OPENS} opens", f"{size:.2f} MB")])  # fmt: skip
    frontend.communicate()
    os.waitpid(backend, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 0)


def _clients(rig: Rig, socket: str, ports: list[str], clients: int, users: int) -> list[Child]:
    """Children that keep `clients` connections among them; told a number, each does so many
    open/close cycles over its own, round robin, and answers with the times."""
    children = []
    for user in range(users):
        share = clients // users

        def body(chat: Chat, share: int = share, user: int = user) -> None:
            connections = [client.connect(socket) for _ in range(share)]
            for connection in connections:
                connection.check(ports[0])
            chat.say()
            turn = user
            while (cycles := chat.hear()) is not None:
                times = []
                for _ in range(cycles):
                    turn += 1
                    before = time.perf_counter()
                    os.close(connections[turn % share].open(ports[turn % len(ports)], wait=5))
                    times.append(time.perf_counter() - before)
                chat.say(times)

        child = rig.child(NOBODY - 100 - user, body)
        child.hear(60)
        children.append(child)
    return children


def _ask(children: list[Child], turn: list[int]) -> Callable[[], float]:
    def job() -> float:
        turn[0] += 1
        child = children[turn[0] % len(children)]
        child.say(CYCLES)
        return sum(child.hear(60))

    return job


def _crowd(rig: Rig) -> None:
    ports = [f"p{n}" for n in range(8)]
    for name in ports:
        rig.port(name)
    few = rig.daemon()
    few_clients = _clients(rig, str(rig.socket), ports, 10, USERS)
    second = str(rig.base / "second")
    others = Rig()
    for name in ports:
        others.port(name)
    many = others.daemon("--policy", _policy(others), "--socket", second,
                         "--lock-dir", str(others.locks))  # fmt: skip
    others.socket = rig.base / "second"
    many_clients = _clients(rig, second, ports, CLIENTS, USERS)
    resident = _resident(many.pid) / 1024
    figures.table("Memory of the daemon (at most 16 MB resident)",
                  [(f"with {CLIENTS} idle clients", f"{resident:.1f} MB")])  # fmt: skip
    times = figures.interleave(ROUNDS, few=_ask(few_clients, [0]), many=_ask(many_clients, [0]))
    rate = 1 / figures.paired(times, "many", "few")
    figures.table(f"Open/close cycles a second, {CLIENTS} clients (at least 0.80 of those with 10)",
                  [("1000/10, paired medians", f"{rate:.2f}")])  # fmt: skip
    for child in few_clients + many_clients:
        child.say(None)
        child.wait()
    many.stop(settled=False)
    few.stop(settled=False)
    others.close()


def _policy(rig: Rig) -> str:
    rig.write_policy()
    return str(rig.policy)


def _stuck(rig: Rig) -> None:
    for name in ("ttyS0", "stuck"):
        rig.port(name)
    others = Rig()
    others.port("ttyS0")
    healthy = others.daemon()
    sick = rig.daemon(hook=STUCK)
    asker = client.connect(str(rig.socket))
    asker.ask_open("stuck", wait=600)
    calm = _clients(rig, str(others.socket), ["ttyS0"], 1, 1)[0]
    beside = _clients(rig, str(rig.socket), ["ttyS0"], 1, 1)[0]
    spent: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(ROUNDS):
        for name, child in (("without", calm), ("with", beside)):
            child.say(CYCLES)
            spent[name] += child.hear(60)
    ratio = figures.percentile(spent["with"], 0.99) / figures.percentile(spent["without"], 0.99)
    figures.table("p99 of opens beside a stuck port (less than 1.50 of those without one)",
                  [("with/without", f"{ratio:.2f}")])  # fmt: skip
    for child in (calm, beside):
        child.say(None)
        child.wait()
    asker.close()
    sick.kill()  # it has a thread that no signal but this one ends
    rig.expected_locks.update(rig.lock_files())  # the next broker would remove what it left
    os.unlink(rig.socket)
    healthy.stop(settled=False)
    others.close()
