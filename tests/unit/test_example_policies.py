"""The policies that the package brings as examples are good, and no rule of them hides another."""

from __future__ import annotations

from unittest import mock

import pytest

from support.processes import ROOT
from ttybrokerd.prepare.encode import Origin, encode
from ttybrokerd.prepare.hidden import hidden
from ttybrokerd.prepare.policy import Text, parse
from ttybrokerd.root.plan import Plan

NUMBERS = {
    name: 2000 + at
    for at, name in enumerate(
        ("root", "alice", "ci", "adm", "dialout", "students", "lab", "labadmins", "firmware")
    )
}
ACCOUNTS = mock.Mock(
    user_id=NUMBERS.get, group_id=NUMBERS.get, members=mock.Mock(return_value=frozenset())
)


@pytest.mark.parametrize("name", ["policy.example.toml", "examples/lab.toml"])
def test_an_example_is_good_and_has_no_rule_in_vain(name: str) -> None:
    text = (ROOT / "packaging" / name).read_bytes()
    policy = parse([Text(name, text)], ACCOUNTS)
    assert len(policy.aliases) >= 2 and hidden(policy) == []


def test_the_lab_gives_students_one_board_and_its_members_who_are_no_students_the_others() -> None:
    text = (ROOT / "packaging/examples/lab.toml").read_bytes()
    origin = Origin(False, 0.0, "", "lab.toml", "", {})
    plan = Plan(encode(origin, 0, b"", parse([Text("lab.toml", text)], ACCOUNTS)))
    ports = ("board1", "board2", "board3", "course", "ttyS0", "ttyS1", "ttyUSB7", "ttyACM0")

    def gets(*groups: str) -> list[str]:
        gids = frozenset(NUMBERS[name] for name in groups)
        return [port for port in ports if plan.decide(1000, gids, port).allowed]

    assert gets("students") == ["course"]
    assert gets("lab") == ["board1", "board3", "course", "ttyS1"]
    assert gets("lab", "students") == ["board1", "course", "ttyS1"]
    assert gets("firmware") == ["board2"]
    assert gets("labadmins") == ["ttyUSB7", "ttyACM0"]
    assert gets("dialout") == []
