"""The policies that the package brings as examples are good, and no rule of them hides another."""

from __future__ import annotations

from unittest import mock

import pytest

from support.processes import ROOT
from ttybrokerd.prepare.hidden import hidden
from ttybrokerd.prepare.policy import Text, parse

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
