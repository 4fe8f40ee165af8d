"""`ttybroker history`: leases from records as the daemon's log makes them."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ttybroker import cli
from ttybrokerd.root.log import Log

NOW = 1_600_000_000
RECORD = {
    "device": "/dev/ttyS0",
    "uid": 0,
    "pid": 7,
    "program": "picocom",
    "rule": "ttyS* (line 1)",
}


class Journal:
    """A journal that the daemon's log writes, and a journalctl on the PATH that prints it. `asked`
    has its arguments. As the real one it says nothing besides if it prints JSON, but for errors."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(directory / "journal"))
        self._log = Log(str(directory / "journal"))
        self._lines, self.asked = directory / "lines", directory / "asked"
        self._lines.touch()
        self._command = directory / "journalctl"
        self.now = NOW
        self.ends()

    def ends(self, status: int = 0, said: str = "") -> None:
        """How journalctl does."""
        script = f'#!/bin/sh\necho "$@" >> {self.asked}\ncat {self._lines}\n'
        quiet = "" if status else 'case "$*" in *json*) exit 0 ;; esac\n'
        self._command.write_text(f"{script}{quiet}printf '%s' '{said}' >&2\nexit {status}\n")
        self._command.chmod(0o755)

    def close(self) -> None:
        self._log.close()
        self._socket.close()

    def record(self, event: str, *, after: float = 1, **fields: Any) -> None:
        """What journald(8) makes of a record: its own fields begin with an underscore."""
        self._log(event, port="ttyS0", **{**RECORD, **fields})
        rows = self._socket.recv(65536).decode().splitlines()
        self.now += after
        stamp = f"{self.now * 1_000_000:.0f}"
        known = {"__REALTIME_TIMESTAMP": stamp, "_UID": "0", "_SYSTEMD_UNIT": "ttybroker.service"}
        line = json.dumps({**known, **dict(row.split("=", 1) for row in rows)})
        with open(self._lines, "a") as lines:
            lines.write(f"{line}\n")

    def changed(self, old: str, new: str) -> None:
        """Have the journal say something else in this place."""
        text = self._lines.read_text()
        assert old in text
        self._lines.write_text(text.replace(old, new))

    def garbage(self) -> None:
        with open(self._lines, "a") as lines:
            lines.write('[]\n{"TTYBROKER_EVENT": [1, 2]}\nno json\n{"TTYBROKER_PORT": null}\n')


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    made = Journal(tmp_path)
    yield made
    made.close()
    monkeypatch.undo()
    time.tzset()


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert cli.main(["history", "--json", "ttyS0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def test_each_lease_is_a_row(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.garbage()
    journal.record("grant")
    journal.record("release", reason="closed", after=60)
    journal.record("grant", uid=65534, pid=8, program='e"v\x1bil', label="für J")
    assert cli.main(["history", "ttyS0"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    titles, first, second = out.splitlines()
    assert titles.split() == ["FROM", "TO", "USER", "PROGRAM", "PORT", "ENDED"]
    moments = "2020-09-13 12:26:41  2020-09-13 12:27:41  root"
    assert first.startswith(moments) and first.split()[-4:] == ["picocom", "(7)", "ttyS0", "closed"]
    assert second.startswith("2020-09-13 12:27:42                       nobody")
    assert "e\"v?il (8) for 'für J'" in second


@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "table"])
@pytest.mark.parametrize(
    "stamp",
    ['"nan"', '"inf"', '"-1"', f'"{1 << 64}"', '""', '"1e300"', "NaN", "Infinity", "null", "[]"],
)
def test_a_record_of_no_moment_is_not_counted(
    journal: Journal, capsys: pytest.CaptureFixture[str], stamp: str, form: list[str]
) -> None:
    journal.record("grant")
    journal.record("release", reason="closed")
    journal.changed(f'"{(NOW + 1) * 1_000_000}"', stamp)
    assert cli.main(["history", *form, "ttyS0"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "picocom" in out
    if form:  # the release alone is left, and so nobody knows when it began
        assert [(one["from"], one["to"]) for one in json.loads(out)] == [(None, NOW + 2)]


def test_a_number_that_no_user_and_no_process_has_is_not_known(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.record("grant", uid=1234567890, pid=1234567890)
    journal.changed("1234567890", "9" * 5000)
    assert [(one["uid"], one["pid"]) for one in told(capsys)] == [(None, None)]


def test_journalctl_is_asked_for_what_root_wrote_of_this_port(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys) == []
    ours = "_UID=0 SYSLOG_IDENTIFIER=ttybrokerd TTYBROKER_EVENT=grant TTYBROKER_EVENT=adopt "
    ours += "TTYBROKER_EVENT=revoke TTYBROKER_EVENT=release"
    asked = journal.asked.read_text()
    assert f" {ours} TTYBROKER_PORT=ttyS0 + {ours} TTYBROKER_DEVICE=/dev/ttyS0\n" in asked


def test_what_a_program_gets(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.record("grant", label="lab")
    journal.record("adopt", label="lab")  # the daemon was started again
    journal.record("revoke", by="uid 5 with ttybroker (pid 9)", device=None)
    journal.record("release", reason="revoked")
    assert told(capsys) == [
        {
            "port": "ttyS0",
            "device": "/dev/ttyS0",
            "uid": 0,
            "user": "root",
            "pid": 7,
            "program": "picocom",
            "label": "lab",
            "from": NOW + 1,
            "to": NOW + 4,
            "ended": "revoked",
            "by": "uid 5 with ttybroker (pid 9)",
        }
    ]


def test_who_took_one_port_of_a_program_did_not_take_its_other(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.record("grant")
    journal.record("grant", device="/dev/ttyS1")
    journal.record("revoke", by="uid 5")
    journal.record("revoke", by="uid 6", device="/dev/ttyS1")
    journal.record("release", reason="revoked")
    journal.record("release", reason="revoked", device="/dev/ttyS1")
    assert [one["by"] for one in told(capsys)] == ["uid 5", "uid 6"]


def test_what_the_journal_does_not_have_is_not_known(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.record("adopt")  # the grant is too old
    journal.record("grant", pid=8)  # and here the release is missing
    journal.record("release", pid=9, reason="closed")
    found = [(lease["pid"], lease["from"], lease["to"]) for lease in told(capsys)]
    assert found == [(7, None, None), (8, NOW + 2, None), (9, None, NOW + 3)]


@pytest.mark.parametrize(
    ("status", "said", "line"),
    [
        (1, "No journal files were opened due to insufficient permissions.\n",
         "No journal files were opened due to insufficient permissions"),
        (0, "Hint: You are currently not seeing\n      messages.\n",
         "Hint: You are currently not seeing messages"),
        (3, "", "journalctl ended with status 3"),
    ],
)  # fmt: skip
def test_a_journal_that_cannot_be_read_is_one_line(
    journal: Journal,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    said: str,
    line: str,
) -> None:
    journal.ends(status, said)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["history", "ttyS0"]) == 1
    out, err = capsys.readouterr()
    begins = f"ttybroker: ttyS0: the journal cannot be read: {line}; root and group adm read "
    assert out == "" and err == f"{begins}the whole journal: sudo ttybroker history ttyS0\n"


def test_without_journalctl_it_says_so(
    journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["history", "ttyS0"]) == 1
    line = "journalctl: No such file or directory; without systemd the records are on ttybrokerd's"
    said = f"ttybroker: ttyS0: the journal cannot be read: {line} standard error\n"
    assert capsys.readouterr().err == said


def test_nobody_is_said_to_be_nobody(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["history", "ttyS0"]) == 0
    assert capsys.readouterr().out.startswith("ttyS0: the journal has no record of a holder")
