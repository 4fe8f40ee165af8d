"""What the broker costs a machine that is up: the first grant, memory and wake-ups."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from figures import note
from service import BOB, PATIENT, Service, SystemdService, run, until
from support.children import Chat
from ttybroker import open_fd

ROUNDS = 7


@pytest.mark.systemd
def test_the_first_grant_starts_the_daemon(broker: SystemdService) -> None:
    """The socket starts it.

    The clocks here are those of the host, which may be busy. So the limit is twice that of
    lab/boot.py, which counts instructions.
    """

    def ask(_chat: Chat) -> float:
        start = time.monotonic()
        descriptor = open_fd("ttyS1")
        took = time.monotonic() - start
        os.close(descriptor)
        return took

    def python() -> float:
        start = time.monotonic()
        subprocess.run(["python3", "-I", "-c", "pass"], check=True)
        return time.monotonic() - start

    grants, pythons = [], []
    for _ in range(ROUNDS):
        until("the port to be free", lambda: not broker.held())
        run("systemctl", "stop", "ttybroker.service")
        run("systemctl", "start", "ttybroker.socket")
        assert not broker.pid
        pythons.append(python())
        grants.append(broker.child(BOB, ask).result())
        run("ttybroker", "list")
        pythons.append(python())
    for grant in grants:
        note("ms for the first grant, which starts the daemon", 1000 * grant)
    for one in pythons:
        note("ms for python3 -I -c pass", 1000 * one)
    ratio = statistics.median(grants) / statistics.median(pythons)
    assert note("first grant / python3 -I -c pass (medians)", ratio) <= 12


@pytest.mark.systemd
def test_the_first_grant_with_nothing_of_python_in_memory(broker: SystemdService) -> None:
    """This is as after a boot. It has no limit, because most of the time is the disk's."""

    def ask(chat: Chat) -> None:
        chat.say()
        chat.hear(PATIENT)
        start = time.monotonic()
        os.close(open_fd("ttyS1"))
        chat.say(time.monotonic() - start)

    client = broker.child(BOB, ask)
    client.hear()
    run("systemctl", "stop", "ttybroker.service")
    run("systemctl", "start", "ttybroker.socket")
    assert not broker.pid
    Path("/proc/sys/vm/drop_caches").write_text("3")  # sysctl/vm.rst: free page cache and slab
    client.say()
    note("ms for the first grant, from a disk nobody has read", 1000 * client.hear(PATIENT))
    assert broker.pid


def test_memory_at_rest(broker: Service) -> None:
    broker.holder(BOB, "ttyS1").kill()
    until("the port to be free", lambda: not broker.held())
    rollup = Path(f"/proc/{broker.pid}/smaps_rollup").read_text()
    kib = sum(int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.M))
    assert note("KiB of private memory at rest", kib) < 8 * 1024


def test_no_wake_up_at_rest(broker: Service) -> None:
    broker.holder(BOB, "ttyS1")
    time.sleep(2.5)  # it looks again at a port that somebody closed: root/ends.py, LOOK_AGAIN
    before = _switches(broker.pid)
    time.sleep(10)
    assert _switches(broker.pid) == before


def _switches(pid: int) -> dict[str, list[str]]:
    """Return how often each thread was switched: proc_pid_status(5)."""
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        counts[task.name] = re.findall(r"ctxt_switches:\s+(\d+)", (task / "status").read_text())
    return counts
