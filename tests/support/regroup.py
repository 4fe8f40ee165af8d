"""A request that waits while its process leaves the group through which it may have the port."""

from __future__ import annotations

import grp
import os

import pytest

from support.children import Chat, Child
from support.rig import Rig
from ttybroker import NotPermitted, client

GAMES = grp.getgrnam("games").gr_gid  # the group
AT_ONCE = "from ttybrokerd.root import connection; connection.GROUPS_LAST = 0"  # a daemon's hook


def waits_in_games(rig: Rig, name: str) -> Child:
    """Start a child in GAMES that waits for the port.

    At a word it leaves the group and says so. Its result is the refusal that it then gets.
    """

    def wait(chat: Chat) -> str:
        with client.connect(str(rig.socket)) as connection:
            connection.ask_open(name, wait=60)
            chat.hear()
            os.setgroups([])
            chat.say()
            with pytest.raises(NotPermitted) as caught:
                connection.take_descriptor()
            return str(caught.value)

    return rig.child(0, wait, groups=[GAMES])
