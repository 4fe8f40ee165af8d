"""`ttybroker term` as people use it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.children import Orphan, as_user
from support.command import TTYBROKER, environment, in_a_shell
from support.daemon import Daemon
from support.ptys import Pty
from support.rig import Rig, lock_text
from support.screen import Screen
from support.users import ALICE
from support.waiting import TIMEOUT, wait_readable
from ttybroker import client
from ttybroker.term.log import Log
from ttybroker.term.send import Sender

pytestmark = pytest.mark.root


def test_term_is_miniterm_on_the_port(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "ttyS0", "115200") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"typed")
        assert rig.ports["ttyS0"].read(5) == b"typed"
        rig.ports["ttyS0"].write(b"answered")
        screen.shows(b"answered")
        assert screen.leave() == 0


def test_term_has_no_file_system_once_it_has_the_port(
    rig: Rig, daemon: Daemon, tmp_path: Path
) -> None:
    """Root's own process, which nothing else would keep from that file."""
    secret = tmp_path / "secret"
    secret.write_text("for nobody")
    with Screen(rig, "ttyS0", "115200") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"typed")
        assert rig.ports["ttyS0"].read(5) == b"typed"  # from here on keys are miniterm's
        screen.type(b"\x14\x15")  # Ctrl+T Ctrl+U: upload
        screen.asks(b"File to upload: ")
        screen.type(f"{secret}\n".encode())
        screen.shows(b"Permission denied")
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        screen.type(b"\x14\x01")  # Ctrl+T Ctrl+A: encoding
        screen.asks(b"new encoding name")
        screen.type(b"koi8-r\n")  # a codec that is loaded only now
        screen.shows(b"output encoding: koi8-r")
        screen.type("я".encode())
        assert rig.ports["ttyS0"].read(1) == "я".encode("koi8-r")
        assert screen.leave() == 0


def revoke(rig: Rig, name: str = "ttyS0") -> None:
    with client.connect(str(rig.socket)) as connection:
        connection.revoke(name)


def own_lines(screen: Screen) -> list[str]:
    """What it said itself."""
    lines = screen.seen.decode().replace("\r", "\n").split("\n")
    return [line for line in lines if line.startswith("ttybroker: ")]


@contextlib.contextmanager
def piped(
    rig: Rig, *words: str, cwd: Path | None = None, config: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`ttybroker term` between pipes; ended, however the test does. config: $XDG_CONFIG_HOME."""
    process = subprocess.Popen(
        [*TTYBROKER, "term", *words],
        cwd=cwd,
        env=environment(rig, XDG_CONFIG_HOME=str(config or rig.base / "no-config")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for end in (process.stdin, process.stdout, process.stderr):
            if end is not None:
                with contextlib.suppress(BrokenPipeError):
                    end.close()


# its endings


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGQUIT, "quit"),
        (signal.SIGTERM, "ended"),
        (signal.SIGHUP, "hung up"),
    ],
)
def test_a_signal_ends_it_as_that_signal_with_the_terminal_put_back(
    rig: Rig, daemon: Daemon, number: signal.Signals, word: str
) -> None:
    with Screen(rig, "ttyS0") as screen:
        before = termios.tcgetattr(screen.end)  # of a pty both ends have the same
        screen.shows(b"Quit: Ctrl+]")
        assert not termios.tcgetattr(screen.end)[3] & termios.ICANON
        screen.process.send_signal(number)
        screen.shows(f"ttybroker: ttyS0: {word}".encode())
        assert screen.process.wait(TIMEOUT) == -number
        assert termios.tcgetattr(screen.end) == before
    assert b"Traceback" not in screen.seen
    assert len(own_lines(screen)) == 3


def test_in_the_background_of_its_terminal_it_ends_by_a_signal(rig: Rig, daemon: Daemon) -> None:
    """As under timeout(1): it is stopped when it sets its terminal up, and then goes on to end."""
    end, keyboard = os.openpty()
    shell = subprocess.Popen(
        ["sh", "-mc", '"$@" & echo $!; read line', "sh", *TTYBROKER, "term", "ttyS0"],
        env=environment(rig),
        stdin=keyboard,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(keyboard)
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    pidfd = os.pidfd_open(pid)
    try:
        until_stopped(pid)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        wait_readable(pidfd, "its end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.write(end, b"\n")
        shell.communicate(timeout=TIMEOUT)
        for fd in (end, pidfd):
            os.close(fd)
    daemon.settled()


def until_stopped(pid: int) -> None:
    """Wait until this process is stopped."""
    end = time.monotonic() + TIMEOUT
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < end, "it is not stopped"
        time.sleep(0.01)


def test_a_port_taken_back_is_one_line_and_status_one(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "--no-reconnect", "-q", "ttyS0") as screen:
        daemon.record("grant", port="ttyS0")
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        revoke(rig)
        assert screen.ends() == 1
    assert screen.seen.removeprefix(b"x") == b"ttybroker: ttyS0: taken back, or hung up\r\n"


@pytest.mark.alone
def test_an_unplugged_port_is_one_line_and_status_one(rig: Rig) -> None:
    rig.port("ttyS0", far=True)
    daemon = rig.daemon()
    with Screen(rig, "--no-reconnect", "-q", "ttyS0") as screen:
        daemon.record("grant", port="ttyS0")
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        rig.ports["ttyS0"].close()
        assert screen.ends() == 1
    assert screen.seen.removeprefix(b"x") == b"ttybroker: ttyS0: unplugged\r\n"


def test_a_terminal_that_is_gone_ends_it_and_frees_the_port(rig: Rig, daemon: Daemon) -> None:
    """No signal tells it of that: the terminal does not control it."""
    stderr_end, stderr = os.pipe()
    screen = Screen(rig, "ttyS0", stderr=stderr)
    os.close(stderr)
    with screen, open(stderr_end, "rb") as told:
        daemon.record("grant", port="ttyS0")
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        os.close(screen.end)
        screen.end = os.open(os.devnull, os.O_RDONLY)
        assert screen.process.wait(TIMEOUT) == 1
        assert told.read().splitlines()[-1] == b"ttybroker: ttyS0: the terminal is gone"
    daemon.record("release", port="ttyS0")


def test_an_output_that_nobody_reads_ends_it(rig: Rig, daemon: Daemon) -> None:
    end, output = os.pipe()
    with Screen(rig, "ttyS0", stdout=output) as screen:
        os.close(output)
        screen.shows(b"Quit: Ctrl+]")
        os.close(end)
        rig.ports["ttyS0"].write(b"data\n")
        assert screen.ends() == 1
    assert own_lines(screen)[2:] == ["ttybroker: ttyS0: nobody reads the output any more"]


def test_a_closed_input_is_one_that_has_ended(rig: Rig, daemon: Daemon) -> None:
    done = in_a_shell(rig, "term ttyS0 --linger 0 <&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_ctrl_c_at_any_moment_of_its_start_is_no_traceback(rig: Rig, daemon: Daemon) -> None:
    """At each module that it loads, which takes most of its start."""
    stop = """
import os, signal, sys
at = int(sys.argv.pop(1))
class Finder:
    def find_spec(self, name, path=None, target=None):
        global at
        at -= 1
        if at == 0:
            os.kill(os.getpid(), signal.SIGINT)
sys.argv[0] = "ttybroker"
from ttybroker.cli import main
sys.meta_path.insert(0, Finder())
sys.exit(main())
"""
    for at in range(1, 60, 4):
        done = subprocess.run(
            [sys.executable, "-c", stop, str(at), "term", "ttyS0", "--linger", "0"],
            env=environment(rig),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        interrupted = (-signal.SIGINT, "ttybroker: interrupted\n")
        named = (-signal.SIGINT, "ttybroker: ttyS0: interrupted\n")
        assert (done.returncode, done.stderr) in (interrupted, named, (0, "")), at
        if done.returncode == 0:
            break
    assert at > 10, "it was never interrupted"


def test_a_busy_port_is_told_with_its_holder_and_what_helps(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE, "ttyS0")
    with piped(rig, "ttyS0") as process:
        _, told = process.communicate(timeout=TIMEOUT)
    what = rf"ttybroker: ttyS0: busy: uid {ALICE} has it with \S+ \(pid {holder.pid}\) since \S+; "
    what += "wait for it: ttybroker term --wait 60 ttyS0, or take it back: ttybroker revoke ttyS0"
    assert re.fullmatch(what + "\n", told.decode()) and process.returncode == 1


PYTHON = [sys.executable, "-c", """
import sys, ttybroker
call, wait = sys.argv[1:]
try:
    getattr(ttybroker, call)("ttyS0", wait=float(wait))
except ttybroker.BrokerError as error:
    print("ttybroker:", error, file=sys.stderr)
    sys.exit(1)
"""]  # fmt: skip


@pytest.mark.parametrize("wait", ["0", "0.1"], ids=["busy", "timed-out"])
@pytest.mark.parametrize(
    "words",
    [
        [*TTYBROKER, "term", "--wait", "{wait}", "ttyS0"],
        [*TTYBROKER, "run", "--wait", "{wait}", "--stdio", "ttyS0", "--", "true"],
        [*PYTHON, "open_tty", "{wait}"],
        [*PYTHON, "open_fd", "{wait}"],
    ],
    ids=["term", "run", "open_tty", "open_fd"],
)
def test_a_copy_that_outlives_its_process_is_told_with_who_has_it(
    rig: Rig, daemon: Daemon, words: list[str], wait: str
) -> None:
    """And nobody is told of the dead process as if it lived."""

    def hold() -> tuple[int, int]:
        descriptor = client.connect(str(rig.socket)).open("ttyS0")
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.close(descriptor)
        return os.getpid(), pid

    dead, copy = as_user(ALICE, (), hold)
    try:
        done = subprocess.run(
            [word.format(wait=wait) if word == "{wait}" else word for word in words],
            env=environment(rig),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
        )
        state = "busy|timed out" if wait == "0" else "timed out"
        assert re.match(f"ttybroker: ttyS0: ({state}): uid {ALICE} has it", done.stderr)
        assert f"its process has ended, uid {ALICE}'s " in done.stderr
        assert f" (pid {copy}) has a copy; wait " in done.stderr
        assert f"pid {dead})" not in done.stderr and done.stderr.count("\n") == 1
    finally:
        os.kill(copy, signal.SIGKILL)
        os.waitpid(copy, 0)
        for pid in rig.orphans():  # what was beside the run
            Orphan(pid).wait()


def test_without_a_broker_it_is_one_line(rig: Rig) -> None:
    with piped(rig, "ttyS0") as process:
        _, told = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert re.fullmatch(rb"ttybroker: no broker at \S+: [^\n]+\n", told)


# without a terminal


def test_what_is_piped_in_is_sent_and_what_comes_is_printed(rig: Rig, daemon: Daemon) -> None:
    port = rig.ports["ttyS0"]
    with piped(rig, "ttyS0") as process:
        assert process.stdin is not None
        process.stdin.write(b"AT\n")
        process.stdin.close()
        process.stdin = None
        daemon.record("grant", port="ttyS0")
        assert port.read(4) == b"AT\r\n"
        port.write(b"\r\n\x1bOK\r\n")
        out, told = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out, told) == (0, b"\r\n\x1bOK\r\n", b"")


def test_raw_bytes_pass_as_they_are_and_nothing_is_lost(rig: Rig, daemon: Daemon) -> None:
    port, data = rig.ports["ttyS0"], bytes(range(256)) * 1200
    with piped(rig, "ttyS0", "--raw") as process:
        daemon.record("grant", port="ttyS0")  # before that a pty's far end reads EIO
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(port.read(len(data))))
        reader.start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(data)
        process.stdin.flush()
        reader.join(TIMEOUT)
        assert got == [data]
        port.write(data[:4096])
        assert process.stdout.read(4096) == data[:4096]
        process.stdin.close()
        assert process.wait(TIMEOUT) == 0


@pytest.mark.alone
def test_without_a_terminal_an_unplugged_port_ends_it(rig: Rig) -> None:
    rig.port("ttyS0", far=True)
    daemon = rig.daemon()
    with piped(rig, "ttyS0") as process:
        assert process.stdin is not None
        process.stdin.write(b"AT\n")
        process.stdin.flush()
        daemon.record("grant", port="ttyS0")
        assert rig.ports["ttyS0"].read(4) == b"AT\r\n"
        rig.ports["ttyS0"].close()
        _, told = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, told) == (1, b"ttybroker: ttyS0: unplugged\n")


# the port comes back


def test_it_comes_back_after_a_revoke_and_the_log_goes_on(
    rig: Rig, daemon: Daemon, tmp_path: Path
) -> None:
    """Confined as it is, with its own settings, and through the broker's socket."""
    log, port = tmp_path / "log", rig.ports["ttyS0"]
    log.write_text("earlier\n")
    with Screen(rig, "ttyS0", "-b", "19200", "--log", str(log)) as screen:
        screen.shows(b"Quit: Ctrl+]")
        port.write(b"one\r\n")
        screen.shows(b"one")
        revoke(rig)
        screen.shows(b"ttybroker: ttyS0: taken back, or hung up; waiting for it, Ctrl+] ends that")
        screen.shows(b"ttybroker: ttyS0: back, at 19200")
        port.write(b"two\r\n")
        screen.shows(b"two")
        screen.type(b"x")
        assert port.read(1) == b"x"
        assert screen.leave() == 0
    assert log.read_bytes() == b"earlier\none\r\ntwo\r\n"


def test_it_waits_in_the_queue_behind_who_took_the_port_and_says_who(
    rig: Rig, daemon: Daemon
) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        revoke(rig)
        holder = rig.holder(ALICE, "ttyS0")
        screen.shows(f"uid {ALICE} has it with ".encode())
        screen.shows(f"(pid {holder.pid}) since ".encode())
        holder.say()
        screen.shows(b"ttybroker: ttyS0: back")
        rig.ports["ttyS0"].write(b"again")
        screen.shows(b"again")
        assert screen.leave() == 0


def test_while_the_port_is_kept_from_it_it_asks_less_and_less_often(
    rig: Rig, daemon: Daemon
) -> None:
    """Each refusal is a line in the broker's log."""
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        with client.connect(str(rig.socket)) as root:
            root.revoke("ttyS0", hold=600)
        asked = []
        for _ in range(3):
            daemon.record("refuse", port="ttyS0")
            asked.append(time.monotonic())
        assert asked[1] - asked[0] > 1.3 and asked[2] - asked[1] > 2.5
        assert screen.leave() == 0
    assert screen.seen.count(b"is kept from you") == 1


def test_it_comes_back_when_the_board_is_plugged_in_again(rig: Rig) -> None:
    link = rig.base / "board"
    first, second = Pty(), Pty(far=True)
    link.symlink_to(first.path)
    rig.rules.append(f'[[rule]]\nport = "board"\ndevice = "{link}"\nclass = "pty"\nallow = ["*"]\n')
    rig.ports["board"] = second
    rig.daemon()
    with Screen(rig, "board") as screen:
        screen.shows(b"Quit: Ctrl+]")
        link.unlink()
        first.close()
        screen.shows(b"ttybroker: board: unplugged; waiting for it, Ctrl+] ends that")
        link.symlink_to(second.path)
        screen.shows(b"ttybroker: board: back")
        second.write(b"booted")
        screen.shows(b"booted")
        assert screen.leave() == 0
    link.unlink()


@pytest.mark.alone
def test_it_can_be_left_while_the_port_is_away(rig: Rig) -> None:
    rig.port("ttyS0", far=True)
    rig.daemon()
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        rig.ports["ttyS0"].close()
        screen.shows(b"unplugged; waiting for it")
        assert screen.leave() == 0


def test_a_user_who_may_not_have_it_any_more_is_told_so(rig: Rig) -> None:
    rig.port("ttyS0")
    daemon = rig.daemon()
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        rig.rules.clear()
        rig.port("ttyS0", 'allow = ["nobody"]')
        rig.write_policy()
        rig.reload(daemon)
        revoke(rig)
        assert screen.ends() == 1
    assert "ttybroker: ttyS0: not permitted: " in own_lines(screen)[-1]


# it waits


def test_a_wait_shows_who_has_the_port_and_how_long_it_will_wait(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE, "ttyS0")
    with Screen(rig, "--wait", "500", "ttyS0") as screen:
        screen.shows(f"s left: uid {ALICE} has it with ".encode())
        screen.shows(f"(pid {holder.pid}) since ".encode())
        screen.shows(b"ttybroker: ttyS0: waiting, 499 s left: ")
        screen.shows(b"ttybroker: ttyS0: waiting, 498 s left: ")
        holder.say()
        screen.shows(b"\r\x1b[Kttybroker: ttyS0 at 115200")  # that line is gone
        screen.shows(b"Quit: Ctrl+]")
        assert screen.leave() == 0


def test_a_wait_ends_at_once_with_ctrl_c(rig: Rig, daemon: Daemon) -> None:
    rig.holder(ALICE, "ttyS0")
    with Screen(rig, "--wait", "500", "ttyS0") as screen:
        screen.shows(b"s left")
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(5) == -signal.SIGINT
        screen.shows(b"ttybroker: ttyS0: interrupted")


def test_a_wait_is_silent_where_that_is_asked_for_and_told_once_in_a_pipe(
    rig: Rig, daemon: Daemon
) -> None:
    holder = rig.holder(ALICE, "ttyS0")
    with Screen(rig, "--wait", "1.5", "-q", "ttyS0") as screen:
        assert screen.ends() == 1
    (line,) = own_lines(screen)
    assert line.startswith(f"ttybroker: ttyS0: timed out: uid {ALICE} has it with ")
    assert "; wait longer: ttybroker term --wait 60 ttyS0, or " in line
    with piped(rig, "--wait", "1.5", "ttyS0") as process:
        _, told = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1 and b"\r" not in told
    waits, timed_out = told.decode().splitlines()
    assert waits.startswith("ttybroker: ttyS0: waiting, ")
    assert timed_out.startswith("ttybroker: ttyS0: timed out: ")
    assert all(f"(pid {holder.pid})" in line for line in (waits, timed_out))


# what is shown and logged


def test_lines_have_times_and_bytes_are_numbers_where_that_is_asked_for(
    rig: Rig, daemon: Daemon, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with Screen(rig, "ttyS0", "--timestamps", "iso", "--hex", f"--log={log}") as screen:
        screen.shows(b"Quit: Ctrl+]")
        rig.ports["ttyS0"].write(b"AT\r\nO")
        screen.shows(b"] 4f ")
        assert screen.leave() == 0
    stamp = rb"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d\] "
    assert re.fullmatch(stamp + rb"41 54 0d 0a\r\n" + stamp + rb"4f ", log.read_bytes())


def test_a_log_without_a_name_gets_one(rig: Rig, daemon: Daemon, tmp_path: Path) -> None:
    with Screen(rig, "--log", "ttyS0", cwd=tmp_path) as screen:
        screen.shows(b"Quit: Ctrl+]")
        rig.ports["ttyS0"].write(b"kept")
        screen.shows(b"kept")
        assert screen.leave() == 0
    (log,) = tmp_path.iterdir()
    assert re.fullmatch(r"ttyS0_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.log", log.name)
    assert log.read_bytes() == b"kept" and str(log).encode() in screen.seen


def test_of_a_port_that_is_refused_no_log_is_left(rig: Rig, daemon: Daemon, tmp_path: Path) -> None:
    """Nor where the wait ends by a signal. A log that was there stays."""
    rig.holder(ALICE, "ttyS0")
    for words in (("ttyS0", "--log"), ("ttyS0", f"--log={tmp_path}/log"), ("ttyS7", "--log")):
        with piped(rig, *words, cwd=tmp_path) as process:
            _, told = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1 and b"logging" not in told
    with Screen(rig, "--wait", "500", "--log", "ttyS0", cwd=tmp_path) as screen:
        screen.shows(b"s left")
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(5) == -signal.SIGINT
    assert not list(tmp_path.iterdir())
    (tmp_path / "log").touch()
    with piped(rig, "ttyS0", f"--log={tmp_path}/log") as process:
        process.communicate(timeout=TIMEOUT)
    assert (tmp_path / "log").exists()


def test_a_log_that_another_terminal_writes_too_is_left(tmp_path: Path) -> None:
    first, second = (Log(str(tmp_path / "log")) for _ in range(2))
    second.begin()
    first.close()
    second.write(b"kept")
    second.close()
    assert (tmp_path / "log").read_bytes() == b"kept"


def test_a_log_of_a_silent_line_is_left_empty(rig: Rig, daemon: Daemon, tmp_path: Path) -> None:
    with Screen(rig, "ttyS0", f"--log={tmp_path}/log") as screen:
        screen.shows(b"Quit: Ctrl+]")
        assert screen.leave() == 0
    assert (tmp_path / "log").read_bytes() == b""


def test_a_full_disk_ends_the_log_alone(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "--log=/dev/full", "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        rig.ports["ttyS0"].write(b"one")
        screen.shows(b"ttybroker: /dev/full: No space left on device; the log ends here")
        rig.ports["ttyS0"].write(b"two")
        screen.shows(b"two")
        assert screen.leave() == 0


def test_a_log_that_cannot_be_opened_is_told_before_the_port_is_asked_for(
    rig: Rig, tmp_path: Path
) -> None:
    with piped(rig, "ttyS0", f"--log={tmp_path}/none/log") as process:
        _, told = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert told.decode() == f"ttybroker: {tmp_path}/none/log: No such file or directory\n"


def test_a_log_in_a_directory_that_is_gone_is_told_by_its_name(rig: Rig, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'rmdir "$PWD"; exec {" ".join(TTYBROKER)} term -q ttyS0 --log'
    done = subprocess.run(
        ["sh", "-c", script], cwd=gone, env=environment(rig), capture_output=True, text=True
    )
    assert done.returncode == 1
    told = r"ttybroker: ttyS0_\S+\.log: No such file or directory\n"
    assert re.fullmatch(told, done.stderr), done.stderr


def test_a_profile_is_used(rig: Rig, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "ttybroker").mkdir()
    (tmp_path / "ttybroker/term.toml").write_text(
        '[ttyS0]\nbaud = 19200\n[profile.slow]\nport = "ttyS0"\nparity = "even"\neol = "lf"\n'
    )
    with Screen(rig, "--profile", "slow", env={"XDG_CONFIG_HOME": str(tmp_path)}) as screen:
        screen.shows(b"ttybroker: ttyS0 at 19200 8E1")
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"a\n")
        assert rig.ports["ttyS0"].read(2) == b"a\n"
        assert screen.leave() == 0


@pytest.mark.parametrize(
    ("table", "told"),
    [("ttyUSB0", False), ("ttyUBS0", True), ("ttyUSB7", False), ("ttyUBS", False), ("gps", False)],
)
def test_a_table_that_may_be_meant_for_the_port_is_told(
    rig: Rig, tmp_path: Path, table: str, told: bool
) -> None:
    """Others are for ports that may come, or are ports themselves."""
    rig.port("ttyUSB0")
    rig.port("ttyUBS")
    rig.daemon()
    (tmp_path / "ttybroker").mkdir()
    file = tmp_path / "ttybroker/term.toml"
    file.write_text(f"[{table}]\nbaud = 19200\n")
    with piped(rig, "--linger", "0", "ttyUSB0", config=tmp_path) as process:
        _, seen = process.communicate(timeout=TIMEOUT)
    line = f"ttybroker: {file}: [{table}]: no port that you may use; did you mean ttyUSB0?\n"
    assert (process.returncode, seen.decode()) == (0, line if told else "")


def test_the_menu_goes_to_another_port(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"\x14p")
        screen.asks(b"--- Port (Enter: stay at ttyS0): ")
        screen.type(b"ttyS1\n")
        screen.shows(b"ttybroker: ttyS1 at 115200")
        daemon.record("release", port="ttyS0")
        rig.ports["ttyS1"].write(b"other")
        screen.shows(b"other")
        screen.type(b"\x14p")
        screen.asks(b"--- Port (Enter: stay at ttyS1): ")
        screen.type(b"ttyS7\n")
        screen.shows(b"ttybroker: ttyS7: ")
        rig.ports["ttyS1"].write(b"still")
        screen.shows(b"still")
        assert screen.leave() == 0


def test_the_menu_says_who_has_another_port_and_what_helps(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE, "ttyS1")
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"\x14p")
        screen.asks(b"stay at ttyS0): ")
        assert re.search(rb"--- ttyS0 +this one\r", screen.seen)
        has_it = rf"uid {ALICE} has it with \S+ \(pid {holder.pid}\) since \S+"
        assert re.search(rf"--- ttyS1 +{has_it}\r".encode(), screen.seen), screen.seen
        screen.type(b"ttyS1\n")
        screen.shows(b"ttybroker: stays at ttyS0")
        steps = "ttybroker term --wait 60 ttyS1, or take it back: ttybroker revoke ttyS1"
        line = f"ttybroker: ttyS1: busy: {has_it}; wait for it: {steps}"
        assert any(re.fullmatch(line, told) for told in own_lines(screen)), screen.seen
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        assert screen.leave() == 0


def test_what_the_device_cannot_do_is_a_line(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"\x14\x12")  # Ctrl+T Ctrl+R: RTS, which a pty has not
        screen.shows(b"ttybroker: ttyS0: the device has no such line or setting")
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        assert screen.leave() == 0


@pytest.mark.parametrize(
    ("key", "answer", "told"),
    [
        (b"\x01", b"hex", b"ttybroker: ttyS0: no such encoding of text"),
        (b"\x01", b"utf-16", b"ttybroker: ttyS0: must be one in which any byte may come"),
        (b"b", b"99999999999999999999", b"ERROR setting baudrate: ttyS0: no device has these"),
    ],
)
def test_a_wrong_answer_to_the_menu_is_a_line(
    rig: Rig, daemon: Daemon, key: bytes, answer: bytes, told: bytes
) -> None:
    with Screen(rig, "ttyS0") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"\x14" + key)
        screen.asks({b"b": b"--- Baudrate: "}.get(key, b"encoding name [UTF-8]: "))
        screen.type(answer + b"\n")
        screen.shows(told)
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        assert screen.leave() == 0


def test_a_file_is_sent_by_zmodem_and_then_it_is_a_terminal(
    rig: Rig, daemon: Daemon, tmp_path: Path
) -> None:
    """rz, which nobody here wrote, is the far end."""
    (tmp_path / "there").mkdir()
    file, data = tmp_path / "firmware.bin", os.urandom(50_000)
    file.write_bytes(data)
    port = rig.ports["ttyS0"]
    with Screen(rig, "ttyS0", "--send", str(file)) as screen:
        daemon.record("grant", port="ttyS0")
        far = subprocess.run(
            ["rz", "-q", "-b"],
            stdin=port.master,
            stdout=port.master,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path / "there",
            timeout=40,
            check=False,
        )
        assert far.returncode == 0
        screen.shows(b"Quit: Ctrl+]")
        port.write(b"booted")
        screen.shows(b"booted")
        assert screen.leave() == 0
    assert (tmp_path / "there" / "firmware.bin").read_bytes() == data


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nonexistent/file", "No such file or directory"),
        ("/etc", "Is a directory"),
        ("", "No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_sent_is_told_before_the_port_is_asked_for(
    path: str, why: str, rig: Rig
) -> None:
    with piped(rig, "ttyS0", "--send", path) as process:
        _, told = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, told.decode()) == (1, f"ttybroker: {path or repr('')}: {why}\n")


def test_a_file_that_may_not_be_read_is_told_before_the_port_is_asked_for(
    rig: Rig, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)

    def body() -> str:
        with pytest.raises(PermissionError) as caught:
            Sender(str(secret))
        return str(caught.value.filename)

    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    assert as_user(ALICE, (), body) == str(secret)


def test_a_port_that_an_outsider_has_is_told_with_the_lock_file(rig: Rig, daemon: Daemon) -> None:
    rig.expected_locks.add("LCK..ttyS0")
    rig.lock().write_bytes(lock_text(os.getpid()))
    with piped(rig, "ttyS0") as process:
        _, told = process.communicate(timeout=TIMEOUT)
    line = rf"ttybroker: ttyS0: busy: root has it with \S+ \(pid {os.getpid()}\) since \S+, "
    line += rf"by its lock file; .*, or .* remove {rig.lock()}\n"
    assert re.fullmatch(line, told.decode()), told
