"""`ttybroker term` stays open while another program has its port."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from matrix.farend import relay
from support.board import Board
from support.children import Chat, Orphan
from support.command import TTYBROKER, environment
from support.daemon import Daemon
from support.processes import name_of
from support.rig import Rig
from support.screen import Screen
from support.systemd import manager
from support.waiting import TIMEOUT
from ttybroker import PortBusy, client, open_fd

pytestmark = pytest.mark.root

# Seconds until the asker has the port of a program that is suspended: 1.2, and some for what else
# the machine does.
AFTER_GRACE = 1.5


@contextlib.contextmanager
def far_end(rig: Rig, directory: Path, *words: str) -> Iterator[None]:
    """A program at the other end of ttyS0, behind a wire."""
    ours, theirs = socket.socketpair()
    master = rig.ports["ttyS0"].master
    wire = rig.child(0, lambda _chat: relay(master, ours), keep=[master, ours.fileno()])
    program = subprocess.Popen(words, stdin=theirs.fileno(), stdout=theirs.fileno(), cwd=directory)
    ours.close()
    theirs.close()
    try:
        yield
        wire.kill()
        program.wait(TIMEOUT)
    finally:
        wire.kill()
        program.kill()
        program.wait()


@contextlib.contextmanager
def started(rig: Rig, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command, without a terminal; ended, however the test does."""
    process = subprocess.Popen(
        [*TTYBROKER, *words],
        env=environment(rig),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ttybroker(rig: Rig, *words: str) -> tuple[int, str, str]:
    """Run the command; its status, output and errors."""
    with started(rig, *words) as process:
        out, err = process.communicate(timeout=TIMEOUT)
        return process.returncode, out, err


def until_held_by_another(rig: Rig, pid: int) -> None:
    """Wait until a process that is not this one has the first port: while it is being opened for
    it, what the far end sends meets nobody."""
    end = time.monotonic() + TIMEOUT
    with client.connect(str(rig.socket)) as connection:
        while (
            (row := connection.ports()[0]).state != "busy"
            or row.holder is None
            or row.holder.pid == pid
        ):
            assert time.monotonic() < end, "nobody else has it"
            time.sleep(0.01)


def type_into(screen: Screen, keys: bytes) -> None:
    """Press these keys, and wait until the program, which shows nothing, has written as many."""
    before = written(screen.process.pid)
    screen.type(keys)
    end = time.monotonic() + TIMEOUT
    while written(screen.process.pid) < before + len(keys):
        assert time.monotonic() < end, f"{keys!r} were not written"
        time.sleep(0.01)


def written(pid: int) -> int:
    """Return how many bytes this process has written: wchar in proc_pid_io(5)."""
    return int(re.findall(r"wchar: (\d+)", Path(f"/proc/{pid}/io").read_text())[0])


def borrow(rig: Rig, name: str = "ttyS0") -> float:
    """Have the port a moment; return how long it took to get it."""
    before = time.monotonic()
    os.close(open_fd(name, broker=str(rig.socket)))
    return time.monotonic() - before


def test_a_file_is_sent_by_zmodem_while_the_terminal_is_open(
    rig: Rig, daemon: Daemon, tmp_path: Path
) -> None:
    sent, there = tmp_path / "firmware.bin", tmp_path / "there"
    there.mkdir()
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"your other programs may borrow it")
        screen.shows(b"Quit: Ctrl+]")
        for number in range(1, 6):
            sent.write_bytes(os.urandom(20_000))
            words = ("run", "--stdio", "ttyS0", "--", "sz", "-b", "-q", str(sent))
            with started(rig, *words) as flasher:
                screen.times(b"lent, and comes back by itself", number)
                until_held_by_another(rig, screen.process.pid)
                with far_end(rig, there, "rz", "-b", "-q", "-y"):
                    _, err = flasher.communicate(timeout=TIMEOUT)
                    assert (flasher.returncode, err.strip()) == (0, "")
                    screen.times(b"ttyS0: back, at 115200", number)
            assert (there / "firmware.bin").read_bytes() == sent.read_bytes()
            rig.ports["ttyS0"].write(f"board {number} is up\r\n".encode())
            screen.shows(f"board {number} is up".encode())
        assert screen.leave() == 0
    for pid in rig.orphans():  # those that were beside sz
        assert Orphan(pid).wait() == 0
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", screen.seen.decode()).replace("\r", "")
    lines = [line for line in text.split("\n") if line and not line.startswith("ttybroker: ")]
    assert lines == [f"board {number} is up" for number in range(1, 6)]
    assert (
        len(re.findall(r"ttyS0: lent, and comes back by itself: \S+ has it with sz \(pid", text))
        == 5
    )


def test_list_says_to_whom_the_port_goes_back(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        flasher = rig.holder(0)
        screen.shows(b"lent, and comes back by itself")
        _, shown, _ = ttybroker(rig, "list", "ttyS0")
        assert re.search(rf"lent to root \S+ \({flasher.pid}\), back to root with term  ", shown), (
            shown
        )
        flasher.say()
        screen.shows(b"ttyS0: back")
        assert "lent" not in ttybroker(rig, "list", "ttyS0")[1]
        assert screen.leave() == 0


def test_in_a_chain_the_terminal_says_who_has_the_port_now(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        first = rig.holder(0)
        screen.shows(f"by itself: root has it with {name(first.pid)}".encode())
        second = rig.holder(0, wait=TIMEOUT)
        with client.connect(str(rig.socket)) as connection:
            while not connection.ports()[0].waiting:
                time.sleep(0.01)
        first.say()
        second.hear()
        screen.shows(
            f"lent, and comes back by itself: root has it with {name(second.pid)}".encode()
        )
        second.say()
        screen.shows(b"ttyS0: back")
        assert screen.seen.count(b"lent, and comes back by itself") == 2
        assert screen.leave() == 0


def name(pid: int) -> str:
    """A process as lines name it."""
    return f"{name_of(pid)} (pid {pid})"


def test_what_is_typed_meanwhile_goes_nowhere_and_the_way_out_works(
    rig: Rig, daemon: Daemon
) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        flasher = rig.holder(0)
        screen.shows(b"lent, and comes back by itself")
        screen.type(b"nowhere")
        flasher.say()
        screen.shows(b"ttyS0: back")
        screen.type(b"here")
        assert rig.ports["ttyS0"].read(4) == b"here"
        second = rig.holder(0)
        screen.times(b"lent, and comes back by itself", 2)
        assert screen.leave() == 0
        second.say()
    daemon.settled()


def test_what_was_typed_meanwhile_goes_nowhere_even_if_it_is_read_when_the_port_is_back(
    rig: Rig, daemon: Daemon
) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        flasher = rig.holder(0)
        screen.shows(b"lent, and comes back by itself")
        screen.process.send_signal(signal.SIGSTOP)
        screen.type(b"nowhere")
        flasher.say()
        until_held_by_another(rig, flasher.pid)
        screen.process.send_signal(signal.SIGCONT)
        screen.shows(b"ttyS0: back")
        screen.type(b"here")
        assert rig.ports["ttyS0"].read(4) == b"here"
        assert screen.leave() == 0


def test_a_suspended_terminal_is_hung_up_and_is_back_when_it_goes_on(
    rig: Rig, daemon: Daemon
) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            assert borrow(rig) < AFTER_GRACE
        screen.process.send_signal(signal.SIGCONT)
        screen.shows(b"ttyS0: back, at 115200")
        screen.type(b"here")
        assert rig.ports["ttyS0"].read(4) == b"here"
        assert screen.leave() == 0


@contextlib.contextmanager
def stopped_in_the_queue(
    rig: Rig, daemon: Daemon, *words: str
) -> Iterator[tuple[Screen, Callable[[], None]]]:
    """A command that is stopped while it waits for ttyS0, and then has it; and what makes it go
    on."""
    holder = rig.holder(0)
    with Screen(rig, *words[1:], command=words[0]) as screen:
        screen.shows(b"ttyS0: waiting, ")
        with client.connect(str(rig.socket)) as connection:
            while not connection.ports()[0].waiting:
                time.sleep(0.01)
        all_of_it = {screen.process.pid, *rig.orphans()} - {holder.pid}
        for pid in all_of_it:
            os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            for pid in all_of_it:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        holder.say()
        daemon.record("release", pid=holder.pid)
        daemon.record("grant", port="ttyS0")
        try:
            yield screen, go_on
        finally:
            go_on()
    for pid in all_of_it - {screen.process.pid}:
        Orphan(pid).wait()


def test_a_port_that_was_lent_before_it_could_be_used_comes_back(rig: Rig, daemon: Daemon) -> None:
    """And was lent again, and is still lent when the terminal goes on."""
    with stopped_in_the_queue(rig, daemon, "term", "--wait", "60", "ttyS0") as (screen, go_on):
        assert borrow(rig) < AFTER_GRACE
        flasher = rig.holder(0)
        go_on()
        screen.shows(b"lent, and comes back by itself")
        flasher.say()
        screen.shows(b"ttyS0: back, at 115200")
        screen.type(b"here")
        assert rig.ports["ttyS0"].read(4) == b"here"
        assert screen.leave() == 0
    daemon.settled()


def test_a_port_that_was_taken_back_before_it_could_be_used_is_asked_for_again(
    rig: Rig, daemon: Daemon
) -> None:
    words = ("term", "--wait", "60", "--yield", "no", "ttyS0")
    with stopped_in_the_queue(rig, daemon, *words) as (screen, go_on):
        revoke(rig)
        go_on()
        screen.shows(b"ttyS0: taken back, or hung up; waiting for it")
        screen.shows(b"ttyS0: back, at 115200")
        assert screen.leave() == 0
    daemon.settled()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("term", "--no-reconnect"), b"ttyS0: taken back, or hung up\r\n"),
        (("run", "--via", "pty"), b"ttyS0: taken back, or hung up, before it could be used; try"),
        (("run", "--stdio", "ttyS0"), b"ttyS0: taken back, or hung up, before it could be used;"),
    ],
)
def test_a_command_that_does_without_such_a_port_names_it_in_a_line(
    rig: Rig, daemon: Daemon, words: tuple[str, ...], line: bytes
) -> None:
    command = [*words, "--wait", "60", *(["--", "cat"] * (words[0] == "run"))]
    port = "/dev/ttyS0" if words[0] == "run" else "ttyS0"
    with stopped_in_the_queue(rig, daemon, *command, port) as (screen, go_on):
        revoke(rig)
        go_on()
        screen.shows(b"ttybroker: " + line)
        assert screen.ends() == 1
    daemon.settled()


def run_that_yields(*words: str) -> tuple[str, ...]:
    """A program that shows what comes from ttyS0, and waits for it."""
    return ("run", "--yield", "--wait", "60", *words, "--", "cat", "/dev/ttyS0")


def test_a_program_whose_port_was_lent_before_it_could_be_used_has_it_when_it_comes_back(
    rig: Rig, daemon: Daemon
) -> None:
    with stopped_in_the_queue(rig, daemon, *run_that_yields()) as (screen, go_on):
        flasher = rig.holder(0)
        go_on()
        screen.shows(b"is thrown away")
        flasher.say()
        until_held_by_another(rig, flasher.pid)
        rig.ports["ttyS0"].write(b"here\n")
        screen.shows(b"here")
        assert b"taken back" not in screen.seen
        screen.process.terminate()
    daemon.settled()


@pytest.mark.parametrize("times", [1, 2])
def test_a_program_whose_port_was_taken_back_before_it_could_be_used_has_it_at_the_next_try(
    rig: Rig, daemon: Daemon, times: int
) -> None:
    said = b"ttyS0: taken back, or hung up, before it could be used; asking for it again"
    with stopped_in_the_queue(rig, daemon, *run_that_yields()) as (screen, go_on):
        revoke(rig)
        if times == 2:  # and another has it when it is asked for again, as who took it back may
            other = rig.holder(0)
        go_on()
        screen.shows(said)
        if times == 2:
            screen.shows(b"ttyS0: waiting, ")
            other.say()
        screen.shows(b"is thrown away")
        rig.ports["ttyS0"].write(b"here\n")
        screen.shows(b"here")
        screen.process.terminate()
    daemon.settled()


def revoke(rig: Rig) -> None:
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")


def test_it_yields_to_nobody_if_it_is_told_so(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "--yield", "no", "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        assert b"borrow" not in screen.seen
        with pytest.raises(PortBusy):
            borrow(rig)
        assert screen.leave() == 0


def test_a_second_terminal_takes_the_port_only_if_it_is_told_to(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "ttyS0") as first:
        first.shows(b"Quit: Ctrl+]")
        status, _, why = ttybroker(rig, "term", "ttyS0")
        assert status == 1
        assert "borrow it: ttybroker term --take ttyS0" in why
        with Screen(rig, "--take", "ttyS0") as second:
            second.shows(b"Quit: Ctrl+]")
            first.shows(b"lent, and comes back by itself")
            second.type(b"second")
            assert rig.ports["ttyS0"].read(6) == b"second"
            assert second.leave() == 0
        first.shows(b"ttyS0: back")
        assert first.leave() == 0


def test_a_port_that_is_taken_back_while_it_is_lent_is_asked_for_anew(
    rig: Rig, daemon: Daemon
) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        flasher = rig.holder(0)
        screen.shows(b"lent, and comes back by itself")
        with client.connect(str(rig.socket)) as connection:
            connection.revoke("ttyS0")
        screen.shows(b"taken back, or hung up")
        screen.shows(b"ttyS0: back, at 115200")
        assert screen.leave() == 0
        flasher.kill()


def test_a_file_of_its_own_is_not_interrupted(rig: Rig, daemon: Daemon, tmp_path: Path) -> None:
    file, there = tmp_path / "file", tmp_path / "there"
    there.mkdir()
    file.write_bytes(b"x" * 10_000)
    with Screen(rig, "--send", str(file), "ttyS0") as screen:
        until_held_by_another(rig, 0)
        with pytest.raises(PortBusy):
            borrow(rig)
        with far_end(rig, there, "rz", "-b", "-q", "-y"):
            screen.shows(b"Quit: Ctrl+]")
        assert (there / "file").read_bytes() == file.read_bytes()
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        assert borrow(rig) < AFTER_GRACE
        screen.shows(b"ttyS0: back")
        assert screen.leave() == 0


def test_a_daemon_that_is_started_again_meanwhile_is_asked_by_the_terminal(rig: Rig) -> None:
    rig.port("ttyS0")
    with manager(rig) as systemd:
        systemd.start()
        with Screen(rig, "ttyS0") as screen:
            screen.shows(b"Quit: Ctrl+]")
            for number in (1, 2):
                if number == 2:
                    systemd.restart()  # while the terminal has the port
                    screen.type(b"here")
                    assert rig.ports["ttyS0"].read(4) == b"here"
                flasher = rig.holder(0, wait=TIMEOUT)
                flasher.hear()
                screen.times(b"lent, and comes back by itself", number)
                systemd.restart()  # and while another has it
                flasher.say()
                screen.times(b"ttyS0: back, at 115200", number)
            assert screen.leave() == 0


@pytest.mark.alone
@pytest.mark.parametrize(
    ("command", "words", "listens", "back"),
    [
        ("term", ["board"], b"Quit: Ctrl+]", b"board: back, at 115200"),
        ("run", ["--yield", "--", "cat", "/dev/board"], b"is thrown away", b""),
    ],
)
def test_a_board_that_is_plugged_in_anew_while_it_is_lent_is_shown_again(
    rig: Rig, command: str, words: list[str], listens: bytes, back: bytes
) -> None:
    board = Board(rig)
    daemon = rig.daemon()
    with Screen(rig, *words, command=command) as screen:
        screen.shows(listens)
        flasher = rig.holder(0, "board")
        board.unplug()
        daemon.record("release", port="board", pid=flasher.pid)
        new = board.plug()
        screen.shows(back)
        until_held_by_another(rig, flasher.pid)
        new.write(b"the board is up\n")
        screen.shows(b"the board is up")
        flasher.kill()
    for pid in rig.orphans():
        Orphan(pid).wait()
    board.close()
    daemon.settled()


def test_a_daemon_that_is_started_again_meanwhile_is_asked_for_a_program_with_a_pty(
    rig: Rig,
) -> None:
    port = rig.port("board")
    with manager(rig) as systemd:
        systemd.start()
        words = ("--yield", "--", "cat", "/dev/board")
        with Screen(rig, *words, command="run") as screen:
            screen.shows(b"is thrown away")
            flasher = rig.holder(0, "board", wait=TIMEOUT)
            flasher.hear()
            systemd.restart()
            flasher.say()
            until_held_by_another(rig, flasher.pid)
            port.write(b"the board is up\n")
            screen.shows(b"the board is up")
        for pid in rig.orphans():
            Orphan(pid).wait()


def test_picocom_does_not_notice_that_its_port_was_lent(rig: Rig) -> None:
    """By `run --yield`, which gives it a pty. The name is none that a real node has."""
    port = rig.port("board")
    daemon = rig.daemon()

    def flash(chat: Chat) -> bytes:
        descriptor = open_fd("board", broker=str(rig.socket))
        tty.setraw(descriptor)  # no echo
        os.set_blocking(descriptor, True)
        chat.say()
        return os.read(descriptor, 64)

    words = ("--yield", "--", "picocom", "-b", "57600", "/dev/board")
    with Screen(rig, *words, command="run") as screen:
        screen.shows(b"what the program writes while its port is lent is thrown away")
        screen.shows(b"Terminal ready")
        for number in range(1, 6):
            flasher = rig.child(0, flash)
            flasher.hear()
            type_into(screen, b"nowhere")
            port.write(b"for the flasher")
            assert flasher.result() == b"for the flasher"
            until_held_by_another(rig, flasher.pid)
            port.write(f"board {number} is up\r\n".encode())
            screen.shows(f"board {number} is up".encode())
            screen.type(b"here")
            assert port.read(4) == b"here"
        screen.type(b"\x01\x18")  # Ctrl-A Ctrl-X
        assert screen.ends() == 0
    assert b"for the flasher" not in screen.seen
    for pid in rig.orphans():
        assert Orphan(pid).wait() == 0
    daemon.settled()


def test_a_port_comes_back_to_a_program_whose_copying_process_was_stopped(rig: Rig) -> None:
    port = rig.port("board")
    daemon = rig.daemon()
    with started(rig, "run", "--yield", "--", "cat", "/dev/board") as program:
        assert program.stdout is not None
        daemon.record("grant", port="board")
        port.write(b"up\n")
        assert program.stdout.readline() == "up\n"
        (copier,) = rig.orphans() - {program.pid}
        os.kill(copier, signal.SIGSTOP)
        assert borrow(rig, "board") < AFTER_GRACE
        daemon.record("grant", port="board", program="cat")
        os.kill(copier, signal.SIGCONT)
        port.write(b"here\n")
        assert program.stdout.readline() == "here\n"
        program.terminate()
        program.communicate(timeout=TIMEOUT)
        assert Orphan(copier).wait() == 0
    daemon.settled()


def test_a_program_that_ends_while_its_port_is_lent_gives_it_up(rig: Rig) -> None:
    rig.port("board")
    daemon = rig.daemon()
    with started(rig, "run", "--yield", "--", "cat", "/dev/board") as program:
        daemon.record("grant", port="board")
        flasher = rig.holder(0, "board")
        daemon.record("grant", port="board", pid=flasher.pid)
        program.terminate()
        program.communicate(timeout=TIMEOUT)
        for pid in rig.orphans():
            assert Orphan(pid).wait() == 0
        with client.connect(str(rig.socket)) as connection:
            assert connection.ports()[0].lent is None
        flasher.say()


@pytest.mark.parametrize("words", [("--yield",), ("--via", "pty")])
def test_who_has_a_port_through_a_pty_is_the_program_and_not_what_started_it(
    rig: Rig, daemon: Daemon, words: tuple[str, ...]
) -> None:
    with started(rig, "run", *words, "--", "cat", "/dev/ttyS0") as program:
        daemon.record("grant", port="ttyS0")
        with client.connect(str(rig.socket)) as connection:
            holder = connection.ports(("ttyS0",))[0].holder
        program.terminate()
        program.communicate(timeout=TIMEOUT)
        for pid in rig.orphans():
            assert Orphan(pid).wait() == 0
    assert holder is not None
    assert (holder.pid, holder.program) == (program.pid, "cat")


@pytest.mark.parametrize(
    "words", [("--fd", "3", "ttyS0"), ("--stdio", "ttyS0"), ("--via", "notify")]
)
def test_what_cannot_be_lent_by_run_is_a_mistake(
    rig: Rig, daemon: Daemon, words: tuple[str, ...]
) -> None:
    status, _, why = ttybroker(rig, "run", "--yield", *words, "--", "true")
    assert status == 2
    assert re.fullmatch(r"ttybroker: --yield [^\n]+: leave --\S+( and --stdio| notify)? out\n", why)


# Without a terminal `term` would end one second after the end of its input.
@pytest.mark.parametrize("words", [("run",), ("term", "--no-reconnect", "--linger", "60")])
def test_for_whom_a_port_is_held_is_told_to_others(
    rig: Rig, daemon: Daemon, words: tuple[str, ...]
) -> None:
    program = ("--", "cat", "/dev/ttyS0") if words == ("run",) else ("ttyS0",)
    with started(rig, *words, "--for", "place p1, alice@client", *program) as holder:
        daemon.record("grant", port="ttyS0", label="place p1, alice@client")
        status, table, _ = ttybroker(rig, "list", "--json", "ttyS0")
        assert json.loads(table)[0]["holder"]["label"] == "place p1, alice@client"
        status, table, _ = ttybroker(rig, "list", "ttyS0")
        assert "for 'place p1, alice@client'" in table
        status, _, why = ttybroker(rig, "term", "--yield", "no", "ttyS0")
        assert status == 1 and "for 'place p1, alice@client'" in why
        holder.terminate()
        holder.communicate(timeout=TIMEOUT)
        for pid in rig.orphans():
            assert Orphan(pid).wait() == 0


@pytest.mark.parametrize("command", ["run", "term"])
def test_a_label_that_cannot_be_shown_is_a_mistake(rig: Rig, command: str) -> None:
    rest = ("--", "true") if command == "run" else ("ttyS0",)
    for label in ("a\x1b[31m", "x" * 81):
        status, _, why = ttybroker(rig, command, "--for", label, *rest)
        assert status == 2 and "at most 80 printable characters" in why and "\x1b" not in why
