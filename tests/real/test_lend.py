"""A session that yields lends its port, and has it again."""

from __future__ import annotations

import errno
import os
import select
import signal
import termios
import time
import tty
from collections.abc import Iterator

import pytest

from support.children import Chat, Child, Orphan, as_user
from support.daemon import Daemon
from support.rig import Rig
from support.screen import Screen
from support.systemd import Systemd, manager
from support.users import ALICE, BOB
from support.waiting import TIMEOUT
from ttybroker import BrokerError, PortBusy, client, open_tty, wire

pytestmark = pytest.mark.root

AT_ONCE = 0.05  # seconds until the asker has the port, where the session lets go at once
AFTER_GRACE = 1.5  # where it does not: 1.2, and some for what else the machine does


class Yielder:
    """In a child: a session that yields, and tells the test what the broker says to it. It does
    the words that it hears, which are the names of its methods."""

    def __init__(self, rig: Rig, chat: Chat, flags: int, at_once: bool) -> None:
        self.path, self.chat, self.flags, self.at_once = str(rig.socket), chat, flags, at_once
        self.connection = client.connect(self.path)
        self.fd = self.connection.open("ttyS0", flags=flags)
        self.session = self.connection.session
        tty.setraw(self.fd)
        attributes = termios.tcgetattr(self.fd)
        attributes[4] = attributes[5] = termios.B57600
        termios.tcsetattr(self.fd, termios.TCSANOW, attributes)

    def serve(self) -> None:
        self.chat.say("has it")
        while True:
            poll = select.poll()
            poll.register(self.chat.sock, select.POLLIN)
            if self.connection.fileno() >= 0:
                poll.register(self.connection.fileno(), select.POLLIN)
            if (self.chat.sock.fileno(), select.POLLIN) in poll.poll():
                word = self.chat.hear()
                if word == "end":
                    return
                self.chat.say(getattr(self, word)())
            else:
                self.news()

    def news(self) -> None:
        try:
            news = self.connection.news()
        except BrokerError as error:
            self.connection.close()
            self.chat.say(("refused", error.errno))
            return
        if isinstance(news, wire.Lent):
            if self.at_once:
                os.close(self.fd)
            assert news.holder is not None
            self.chat.say(("lent", news.holder.uid))
        elif news is not None:
            self.fd = news
            self.chat.say(("back", speed(self.fd)))

    def close(self) -> None:
        self.connection.close()

    def close_port(self) -> None:
        os.close(self.fd)

    def reads(self) -> bytes:
        os.set_blocking(self.fd, True)
        return os.read(self.fd, 64)

    def ask(self) -> str:
        """On the same connection."""
        self.connection.ask_open("ttyS0", flags=self.flags)
        return "asked"

    def again(self) -> str:
        """As a client does when the daemon was started again."""
        self.connection.close()
        self.connection = client.connect(self.path)
        self.connection.ask_open("ttyS0", flags=self.flags, session=self.session)
        return "asked"


def speed(descriptor: int) -> int:
    """Of a port; 0 if it is hung up."""
    try:
        return int(termios.tcgetattr(descriptor)[5])
    except termios.error:
        return 0


def yielder(rig: Rig, uid: int = ALICE, flags: int = wire.YIELD_USER, slow: bool = False) -> Child:
    """A child that yields, and has the port at 57600. slow: it does not let go when asked."""
    child = rig.child(uid, lambda chat: Yielder(rig, chat, flags, not slow).serve())
    assert child.hear() == "has it"
    return child


def done(child: Child, word: str) -> object:
    child.say(word)
    return child.hear()


def flash(rig: Rig, uid: int = ALICE, wait: float | None = None, flags: int = 0) -> float:
    """Have the port a moment, as a user's other program; return how long it took to get it."""

    def body() -> float:
        before = time.monotonic()
        with client.connect(str(rig.socket)) as connection:
            descriptor = connection.open("ttyS0", wait=wait, flags=flags)
        took = time.monotonic() - before
        assert termios.tcgetattr(descriptor)[5] != termios.B57600  # not what the monitor set
        os.close(descriptor)
        return took

    return as_user(uid, (), body)


def row(rig: Rig) -> wire.PortInfo:
    with client.connect(str(rig.socket)) as connection:
        return connection.ports(("ttyS0",))[0]


def pid(shown: wire.PortInfo) -> int | None:
    return None if shown.holder is None else shown.holder.pid


def holder_pid(rig: Rig) -> int | None:
    return pid(row(rig))


@pytest.fixture
def one_port(rig: Rig) -> Daemon:
    """A daemon with the port ttyS0."""
    rig.port("ttyS0")
    return rig.daemon()


@pytest.mark.alone
def test_a_session_that_yields_lends_its_port_and_has_it_again_with_its_settings(
    rig: Rig, one_port: Daemon
) -> None:
    monitor = yielder(rig)
    took = []
    for _ in range(20):
        took.append(flash(rig))
        assert monitor.hear() == ("lent", ALICE)
        assert monitor.hear() == ("back", termios.B57600)
    assert sorted(took)[10] < AT_ONCE  # most of them: others load this machine, too
    assert max(took) < AFTER_GRACE / 2
    assert holder_pid(rig) == monitor.pid
    one_port.record("lend", port="ttyS0", uid=ALICE, pid=monitor.pid)
    monitor.say("end")
    one_port.settled()


def test_the_list_says_to_whom_it_goes_back(rig: Rig, one_port: Daemon) -> None:
    monitor = yielder(rig)
    flasher = rig.holder(ALICE)
    assert monitor.hear() == ("lent", ALICE)
    shown = row(rig)
    assert shown.holder is not None and shown.holder.pid == flasher.pid
    assert shown.lent is not None and shown.lent.pid == monitor.pid
    assert shown.waiting == 0
    flasher.say()
    assert monitor.hear()[0] == "back"
    assert row(rig).lent is None
    monitor.say("end")


def test_a_session_that_does_not_let_go_is_hung_up_and_has_the_port_again(
    rig: Rig, one_port: Daemon
) -> None:
    monitor = yielder(rig, slow=True)
    took = flash(rig)
    assert 0.9 < took < AFTER_GRACE
    assert monitor.hear() == ("lent", ALICE)
    assert monitor.hear() == ("back", termios.B57600)
    one_port.record("release", port="ttyS0", reason="lent", pid=monitor.pid)
    monitor.say("end")


def test_a_suspended_session_is_hung_up_and_has_the_port_when_it_goes_on(
    rig: Rig, one_port: Daemon
) -> None:
    monitor = yielder(rig)
    monitor.kill(signal.SIGSTOP)
    for _ in range(2):
        assert flash(rig) < AFTER_GRACE
        while holder_pid(rig) != monitor.pid:
            time.sleep(0.01)
    monitor.kill(signal.SIGCONT)
    heard = [monitor.hear() for _ in range(4)]
    assert heard == [("lent", ALICE), ("back", 0), ("lent", ALICE), ("back", termios.B57600)]
    monitor.say("end")


def test_a_session_that_does_not_let_go_eight_times_in_a_row_has_no_claim_any_more(
    rig: Rig,
) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    rig.daemon(*rig.arguments, hook="from ttybrokerd.root import table; table.GRACE = 0.01")
    monitor = yielder(rig, slow=True)
    for number in range(8):
        while number and holder_pid(rig) != monitor.pid:
            time.sleep(0.01)
        flash(rig, wait=10)
    heard = [monitor.hear() for _ in range(16)]
    assert heard[-1] == ("refused", errno.EDQUOT)
    assert [word for word, _ in heard[:-1]] == ["lent", "back"] * 7 + ["lent"]
    assert row(rig).holder is None
    monitor.say("end")


def test_a_session_that_dies_takes_its_claim_along(rig: Rig, one_port: Daemon) -> None:
    monitor = yielder(rig)
    flasher = rig.holder(ALICE)
    assert monitor.hear() == ("lent", ALICE)
    monitor.kill()
    assert row(rig).lent is None
    flasher.say()
    one_port.record("release", port="ttyS0", pid=flasher.pid)
    one_port.settled()


def test_a_session_that_closes_its_connection_is_hung_up_and_has_no_claim(
    rig: Rig, one_port: Daemon
) -> None:
    monitor = yielder(rig)
    done(monitor, "close")
    assert flash(rig) < AFTER_GRACE
    assert row(rig).holder is None
    assert done(monitor, "reads") == b""
    monitor.say("end")


# While this file is there the end of a lease is put off.
PUT_OFF = """
import os, time
from ttybrokerd.root import port
was = port.release
def release(*arguments):
    limit = time.monotonic() + 10
    while os.path.exists({!r}) and time.monotonic() < limit:
        time.sleep(0.01)
    return was(*arguments)
port.release = release
"""


@pytest.mark.parametrize("state", ["closing", "busy"])
def test_a_session_that_comes_back_after_it_was_hung_up_has_its_settings(
    rig: Rig, state: str
) -> None:
    """Its client went away while a copy of its descriptor lived: its lease is being ended when it
    is back, or the port is the asker's already."""
    rig.port("ttyS0")
    rig.write_policy()
    put_off = rig.base / "put-off"
    rig.daemon(*rig.arguments, hook=PUT_OFF.format(str(put_off)))
    if state == "closing":
        put_off.touch()
    monitor = yielder(rig)
    done(monitor, "close")
    flasher = rig.holder(ALICE, wait=TIMEOUT)
    while (shown := row(rig)).state != state or pid(shown) == monitor.pid:
        time.sleep(0.01)
    assert done(monitor, "again") == "asked"
    while (shown := row(rig)).lent is None:
        time.sleep(0.01)
    assert shown.state == state
    put_off.unlink(missing_ok=True)
    flasher.hear()
    flasher.say()
    assert monitor.hear() == ("back", termios.B57600)
    assert holder_pid(rig) == monitor.pid
    monitor.say("end")


def test_a_session_that_comes_back_while_its_lease_ends_and_leaves_again_is_over(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    put_off = rig.base / "put-off"
    rig.daemon(*rig.arguments, hook=PUT_OFF.format(str(put_off)))
    put_off.touch()
    monitor = yielder(rig)
    done(monitor, "close")
    flasher = rig.holder(ALICE, wait=TIMEOUT)
    while row(rig).state != "closing":
        time.sleep(0.01)
    assert done(monitor, "again") == "asked"
    while row(rig).lent is None:
        time.sleep(0.01)
    done(monitor, "close")
    while row(rig).lent is not None:
        time.sleep(0.01)
    put_off.unlink()
    flasher.hear()
    assert done(monitor, "again") == "asked"
    assert monitor.hear() == ("refused", errno.ESTALE)
    flasher.say()
    monitor.say("end")


@pytest.mark.parametrize(
    ("flags", "uid", "asks", "lends"),
    [
        (wire.YIELD_USER, ALICE, 0, True),
        (wire.YIELD_USER, BOB, 0, False),
        (wire.YIELD_ALL, BOB, 0, True),
        (wire.YIELD_ALL, ALICE, wire.KEEP, False),
    ],
)
def test_it_yields_to_whom_it_said(
    rig: Rig, one_port: Daemon, flags: int, uid: int, asks: int, lends: bool
) -> None:
    monitor = yielder(rig, flags=flags)
    if lends:
        flash(rig, uid, flags=asks)
        assert monitor.hear() == ("lent", uid)
    else:
        with pytest.raises(PortBusy):
            flash(rig, uid, flags=asks)
        assert holder_pid(rig) == monitor.pid
    monitor.say("end")


def test_whom_the_policy_does_not_admit_is_not_asked_for(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    rig.daemon()
    monitor = yielder(rig, flags=wire.YIELD_ALL)
    with pytest.raises(BrokerError) as caught:
        flash(rig, BOB)
    assert caught.value.errno == errno.EACCES
    assert holder_pid(rig) == monitor.pid
    monitor.say("end")


def test_a_second_flasher_comes_before_the_monitor(rig: Rig, one_port: Daemon) -> None:
    monitor = yielder(rig)
    first = rig.holder(ALICE)
    assert monitor.hear() == ("lent", ALICE)
    second = rig.holder(ALICE, wait=30)
    while not row(rig).waiting:
        time.sleep(0.01)
    first.say()
    second.hear()
    assert holder_pid(rig) == second.pid
    second.say()
    assert monitor.hear() == ("back", termios.B57600)
    monitor.say("end")


def test_a_revoke_ends_the_lease_and_the_claim(rig: Rig, one_port: Daemon) -> None:
    monitor = yielder(rig)
    flasher = rig.holder(ALICE)
    assert monitor.hear() == ("lent", ALICE)
    with client.connect(str(rig.socket)) as connection:
        assert connection.revoke("ttyS0") == 1
    assert monitor.hear() == ("refused", errno.ECANCELED)
    assert row(rig).holder is None
    flasher.kill()
    monitor.say("end")


def test_a_user_revokes_his_own_lease_and_not_anothers_claim(rig: Rig, one_port: Daemon) -> None:
    monitor = yielder(rig, flags=wire.YIELD_ALL)
    flasher = rig.holder(BOB)
    assert monitor.hear() == ("lent", BOB)
    as_user(BOB, (), lambda: client.connect(str(rig.socket)).revoke("ttyS0"))
    assert monitor.hear()[0] == "back"
    flasher.kill()
    monitor.say("end")


def test_a_claim_is_judged_by_the_policy_as_it_is(rig: Rig) -> None:
    rig.port("ttyS0")
    daemon = rig.daemon()
    monitor = yielder(rig, flags=wire.YIELD_ALL)
    flasher = rig.holder(BOB)
    assert monitor.hear() == ("lent", BOB)
    rig.rules.insert(0, f'[[rule]]\nport = "ttyS0"\ndeny = [{ALICE}]\n')
    rig.write_policy()
    rig.reload(daemon)
    assert monitor.hear() == ("refused", errno.EACCES)
    assert row(rig).lent is None
    flasher.say()
    monitor.say("end")


def test_the_time_limit_is_that_of_the_whole_chain(rig: Rig) -> None:
    rig.port("ttyS0", extra="max_lease = 2")
    daemon = rig.daemon()
    monitor = yielder(rig)
    began = time.monotonic()
    time.sleep(1)
    flash(rig)
    assert [monitor.hear()[0] for _ in range(2)] == ["lent", "back"]
    daemon.record("release", port="ttyS0", reason="time limit", pid=monitor.pid)
    assert 1.9 < time.monotonic() - began < 2.5
    monitor.say("end")


def test_a_session_that_closes_its_port_by_itself_can_ask_again(rig: Rig, one_port: Daemon) -> None:
    monitor = yielder(rig)
    done(monitor, "close_port")
    one_port.record("release", port="ttyS0", reason="closed", pid=monitor.pid)
    flash(rig)
    assert done(monitor, "ask") == "asked"
    assert monitor.hear()[0] == "back"
    flash(rig)
    assert [monitor.hear()[0] for _ in range(2)] == ["lent", "back"]
    monitor.say("end")


def test_a_session_that_comes_back_after_its_asker_has_left_keeps_the_port(
    rig: Rig, one_port: Daemon
) -> None:
    monitor = yielder(rig, slow=True)
    asker = rig.holder(ALICE, wait=30)
    assert monitor.hear() == ("lent", ALICE)
    asker.kill()
    while row(rig).waiting:
        time.sleep(0.01)
    assert done(monitor, "again") == "asked"
    assert monitor.hear() == ("back", termios.B57600)  # one more descriptor of the same lease
    flash(rig)
    assert [monitor.hear()[0] for _ in range(2)] == ["lent", "back"]
    assert one_port.process.poll() is None
    monitor.say("end")


def limited(rig: Rig, limit: str) -> None:
    """Start a daemon with the port ttyS0, a short grace, and this limit in its table."""
    rig.port("ttyS0")
    rig.write_policy()
    hook = f"from ttybrokerd.root import table; table.GRACE = 0.01; table.{limit}"
    rig.daemon(*rig.arguments, hook=hook)


def test_a_session_that_never_lets_go_cannot_pile_up_dead_descriptors(rig: Rig) -> None:
    limited(rig, "LEASES_PER_UID = 3")
    monitor = yielder(rig, flags=wire.YIELD_ALL, slow=True)
    for number in range(3):
        while number and holder_pid(rig) != monitor.pid:
            time.sleep(0.01)
        flash(rig, BOB, wait=10)
    heard = [monitor.hear() for _ in range(6)]
    assert [word for word, _ in heard[:-1]] == ["lent", "back", "lent", "back", "lent"]
    assert heard[-1] == ("refused", errno.EDQUOT)
    monitor.say("end")


def test_who_joins_its_own_session_does_not_yield_beyond_the_limit(rig: Rig) -> None:
    limited(rig, "YIELDERS_PER_UID = 0")

    def join() -> int | None:
        with client.connect(str(rig.socket)) as first, client.connect(str(rig.socket)) as second:
            os.close(first.open("ttyS0"))
            held = first.open("ttyS0")
            os.close(second.open("ttyS0", session=first.session))
            with pytest.raises(BrokerError) as caught:
                second.open("ttyS0", session=first.session, flags=wire.YIELD_USER)
            os.close(held)
            return caught.value.errno

    assert as_user(ALICE, (), join) == errno.EDQUOT


# a daemon that is started again


@pytest.fixture
def systemd(rig: Rig) -> Iterator[Systemd]:
    """A manager for a service with the port ttyS0."""
    rig.port("ttyS0")
    with manager(rig) as made:
        yield made


def test_a_session_yields_after_a_restart_as_before(rig: Rig, systemd: Systemd) -> None:
    systemd.start()
    monitor = yielder(rig)
    systemd.restart()
    assert monitor.hear() == ("refused", errno.ECONNREFUSED)
    assert done(monitor, "again") == "asked"
    assert monitor.hear()[0] == "back"  # one more descriptor of the same lease
    assert 0.9 < flash(rig) < AFTER_GRACE  # for it has not closed its first descriptor
    assert [monitor.hear()[0] for _ in range(2)] == ["lent", "back"]
    monitor.say("end")


def test_a_session_that_is_not_back_yet_after_a_restart_is_hung_up_and_has_its_claim(
    rig: Rig, systemd: Systemd
) -> None:
    systemd.start()
    monitor = yielder(rig)
    systemd.restart()
    assert monitor.hear() == ("refused", errno.ECONNREFUSED)
    flasher = rig.holder(ALICE)
    assert done(monitor, "again") == "asked"
    assert row(rig).lent is not None
    flasher.say()
    assert monitor.hear() == ("back", termios.B57600)
    assert holder_pid(rig) == monitor.pid
    monitor.say("end")


def test_a_claim_keeps_its_place_over_a_restart(rig: Rig, systemd: Systemd) -> None:
    systemd.start()
    monitor = yielder(rig)
    flasher = rig.holder(ALICE)
    assert monitor.hear() == ("lent", ALICE)
    systemd.restart()
    assert monitor.hear() == ("refused", errno.ECONNREFUSED)
    other = rig.holder(BOB, wait=TIMEOUT)
    while not row(rig).waiting:
        time.sleep(0.01)
    assert done(monitor, "again") == "asked"
    flasher.say()
    assert monitor.hear()[0] == "back"
    monitor.say("end")
    other.hear()
    assert holder_pid(rig) == other.pid


def test_a_claim_whose_session_does_not_come_back_after_a_restart_is_void(
    rig: Rig, systemd: Systemd
) -> None:
    systemd.start()
    monitor = yielder(rig)
    flasher = rig.holder(ALICE)
    assert monitor.hear() == ("lent", ALICE)
    systemd.restart()
    monitor.kill()
    flasher.say()
    assert flash(rig, BOB, wait=10) < AFTER_GRACE


# the end of its time


def with_a_time(rig: Rig, seconds: float, name: str = "ttyS0") -> Daemon:
    """A daemon whose port has a time limit."""
    rig.port(name, extra=f"max_lease = {seconds}")
    return rig.daemon()


def test_a_session_that_listens_is_warned_five_seconds_before(rig: Rig) -> None:
    daemon = with_a_time(rig, 5.5)
    with client.connect(str(rig.socket)) as connection:
        began = time.monotonic()
        descriptor = connection.open("ttyS0", flags=wire.YIELD_USER | wire.PROGRESS)
        news = connection.news()
        assert isinstance(news, wire.Ending) and 4_000 < news.left <= 5_000
        assert 0.5 <= time.monotonic() - began < 1.5
        assert "max_lease" in news.cause
    os.close(descriptor)
    daemon.record("release", port="ttyS0", reason="closed")


@pytest.mark.parametrize("flags", [wire.YIELD_USER, wire.PROGRESS], ids=["older", "not yielding"])
def test_who_does_not_listen_is_told_nothing(rig: Rig, flags: int) -> None:
    daemon = with_a_time(rig, 0.3)
    with client.connect(str(rig.socket)) as connection:
        descriptor = connection.open("ttyS0", flags=flags)
        daemon.record("release", port="ttyS0", reason="time limit")
        assert not select.select([connection.fileno()], [], [], 0)[0]
        os.close(descriptor)


@pytest.mark.parametrize(
    "words",
    [("term", "board"), ("run", "--yield", "board", "--", "cat", "/dev/board")],
    ids=["term", "run"],
)
def test_the_terminal_and_the_pty_say_it(rig: Rig, words: tuple[str, ...]) -> None:
    with_a_time(rig, 2, "board")
    command, *rest = words
    with Screen(rig, *rest, command=command) as screen:
        screen.shows(b"ttybroker: board: the lease ends in 2 s: its rule has a time limit")
    for pid in rig.orphans():
        Orphan(pid).wait()


def test_a_program_s_port_tells_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with_a_time(rig, 2)
    told: list[str] = []
    monkeypatch.setattr(client, "tell_why", told.append)
    with open_tty("ttyS0", timeout=0.5, broker=str(rig.socket), yields="user") as port:
        while not told:
            port.read(1)
    assert told[0].startswith("ttyS0: the lease ends in 2 s: its rule has a time limit")
