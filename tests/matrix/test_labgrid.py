"""The example of labgrid on four machines: a coordinator, two with a board each, a desk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from matrix.fleet import (
    BOARD,
    EXAMPLE,
    LABGRID,
    PYTHON,
    Host,
    Machine,
    Net,
    hear_line,
    kill,
    until_waiting,
)
from matrix.stage import Installation, Stage
from support.children import Chat
from support.processes import PR_SET_CHILD_SUBREAPER, prctl
from support.rig import Rig
from support.users import BOB
from support.waiting import TIMEOUT
from ttybroker import open_fd, open_tty

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not LABGRID.exists(), reason="`make matrix` installs labgrid"),
    pytest.mark.timeout(180),
]

FREE = 1.0  # seconds from the end of what held the port until it is free
CONSOLE = """
import sys
from labgrid import Environment
console = Environment(sys.argv[1]).get_target("main").get_driver("ConsoleProtocol")
console.write(b"from the desk")
console.expect("from the board")
print("heard", flush=True)
sys.stdin.readline()
"""
COORDINATOR = ("-m", "labgrid.remote.coordinator", "-l", "10.77.0.1:20408")


class Fleet:
    """All of them, and what a test does there."""

    def __init__(self, stack: contextlib.ExitStack, installation: Installation) -> None:
        rig = Rig()
        stack.callback(rig.close)
        nets = [Net(rig, f"10.77.0.{number}") for number in (1, 2, 3, 4)]
        for net in nets:
            stack.callback(net.close)
        nets[0].ip("link", "add", "bridge", "type", "bridge")
        nets[0].ip("address", "add", "10.77.0.1/24", "dev", "bridge")
        nets[0].ip("link", "set", "bridge", "up")
        for number, net in enumerate(nets[1:]):
            net.connect(nets[0], number)
        self.hosts: list[Host] = []
        for net in nets[1:3]:  # one after the other: a rig knows what was there before it
            if self.hosts:
                rig = Rig()
                stack.callback(rig.close)
            stage = Stage(rig, installation.base)
            stack.callback(stage.close)
            self.hosts.append(Host(rig, stage, net, installation))
        self.middle = Machine(stage, nets[0], installation)
        self.desk = Machine(stage, nets[3], installation)
        for machine in (self.middle, *self.hosts, self.desk):
            stack.callback(machine.stop)
        self.coordinator = self.coordinate()

    def coordinate(self) -> subprocess.Popen[bytes]:
        """Start the coordinator."""
        return self.middle.serve(*PYTHON, *COORDINATOR, ready=b"Coordinator ready")

    def acquire(self, host: Host) -> None:
        """Make a place of this host's board, and acquire it."""
        self.desk.client("-p", place(host), "create")
        self.desk.client("-p", place(host), "add-match", f"{host.name}/{BOARD}/*")
        self.desk.client("-p", place(host), "acquire")

    def start_console(self, host: Host) -> subprocess.Popen[bytes]:
        """Start what talks to the board of this host, by the example's environment."""
        env = self.desk.stage.root / f"{host.name}.yaml"
        env.write_text((EXAMPLE / "env.yaml").read_text().replace(BOARD, place(host)))
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return self.desk.start(*PYTHON, "-c", CONSOLE, str(env), **pipes)

    @contextlib.contextmanager
    def console(self, host: Host) -> Iterator[subprocess.Popen[bytes]]:
        """Somebody at the desk talks to the board of this host."""
        process = self.start_console(host)
        host.daemon.record("grant", port=BOARD)
        host.hear(b"from the desk")
        host.board.write(b"from the board")
        hear_line(process, "heard")
        try:
            yield process
        finally:
            kill(process)


def place(host: Host) -> str:
    """The name of the place with this host's board."""
    return f"place-of-{host.name}"


@pytest.fixture
def fleet(installation: Installation) -> Iterator[Fleet]:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    with contextlib.ExitStack() as stack:
        stack.callback(prctl, PR_SET_CHILD_SUBREAPER, 0)
        yield Fleet(stack, installation)


def free(host: Host, since: float) -> None:
    """Demand that the port comes free within the limit."""
    host.daemon.record("release", port=BOARD)
    assert time.monotonic() - since < FREE


def forget_places(fleet: Fleet) -> None:
    """What a coordinator knows that was killed within 15 s, before it saved them."""
    for name in ("places.yaml", "resources.yaml"):
        (fleet.middle.stage.home / name).unlink(missing_ok=True)


def test_two_hosts_serve_a_desk_and_a_local_user_reads_the_place(
    fleet: Fleet, installation: Installation
) -> None:
    with contextlib.ExitStack() as stack:
        for host in fleet.hosts:
            host.export()
            fleet.acquire(host)
            stack.enter_context(fleet.console(host))
        for host in fleet.hosts:
            term = str(installation.commands / "ttybroker"), "term", BOARD
            refused = host.stage.run(*term, uid=BOB)
            assert refused.status == 1
            assert "with ser2net (pid " in refused.err
            assert f"for 'labgrid place {place(host)}'" in refused.err
    for host in fleet.hosts:
        host.daemon.record("release", port=BOARD)
        assert host.stage.run(*term, uid=BOB).status == 0


def test_labgrids_own_exporter_runs_under_one_run(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    host.export(whole=True)
    fleet.acquire(host)
    with fleet.console(host):
        assert "label=labgrid" in host.daemon.output()


def test_an_exporter_that_is_killed_leaves_its_port_free(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    exporter = host.export()
    fleet.acquire(host)
    with fleet.console(host):
        since = time.monotonic()
        kill(exporter)
        free(host, since)
    host.export()  # as Restart= does
    # By itself the coordinator does this within 15 s: labgrid.remote.coordinator, poll().
    fleet.desk.client("-p", place(host), "release")
    fleet.desk.client("-p", place(host), "acquire")
    with fleet.console(host):
        pass


def test_a_coordinator_that_is_killed_leaves_nothing_stuck(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    exporter = host.export()
    fleet.acquire(host)
    with fleet.console(host):
        since = time.monotonic()
        kill(fleet.coordinator)
        free(host, since)
    assert exporter.wait(TIMEOUT) == 100  # of labgrid: start me again
    forget_places(fleet)
    fleet.coordinator = fleet.coordinate()
    host.export()
    fleet.acquire(host)
    with fleet.console(host):
        pass


def test_a_board_that_is_unplugged_is_let_go(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    host.export()
    fleet.acquire(host)
    with fleet.console(host):
        since = time.monotonic()
        host.board.close()
        free(host, since)


def test_a_place_that_is_released_is_let_go_although_the_desk_is_cut_off(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    host.export()
    fleet.acquire(host)
    with fleet.console(host):
        fleet.desk.net.ip("link", "set", "eth0", "down")
        fleet.middle.client("-p", place(host), "release")
        host.daemon.record("release", port=BOARD)


def test_a_local_program_that_yields_gives_way_to_the_place_and_comes_back(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    socket = str(host.rig.socket)

    def local(chat: Chat) -> None:
        told = {"on_lent": lambda _: chat.say("lent"), "on_back": lambda _: chat.say("back")}
        with open_tty(BOARD, broker=socket, timeout=0.1, yields="all", **told) as port:
            chat.say("open")
            while port.lent is None:
                port.read(1)
            while port.lent is not None:
                port.read(1)

    child = host.rig.child(BOB, local)
    assert child.hear() == "open"
    host.daemon.record("grant", port=BOARD)
    host.export()
    fleet.acquire(host)
    with fleet.console(host):
        assert child.hear() == "lent"
    assert child.hear() == "back"
    child.result()


def test_a_local_program_that_does_not_yield_keeps_its_port(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    local = host.rig.holder(BOB, BOARD)
    host.export()
    fleet.acquire(host)
    process = fleet.start_console(host)
    host.daemon.record("refuse", port=BOARD)
    assert process.wait(TIMEOUT) == 1  # its connection is closed
    local.say()
    local.result()
    with fleet.console(host):
        pass


def test_a_local_program_that_waits_has_the_port_after_the_place(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    host.export()
    fleet.acquire(host)
    socket = str(host.rig.socket)
    with fleet.console(host):
        local = host.rig.child(BOB, lambda _: os.close(open_fd(BOARD, broker=socket, wait=TIMEOUT)))
        until_waiting(socket, BOARD)
    local.result()
