"""What is promised of the broker against what is found: each missing piece is named."""

from __future__ import annotations

import json

import pytest

from ttybroker import confinement, landlock, wire

KEPT = f"{(1 << 21) + (1 << 1):016x}"
NONE = "0" * 16
THREAD = {"CapPrm": KEPT, "CapEff": KEPT, "CapBnd": KEPT, "CapInh": NONE, "CapAmb": NONE,
          "NoNewPrivs": "1", "Seccomp": "2"}  # fmt: skip
# proc_pid_limits(5)
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    0                    bytes
Max open files            16384                16384                files
"""
GOOD = wire.Running(landlock.KNOWN, dumpable=False)


def missing(
    threads: list[dict[str, str]], limits: str = LIMITS, word: wire.Running = GOOD, kernel: int = 7
) -> list[str]:
    facts = confinement.judge(threads, limits, word, kernel)
    return [fact.name for fact in facts if not fact.kept]


def test_all_that_is_promised_is_enough() -> None:
    assert missing([THREAD, THREAD]) == []


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("CapPrm", f"{(1 << 21) + (1 << 1) + (1 << 12):016x}", "capabilities, permitted"),
        ("CapEff", f"{(1 << 41) - 1:016x}", "capabilities, effective"),
        ("CapBnd", f"{(1 << 41) - 1:016x}", "capabilities, bounding"),
        ("CapInh", KEPT, "capabilities, inheritable"),
        ("CapAmb", f"{1 << 1:016x}", "capabilities, ambient"),
        ("NoNewPrivs", "0", "no_new_privs"),
        ("Seccomp", "0", "seccomp"),
        ("Seccomp", "1", "seccomp"),
    ],
)
def test_one_thread_without_it_is_one_too_many(field: str, value: str, name: str) -> None:
    assert missing([THREAD, {**THREAD, field: value}]) == [name]
    assert missing([{**THREAD, field: value}, THREAD]) == [name]


def test_what_systemd_gave_it_by_the_inheritable_set_is_no_more_than_it_has() -> None:
    assert missing([{**THREAD, "CapInh": KEPT}] * 2) == []
    for more in (f"{1 << 21 | 1 << 1 | 1 << 12:016x}", f"{1 << 12:016x}"):
        assert missing([{**THREAD, "CapInh": more}] * 2) == ["capabilities, inheritable"]


def test_a_broker_that_can_dump_its_memory_is_told_of() -> None:
    assert missing([THREAD], word=wire.Running(landlock.KNOWN, dumpable=True)) == ["dumpable"]
    assert missing([THREAD], limits=LIMITS.replace("0  ", "unl")) == ["limit of core files"]


def test_landlock_is_promised_as_far_as_the_kernel_has_it() -> None:
    assert missing([THREAD], word=wire.Running(0, False), kernel=0) == []
    assert missing([THREAD], word=wire.Running(3, False), kernel=3) == []
    assert missing([THREAD], word=wire.Running(0, False), kernel=3) == ["Landlock"]
    assert missing([THREAD], word=wire.Running(3, False), kernel=7) == ["Landlock"]


def test_people_see_what_is_missing_and_programs_that_something_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = confinement.judge([{**THREAD, "Seccomp": "0"}], LIMITS, GOOD, 7)
    confinement.show(42, facts)
    shown = capsys.readouterr().out
    assert "process 42" in shown
    assert [line.split()[0] for line in shown.splitlines() if "MISSING" in line] == ["seccomp"]
    confinement.show_json(42, facts)
    told = json.loads(capsys.readouterr().out)
    assert (told["pid"], told["kept"]) == (42, False)
    assert [row["name"] for row in told["facts"] if not row["kept"]] == ["seccomp"]
