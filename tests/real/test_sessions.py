"""A session opens a port again that it holds; nobody else does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import termios
from collections.abc import Iterator

import pytest

from support.children import Chat, as_user
from support.rig import Rig
from support.users import ALICE, BOB
from ttybroker import BrokerError, PortBusy, client, wire
from ttybrokerd.root import linux
from ttybrokerd.root.fold import LINES

pytestmark = pytest.mark.root


def lease_and_join(rig: Rig, joins: int = 1, flags: int = 0) -> tuple[list[int], bytes]:
    """Open the port, and again on connections of their own; the descriptors and the session."""
    with client.connect(str(rig.socket)) as connection:
        descriptors = [connection.open("ttyS0")]
        session = connection.session
    for _ in range(joins):
        with client.connect(str(rig.socket)) as connection:
            descriptors.append(connection.open("ttyS0", session=session, flags=flags))
            assert connection.session == session
    return descriptors, session


def until_read(connection: client.Client) -> None:
    """Until the broker has read what was asked on it: what others ask may be read before that."""
    while linux.unsent(connection.fileno()):
        pass


def test_a_session_opens_its_port_again_and_the_lease_lasts_until_the_last_is_closed(
    rig: Rig,
) -> None:
    pty = rig.port("ttyS0")
    daemon = rig.daemon()

    def hold(chat: Chat) -> None:
        (first, second), _ = lease_and_join(rig)
        os.close(first)
        chat.say()
        chat.hear()
        os.write(second, b"still mine")
        os.close(second)

    holder = rig.child(ALICE, hold)
    holder.hear()
    with pytest.raises(PortBusy) as caught:
        as_user(BOB, (), lambda: client.connect(str(rig.socket)).open("ttyS0"))
    assert caught.value.holder is not None and caught.value.holder.pid == holder.pid
    assert len(rig.lock_files()) == 1
    holder.say()
    holder.wait()
    assert os.read(pty.master, 64) == b"still mine"
    daemon.record("join", port="ttyS0", uid=ALICE)
    daemon.record("release", port="ttyS0", uid=ALICE, reason="closed")
    daemon.settled()


def test_of_many_joins_the_log_has_the_first_and_a_count(rig: Rig) -> None:
    rig.port("ttyS0")
    daemon = rig.daemon()
    joins = 4 * LINES
    rig.child(ALICE, lambda _: len([os.close(fd) for fd in lease_and_join(rig, joins)[0]])).wait()
    daemon.settled()
    counted, written = int(daemon.record("folded", uid=ALICE).fields["count"]), 0
    while counted + (written := sum(one.event == "join" for one in daemon.records)) < joins:
        counted += int(daemon.record("folded", uid=ALICE).fields["count"])  # of the next second
    assert counted + written == joins and counted >= 2 * LINES


def test_each_open_of_a_session_has_its_own_mode(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.daemon()

    def modes(_: Chat) -> list[int]:
        descriptors, session = lease_and_join(rig)
        with client.connect(str(rig.socket)) as connection:
            for flags in (wire.READ, wire.WRITE | wire.APPEND, wire.READ | wire.WRITE):
                descriptors.append(connection.open("ttyS0", session=session, flags=flags))
        mask = os.O_ACCMODE | os.O_APPEND
        return [fcntl.fcntl(one, fcntl.F_GETFL) & mask for one in descriptors]

    due = [os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR]
    assert rig.child(ALICE, modes).result() == due


@pytest.mark.parametrize(
    ("uid", "number"), [(ALICE, "another's"), (BOB, "its own"), (ALICE, "none")]
)
def test_a_session_is_joined_by_its_user_alone_and_by_its_number(
    rig: Rig, uid: int, number: str
) -> None:
    rig.port("ttyS0")
    rig.daemon()

    def hold(chat: Chat) -> None:
        _, session = lease_and_join(rig, joins=0)
        chat.say(session)
        chat.hear()

    holder = rig.child(ALICE, hold)
    session = holder.hear()
    named = {"another's": secrets.token_bytes(16), "its own": session, "none": bytes(16)}[number]

    def ask() -> int:
        with (
            client.connect(str(rig.socket)) as connection,
            pytest.raises(BrokerError) as caught,
        ):
            connection.open("ttyS0", session=named)
        return caught.value.errno or 0

    assert as_user(uid, (), ask) == (errno.EBUSY if number == "none" else errno.ESTALE)
    holder.say()


def test_a_session_has_a_port_open_so_many_times_and_no_more(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.daemon()

    def fill(_: Chat) -> int:
        descriptors, session = lease_and_join(rig, joins=63)
        with (
            client.connect(str(rig.socket)) as connection,
            pytest.raises(BrokerError) as caught,
        ):
            connection.open("ttyS0", session=session)
        os.close(descriptors.pop())
        with client.connect(str(rig.socket)) as connection:
            connection.open("ttyS0", session=session)
        return caught.value.errno or 0

    assert rig.child(ALICE, fill).result() == errno.EDQUOT


def test_an_outsider_is_kept_off_until_the_last_description_is_closed(rig: Rig) -> None:
    pty = rig.port("ttyS0")
    rig.daemon()

    def hold(chat: Chat) -> None:
        (first, second), _ = lease_and_join(rig)
        os.close(first)
        chat.say()
        chat.hear()
        os.close(second)

    holder = rig.child(ALICE, hold)
    holder.hear()
    outsider = os.open(pty.path, os.O_RDWR | os.O_NOCTTY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(outsider, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(outsider)
    holder.say()
    holder.wait()


def test_a_revoke_ends_every_open_of_the_session_and_withdraws_what_its_user_waits_for(
    rig: Rig,
) -> None:
    rig.port("ttyS0")
    daemon = rig.daemon()

    def hold(chat: Chat) -> list[bytes]:
        descriptors, _ = lease_and_join(rig)
        chat.say()
        chat.hear()
        return [os.read(one, 1) for one in descriptors]

    def wait(_: Chat) -> int:
        with (
            client.connect(str(rig.socket)) as connection,
            pytest.raises(BrokerError) as caught,
        ):
            connection.open("ttyS0", wait=60)
        return caught.value.errno or 0

    holder = rig.child(ALICE, hold)
    holder.hear()
    waits = rig.child(ALICE, wait)
    with client.connect(str(rig.socket)) as connection:
        while not connection.ports()[0].waiting:
            pass
        assert connection.revoke("ttyS0") == 1
    assert waits.result() == errno.ECANCELED
    daemon.record("release", port="ttyS0", reason="revoked")
    holder.say()
    assert holder.result() == [b"", b""]


@pytest.mark.parametrize("hold", [0, 60])
def test_another_session_that_has_a_port_waits_on_unless_the_port_is_kept_from_its_user(
    rig: Rig, hold: int
) -> None:
    rig.port("ttyS0")
    rig.port("ttyS1")
    rig.daemon()

    def wait(chat: Chat) -> int:
        with client.connect(str(rig.socket)) as connection:
            connection.open("ttyS1")
            chat.say()
            try:
                connection.open("ttyS0", wait=60, session=connection.session)
            except BrokerError as error:
                return error.errno or 0
        return 0

    rig.holder(ALICE, "ttyS0")
    waits = rig.child(ALICE, wait)
    waits.hear()
    with client.connect(str(rig.socket)) as connection:
        while not connection.ports(("ttyS0",))[0].waiting:
            pass
        assert connection.revoke("ttyS0", hold) == (1 if hold else 0)
    assert waits.result() == (errno.ECANCELED if hold else 0)


def speeds(rig: Rig, between: bool) -> tuple[int, int]:
    """The speed that a session set, and what it finds when it opens the port again, with somebody
    else's lease `between` or not."""

    def twice(chat: Chat) -> tuple[int, int]:
        with client.connect(str(rig.socket)) as connection:
            first = connection.open("ttyS0")
            attributes = termios.tcgetattr(first)
            attributes[4] = attributes[5] = termios.B115200
            termios.tcsetattr(first, termios.TCSANOW, attributes)
            os.close(first)
            chat.say()
            chat.hear()
            again = connection.open("ttyS0", session=connection.session, wait=10)
            return termios.B115200, termios.tcgetattr(again)[5]

    session = rig.child(ALICE, twice)
    session.hear()
    if between:
        as_user(BOB, (), lambda: client.connect(str(rig.socket)).open("ttyS0", wait=10))
    session.say()
    return session.result()


def test_a_session_finds_its_settings_again_if_nobody_had_the_port_meanwhile(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.daemon()
    was_set, found = speeds(rig, between=False)
    assert found == was_set
    was_set, found = speeds(rig, between=True)
    assert found != was_set


def test_what_a_session_left_is_nobody_elses(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.daemon()

    def other(_: Chat) -> int:
        with client.connect(str(rig.socket)) as connection:
            return termios.tcgetattr(connection.open("ttyS0", wait=10))[5]

    was = rig.child(BOB, other).result()

    def set_and_stay(chat: Chat) -> None:
        with client.connect(str(rig.socket)) as connection:
            descriptor = connection.open("ttyS0", wait=10)
            attributes = termios.tcgetattr(descriptor)
            attributes[4] = attributes[5] = termios.B115200
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
            os.close(descriptor)
            chat.say()
            chat.hear()

    session = rig.child(ALICE, set_and_stay)
    session.hear()
    assert rig.child(ALICE, other).result() == was
    session.say()


def test_a_connection_keeps_so_many_sessions_and_no_more(rig: Rig) -> None:
    """Each that it names would live as long as it does."""
    rig.port("ttyS0")
    rig.daemon()

    def collect() -> tuple[int, int | None]:
        with client.connect(str(rig.socket)) as keeper:
            for number in range(65):
                with client.connect(str(rig.socket)) as other:
                    fd = other.open("ttyS0", wait=5)
                    try:
                        os.close(keeper.open("ttyS0", session=other.session))
                    except BrokerError as error:
                        return number, error.errno
                    finally:
                        os.close(fd)
        return number, None

    assert as_user(ALICE, (), collect) == (64, errno.EDQUOT)


LATE_JOIN = """
import time
from ttybrokerd.root import port

usual = port.join

def late(lease, *rest):  # when its end has been quicker
    end = time.monotonic() + 10
    while lease.watcher is not None and time.monotonic() < end:
        time.sleep(0.001)
    return usual(lease, *rest)

port.join = late
"""


@contextlib.contextmanager
def joining(rig: Rig) -> Iterator[tuple[client.Client, client.Client, int]]:
    """Have one connection hold ttyS0 and another ask to join it; return both and the descriptor."""
    path = str(rig.socket)
    with client.connect(path) as first, client.connect(path) as second:
        held = first.open("ttyS0")
        second.ask_open("ttyS0", session=first.session)
        until_read(second)
        yield first, second, held


def test_a_session_that_joins_a_lease_which_ends_meanwhile_is_refused(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    daemon = rig.daemon(*rig.arguments, hook=LATE_JOIN)

    def join() -> int | None:
        with joining(rig) as (first, second, held):
            first.revoke("ttyS0")
            with pytest.raises(BrokerError) as caught:
                second.news()
            os.close(held)
            return caught.value.errno

    assert as_user(ALICE, (), join) == errno.EIO
    daemon.settled()


SLOW_JOIN = """
import os, time
from ttybrokerd.root import port
from ttybrokerd.root.device import Devices

usual = port.join

class Slow(Devices):  # a driver that keeps the open until the file is there
    def open(self, seen, mode=os.O_RDWR):
        while not os.path.exists("{go}"):
            time.sleep(0.001)
        if os.path.getsize("{go}"):
            raise OSError(5, "the device does not answer")
        return super().open(seen, mode)

port.join = lambda lease, devices, seen, mode: usual(lease, Slow(), seen, mode)
"""


def test_a_join_that_ends_when_another_has_the_port_is_refused(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    go = rig.base / "go"
    daemon = rig.daemon(*rig.arguments, hook=SLOW_JOIN.format(go=go))

    def join(chat: Chat) -> None:
        with joining(rig) as (first, second, held):
            first.revoke("ttyS0")  # what was granted is kept open, hung up
            chat.say("revoked")
            try:
                chat.say(second.news())
            except BrokerError as error:
                chat.say(error.errno)
            os.close(held)

    alice = rig.child(ALICE, join)
    assert alice.hear() == "revoked"
    bob = rig.holder(BOB)
    go.touch()
    assert alice.hear() == errno.EIO
    go.unlink()
    bob.say("close")
    daemon.settled()


@pytest.mark.parametrize("opens", [True, False])
def test_a_lease_lasts_until_the_open_that_joins_it_is_over(rig: Rig, opens: bool) -> None:
    """Its last descriptor may be closed meanwhile, as by a program with several threads."""
    rig.port("ttyS0")
    rig.write_policy()
    go = rig.base / "go"
    daemon = rig.daemon(*rig.arguments, hook=SLOW_JOIN.format(go=go))

    def join(chat: Chat) -> None:
        with joining(rig) as (first, second, held):
            first.check("ttyS0")  # when this is answered, the other is under way
            os.close(held)
            chat.say("closed")
            try:
                descriptor = second.news()
            except BrokerError as error:
                chat.say(error.errno)
                return
            assert isinstance(descriptor, int) and second.joined
            chat.say(os.write(descriptor, b"x"))

    alice = rig.child(ALICE, join)
    assert alice.hear() == "closed"
    with pytest.raises(PortBusy):  # and the broker looks whether it still is
        as_user(BOB, (), lambda: client.connect(str(rig.socket)).open("ttyS0"))
    if not opens:
        (rig.base / "fails").write_text("so")
        (rig.base / "fails").rename(go)  # at once with what is in it
    go.touch()
    assert alice.hear() == (1 if opens else errno.EIO)
    alice.wait()
    daemon.record("release", port="ttyS0", uid=ALICE, reason="closed")
    daemon.settled()
    go.unlink()
