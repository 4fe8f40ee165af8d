"""The command `ttybroker`, as people type it."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import io
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from support.children import Chat, Orphan, as_user
from support.command import TTYBROKER, command, environment, in_a_shell
from support.daemon import Daemon
from support.processes import prctl
from support.rig import Rig
from support.users import ALICE, BOB, NOBODY
from support.waiting import TIMEOUT
from ttybroker import cli, client, open_fd, open_tty, wire
from ttybroker.errors import BrokerError, PortBusy
from ttybroker.run.broker import line_of
from ttybroker.version import VERSION

PR_SET_DUMPABLE = 4  # sys/prctl.h

pytestmark = pytest.mark.root


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
            [*TTYBROKER, "check", "--broker"],
            env=environment(rig),
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
    answer = {"port": "ttyS0", "allowed": True, "rule": "ttyS0 (line 2)", "reason": None}
    assert (status, json.loads(out)) == (0, answer)
    for name in ("ttyS0", "ttS0"):  # the other is none, and it suggests one
        who = BOB if name == "ttyS0" else ALICE
        _, said, _ = as_user(who, (), typed(rig, "check", name))
        status, out, _ = as_user(who, (), typed(rig, "check", "--json", name))
        answer = {"port": name, "allowed": False, "rule": None}
        reason = said.removeprefix(f"{name}: ").removesuffix("\n")
        assert (status, json.loads(out)) == (1, {**answer, "reason": reason}) and reason
    assert reason.endswith("; did you mean ttyS0?")


def test_only_root_and_admins_ask_about_others(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["nobody"]')
    rig.daemon()
    assert command(rig, "check", "--user", "nobody", "ttyS0").returncode == 0
    done = command(rig, "check", "--user", "daemon", "ttyS0")
    told = "ttyS0: not permitted: no rule of the policy allows daemon this port\n"
    assert (done.returncode, done.stdout) == (1, told)
    status, _, err = as_user(ALICE, (), typed(rig, "check", "--user", "nobody", "ttyS0"))
    assert status == 1 and "only root and the policy's admins" in err
    unknown = command(rig, "check", "--user", "no-such-user", "ttyS0")
    assert (unknown.returncode, unknown.stderr) == (2, "ttybroker: no such user: no-such-user\n")


def test_a_uid_needs_no_account_to_be_asked_about(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    rig.daemon()
    for uid, status, told in (
        (ALICE, 0, "allowed by rule ttyS0 (line 2)"),
        (BOB, 1, f"not permitted: no rule of the policy allows {BOB} this port"),
    ):
        with pytest.raises(KeyError):
            pwd.getpwuid(uid)
        done = command(rig, "check", "--user", str(uid), "ttyS0")
        assert (done.returncode, done.stdout, done.stderr) == (status, f"ttyS0: {told}\n", "")


def test_revoke_takes_the_port_back_or_says_why_not(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE, "ttyS0")
    status, _, err = as_user(BOB, (), typed(rig, "revoke", "ttyS0"))
    assert status == 1 and err.startswith("ttybroker: ttyS0: only its holder, root and")
    status, out, _ = as_user(ALICE, (), typed(rig, "revoke", "ttyS0"))
    assert status == 0 and out.startswith("ttyS0: taken back; it is free")
    daemon.record("release", port="ttyS0", pid=holder.pid, reason="revoked")
    status, _, err = as_user(ALICE, (), typed(rig, "revoke", "ttyS0"))
    assert (status, err) == (1, "ttybroker: ttyS0: nobody has it\n")
    holder.say()  # its dead descriptor is locked until it is closed
    holder.result()
    with open(rig.ports["ttyS0"].path, "rb", 0) as outsider:
        fcntl.flock(outsider, fcntl.LOCK_EX | fcntl.LOCK_NB)
        while client_list(rig)[0].state == "free":  # beside a dead copy, locks are not read anew
            os.sched_yield()
        nobody = command(rig, "revoke", "ttyS0")
    assert nobody.returncode == 1 and "nobody holds it through the broker" in nobody.stderr


def test_revoke_says_who_has_the_port_now(rig: Rig, daemon: Daemon) -> None:
    rig.holder(ALICE, "ttyS0")
    second = rig.holder(BOB, "ttyS0", wait=30.0)
    while not client_list(rig)[0].waiting:
        os.sched_yield()
    done = command(rig, "revoke", "ttyS0")
    told = rf"ttyS0: taken back; now uid {BOB} has it with \S+ \(pid {second.pid}\) since \S+\n"
    assert re.fullmatch(told, done.stdout), done.stdout


def test_revoke_names_the_next_holder_on_any_output(rig: Rig, daemon: Daemon) -> None:
    def next_one(chat: Chat) -> None:
        with client.connect(str(rig.socket), label="Prüfstand") as connection:
            descriptor = connection.open("ttyS0", wait=30.0)
        chat.hear()
        os.close(descriptor)

    rig.holder(ALICE, "ttyS0")
    bob = rig.child(BOB, next_one)
    while not client_list(rig)[0].waiting:
        os.sched_yield()
    done = subprocess.run(
        [*TTYBROKER, "revoke", "ttyS0"],
        env=environment(rig, PYTHONIOENCODING="ascii"),
        capture_output=True,
        text=True,
    )
    bob.say()
    assert (done.returncode, done.stderr) == (0, "")
    assert "for 'Pr?fstand'" in done.stdout


def test_revoke_says_when_the_old_holder_has_it_again(rig: Rig, daemon: Daemon) -> None:
    rig.holder(ALICE, "ttyS0")

    def comes_back(chat: Chat) -> None:
        with client.connect(str(rig.socket)) as connection:
            chat.say()
            while True:
                try:
                    connection.open("ttyS0")
                    break
                except BrokerError:
                    os.sched_yield()
        chat.hear()

    back = rig.child(ALICE, comes_back)
    back.hear()
    done = command(rig, "revoke", "ttyS0")
    told = rf"taken back; now uid {ALICE} has it with \S+ \(pid {back.pid}\) since \S+ again; "
    hint = "to keep it free for a while: ttybroker revoke --hold 60 ttyS0"
    assert re.fullmatch(f"ttyS0: {told}{hint}\n", done.stdout), done.stdout


TERM = [*TTYBROKER, "term", "--reconnect", "ttyS0"]
# A program that looks after its port by itself, as loggers do.
REOPENS = [sys.executable, "-c", """
import time, ttybroker
while True:
    try:
        with ttybroker.open_tty("ttyS0", timeout=1) as port:
            print("open", flush=True)
            while True:
                port.read(1)
    except OSError:
        time.sleep(1)
"""]  # fmt: skip


@pytest.mark.parametrize("words", [TERM, REOPENS], ids=["term", "reopens"])
def test_revoke_says_that_a_program_which_runs_on_may_ask_again(
    rig: Rig, daemon: Daemon, words: list[str]
) -> None:
    """It does so when revoke has long ended, which does not wait for that."""
    feed, text = os.pipe()  # for term: its standard input, which does not end
    with subprocess.Popen(
        words,
        env=environment(rig),
        stdin=feed,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as program:
        try:
            held_by(rig, program.pid)
            before = time.monotonic()
            done = command(rig, "revoke", "ttyS0")
            assert time.monotonic() - before < 1.0
            told = rf"it is free now, but \S+'s .* \(pid {program.pid}\) may open it again; "
            hint = "to keep it free for a while: ttybroker revoke --hold 60 ttyS0"
            assert re.fullmatch(f"ttyS0: taken back; {told}{hint}\n", done.stdout), done.stdout
            held_by(rig, program.pid)  # it did
        finally:
            program.kill()
            os.close(feed)
            os.close(text)


def test_of_a_program_that_ended_with_its_port_revoke_says_no_more(
    rig: Rig, daemon: Daemon
) -> None:
    words = [*TTYBROKER, "term", "ttyS0", "--linger", "inf"]
    with subprocess.Popen(
        words, env=environment(rig), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as program:
        held_by(rig, program.pid)
        ended = threading.Thread(target=program.wait)  # so that it is no zombie
        ended.start()
        assert command(rig, "revoke", "ttyS0").stdout == "ttyS0: taken back; it is free\n"
        ended.join(TIMEOUT)


def held_by(rig: Rig, pid: int) -> None:
    """Wait until this process has the first port."""
    end = time.monotonic() + TIMEOUT
    while (
        (row := client_list(rig)[0]).state != "busy" or row.holder is None or row.holder.pid != pid
    ):
        assert time.monotonic() < end, row
        time.sleep(0.01)


def test_held_back_the_port_is_free_for_others_alone(rig: Rig, daemon: Daemon) -> None:
    rig.holder(ALICE, "ttyS0")
    done = command(rig, "revoke", "--hold", "600", "ttyS0")
    assert (done.returncode, done.stdout) == (
        0, f"ttyS0: taken back; it is free\nttyS0: kept from uid {ALICE} for 600 s\n")  # fmt: skip
    for wait in (None, 30.0):

        def ask(wait: float | None = wait) -> str:
            with pytest.raises(PortBusy) as refused:
                open_fd("ttyS0", broker=str(rig.socket), wait=wait)
            return str(refused.value)

        told = as_user(ALICE, (), ask)
        again = r"for another (600|59\d) s, also if you wait; ask again then"
        assert re.fullmatch(f"ttyS0: busy: it was taken back, and is kept from you {again}", told)
    rig.holder(ALICE, "ttyS1")
    rig.holder(BOB, "ttyS0")


@pytest.mark.parametrize("more", [[], ["--details"]], ids=["list", "details"])
def test_a_list_says_until_when_the_port_is_kept_from_its_user(
    rig: Rig, daemon: Daemon, more: list[str]
) -> None:
    """And tells nobody else of it."""
    holder = rig.holder(ALICE, "ttyS0")
    command(rig, "revoke", "--hold", "600", "ttyS0")
    holder.say()
    holder.result()

    def seen(uid: int) -> tuple[dict[str, Any], list[str]]:
        told = as_user(uid, (), typed(rig, "list", "ttyS0", "--json", *more))[1]
        lines = as_user(uid, (), typed(rig, "list", "ttyS0", *more))[1].splitlines()
        return json.loads(told)[0], lines[1:]

    row, (first, second) = seen(ALICE)
    assert row["state"] == "refused" and row.get("line") is None
    assert 590 < row["kept_until"] - time.time() <= 601
    moment = r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d"
    told = f"  kept from you until {moment}: it was taken back with revoke --hold"
    assert first.split()[:2] == ["ttyS0", "refused"] and re.fullmatch(told, second)
    row, (first,) = seen(BOB)
    assert (row["state"], row["kept_until"]) == ("free", None) and first.split()[1] == "free"
    holder = rig.holder(BOB, "ttyS0")
    row, (first, second) = seen(ALICE)
    assert (row["state"], row["holder"]["pid"]) == ("busy", holder.pid) and row["kept_until"]
    assert first.split()[1] == "busy" and re.fullmatch(told, second)


@pytest.mark.parametrize("details", [False, True], ids=["list", "details"])
def test_a_watched_list_shows_a_hold_from_its_beginning_to_its_end(
    rig: Rig, daemon: Daemon, details: bool
) -> None:
    holder = rig.holder(0, "ttyS0")
    with client.connect(str(rig.socket)) as watching, client.connect(str(rig.socket)) as root:
        seen = watching.watch(("ttyS0",), details=details)
        assert next(seen)[0].holder
        root.revoke("ttyS0", hold=1)
        held = next(row for (row,) in seen if row.state == "refused")
        assert [fact for fact, _ in held.facts] == [wire.KEPT]
        free = next(row for (row,) in seen if row.state == "free")
        assert not free.facts and abs(held.facts[0][1] - time.time()) < 5
    holder.say()
    holder.result()


def test_a_hold_ends(rig: Rig, daemon: Daemon) -> None:
    rig.holder(ALICE, "ttyS0")
    command(rig, "revoke", "--hold", "0.5", "ttyS0")

    def ask() -> int:
        refused = 0
        while True:
            try:
                os.close(open_fd("ttyS0", broker=str(rig.socket)))
                return refused
            except PortBusy:
                refused += 1
                time.sleep(0.01)

    assert as_user(ALICE, (), ask) > 0


def client_list(rig: Rig) -> list[wire.PortInfo]:
    with client.connect(str(rig.socket)) as connection:
        return connection.ports(("ttyS0",))


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ([], 2, "required: COMMAND"),
        (["frobnicate"], 2, "frobnicate: no such command; see ttybroker --help"),
        (["lsit"], 2, "lsit: no such command; did you mean list?"),
        (["--frobnicate"], 2, "--frobnicate: no such option; see ttybroker --help"),
        ([""], 2, "'': no such command; see ttybroker --help"),
        (["list", "--copies", "--details", "ttyS0"], 2, "not allowed with argument --copies"),
        (["check", "--broker", "ttyS0"], 2, "not allowed with argument --broker"),
        (["list", "ttyS0", "--copies", "--watch"], 2, "--copies: cannot be watched"),
        (["list", "--copies"], 2, "write: ttybroker list PORT --copies"),
        (["list", "ttyS00"], 1, "ttyS00: no port that you may use; did you mean ttyS0?"),
        (["term", "--wait", "never", "ttyS0"], 2, "must be a number of seconds"),
        (["term"], 2, "which port? see: ttybroker list"),
        (["term", "ttyS00"], 1, "; did you mean ttyS0?"),
        (["revoke", "../etc"], 2, "not a port's name"),
        (["check", ""], 2, "'': not a port's name"),
        (["check", "--broker", "--user", "root"], 2, "--user: goes with a port, not with"),
        (["revoke", "--hold", "-1", "ttyS0"], 2, "must be a number of seconds"),
        (["revoke", "--hold", "ttyS0"], 2, "required: port"),
        (["revoke", "--hold", "soon", "ttyS0"], 2, "--hold soon: must be a number of seconds"),
        (["revoke", "--hold", "1e9", "ttyS0"], 2, "such as 60; a day at most"),
        (["list", "--jsn"], 2, "list: not understood: --jsn; see ttybroker list --help"),
        (["check", "ttyS0", "ttyS1"], 2, "check: not understood: ttyS1; see ttybroker check"),
        (["revoke", "ttyS00"], 1, "; did you mean ttyS0?"),
        (["check", "ttyS9"], 1, ""),
        (["check", "--user", "²", "ttyS0"], 2, "no such user: ²"),
        (["check", "--user", "4294967295", "ttyS0"], 2, "no such user: 4294967295"),
        (["check", "--user", "9" * 5000, "ttyS0"], 2, "no such user: 999"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    words: list[str], status: int, line: str, rig: Rig, daemon: Daemon
) -> None:
    done = command(rig, *words)
    assert done.returncode == status
    assert line in done.stderr
    assert done.stderr.count("\n") <= 1 and "Traceback" not in done.stderr


def test_a_mistyped_port_is_told_with_the_one_that_is_meant(rig: Rig, daemon: Daemon) -> None:
    done = command(rig, "check", "ttS0")
    assert done.returncode == 1 and done.stdout.endswith("; did you mean ttyS0?\n")
    done = command(rig, "check", "ttyS0")
    assert done.returncode == 0 and "did you mean" not in done.stdout
    assert "did you mean" not in command(rig, "check", "zzz").stdout
    # the journal is that of this machine, if there is one: it has no such port
    done = command(rig, "history", "ttS0")
    assert (done.stdout + done.stderr).endswith("; did you mean ttyS0?\n")
    assert "did you mean" not in command(rig, "history", "zzz").stdout
    done = command(rig, "run", "ttS0", "--", "true")
    assert done.returncode == 1 and done.stderr.endswith("; did you mean ttyS0?\n")
    for pid in rig.orphans():  # what was beside the run
        Orphan(pid).wait()


@pytest.mark.parametrize("call", [open_tty, open_fd])
def test_python_too_is_told_which_port_is_meant(rig: Rig, call: Callable[..., object]) -> None:
    rig.port("ttyUSB0")
    rig.port("ttyUSB1", "allow = []")
    rig.daemon()

    def told(name: str) -> str:
        with pytest.raises(BrokerError) as caught:
            call(name, broker=str(rig.socket))
        assert "did you mean" not in str(caught.value.strerror)
        return str(caught.value)

    assert told("ttyUBS0").endswith("; did you mean ttyUSB0?")
    assert told("ttyUBS0").count("did you mean") == 1
    assert "did you mean" not in told("zzz")
    assert "did you mean" not in as_user(BOB, (), lambda: told("ttyUSB1"))  # it is known


def test_run_says_that_the_program_in_the_way_is_ones_own(rig: Rig, daemon: Daemon) -> None:
    """Whoever wants to flash is not sent to an administrator for his own terminal, nor is root."""
    held = open_fd("ttyS0", broker=str(rig.socket))
    mine = command(rig, "run", "--stdio", "ttyS0", "--", "true")
    os.close(held)
    assert mine.returncode == 1 and "ttyS0: busy: held by root (uid 0) with " in mine.stderr
    back = "take it back (ttybroker revoke ttyS0)"
    assert f"; it is yours: wait for it (--wait SECONDS), {back}, or have it lend" in mine.stderr
    assert "an admin" not in mine.stderr and mine.stderr.count("\n") == 1
    held = open_fd("ttyS0", broker=str(rig.socket))
    late = command(rig, "run", "--wait", "0.1", "--stdio", "ttyS0", "--", "true")
    os.close(held)
    assert f"; it is yours: wait longer (--wait SECONDS), {back}" in late.stderr
    rig.holder(ALICE, "ttyS1")
    other = command(rig, "run", "--stdio", "ttyS1", "--", "true")
    back = "take it back (ttybroker revoke ttyS1)"
    assert f"; wait for it (--wait SECONDS), or {back}\n" in other.stderr

    def said() -> str:
        with pytest.raises(PortBusy) as caught:
            open_fd("ttyS1", broker=str(rig.socket))
        return line_of(caught.value)

    assert as_user(BOB, (), said).endswith("or an admin take it back (ttybroker revoke)")
    for pid in rig.orphans():  # what was beside the runs
        Orphan(pid).wait()


@pytest.mark.parametrize(
    "words",
    ["list", "check ttyS7", "term ttyS7", "run ttyS7 -- true", "run --stdio ttyS7 -- true"],
)
def test_who_got_a_group_after_the_login_is_told_to_log_in_again(rig: Rig, words: str) -> None:
    """The kernel gives a session no new group, while root's `check --user` says: allowed."""
    group = grp.getgrgid(1).gr_name
    rig.port("ttyS7", f'allow = ["@{group}"]')
    rig.daemon()

    def said() -> str:
        os.environ["TTYBROKER_SOCKET"] = str(rig.socket)
        with tempfile.TemporaryFile() as file, mock.patch("os.getgrouplist", return_value=[1]):
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            with open(1, "w", closefd=False) as out, contextlib.redirect_stdout(out):
                assert cli.main(words.split()) == (words != "list")
            file.seek(0)
            return file.read().decode()

    line = as_user(NOBODY, (), said)
    assert line.endswith(f"; this session began before you were in {group}: log in again\n"), line
    assert line.count("\n") == 1
    for pid in rig.orphans():  # what was beside the run
        Orphan(pid).wait()


def test_who_has_all_his_groups_is_not_sent_to_log_in(rig: Rig) -> None:
    rig.port("ttyS7", 'allow = ["root"]')
    rig.daemon()
    status, out, _ = as_user(NOBODY, (), typed(rig, "check", "ttyS7"))
    assert status == 1 and "log in again" not in out


@pytest.mark.parametrize("via", ["auto", "pty"])
def test_a_broker_is_found_by_a_path_that_begins_where_the_user_is(
    rig: Rig, daemon: Daemon, via: str
) -> None:
    """The process beside the program leaves that directory."""
    env = {**environment(rig), "TTYBROKER_SOCKET": f"./{rig.socket.name}"}
    words = [*TTYBROKER, "run", "--via", via, "ttyS0", "--", "sh", "-c"]
    script = "exec 3<>/dev/ttyS0 && echo $TTYBROKER_SOCKET"
    done = subprocess.run(
        [*words, script], env=env, cwd=rig.base, capture_output=True, text=True, timeout=TIMEOUT
    )
    for pid in rig.orphans():
        Orphan(pid).wait()
    assert (done.returncode, done.stdout) == (0, "./socket\n"), done.stderr


@pytest.mark.parametrize("name", ["check", "list", "revoke", "term", "run"])
def test_a_path_where_a_name_is_meant_is_told_with_the_name(
    name: str, rig: Rig, daemon: Daemon
) -> None:
    more = ["--", "true"] if name == "run" else []
    done = command(rig, name, "/dev/ttyS0", *more)
    line = "ttybroker: '/dev/ttyS0': not a port's name; write ttyS0\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, line, "")


def test_one_port_is_listed_alone(rig: Rig, daemon: Daemon) -> None:
    lines = command(rig, "list", "ttyS1").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["PORT", "ttyS1"]
    both = command(rig, "list", "ttyS1", "nope", "--json")
    assert [row["port"] for row in json.loads(both.stdout)] == ["ttyS1"]
    for words in (
        ["--json"],
        ["--json", "--details"],
        ["--json", "--copies"],
        ["--json", "--watch"],
    ):
        done = command(rig, "list", "nope", *words)
        assert (done.returncode, json.loads(done.stdout)) == (1, [])
    assert (both.returncode, both.stderr) == (
        1,
        "ttybroker: nope: no port that you may use; to see why: ttybroker check nope\n",
    )


def test_whose_lease_left_a_copy_is_told_while_it_is_open(rig: Rig, daemon: Daemon) -> None:
    ghost = rig.holder(ALICE)
    command(rig, "revoke", "ttyS0")
    holder = rig.holder(BOB)
    lines = command(rig, "list", "ttyS0").stdout.splitlines()
    assert re.match(rf"ttyS0 +busy +uid {BOB} ", lines[1])
    told = rf"  still open after its lease ended: uid {ALICE} \S+ \({ghost.pid}\)"
    assert re.fullmatch(told, lines[2]), lines
    (row,) = json.loads(command(rig, "list", "ttyS0", "--json").stdout)
    assert [copy["pid"] for copy in row["copies"]] == [ghost.pid]
    assert row["holder"]["pid"] == holder.pid
    ghost.say()
    ghost.result()
    (row,) = json.loads(command(rig, "list", "ttyS0", "--json").stdout)
    assert row["copies"] == []


def test_a_list_says_of_which_pids_the_process_has_ended(rig: Rig, daemon: Daemon) -> None:
    """A child keeps a copy, of a live lease and then of one that was taken back."""

    def leave_a_copy(_: Chat) -> int:
        open_fd("ttyS0", broker=str(rig.socket))
        kept = os.fork()
        while kept == 0:
            signal.pause()
        return kept

    child = rig.child(ALICE, leave_a_copy)
    kept = Orphan(child.result())
    try:
        ended = rf"uid {ALICE} \S+ \({child.pid}, has ended\)"
        (_, row) = command(rig, "list", "ttyS0").stdout.splitlines()
        assert re.match(rf"ttyS0 +busy +{ended} ", row)
        command(rig, "revoke", "ttyS0")
        (_, row, copy) = command(rig, "list", "ttyS0").stdout.splitlines()
        assert re.match("ttyS0 +free ", row)
        assert re.fullmatch(rf"  still open after its lease ended: {ended}", copy)
    finally:
        os.kill(kept.pid, signal.SIGKILL)
        kept.wait()


def test_root_is_told_who_has_a_port_open_also_a_dead_copy(rig: Rig, daemon: Daemon) -> None:
    ghost = rig.holder(ALICE)
    command(rig, "revoke", "ttyS0")
    holder = rig.holder(BOB)
    rows = json.loads(command(rig, "list", "ttyS0", "--copies", "--json").stdout)
    found = {row["pid"]: row for row in rows}
    assert set(found) >= {ghost.pid, holder.pid, daemon.pid}
    assert [found[pid]["uid"] for pid in (ghost.pid, holder.pid)] == [ALICE, BOB]
    assert all(row["port"] == "ttyS0" and row["descriptors"] for row in rows)
    assert [pid for pid, row in found.items() if row["broker"]] == [daemon.pid]
    shown = command(rig, "list", "ttyS0", "--copies")
    assert shown.stdout.split()[:5] == ["PORT", "USER", "PID", "PROGRAM", "DESCRIPTORS"]
    assert re.search(rf"^ttyS0 +uid {ALICE} +{ghost.pid} +\S+ +\d+$", shown.stdout, re.M)
    assert re.search(rf"^ttyS0 +root +{daemon.pid} +\S+ \[broker\] +\d+", shown.stdout, re.M)
    assert shown.stderr == ""


def test_a_user_is_told_his_own_copies_and_that_root_sees_more(rig: Rig, daemon: Daemon) -> None:
    def hold(chat: Chat) -> None:
        prctl(PR_SET_DUMPABLE, 1)  # or nobody but root may look into it: it is a fork of root's
        with client.connect(str(rig.socket)) as connection:
            connection.open("ttyS0")
        chat.say()
        chat.hear()

    holder = rig.child(ALICE, hold)
    holder.hear()
    status, out, err = as_user(ALICE, (), typed(rig, "list", "ttyS0", "--copies", "--json"))
    holder.say()
    holder.result()
    assert (status, [row["pid"] for row in json.loads(out)]) == (0, [holder.pid])
    assert err.endswith("to see all, use sudo\n")
    _, out, _ = as_user(BOB, (), typed(rig, "list", "ttyS0", "--copies"))
    assert out == "ttyS0: no process that you can see has it open\n"


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_told(option: str, rig: Rig) -> None:
    done = command(rig, option)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ttybroker {VERSION}\n", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_goes_to_standard_output(option: str, rig: Rig) -> None:
    for name in ("", "list", "term", "run", "revoke", "check", "demo"):
        done = command(rig, *filter(None, [name, option]))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: ttybroker")


@pytest.mark.parametrize("redirect", [">/dev/full", ">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_no_redirection_makes_a_traceback(redirect: str, rig: Rig, daemon: Daemon) -> None:
    for words in ("list", "list --json", "check ttyS0", "--help", "run --help", "run -V"):
        done = in_a_shell(rig, f"{words} {redirect}")
        if words.startswith("run") and ">" in redirect.removeprefix("2>&-").removeprefix("<&- "):
            assert done.returncode == 1 and done.stderr in (
                "", "ttybroker: standard output: No space left on device\n",
                "ttybroker: standard output: Bad file descriptor\n")  # fmt: skip
        elif "full" in redirect:
            assert (done.returncode, done.stderr) == (1, "ttybroker: No space left on device\n")
        else:
            assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_ends_it_as_the_signal_with_one_line(rig: Rig) -> None:
    """While it waits for a broker that does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(rig.socket))
        listener.listen()
        with subprocess.Popen(
            [*TTYBROKER, "list"],
            env=environment(rig),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            broker, _ = listener.accept()
            with broker:
                broker.recv(4096)
                process.send_signal(signal.SIGINT)
                _, told = process.communicate(timeout=TIMEOUT)
    os.unlink(rig.socket)
    assert (process.returncode, told) == (-signal.SIGINT, "ttybroker: interrupted\n")


def test_without_a_broker_it_says_where_it_looked(rig: Rig) -> None:
    done = command(rig, "list")
    assert done.returncode == 1
    assert done.stderr.startswith(f"ttybroker: no broker at {rig.socket}: ")
    assert done.stderr.endswith("; is ttybrokerd running? see: systemctl status ttybroker.socket\n")


def test_a_reader_that_has_seen_enough_is_no_error(rig: Rig, daemon: Daemon) -> None:
    done = in_a_shell(rig, "list | true")
    assert "Traceback" not in done.stderr
