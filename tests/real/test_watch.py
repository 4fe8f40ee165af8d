"""`list --watch`: a list that stays open, and is answered again when something changes."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle

import pytest

from support.children import Chat, as_user
from support.command import TTYBROKER, environment
from support.daemon import Daemon
from support.processes import watches
from support.raw import others_are_served
from support.rig import Rig, lock_text
from support.users import ALICE, BOB
from support.waiting import TIMEOUT, read_until, wait_readable
from ttybroker import client, open_fd, wire
from ttybroker.errors import BrokerError

pytestmark = pytest.mark.root

Updates = Iterator[list[wire.PortInfo]]


def until(updates: Updates, holds: Callable[[dict[str, wire.PortInfo]], object]) -> int:
    """Take updates until what they show is so; return how many it took."""
    for number, ports in enumerate(updates, 1):
        if holds({port.name: port for port in ports}):
            return number
    raise AssertionError("it has ended")


def test_each_change_of_a_port_is_told(rig: Rig, daemon: Daemon) -> None:
    with client.connect(str(rig.socket)) as connection:
        updates = connection.watch()
        first = next(updates)
        assert [(port.name, port.state) for port in first] == [("ttyS0", "free"), ("ttyS1", "free")]
        holder = rig.holder(ALICE)
        until(updates, lambda ports: ports["ttyS0"].holder is not None
              and ports["ttyS0"].holder.pid == holder.pid)  # fmt: skip
        waiter = rig.holder(BOB, wait=30.0)
        until(updates, lambda ports: ports["ttyS0"].waiting == 1)
        holder.say()
        until(updates, lambda ports: ports["ttyS0"].holder is not None
              and ports["ttyS0"].holder.pid == waiter.pid)  # fmt: skip
        waiter.hear()
        waiter.say()
        until(updates, lambda ports: ports["ttyS0"].state == "free")


def test_a_lock_file_of_an_outsider_is_seen_without_any_event(rig: Rig, daemon: Daemon) -> None:
    rig.expected_locks.add("LCK..ttyS0")
    with client.connect(str(rig.socket)) as connection:
        updates = connection.watch(("ttyS0",))
        next(updates)
        rig.lock().write_bytes(lock_text(os.getpid()))
        until(updates, lambda ports: ports["ttyS0"].holder is not None
              and ports["ttyS0"].holder.how == "lock file")  # fmt: skip
        rig.lock().unlink()
        until(updates, lambda ports: ports["ttyS0"].state == "free")


def test_without_a_change_there_is_no_answer(rig: Rig, daemon: Daemon) -> None:
    """Not even one that says the same, though all ports are looked at again."""
    with client.connect(str(rig.socket)) as connection:
        next(connection.watch())
        assert not select.select([connection.fileno()], [], [], 3.0)[0]


def test_there_are_ten_answers_a_second_at_most(rig: Rig, daemon: Daemon) -> None:
    """One port is always held, by a new lease each time, so that there is news whenever an answer
    is due."""
    names = cycle(["ttyS0", "ttyS1"])
    with client.connect(str(rig.socket)) as connection:
        next(connection.watch())
        held = open_fd(next(names), broker=str(rig.socket), wait=10)
        began, leases = time.monotonic(), 0
        while time.monotonic() - began < 1.5:
            also = open_fd(next(names), broker=str(rig.socket), wait=10)
            os.close(held)
            held = also
            leases += 1
        took = time.monotonic() - began
        os.close(held)
        answers = 0
        while select.select([connection.fileno()], [], [], 0)[0]:
            connection.take_socket().recv(65536)
            answers += 1
    assert leases > 20 and 2 <= answers <= took * 10 + 1


def test_a_user_watches_so_many_and_others_their_own(rig: Rig, daemon: Daemon) -> None:
    def watch(number: int) -> list[int]:
        refused = []
        with ExitStack() as stack:
            for _ in range(number):
                connection = stack.enter_context(client.connect(str(rig.socket)))
                try:
                    next(connection.watch())
                except BrokerError as error:
                    refused.append(error.errno or 0)
            others_are_served(rig)
        return refused

    assert as_user(ALICE, (), lambda: watch(10)) == [errno.EDQUOT] * 2
    assert as_user(BOB, (), lambda: watch(8)) == []
    end = time.monotonic() + TIMEOUT
    while as_user(ALICE, (), lambda: watch(8)) != []:  # the first ones have ended
        assert time.monotonic() < end


def test_what_the_policy_does_not_allow_any_more_is_not_told_any_more(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.port("ttyS1")
    daemon = rig.daemon()

    def body(chat: Chat) -> list[str]:
        names: list[str] = []
        with client.connect(str(rig.socket)) as connection:
            for ports in connection.watch():
                names = [port.name for port in ports]
                if len(names) == 1:
                    break
                chat.say(len(names))
        return names

    watcher = rig.child(ALICE, body)
    assert watcher.hear() == 2
    rig.rules[0] = rig.rules[0].replace('allow = ["*"]', f"allow = [{BOB}]")
    rig.write_policy()
    rig.reload(daemon)
    assert watcher.result() == ["ttyS1"]


def test_nothing_is_left_of_a_watch_that_ended(rig: Rig, daemon: Daemon) -> None:
    before = watches(daemon.pid)
    connections = [client.connect(str(rig.socket)) for _ in range(3)]
    for connection in connections:
        next(connection.watch())
    assert watches(daemon.pid) == before + 1
    for connection in connections:
        connection.close()
    end = time.monotonic() + TIMEOUT
    while watches(daemon.pid) > before:
        assert time.monotonic() < end
    daemon.settled()


def test_a_daemon_that_is_started_again_is_watched_on(rig: Rig, daemon: Daemon) -> None:
    with client.connect(str(rig.socket)) as connection:
        updates = connection.watch(again=0.1)
        next(updates)
        daemon.stop(settled=False)
        rig.daemon(*rig.arguments)
        rig.holder(ALICE)
        until(updates, lambda ports: ports["ttyS0"].state == "busy")


def test_the_line_is_told_while_it_changes_to_its_holder_alone(rig: Rig, daemon: Daemon) -> None:
    def body(uid: int) -> set[int]:
        with client.connect(str(rig.socket)) as connection:
            updates = connection.watch(("ttyS0",), details=True, again=0.2)
            seen = {dict(port.facts).get(wire.SPEED, 0) for port in next(updates)}
            mine = open_fd("ttyS0", broker=str(rig.socket)) if uid == ALICE else -1
            for speed in (termios.B300, termios.B600) if mine >= 0 else ():
                found = termios.tcgetattr(mine)
                found[4] = found[5] = speed
                termios.tcsetattr(mine, termios.TCSANOW, found)
                wanted = {termios.B300: 300, termios.B600: 600}[speed]
                until(updates, lambda ports, wanted=wanted: dict(  # type: ignore[misc]
                    ports["ttyS0"].facts).get(wire.SPEED) == wanted)  # fmt: skip
                seen.add(wanted)
            if mine >= 0:
                os.close(mine)
                until(updates, lambda ports: not ports["ttyS0"].facts)
            return seen

    assert as_user(ALICE, (), lambda: body(ALICE)) == {0, 300, 600}
    rig.holder(ALICE)
    assert as_user(BOB, (), lambda: body(BOB)) == {0}


def start(rig: Rig, *words: str, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*TTYBROKER, "list", "--watch", *words],
        env=environment(rig, TERM="vt100"),
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_programs_get_a_line_for_each_change(rig: Rig, daemon: Daemon) -> None:
    with start(rig, "--json", "ttyS0", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [row["state"] for row in json.loads(process.stdout.readline())] == ["free"]
        holder = rig.holder(ALICE)
        states = []
        while not states or states[-1] != holder.pid:
            (row,) = json.loads(process.stdout.readline())
            states.append(row["holder"] and row["holder"]["pid"])
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == -signal.SIGINT


@pytest.mark.parametrize("words", [["--json"], []])
def test_it_ends_when_its_reader_has_seen_enough(
    words: list[str], rig: Rig, daemon: Daemon
) -> None:
    """`list --watch | head -1`, and no port changes: there is nothing to write that would fail."""
    with start(rig, *words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(TIMEOUT) == 1
        assert process.stderr.read() == b""


def test_on_a_terminal_the_table_is_drawn_afresh(rig: Rig, daemon: Daemon) -> None:
    screen, terminal = pty.openpty()
    with start(rig, stdout=terminal) as process:
        seen = b""

        def wait_for(text: bytes) -> None:
            nonlocal seen
            while text not in seen:
                wait_readable(screen, f"{text!r} in {seen!r}")
                seen += os.read(screen, 4096)

        wait_for(b"free")
        assert seen.startswith(b"\x1b[H\x1b[J")
        rig.holder(ALICE)
        wait_for(b"busy")
        process.terminate()
    os.close(screen)
    os.close(terminal)


def test_a_table_that_is_longer_than_the_screen_does_not_scroll(rig: Rig, daemon: Daemon) -> None:
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (3, 80))
    with start(rig, stdout=terminal) as process:
        try:
            seen = read_until(screen, b"\n\x1b[H\x1b[J")  # until it is drawn once more
        finally:
            process.terminate()
    _, drawn, *_ = seen.split(b"\x1b[H\x1b[J")
    assert drawn.endswith(b"\n2 more lines; to see some ports alone, name them\r\n")
    assert drawn.count(b"\n") == 2
    os.close(screen)
    os.close(terminal)


def test_a_port_that_is_not_there_cannot_be_watched(rig: Rig, daemon: Daemon) -> None:
    with start(rig, "ttyS00", stdout=subprocess.DEVNULL) as process:
        _, error = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1 and b"did you mean ttyS0?" in error
