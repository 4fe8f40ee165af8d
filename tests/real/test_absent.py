"""A wait for a port that is not there is granted when it comes."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.children import Chat
from support.processes import watches
from support.ptys import Pty
from support.regroup import AT_ONCE, waits_in_games
from support.rig import Rig
from support.users import ALICE, BOB
from support.waiting import TIMEOUT
from ttybroker import NoSuchPort, NotPermitted, WaitTimeout, open_fd

pytestmark = pytest.mark.root


class Late:
    """A port whose name is a link that is not there yet, in a directory that is not either."""

    def __init__(self, rig: Rig, who: str = 'allow = ["*"]') -> None:
        self.pty = rig.port("elsewhere")
        self.link = rig.base / "by-id" / "late"
        rig.rules.append(f'[[rule]]\nport = "late"\ndevice = "{self.link}"\nclass = "pty"\n{who}\n')

    def come(self) -> float:
        """The name comes, as udev makes one."""
        self.link.parent.mkdir(mode=0o755)
        Path(f"{self.link}.new").symlink_to(self.pty.path)
        os.rename(f"{self.link}.new", self.link)
        return time.monotonic()


@pytest.fixture
def make_late(rig: Rig) -> Iterator[Callable[..., Late]]:
    """What makes such a port; nothing of it is left."""
    yield lambda *who: Late(rig, *who)
    shutil.rmtree(rig.base / "by-id", ignore_errors=True)


def until_watched(pid: int, before: int) -> None:
    """Come back when the daemon listens for names."""
    end = time.monotonic() + TIMEOUT
    while watches(pid) <= before:
        assert time.monotonic() < end, "nobody listens"
        time.sleep(0.01)


@pytest.mark.alone
def test_it_is_granted_when_it_comes(rig: Rig, make_late: Callable[..., Late]) -> None:
    late = make_late()
    daemon = rig.daemon()
    before = watches(daemon.pid)

    def wait(chat: Chat) -> None:
        os.close(open_fd("late", broker=str(rig.socket), wait=60))
        chat.say(time.monotonic())

    waiting = rig.child(ALICE, wait)
    until_watched(daemon.pid, before)
    came = late.come()
    assert waiting.hear() - came < 0.2
    waiting.result()
    daemon.record("release", port="late", uid=ALICE)
    daemon.settled()
    assert watches(daemon.pid) == before


def test_without_a_wait_or_a_rule_it_is_refused_at_once(
    rig: Rig, make_late: Callable[..., Late]
) -> None:
    make_late(f"allow = [{ALICE}]")
    rig.daemon()

    def refused(wait: float | None) -> str:
        with pytest.raises((NoSuchPort, NotPermitted)) as caught:
            open_fd("late", broker=str(rig.socket), wait=wait)
        return type(caught.value).__name__

    assert rig.child(ALICE, lambda _: refused(None)).result() == "NoSuchPort"
    assert rig.child(BOB, lambda _: refused(60)).result() == "NotPermitted"


def test_the_end_of_the_wait_says_that_it_was_absent(
    rig: Rig, make_late: Callable[..., Late]
) -> None:
    make_late()
    rig.daemon()
    with pytest.raises(WaitTimeout) as caught:
        open_fd("late", broker=str(rig.socket), wait=0.2)
    assert caught.value.errno == errno.ETIMEDOUT and caught.value.holder is None
    assert str(caught.value) == "late: timed out: absent; is it plugged in?"


def test_a_reload_refuses_who_waits_for_it_and_may_not_any_more(
    rig: Rig, make_late: Callable[..., Late]
) -> None:
    late = make_late(f"allow = [{ALICE}, {BOB}]")
    daemon = rig.daemon()
    before = watches(daemon.pid)

    def wait(_: Chat) -> str:
        with pytest.raises(NotPermitted) as caught:
            open_fd("late", broker=str(rig.socket), wait=60)
        return str(caught.value)

    waiting = rig.child(ALICE, wait)
    until_watched(daemon.pid, before)
    rig.write_policy(rig.policy.read_text().replace(f"{ALICE}, ", ""))
    rig.reload(daemon)
    assert "not permitted" in str(waiting.result())
    late.come()


@pytest.mark.alone
def test_who_waited_for_one_that_was_unplugged_waits_on(
    rig: Rig, make_late: Callable[..., Late]
) -> None:
    late = make_late()
    late.come()
    daemon = rig.daemon()
    holder = rig.holder(BOB, "late")
    waiting = rig.holder(ALICE, "late", wait=60.0)
    before = watches(daemon.pid)
    late.link.unlink()
    late.pty.close()  # the holder's lease is over, and its name leads nowhere
    until_watched(daemon.pid, before - 1)
    late.pty = Pty()
    late.link.symlink_to(late.pty.path)
    waiting.hear()
    for child in (waiting, holder):
        child.say()
        child.result()
    daemon.settled()
    late.pty.close()


def test_who_waits_for_it_is_judged_by_the_groups_of_the_moment(
    rig: Rig, make_late: Callable[..., Late]
) -> None:
    late = make_late('allow = ["@games"]')
    daemon = rig.daemon(hook=AT_ONCE)
    before = watches(daemon.pid)

    waiting = waits_in_games(rig, "late")
    until_watched(daemon.pid, before)
    waiting.say()
    waiting.hear()
    late.come()
    assert "not permitted" in waiting.result()
