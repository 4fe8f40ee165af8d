"""What the kernel says of a process that gave its privilege up is believed, and nothing else."""

from __future__ import annotations

import os
import threading

import pytest

from ttybrokerd import user
from ttybrokerd.root import confine
from ttybrokerd.root.confine import NotConfined, verify

KEPT = 1 << 21 | 1 << 1
GOOD = {
    "CapInh": "0000000000000000",
    "CapPrm": f"{KEPT:016x}",
    "CapEff": f"{KEPT:016x}",
    "CapBnd": f"{KEPT:016x}",
    "CapAmb": "0000000000000000",
    "NoNewPrivs": "1",
}


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """What /proc/self/task/THREAD/status says, by thread."""
    threads = {"1": dict(GOOD), "2": dict(GOOD)}
    monkeypatch.setattr(confine.os, "listdir", lambda path: list(threads))
    monkeypatch.setattr(confine, "status", threads.__getitem__)
    return threads


def test_what_must_be_is_accepted(says: dict[str, dict[str, str]]) -> None:
    verify(permitted=KEPT, bounding=KEPT)


def test_what_is_inheritable_may_be_what_is_kept(says: dict[str, dict[str, str]]) -> None:
    says["1"]["CapInh"] = says["2"]["CapInh"] = f"{KEPT:016x}"
    verify(permitted=KEPT, bounding=KEPT)
    with pytest.raises(NotConfined, match="CapPrm"):
        verify(permitted=0, bounding=0)


@pytest.mark.parametrize("thread", ["1", "2"])
@pytest.mark.parametrize("field", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
@pytest.mark.parametrize("value", [f"{KEPT | 1 << 40:016x}", "0000000000000001", "f" * 16])
def test_one_capability_too_many_in_one_set_of_one_thread_is_the_end(
    says: dict[str, dict[str, str]], thread: str, field: str, value: str
) -> None:
    says[thread][field] = value
    with pytest.raises(NotConfined, match=f"{field} is {value}, not "):
        verify(permitted=KEPT, bounding=KEPT)


@pytest.mark.parametrize("field", ["CapPrm", "CapEff", "CapBnd"])
def test_a_capability_that_the_job_needs_and_has_not_is_the_end_too(
    says: dict[str, dict[str, str]], field: str
) -> None:
    says["1"][field] = f"{1 << 21:016x}"
    with pytest.raises(NotConfined, match=field):
        verify(permitted=KEPT, bounding=KEPT)


def test_without_no_new_privs_it_is_the_end(says: dict[str, dict[str, str]]) -> None:
    says["2"]["NoNewPrivs"] = "0"
    with pytest.raises(NotConfined, match="no_new_privs is not set"):
        verify(permitted=KEPT, bounding=KEPT)


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_kernel_that_does_not_tell_is_not_believed(
    says: dict[str, dict[str, str]], field: str
) -> None:
    del says["1"][field]
    with pytest.raises(KeyError):
        verify(permitted=KEPT, bounding=KEPT)


def test_this_process_is_read_as_the_kernel_tells_it() -> None:
    for status in (confine.status(), confine.status(str(threading.get_native_id()))):
        assert set(GOOD) <= set(status)
        assert status["Uid"].split() == [str(number) for number in (*os.getresuid(), os.geteuid())]


@pytest.mark.parametrize("gid", [0, 100])
def test_a_way_back_that_works_is_the_end(gid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    calls = ("setresuid", "setuid", "seteuid", "setresgid", "setgroups")
    for open_way in (None, *calls):
        for call in calls:
            way = (lambda *_: None) if call == open_way else refused
            monkeypatch.setattr(user.os, call, way)
        if open_way is None:
            user._prove_no_way_back(gid)
            continue
        with pytest.raises(NotConfined, match="privilege came back"):
            user._prove_no_way_back(gid)
