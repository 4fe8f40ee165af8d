"""The name beside a uid is looked up where a holder is shown, and not before."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from ttybroker import listing
from ttybroker.errors import PortBusy, WaitTimeout
from ttybroker.users import named
from ttybroker.wire import Holder, PortInfo, Refused

ME = os.getpid()  # of a holder that lives


@pytest.fixture
def passwd(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """1000 is alice and 1001 an odd name; the list is of whom was asked about."""
    asked: list[int] = []

    def getpwuid(uid: int) -> SimpleNamespace:
        asked.append(uid)
        return SimpleNamespace(pw_name={1000: "alice", 1001: "b\x1b[2J\udcff"}[uid])

    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    return asked


def test_a_missing_name_is_filled_in_where_this_machine_knows_it(passwd: list[int]) -> None:
    holder = Holder(1000, "", 12, "picocom", 5.0, "flock", "night test")
    assert named(holder) == Holder(1000, "alice", 12, "picocom", 5.0, "flock", "night test")
    assert holder.user == ""
    assert named(Holder(7)) == Holder(7)
    assert passwd == [1000, 7]


def test_a_name_that_is_there_and_a_holder_without_a_uid_stay(passwd: list[int]) -> None:
    """The first is from a broker that sends names."""
    assert named(Holder(1000, "ann")).user == "ann"
    assert named(Holder(None, pid=3)) == Holder(None, pid=3)
    assert passwd == []


def test_a_name_cannot_speak_to_the_terminal(passwd: list[int]) -> None:
    assert named(Holder(1001)).user == "b?[2J?"


@pytest.mark.parametrize(
    ("kind", "number", "cause"),
    [(PortBusy, errno.EBUSY, "busy"), (WaitTimeout, errno.ETIMEDOUT, "timed out")],
)
def test_a_refusal_names_the_holder_when_it_is_shown_and_asks_nobody_before(
    kind: type[PortBusy | WaitTimeout], number: int, cause: str, passwd: list[int]
) -> None:
    holder = Holder(1000, "", ME, "picocom")
    error = kind.of(Refused(number, cause, holder, "wait for it"), "ttyS0")
    said = f"ttyS0: {cause}: held by uid 1000 with picocom (pid {ME}); wait for it"
    assert (error.errno, error.strerror) == (number, said)
    assert passwd == []
    told = f"ttyS0: {cause}: held by alice (uid 1000) with picocom (pid {ME}); wait for it"
    assert str(error) == error.message == told
    assert error.holder is not None and error.holder.user == "alice"


def test_where_the_name_is_not_known_the_uid_stands_there(passwd: list[int]) -> None:
    error = PortBusy.of(Refused(errno.EBUSY, "busy", Holder(7, "", ME), "wait"), "ttyS0")
    assert str(error) == f"ttyS0: busy: held by uid 7 (pid {ME}); wait"


def test_a_refusal_without_a_holder_is_said_as_the_broker_said_it(passwd: list[int]) -> None:
    assert str(PortBusy.of(Refused(errno.EBUSY, "busy: others"), "ttyS0")) == "ttyS0: busy: others"
    assert str(PortBusy(errno.EBUSY, "ttyS0: busy", Holder(1000))) == "ttyS0: busy"
    assert passwd == []


def show(port: PortInfo) -> None:
    listing.show([port])


def show_json(port: PortInfo) -> None:
    listing.show_json([port])


@pytest.mark.parametrize(
    ("how", "known", "unknown"),
    [(show, "alice picocom", "uid 7 picocom"), (show_json, '"user": "alice"', '"user": null')],
)
def test_a_list_shows_this_machines_name_or_the_uid(
    how: Callable[[PortInfo], None],
    known: str,
    unknown: str,
    passwd: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for uid, wanted in ((1000, known), (7, unknown)):
        how(PortInfo("ttyS0", "/dev/pts/0", "busy", "", 0, Holder(uid, "", 12, "picocom")))
        assert wanted in capsys.readouterr().out
