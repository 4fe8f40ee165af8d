"""A real logind says who sits at the machine: `%active`, and `while = "active"`."""

from __future__ import annotations

import os
import time

import pytest

from seat import activate, lock, login
from service import ALICE, BOB, Service, until
from support.children import Chat
from ttybroker import NotPermitted, open_fd

pytestmark = pytest.mark.systemd

PORT = "ttyS2"
RULES = f"""\
[[rule]]
port = "{PORT}"
allow = ["%active"]
while = "active"

[[rule]]
port = "{PORT}"
deny = ["bob", "alice"]
"""
LIMIT = 1.0  # seconds from the switch until the port is free


def refused(broker: Service, uid: int) -> bool:
    """Return whether the policy denies this user the port."""

    def ask(chat: Chat) -> None:
        try:
            os.close(open_fd(PORT))
        except NotPermitted:
            chat.say("refused")
        else:
            chat.say("granted")

    return broker.child(uid, ask).hear() == "refused"


def test_the_port_goes_with_the_seat(broker: Service) -> None:
    broker.policy(RULES)
    assert refused(broker, BOB) and refused(broker, ALICE)
    with login(BOB, 2) as bobs:
        with login(ALICE, 3) as alices:
            activate(bobs)
            until("the broker to know", lambda: not refused(broker, BOB), LIMIT, broker.log)
            assert refused(broker, ALICE)
            broker.holder(BOB, PORT)
            start = time.monotonic()
            activate(alices)
            until("the end of the lease", lambda: not broker.held(), LIMIT, broker.log)
            assert time.monotonic() - start < LIMIT + 1  # activate() takes a part of it
            until("the broker to know", lambda: not refused(broker, ALICE), LIMIT, broker.log)
            assert refused(broker, BOB)
            broker.holder(ALICE, PORT)
            lock(alices)
            assert broker.held()
            assert refused(broker, BOB)  # who asks later hears later: the lock changed nothing
            assert broker.held()
        until("the end of the lease at logout", lambda: not broker.held(), LIMIT, broker.log)
    assert refused(broker, BOB) and refused(broker, ALICE)
