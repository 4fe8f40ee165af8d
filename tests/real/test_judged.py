"""The policy decides when a port is granted, and not when it was asked for."""

from __future__ import annotations

import os
import time

import pytest

from support.children import Chat, as_user
from support.regroup import AT_ONCE, GAMES, waits_in_games
from support.rig import Rig
from support.users import ALICE, BOB
from support.waiting import TIMEOUT
from ttybroker import NotPermitted, client, open_fd

pytestmark = pytest.mark.root


def until_waiting(rig: Rig, number: int, name: str = "ttyS0") -> None:
    """Come back when so many requests wait for the port."""
    end = time.monotonic() + TIMEOUT
    with client.connect(str(rig.socket)) as connection:
        while time.monotonic() < end:
            if any(p.name == name and p.waiting == number for p in connection.ports()):
                return
    raise AssertionError(f"{number} requests should wait for {name}")


def ask_and_be_refused(rig: Rig, name: str = "ttyS0") -> str:
    with pytest.raises(NotPermitted) as caught:
        open_fd(name, broker=str(rig.socket), wait=60)
    return str(caught.value)


def test_a_reload_refuses_what_waits_and_is_not_allowed_any_more(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}, {BOB}]")
    daemon = rig.daemon()
    bob = rig.holder(BOB)
    alice = rig.child(ALICE, lambda _: ask_and_be_refused(rig))
    until_waiting(rig, 1)
    rig.write_policy(rig.policy.read_text().replace(f"{ALICE}, ", ""))
    rig.reload(daemon)
    with client.connect(str(rig.socket)) as connection:
        assert connection.ports()[0].waiting == 0, "who may not have the port still waits for it"
    assert "not permitted" in str(alice.result())
    bob.say()
    bob.result()
    daemon.record("release", port="ttyS0", uid=BOB)
    daemon.settled()


def test_a_lease_whose_rule_is_gone_is_listed_and_can_be_taken_back(rig: Rig) -> None:
    """By its holder, and by who may take any port back; nobody else hears of it."""
    rig.port("ttyS0")
    pty = rig.port("gps")
    daemon = rig.daemon()
    alice = rig.holder(ALICE, "gps")
    rig.rules.pop()
    rig.write_policy()
    rig.reload(daemon)

    def rows() -> list[tuple[str, str, str, int | None]]:
        with client.connect(str(rig.socket)) as connection:
            return [(port.name, port.device, port.state, port.holder and port.holder.uid)
                    for port in connection.ports() if port.name != "ttyS0"]  # fmt: skip

    def revoke() -> None:
        with client.connect(str(rig.socket)) as connection:
            connection.revoke("gps")

    assert rows() == as_user(ALICE, (), rows) == [("gps", pty.path, "busy", ALICE)]
    assert as_user(BOB, (), rows) == []
    with pytest.raises(NotPermitted):
        as_user(BOB, (), revoke)
    as_user(ALICE, (), revoke)
    daemon.record("release", port="gps", uid=ALICE, reason="revoked")
    alice.say()
    alice.result()
    assert rows() == []


def test_a_lease_whose_link_is_gone_has_one_row_in_the_list(rig: Rig) -> None:
    pty, link = rig.port("elsewhere"), rig.base / "gps"
    rig.rules[:] = [f'[[rule]]\nport = "gps"\ndevice = "{link}"\nclass = "pty"\nallow = ["*"]\n']
    link.symlink_to(pty.path)
    rig.daemon()
    alice = rig.holder(ALICE, "gps")
    link.unlink()
    with client.connect(str(rig.socket)) as connection:
        assert [port.name for port in connection.ports()] == ["gps"]
    alice.say()
    alice.result()


def test_the_limits_of_the_new_rule_hold_for_what_waited(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["*"]')
    daemon = rig.daemon()
    bob = rig.holder(BOB)
    alice = rig.holder(ALICE, wait=60)
    until_waiting(rig, 1)
    rig.write_policy(rig.policy.read_text() + "max_lease = 0.2\n")
    rig.reload(daemon)
    bob.say()
    bob.result()
    alice.hear()
    daemon.record("release", port="ttyS0", uid=ALICE, reason="time limit")
    alice.say()
    alice.result()


@pytest.mark.parametrize("first", [True, False])
def test_a_device_denied_under_one_of_its_names_is_denied_under_all(rig: Rig, first: bool) -> None:
    pty = rig.port("ttyS0", 'allow = ["*"]')
    deny = f'[[rule]]\nport = "modem"\ndevice = "{pty.path}"\nclass = "pty"\ndeny = [{ALICE}]\n'
    rig.rules.insert(0 if first else 1, deny)
    rig.daemon()
    told = as_user(ALICE, (), lambda: ask_and_be_refused(rig))
    assert "modem (line" in str(told)
    with client.connect(str(rig.socket)) as connection:
        verdict = connection.check("ttyS0", uid=ALICE)
        assert (verdict.allowed, verdict.known) == (False, True)
        assert verdict.rule.startswith("modem (line") and verdict.message in str(told)
        assert connection.check("ttyS0", uid=BOB).allowed
    as_user(BOB, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))


def test_a_long_connection_is_judged_by_the_groups_of_now(rig: Rig) -> None:
    rig.port("ttyS0", 'allow = ["@games"]')
    rig.daemon(hook=AT_ONCE)

    def take_twice(_: Chat) -> str:
        with client.connect(str(rig.socket)) as connection:
            os.close(connection.open("ttyS0"))
            os.setgroups([])
            with pytest.raises(NotPermitted) as caught:
                connection.open("ttyS0", wait=60)
            return str(caught.value)

    assert "not permitted" in rig.child(0, take_twice, groups=[GAMES]).result()


def test_a_request_that_waits_is_judged_by_the_groups_of_the_grant(rig: Rig) -> None:
    rig.port("ttyS0", f'allow = ["@games", {BOB}]')
    rig.daemon(hook=AT_ONCE)
    bob = rig.holder(BOB)

    waits = waits_in_games(rig, "ttyS0")
    until_waiting(rig, 1)
    waits.say()
    waits.hear()
    bob.say()
    bob.result()
    assert "not permitted" in waits.result()
