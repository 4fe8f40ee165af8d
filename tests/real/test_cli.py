"""The command `ttybroker`, as people type it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.children import as_user
from support.daemon import Daemon
from support.processes import python_path
from support.rig import Rig
from support.users import ALICE, BOB
from support.waiting import TIMEOUT, wait_readable
from ttybroker import cli, wire

pytestmark = pytest.mark.root


def command(rig: Rig, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it as root, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ttybroker.cli", *words],
        env={**os.environ, **python_path(), "TTYBROKER_SOCKET": str(rig.socket)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def typed(rig: Rig, *words: str) -> Callable[[], tuple[int, str, str]]:
    """For `as_user`: exit status, output and errors of the command in that child."""

    def body() -> tuple[int, str, str]:
        os.environ["TTYBROKER_SOCKET"] = str(rig.socket)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = cli.main(list(words))
            except SystemExit as end:
                status = int(end.code or 0)
        return status, out.getvalue(), err.getvalue()

    return body


def test_the_table_names_ports_states_and_holders(rig: Rig, daemon: Daemon) -> None:
    rig.holder(ALICE, "ttyS0")
    shown = command(rig, "list")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["PORT", "STATE", "HOLDER", "SINCE", "DEVICE", "DESCRIPTION"]
    assert re.match(rf"ttyS0 +busy +uid {ALICE} \S+ \(\d+\) +\d+ s +/dev/pts/\d+ ", lines[1])
    assert re.match(r"ttyS1 +free +/dev/pts/\d+ ", lines[2])


def test_programs_get_the_same_as_json(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE, "ttyS0")
    rows = {row["port"]: row for row in json.loads(command(rig, "list", "--json").stdout)}
    assert set(rows) == {"ttyS0", "ttyS1"}
    assert rows["ttyS0"]["state"] == "busy"
    assert rows["ttyS0"]["device"] == rig.ports["ttyS0"].path
    found = rows["ttyS0"]["holder"]
    assert (found["uid"], found["user"], found["pid"], found["how"]) == (
        ALICE, None, holder.pid, "lease")  # fmt: skip
    assert rows["ttyS1"]["holder"] is None and rows["ttyS1"]["state"] == "free"


def test_a_list_of_nothing_says_so(rig: Rig) -> None:
    rig.write_policy("")
    rig.daemon(*rig.arguments)
    assert command(rig, "list").stdout.startswith("no ports: the policy allows you none")
    assert json.loads(command(rig, "list", "--json").stdout) == []


def test_how_the_broker_is_confined_is_told_of_its_own_process(rig: Rig, daemon: Daemon) -> None:
    told = json.loads(command(rig, "check", "--broker", "--json").stdout)
    assert told["pid"] == daemon.pid
    kept = {row["name"]: row["kept"] for row in told["facts"]}
    assert kept["capabilities, bounding"] and kept["seccomp"] and kept["Landlock"]
    assert told["kept"] and all(kept.values()), kept


def test_a_broker_that_lacks_what_is_promised_is_status_one(rig: Rig) -> None:
    """The test plays the broker, and is not confined at all."""
    answer = wire.encode_reply(wire.Running(0, dumpable=True))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(rig.socket))
        listener.listen()
        with subprocess.Popen(
            [sys.executable, "-m", "ttybroker.cli", "check", "--broker"],
            env={**os.environ, **python_path(), "TTYBROKER_SOCKET": str(rig.socket)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            broker, _ = listener.accept()
            with broker:
                assert wire.decode_request(broker.recv(4096)) == wire.Status()
                broker.send(answer)
            shown, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert f"process {os.getpid()}" in shown and "MISSING" in shown


def test_check_says_by_which_rule_and_its_status_is_the_answer(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    rig.daemon()
    status, out, _ = as_user(ALICE, (), typed(rig, "check", "ttyS0"))
    assert (status, out) == (0, "ttyS0: allowed by rule ttyS0 (line 2)\n")
    status, out, _ = as_user(BOB, (), typed(rig, "check", "ttyS0"))
    assert status == 1 and out.startswith("ttyS0: not permitted: ")
    status, out, _ = as_user(ALICE, (), typed(rig, "check", "--json", "ttyS0"))
    answer = {"port": "ttyS0", "allowed": True, "rule": "ttyS0 (line 2)"}
    assert (status, json.loads(out)) == (0, answer)


def test_only_root_and_admins_ask_about_others(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["nobody"]')
    rig.daemon()
    assert command(rig, "check", "--user", "nobody", "ttyS0").returncode == 0
    assert command(rig, "check", "--user", "daemon", "ttyS0").returncode == 1
    status, _, err = as_user(ALICE, (), typed(rig, "check", "--user", "nobody", "ttyS0"))
    assert status == 1 and "only root and the policy's admins" in err
    unknown = command(rig, "check", "--user", "no-such-user", "ttyS0")
    assert (unknown.returncode, unknown.stderr) == (2, "ttybroker: no such user: no-such-user\n")


def test_revoke_takes_the_port_back_or_says_why_not(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE, "ttyS0")
    status, _, err = as_user(BOB, (), typed(rig, "revoke", "ttyS0"))
    assert status == 1 and err.startswith("ttybroker: ttyS0: only its holder, root and")
    status, out, _ = as_user(ALICE, (), typed(rig, "revoke", "ttyS0"))
    assert status == 0 and out.startswith("ttyS0: taken back")
    daemon.record("release", port="ttyS0", pid=holder.pid, reason="revoked")
    nobody = command(rig, "revoke", "ttyS0")
    assert nobody.returncode == 1 and "nobody holds it" in nobody.stderr


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ([], 2, "required: COMMAND"),
        (["frobnicate"], 2, "invalid choice"),
        (["list", "ttyS0"], 2, "unrecognized arguments: ttyS0"),
        (["term", "--wait", "never", "ttyS0"], 2, "invalid"),
        (["revoke", "../etc"], 1, "not a port's name"),
        (["check", "ttyS9"], 1, ""),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    words: list[str], status: int, line: str, rig: Rig, daemon: Daemon
) -> None:
    done = command(rig, *words)
    assert done.returncode == status
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_broker_it_says_where_it_looked(rig: Rig) -> None:
    done = command(rig, "list")
    assert done.returncode == 1
    assert done.stderr.startswith(f"ttybroker: no broker at {rig.socket}: ")
    assert done.stderr.endswith("; is ttybrokerd running?\n")


def test_a_reader_that_has_seen_enough_is_no_error(rig: Rig, daemon: Daemon) -> None:
    done = subprocess.run(
        f"{sys.executable} -m ttybroker.cli list | true",
        shell=True,
        env={**os.environ, **python_path(), "TTYBROKER_SOCKET": str(rig.socket)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert "Traceback" not in done.stderr


class Screen:
    """`ttybroker term` on ttyS0 as somebody sees it; ended, however the test does."""

    def __init__(self, rig: Rig) -> None:
        self.seen = b""
        self.end, keyboard = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ttybroker.cli", "term", "ttyS0", "115200"],
            stdin=keyboard,
            stdout=keyboard,
            stderr=keyboard,
            env={**os.environ, **python_path(), "TTYBROKER_SOCKET": str(rig.socket)},
        )
        os.close(keyboard)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.end)

    def shows(self, what: bytes) -> None:
        while what not in self.seen:
            wait_readable(self.end, f"{what!r}, got {self.seen!r}")
            self.seen += os.read(self.end, 4096)

    def asks(self, what: bytes) -> None:
        """Until it reads a line, which is after it throws away what was typed earlier. No event
        tells of that, so the terminal's mode is looked at."""
        self.shows(what)
        end = time.monotonic() + TIMEOUT
        while not termios.tcgetattr(self.end)[3] & termios.ICANON:
            assert time.monotonic() < end, f"{what!r}, but no line is read"
            os.sched_yield()

    def type(self, keys: bytes) -> None:
        os.write(self.end, keys)

    def leave(self) -> int:
        self.type(b"\x1d")  # Ctrl+]
        with contextlib.suppress(OSError):  # EIO: it has closed its side
            while os.read(self.end, 4096):
                pass
        return self.process.wait(TIMEOUT)


def test_term_is_miniterm_on_the_port(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig) as screen:
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
    with Screen(rig) as screen:
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
