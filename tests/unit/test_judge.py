"""What the policy says of a device that has several names."""

from __future__ import annotations

from unittest import mock

import pytest

from ttybrokerd.root.device import Target
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.refusal import Refusal
from unit.helpers import plan_of

ALICE, BOB = 1000, 1001


def denied(policy: str, uid: int, name: str, alias: str | None, path: str, kernels: str) -> str:
    """Why the user may not have the device at `path` under this name, "" if he may."""
    devices = mock.Mock(path=lambda name, alias: alias or f"/dev/{name}", number=lambda path: None)
    judge = Judge(plan_of(policy), devices)
    target = Target(name, path, False, False, alias)
    try:
        judge.of(Identity(uid, uid, frozenset(), 1)).check_device(target, kernels, "")
    except Refusal as refusal:
        return str(refusal.rule)
    return ""


ALIAS = '[[rule]]\nport = "{}"\ndevice = "{}"\nallow = ["*"]\n'
GLOB = f'[[rule]]\nport = "ttyS*"\ndeny = [{BOB}]\n'


@pytest.mark.parametrize(
    ("alias", "device", "kernels", "rule"),
    [
        ("gps", "/dev/ttyS5", "ttyS5", "ttyS* (line 1)"),
        # an alias with a kernel's name hides the globs from that name, and not from the device
        ("ttyS0", "/dev/ttyS0", "ttyS0", "ttyS* (line 1)"),
        ("ttyS0", "/dev/ttyS5", "ttyS5", "ttyS* (line 1)"),
        ("ttyS0", "/dev/ttyUSB0", "ttyUSB0", ""),
    ],
)
def test_a_glob_that_denies_the_kernels_name_denies_every_alias(
    alias: str, device: str, kernels: str, rule: str
) -> None:
    policy = GLOB + ALIAS.format(alias, device)
    assert denied(policy, BOB, alias, device, device, kernels) == rule
    assert denied(policy, ALICE, alias, device, device, kernels) == ""


def test_rules_about_an_alias_with_a_kernels_name_are_not_about_that_kernels_device() -> None:
    other = '[[rule]]\nport = "ttyS0"\ndevice = "/dev/ttyS5"\ndeny = ["*"]\n'
    policy = other + ALIAS.format("gps", "/dev/ttyS0")
    assert denied(policy, BOB, "gps", "/dev/ttyS0", "/dev/ttyS0", "ttyS0") == ""
    assert denied(policy, BOB, "gps", "/dev/ttyS5", "/dev/ttyS5", "ttyS5") == "ttyS0 (line 1)"
