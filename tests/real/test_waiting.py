"""A wait shows in one line who has the port, and follows what changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import serial

import ttybroker
from real.test_absent import until_watched
from support.children import Chat, Child, Orphan
from support.command import command
from support.daemon import Daemon
from support.processes import watches
from support.rig import Rig
from support.screen import Screen
from support.users import ALICE, BOB
from ttybroker import client, wire

pytestmark = pytest.mark.root

DEAF = "from ttybrokerd.root import progress; progress.Progress.tick = lambda self: None"
PROGRAM = ("sh", "-c", ": <> /dev/board; echo had it; read line", "/dev/board")
COMMANDS = pytest.mark.parametrize(
    "words",
    [
        ("term", "board"),
        ("run", "board", "--", *PROGRAM),
        ("run", "--via", "pty", "board", "--", *PROGRAM),
        ("run", "--stdio", "board", "--", "sh", "-c", "echo had it >&2; read line"),
    ],
    ids=["term", "run", "run by pty", "run at the start"],
)


@pytest.fixture
def daemon(rig: Rig) -> Daemon:
    rig.port("board")
    return rig.daemon()


@contextmanager
def waits(rig: Rig, words: tuple[str, ...], *options: str) -> Iterator[Screen]:
    """A terminal in which the command waits for the port; its supervisor has ended then, too."""
    command, *rest = words
    with Screen(rig, *(options or ("--wait", "500")), *rest, command=command) as screen:
        yield screen
    reap(rig)


def reap(rig: Rig) -> None:
    for pid in rig.orphans():
        Orphan(pid).wait()


def in_the_queue(rig: Rig, uid: int, number: int) -> Child:
    """A child that waits for the port, `number` of those who do."""
    child = rig.holder(uid, "board", wait=60.0)
    with client.connect(str(rig.socket)) as connection:
        for ports in connection.watch():
            if ports[0].waiting == number:
                return child
    raise AssertionError("it has ended")


def then(screen: Screen, *texts: str) -> None:
    """Until it shows these, one after the other."""
    for text in texts:
        screen.shows(text.encode())
        screen.seen = screen.seen.partition(text.encode())[2]


def has_it(screen: Screen, words: tuple[str, ...]) -> None:
    """Until the command has the port, when nothing is left of the line."""
    then(screen, "\r\x1b[K", "Quit: Ctrl+]" if words[0] == "term" else "had it")
    assert b" left" not in screen.seen


def follows(rig: Rig, words: tuple[str, ...], ahead: str, *later: str) -> None:
    """The line names two holders, one after the other. `ahead` is in front of the first, and
    `later` is shown while that one has the port."""
    first = rig.holder(ALICE, "board")
    second = in_the_queue(rig, BOB, 1)
    with waits(rig, words) as screen:
        then(screen, f"{ahead}uid {ALICE} has it with ", f"(pid {first.pid}) since ", *later)
        first.say()
        second.hear()
        then(screen, f" s left: uid {BOB} has it with ", f"(pid {second.pid}) since ")
        second.say()
        has_it(screen, words)
    for child in (first, second):
        child.result()


@COMMANDS
def test_the_line_follows_the_holder_and_the_place_in_the_queue(
    rig: Rig, daemon: Daemon, words: tuple[str, ...]
) -> None:
    begin = "\r\x1b[Kttybroker: board: waiting, 499 s left, 1 in front: "
    follows(rig, words, begin, " 498 s left, 1 in front: ")


@COMMANDS
def test_the_line_says_that_the_port_is_absent(rig: Rig, words: tuple[str, ...]) -> None:
    pty, link = rig.port("elsewhere"), rig.base / "board"
    rig.rules.append(f'[[rule]]\nport = "board"\ndevice = "{link}"\nclass = "pty"\nallow = ["*"]\n')
    rig.daemon()
    with waits(rig, words) as screen:
        then(screen, " s left: for it to be plugged in")
        link.symlink_to(pty.path)
        has_it(screen, words)
    link.unlink()


@COMMANDS
def test_a_daemon_that_does_not_tell_is_asked_for_the_holder(
    rig: Rig, words: tuple[str, ...]
) -> None:
    rig.port("board")
    rig.daemon(hook=DEAF)
    follows(rig, words, " s left: ")


@COMMANDS
@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "no terminal"])
def test_it_is_silent_where_that_is_asked_for_and_one_line_where_nothing_can_be_drawn(
    rig: Rig, daemon: Daemon, words: tuple[str, ...], quiet: bool
) -> None:
    holder = rig.holder(ALICE, "board")
    verb, *rest = words
    if quiet:
        with waits(rig, words, "--wait", "1.5", "-q") as screen:
            screen.ends()
            told = screen.seen.replace(b"\r", b"")
    else:
        told = command(rig, verb, "--wait", "1.5", *rest).stderr.encode()
        reap(rig)
    ours = [line for line in told.splitlines() if line.startswith(b"ttybroker: ")]
    assert ours.pop().startswith(b"ttybroker: board: timed out: ")
    assert b"\x1b" not in told
    if quiet:
        assert not ours
    else:
        assert len(ours) == 1 and ours[0].startswith(b"ttybroker: board: waiting, ")
        assert b" s left: uid " in ours[0] and b" has it with " in ours[0]
    holder.say()
    holder.result()


class Told:
    """A request that waits, and what it is told: here until the port is."""

    def __init__(self, rig: Rig, flags: int = 0) -> None:
        self._news: list[wire.Waiting] = []
        self.connection = client.connect(str(rig.socket))
        self.connection.ask_open("board", wait=50, flags=flags, tell=self._news.append)

    def next(self) -> wire.Waiting:
        assert self.connection.take_answer() is None
        return self._news.pop()

    def until(self, pid: int) -> wire.Waiting:
        """The next that names this process as one that has the port already."""
        while (news := self.next()).holder is None or (
            news.holder.pid,
            bool(news.holder.since),
        ) != (
            pid,
            True,
        ):
            pass
        return news

    def end(self) -> None:
        """Take the port, and give it back."""
        os.close(self.connection.take_descriptor())
        self.connection.close()


def test_each_holder_and_place_is_told(rig: Rig, daemon: Daemon) -> None:
    first = rig.holder(ALICE, "board")
    second = in_the_queue(rig, BOB, 1)
    told = Told(rig)
    news = told.next()
    assert (news.reason, news.place, news.message) == (wire.BUSY, 1, "board: busy")
    assert news.holder is not None and (news.holder.pid, news.holder.uid) == (first.pid, ALICE)
    assert 49_000 < news.left <= 50_000
    first.say()
    second.hear()
    news = told.until(second.pid)
    assert (news.reason, news.place) == (wire.BUSY, 0)
    second.say()
    told.end()
    for child in (first, second):
        child.result()


def test_each_step_of_a_hand_over_is_told(rig: Rig, daemon: Daemon) -> None:
    with client.connect(str(rig.socket)) as lender:
        descriptor = lender.open("board", flags=wire.YIELD_ALL)
        borrower = rig.holder(BOB, "board", wait=50.0)
        assert isinstance(lender.news(), wire.Lent)
        told = Told(rig, wire.KEEP)
        news = told.next()
        assert (news.reason, news.place) == (wire.ASKED, 2)  # who asked, and the claim
        assert news.holder is not None and news.holder.pid == os.getpid()
        os.close(descriptor)
        borrower.hear()
        news = told.until(borrower.pid)
        assert (news.reason, news.place) == (wire.LENT_OUT, 1)
    borrower.say()
    borrower.result()
    told.end()


def test_who_does_not_ask_for_it_is_told_nothing(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE, "board")
    with client.connect(str(rig.socket)) as connection:
        connection.ask_open("board", wait=50)
        told = Told(rig)
        told.next()
        holder.say()
        descriptor = connection.take_answer()  # the first that comes
        assert descriptor is not None
        os.close(descriptor)
    told.end()
    holder.result()


def test_who_waits_and_does_not_read_has_the_port_all_the_same(rig: Rig, daemon: Daemon) -> None:
    """It misses some, and nobody else waits for it."""
    holder = rig.holder(ALICE, "board")
    told = Told(rig)
    for _ in range(3):
        in_the_queue(rig, BOB, 2).kill()
    holder.say()
    told.end()
    holder.result()


def test_broker_urls_wait_for_an_absent_port(rig: Rig) -> None:
    pty, link = rig.port("elsewhere"), rig.base / "board"
    rig.rules.append(f'[[rule]]\nport = "board"\ndevice = "{link}"\nclass = "pty"\nallow = ["*"]\n')
    daemon = rig.daemon()
    url = f"broker://board?broker={rig.socket}&wait="
    before = watches(daemon.pid)

    def opens(chat: Chat) -> None:
        with serial.serial_for_url(f"{url}50") as port:
            chat.say(port.read(1))

    child = rig.child(ALICE, opens)
    until_watched(daemon.pid, before)
    with pytest.raises(ttybroker.WaitTimeout, match="timed out: absent"):
        serial.serial_for_url(f"{url}0.2")
    link.symlink_to(pty.path)
    daemon.record("grant", port="board", uid=ALICE)
    pty.write(b"x")
    assert child.hear() == b"x"
    child.result()
    link.unlink()
