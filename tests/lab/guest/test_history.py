"""`ttybroker history` says who had a port, from a real journal. Without a journal it says that."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest

from adapters import Adapters
from service import ALICE, BOB, PATIENT, Service, run, until
from support.children import Chat, Child
from test_store import restart
from ttybroker import client, open_tty

Lease = dict[str, Any]


def history(port: str) -> list[Lease]:
    """Return all that the journal has about the port."""
    found: list[Lease] = json.loads(run("ttybroker", "history", "--json", port))
    return found


def since(port: str, began: float) -> list[Lease]:
    return [lease for lease in history(port) if (lease["from"] or 0) >= began]


def close(child: Child) -> None:
    child.say()
    child.hear(PATIENT)


@pytest.mark.systemd
def test_it_says_who_had_a_port_and_how_that_ended(broker: Service) -> None:
    """Closed, taken back, and over a restart of the daemon, which the holder does not notice."""
    began = time.time()
    first = broker.holder(BOB, "ttyS1")
    until("the grant to be told", lambda: since("ttyS1", began))
    (lease,) = since("ttyS1", began)
    assert (lease["user"], lease["pid"], lease["to"], lease["ended"]) == (
        "bob", first.pid, None, None)  # fmt: skip
    close(first)
    until("the port to be free", lambda: not broker.held())
    second = broker.holder(ALICE, "ttyS1")
    restart(broker)
    with client.connect() as connection:
        connection.revoke("ttyS1")
    ended = time.time()
    until("the end to be told", lambda: all(lease["to"] for lease in since("ttyS1", began)))
    found = since("ttyS1", began)
    assert [(one["user"], one["pid"], one["ended"]) for one in found] == [
        ("bob", first.pid, "closed"), ("alice", second.pid, "revoked")]  # fmt: skip
    assert found[0]["by"] is None
    by = found[1]["by"]
    assert by.startswith("uid 0 with python") and f"(pid {os.getpid()})" in by
    times = [began, *(one[which] for one in found for which in ("from", "to")), ended + 5]
    assert times == sorted(times)
    rows = run("ttybroker", "history", "ttyS1").splitlines()[-2:]
    for row, lease in zip(rows, found, strict=True):
        assert f"({lease['pid']})" in row and lease["user"] in row
        assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lease["from"])) in row
    assert rows[0].endswith("closed") and rows[1].endswith(f"revoked by {by}")


@pytest.mark.systemd
def test_it_says_to_whom_a_port_was_lent_under_either_name(
    broker: Service, adapters: Adapters
) -> None:
    broker.policy('[[rule]]\nport = "board"\nserial = "HISTORY1"\nallow = ["bob"]\n')
    began = time.time()
    node = adapters.plug(2, "HISTORY1")

    def monitors(chat: Chat) -> None:
        with open_tty("board", timeout=600, yields="user",
                      on_back=lambda _: chat.say("back")) as port:  # fmt: skip
            chat.say()
            port.read(1)

    monitor = broker.child(BOB, monitors)
    monitor.hear(PATIENT)
    flasher = broker.holder(BOB, "board", wait=PATIENT)
    flasher.hear(PATIENT)
    close(flasher)
    assert monitor.hear(PATIENT) == "back"
    adapters.unplug(2)
    until("the end to be told", lambda: [one["ended"] for one in since("board", began)][2:])
    until("the end to be told", lambda: since("board", began)[-1]["ended"])
    found = since("board", began)
    assert [one["pid"] for one in found] == [monitor.pid, flasher.pid, monitor.pid]
    assert [one["ended"] for one in found][1:] == ["closed", "hung up or unplugged"]
    assert since(node, began) == found


@pytest.mark.systemd
def test_who_may_not_read_the_journal_is_told_how_to(broker: Service) -> None:
    broker.holder(BOB, "ttyS1").kill()
    words = ["runuser", "-u", "bob", "--", "ttybroker", "history", "ttyS1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "sudo ttybroker history ttyS1" in done.stdout + done.stderr
    assert "bob" not in done.stdout


@pytest.mark.bare
def test_without_a_journal_it_says_so(broker: Service) -> None:
    done = subprocess.run(["ttybroker", "history", "ttyS1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ttybroker: ttyS1: the journal cannot be read: ")
    assert len(done.stderr.splitlines()) == 1
