"""Leases outlive the daemon: systemd keeps them, and the next one goes on with them."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import termios
import time
import tty
from collections.abc import Callable, Iterator

import pytest

from support import old_record, raw
from support.children import Chat, Child, as_user
from support.namespaces import sees_dead_takers
from support.rig import Rig, lock_text
from support.systemd import Systemd, manager
from support.users import ALICE, NOBODY
from support.waiting import TIMEOUT, Watch
from ttybroker import NotPermitted, PortBusy, asking, client, open_fd, wire
from ttybroker.users import named
from ttybrokerd.root import keeper, linux, record, store
from ttybrokerd.root.server import AGAIN

pytestmark = pytest.mark.root


@pytest.fixture
def systemd(rig: Rig) -> Iterator[Systemd]:
    """A manager for a service with the ports ttyS0 and ttyS1."""
    rig.port("ttyS0")
    rig.port("ttyS1")
    with manager(rig) as made:
        yield made


def end(systemd: Systemd, rig: Rig, number: signal.Signals = signal.SIGKILL) -> None:
    """End the daemon that runs; with SIGKILL, when every lease is in the store."""
    if number == signal.SIGKILL:
        kept(systemd, rig)
    rig.daemons[-1].process.send_signal(number)
    assert rig.daemons[-1].wait() == (-number if number == signal.SIGKILL else 0)
    systemd.hear()


def kept(systemd: Systemd, rig: Rig) -> None:
    """Wait until systemd keeps every lease: it does of those that last a moment."""
    end = time.monotonic() + TIMEOUT
    with client.connect(str(rig.socket)) as connection:
        leases = [port for port in connection.ports()
                  if port.holder is not None and port.holder.how == "lease"]  # fmt: skip
    while sum(not name.startswith("copy.") for name in systemd.names()) < len(leases):
        assert time.monotonic() < end, f"{systemd.names()} are kept of {leases}"
        time.sleep(0.005)


def row(rig: Rig, name: str = "ttyS0") -> wire.PortInfo:
    """What the list says of a port."""
    with client.connect(str(rig.socket)) as connection:
        return {port.name: port for port in connection.ports()}[name]


def take(rig: Rig, name: str = "ttyS0") -> None:
    """Lease a port and give it back, without waiting."""
    os.close(open_fd(name, broker=str(rig.socket)))


def talk(chat: Chat, rig: Rig, name: str = "ttyS0") -> None:
    """Hold a port: write what is heard, and say what comes; "close" closes it, but goes on."""
    descriptor = open_fd(name, broker=str(rig.socket))
    os.set_blocking(descriptor, True)
    tty.setraw(descriptor)
    chat.say("open")
    while (word := chat.hear()) != "close":
        os.write(descriptor, word)
        chat.say(os.read(descriptor, 4096))
    os.close(descriptor)
    chat.say("closed")
    chat.hear()


def talker(rig: Rig, name: str = "ttyS0", uid: int = NOBODY) -> Child:
    """A child that does."""
    child = rig.child(uid, lambda chat: talk(chat, rig, name))
    assert child.hear() == "open"
    return child


def says(child: Child, rig: Rig, name: str = "ttyS0") -> None:
    """The holder's port works both ways."""
    rig.ports[name].write(b"ping")
    child.say(b"pong")
    assert child.hear() == b"ping"
    assert rig.ports[name].read(4) == b"pong"


def test_leases_go_on_while_the_policy_has_a_mistake_and_when_it_is_mended(
    systemd: Systemd, rig: Rig
) -> None:
    """Who asks is refused with the mistake, and served when it is mended, by asking alone."""
    systemd.start()
    child = talker(rig)
    end(systemd, rig)
    rig.rules.append("nonsense")
    daemon = systemd.start()
    with pytest.raises(NotPermitted, match=rf"the policy cannot be used: {rig.policy}:\d+: text:"):
        row(rig)
    says(child, rig)

    def ask_until_served(_: Chat) -> int | None:
        while True:
            try:
                holder = row(rig).holder
                return None if holder is None else holder.pid
            except NotPermitted:
                time.sleep(0.02)  # a person, who asks again

    asker = rig.child(ALICE, ask_until_served)
    rig.rules.pop()
    rig.write_policy()
    assert daemon.wait() == AGAIN
    systemd.start()
    assert asker.result() == child.pid
    says(child, rig)
    child.say("close")
    rig.daemons[-1].record("release", port="ttyS0", uid=NOBODY)


ONE_STORED = "from ttybrokerd.root import keeper as m; m.BURST, m.YOUNG, m.PACE = 1, 0, 1000"
NEVER_STORED = "from ttybrokerd.root import keeper; keeper.BURST, keeper.YOUNG = 0, 1000"


def test_who_opens_and_closes_in_a_loop_gives_systemd_nothing_to_do(
    rig: Rig, systemd: Systemd
) -> None:
    daemon = systemd.start()
    begin = time.monotonic()
    for _ in range(100):
        take(rig)
        systemd.hear()  # what it does not take is not sent when the lease has ended
    seconds = time.monotonic() - begin
    stored = [line for pid, line in systemd.words if pid == daemon.pid and "FDSTORE=" in line]
    assert len(stored) <= keeper.BURST + seconds / keeper.PACE + 1


def test_leases_go_into_the_store_at_a_pace(rig: Rig, systemd: Systemd) -> None:
    systemd.start(hook=ONE_STORED)
    first = talker(rig)
    kept(systemd, rig)
    other = talker(rig, "ttyS1")
    row(rig)
    assert {name.partition(".")[0] for name in systemd.names()} == {"ttyS0"}
    for child in (first, other):
        child.kill()


def test_a_lease_too_young_for_the_store_is_told_by_its_lock_after_a_kill(
    rig: Rig, systemd: Systemd
) -> None:
    daemon = systemd.start(hook=NEVER_STORED)
    holder = talker(rig)
    daemon.kill()
    assert systemd.names() == set()
    rig.ports["ttyS0"].write(b"ping")
    holder.say(b"pong")
    assert holder.hear() == b"ping"
    systemd.start()
    assert rig.ports["ttyS0"].read(4) == b"pong"
    was = row(rig)
    assert was.holder is not None
    assert (was.holder.pid, was.holder.how) == (holder.pid, "lock file")
    with pytest.raises(PortBusy):
        take(rig)
    holder.kill()
    rig.ports["ttyS0"].forget_exclusive()
    take(rig)


def test_a_lease_too_young_for_the_store_goes_on_when_the_daemon_is_asked_to_end(
    rig: Rig, systemd: Systemd
) -> None:
    systemd.start(hook=NEVER_STORED)
    holder = talker(rig)
    end(systemd, rig, signal.SIGTERM)
    systemd.start()
    was = row(rig)
    assert was.holder is not None
    assert (was.holder.pid, was.holder.how) == (holder.pid, "lease")
    says(holder, rig)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_lease_goes_on_with_its_holder_and_the_moment_it_began(
    rig: Rig, systemd: Systemd, number: signal.Signals
) -> None:
    systemd.start()
    holder = talker(rig)
    before = row(rig)
    assert before.holder is not None and before.holder.pid == holder.pid
    for _ in range(2):
        end(systemd, rig, number)
        rig.ports["ttyS0"].write(b"early")  # while there is no daemon
        holder.say(b"late")
        assert holder.hear() == b"early"
        assert rig.ports["ttyS0"].read(4) == b"late"
        daemon = systemd.start()
        daemon.record("adopt", port="ttyS0", uid=NOBODY, pid=holder.pid)
        assert row(rig) == before
        with pytest.raises(PortBusy) as caught:
            as_user(ALICE, (), lambda: take(rig))
        assert caught.value.holder == named(before.holder)
        assert rig.lock().read_bytes() == lock_text(holder.pid)
        says(holder, rig)
    with Watch(rig.locks) as watch:
        holder.say("close")
        assert holder.hear() == "closed"
        watch.gone("LCK..ttyS0")
    daemon.record("release", port="ttyS0", uid=NOBODY, reason="closed")
    as_user(ALICE, (), lambda: take(rig))


def test_a_label_keeps_no_lease_out_of_the_store(rig: Rig, systemd: Systemd) -> None:
    systemd.start()

    def hold(chat: Chat) -> None:
        with raw.connect(rig) as sock:
            sock.send(asking.encode_request(wire.Open("ttyS0", label="a\0b\n\x1b[31m")))
            chat.say(socket.recv_fds(sock, wire.MAX_REPLY, 1)[1])
        chat.hear()

    holder = rig.child(NOBODY, hold)
    holder.hear()
    end(systemd, rig, signal.SIGTERM)
    systemd.start()
    shown = row(rig).holder
    assert shown is not None and (shown.how, shown.label) == ("lease", "a b??[31m")
    holder.say()


def test_each_lease_is_kept_once_and_only_while_it_lasts(rig: Rig, systemd: Systemd) -> None:
    daemon = systemd.start()
    for _ in range(20):
        take(rig)
        systemd.hear()
    one, other = talker(rig, "ttyS0"), talker(rig, "ttyS1")
    kept(systemd, rig)
    assert {name.partition(".")[0] for name in systemd.names()} == {"ttyS0", "ttyS1"}
    assert len(systemd.stored) == 8
    for child, name in ((one, "ttyS0"), (other, "ttyS1")):
        child.say("close")
        daemon.record("release", port=name, reason="closed", pid=child.pid)
    assert systemd.names() == set()


def test_a_lease_that_has_ended_is_not_kept_when_the_daemon_ends(
    rig: Rig, systemd: Systemd
) -> None:
    """The daemon then has those kept that are too young. Here all are, but the first 16."""
    daemon = systemd.start(hook="from ttybrokerd.root import keeper; keeper.PACE = 3600.0\n")
    for _ in range(20):
        take(rig)
        systemd.hear()
    daemon.settled()
    end(systemd, rig, signal.SIGTERM)
    assert systemd.names() == set()


@pytest.mark.parametrize("lives", [True, False])
def test_a_holder_that_ends_while_there_is_no_daemon_has_its_port_freed_by_the_next(
    rig: Rig, systemd: Systemd, lives: bool
) -> None:
    """Without the store that is what nobody can know of a process that lives on."""
    systemd.start()
    holder = talker(rig)
    end(systemd, rig)
    if lives:
        holder.say("close")
        assert holder.hear() == "closed"
    else:
        holder.kill()
    assert rig.lock().exists()
    daemon = systemd.start()
    daemon.record("release", 5, port="ttyS0", reason="closed", pid=holder.pid)
    assert not rig.lock().exists()
    as_user(ALICE, (), lambda: take(rig))


def test_output_that_waits_when_the_holder_closes_is_not_thrown_away(
    rig: Rig, systemd: Systemd
) -> None:
    systemd.start()
    holder = talker(rig)
    end(systemd, rig)
    rig.ports["ttyS0"].write(b"x")
    holder.say(b"last words")
    assert holder.hear() == b"x"
    holder.kill()
    systemd.start().record("release", port="ttyS0")
    assert rig.ports["ttyS0"].read(10) == b"last words"


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_copy_whose_process_is_another_by_now_keeps_the_lease_and_the_lock_names_the_daemon(
    rig: Rig, systemd: Systemd, when: str
) -> None:
    daemon = systemd.start()

    def leave_it(chat: Chat) -> int:
        descriptor = open_fd("ttyS0", broker=str(rig.socket))
        child = os.fork()
        if child == 0:
            signal.pause()
        os.close(descriptor)
        chat.say(child)
        chat.hear()
        return child

    holder = rig.child(NOBODY, leave_it)
    heir = holder.hear()
    if when == "between":
        end(systemd, rig)
    with Watch(rig.locks) as watch:
        holder.say()
        holder.result()
        if when == "before":
            watch.wait("LCK..ttyS0", 0x80)  # IN_MOVED_TO: signed again
            assert rig.lock().read_bytes() == lock_text(daemon.pid)
            end(systemd, rig)
    heir_pidfd = os.pidfd_open(heir)
    daemon = systemd.start()
    assert rig.lock().read_bytes() == lock_text(daemon.pid)
    assert row(rig).state == "busy"
    end(systemd, rig)
    daemon = systemd.start()
    assert rig.lock().read_bytes() == lock_text(daemon.pid)
    with Watch(rig.locks) as watch:
        signal.pidfd_send_signal(heir_pidfd, signal.SIGKILL)
        watch.gone("LCK..ttyS0")
    os.waitpid(heir, 0)  # ours, as a subreaper's
    os.close(heir_pidfd)


@sees_dead_takers
def test_it_can_be_taken_back_after_a_restart_by_its_own_user(rig: Rig, systemd: Systemd) -> None:
    systemd.start()
    holder = talker(rig)
    end(systemd, rig)
    daemon = systemd.start()

    def revoke() -> None:
        with client.connect(str(rig.socket)) as connection:
            connection.revoke("ttyS0")

    with pytest.raises(Exception, match="only its holder"):
        as_user(ALICE, (), revoke)
    as_user(NOBODY, (), revoke)
    daemon.record("release", port="ttyS0", reason="revoked", pid=holder.pid)
    as_user(ALICE, (), lambda: take(rig))
    holder.say(b"x")
    with pytest.raises(OSError):
        holder.hear()


@pytest.mark.alone
@sees_dead_takers
@pytest.mark.parametrize("early", [True, False])
def test_its_time_goes_on_while_there_is_no_daemon(rig: Rig, systemd: Systemd, early: bool) -> None:
    rig.rules.clear()
    rig.port("ttyS0", extra="max_lease = 1")
    daemon = systemd.start()
    before = time.monotonic()
    holder = rig.holder(NOBODY)
    granted = time.monotonic()
    end(systemd, rig)
    if not early:
        time.sleep(1)  # it is the time itself that is tested
    daemon = systemd.start()
    daemon.record("release", port="ttyS0", reason="time limit", pid=holder.pid)
    ended = time.monotonic()
    assert before + 1 <= ended
    assert not early or ended < granted + 1.5
    as_user(ALICE, (), lambda: take(rig))


def test_who_waits_gets_the_port_when_the_holder_of_an_earlier_daemon_closes_it(
    rig: Rig, systemd: Systemd
) -> None:
    systemd.start()
    holder = talker(rig)
    end(systemd, rig)
    systemd.start()
    waiting = rig.holder(ALICE, wait=TIMEOUT)
    while row(rig).waiting == 0:
        pass
    holder.say("close")
    assert isinstance(waiting.hear(), int)
    assert rig.lock().read_bytes() == lock_text(waiting.pid)


@pytest.mark.alone
def test_a_port_unplugged_while_there_is_no_daemon_is_let_go_of(rig: Rig, systemd: Systemd) -> None:
    rig.port("ttyS2", far=True)
    systemd.start()
    holder = rig.holder(NOBODY, "ttyS2")
    end(systemd, rig)
    rig.ports["ttyS2"].close()
    daemon = systemd.start()
    daemon.record("release", port="ttyS2", reason="hung up or unplugged", pid=holder.pid)
    assert not rig.lock("ttyS2").exists()


def test_a_lock_that_others_took_away_meanwhile_is_taken_again(rig: Rig, systemd: Systemd) -> None:
    systemd.start()
    holder = talker(rig)
    end(systemd, rig)
    rig.lock().unlink()
    systemd.start()
    assert rig.lock().read_bytes() == lock_text(holder.pid)


def test_a_lock_that_another_has_now_is_its_own(rig: Rig, systemd: Systemd) -> None:
    systemd.start()
    holder = talker(rig)
    end(systemd, rig)
    rig.lock().write_bytes(lock_text(os.getpid()))
    daemon = systemd.start()
    daemon.record("lock-failed", port="ttyS0", pid=holder.pid)
    assert row(rig).state == "busy"
    holder.say("close")
    daemon.record("release", port="ttyS0")
    assert rig.lock().read_bytes() == lock_text(os.getpid())
    rig.lock().unlink()


# a daemon that is upgraded


@sees_dead_takers
@pytest.mark.parametrize("ends_by", ["close", "revoke", "time limit"])
def test_a_lease_of_the_version_before_goes_on(rig: Rig, systemd: Systemd, ends_by: str) -> None:
    systemd.start()
    holder = talker(rig)
    was = row(rig)
    end(systemd, rig)
    (name,) = systemd.names()
    have = pieces(systemd)
    limit = time.monotonic() + 0.5 if ends_by == "time limit" else None
    written = memory(of_version_1(content(have["record"]), expires=limit))
    kept = [written, *(os.dup(number) for what, number in have.items() if what != "record")]
    systemd.remove(name)
    systemd.put(name, kept)
    for number in kept:
        os.close(number)
    daemon = systemd.start()
    daemon.record("adopt", port="ttyS0", uid=NOBODY, pid=holder.pid)
    if ends_by == "close":
        assert row(rig) == was
        says(holder, rig)
        holder.say("close")
        assert holder.hear() == "closed"
    elif ends_by == "revoke":
        with client.connect(str(rig.socket)) as connection:
            connection.revoke("ttyS0")
    daemon.record("release", port="ttyS0", uid=NOBODY)
    left = [name.partition(".")[0] for name in systemd.names()]
    assert left == ([] if ends_by == "close" else ["copy"])
    as_user(ALICE, (), lambda: take(rig))


# a store that is full, slow, or not there


def test_a_lease_that_the_store_has_no_room_for_is_told_by_its_lock(rig: Rig) -> None:
    for name in ("ttyS0", "ttyS1"):
        rig.port(name)
    systemd = Systemd(rig, most=6)
    try:
        systemd.start()
        first, second = talker(rig, "ttyS0"), talker(rig, "ttyS1")
        systemd.hear()
        end(systemd, rig)
        daemon = systemd.start()
        daemon.record("store-refused")
        assert row(rig, "ttyS0").holder == wire.Holder(
            NOBODY, "", first.pid, row(rig).holder.program, row(rig).holder.since
        )
        told = row(rig, "ttyS1").holder
        assert told is not None and (told.how, told.pid) == ("lock file", second.pid)
        assert {name.partition(".")[0] for name in systemd.names()} == {"ttyS0"}
        first.say("close")
        second.say("close")
        assert (first.hear(), second.hear()) == ("closed", "closed")
        second.kill()
        rig.ports["ttyS1"].forget_exclusive()
        as_user(ALICE, (), lambda: take(rig, "ttyS1"))
        daemon.record("release", port="ttyS1", uid=ALICE)
        assert daemon.stop() == 0
    finally:
        rig.daemons[-1].kill()
        systemd.close()


@pytest.mark.parametrize("others", [0, 1])
def test_a_systemd_that_does_not_listen_delays_nobody_and_gets_it_all_later(
    rig: Rig, systemd: Systemd, others: int
) -> None:
    """Its socket takes a handful (net.unix.max_dgram_qlen), and then no more for a while: from
    within a lease or between two, by what others have sent."""
    daemon = systemd.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        for _ in range(others):
            other.sendto(b"STATUS=busy", systemd.address)
    for _ in range(50):
        take(rig)
    holder = talker(rig)
    for _ in range(50):
        take(rig, "ttyS1")
        daemon.record("release", port="ttyS1")
    filled = len(systemd.words)
    systemd.hear()
    assert len(systemd.words) - filled < 300, "the socket was never full"  # 101 leases: 505 lines
    while len(systemd.names()) != 1 or whose(systemd) != holder.pid:
        row(rig)  # a turn of its loop
    end(systemd, rig)
    assert len(systemd.stored) == 4, systemd.stored
    daemon = systemd.start()
    daemon.record("adopt", port="ttyS0", pid=holder.pid)


def test_what_waits_for_systemd_is_sent_before_the_end(rig: Rig, systemd: Systemd) -> None:
    daemon = systemd.start()
    for _ in range(50):
        take(rig)
    holder = talker(rig)
    daemon.process.send_signal(signal.SIGTERM)
    poll = select.poll()
    poll.register(daemon.pidfd, select.POLLIN)
    while not poll.poll(10):
        systemd.hear()
    end_status = daemon.wait()
    systemd.hear()
    assert end_status == 0 and (daemon.pid, "STOPPING=1") in systemd.words
    assert len(systemd.stored) == 4
    systemd.start().record("adopt", port="ttyS0", pid=holder.pid)


def test_a_systemd_that_is_gone_is_said_once_and_all_goes_on(rig: Rig, systemd: Systemd) -> None:
    daemon = systemd.start()
    address, systemd.address = systemd.address, str(rig.base / "again")
    systemd.notify.close()
    systemd.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.notify.bind(systemd.address)
    for _ in range(3):
        holder = talker(rig)
        daemon.record("grant")
        if "store-failed" not in daemon.output():
            daemon.record("store-failed")
        holder.kill()
        daemon.record("release")
    daemon.settled()
    assert daemon.output().count("store-failed") == 1
    os.unlink(address)


# what comes back and is no lease


def pieces(systemd: Systemd) -> dict[str, int]:
    """The descriptors of the only lease in the store, by what they are."""
    found = {}
    for _, number in systemd.stored:
        if linux.is_epoll(number):
            found["watcher"] = number
        elif linux.pidfd_process(number) is not None:
            found["exit"] = number
        elif linux.seals(number):
            found["record"] = number
        else:
            found["own_fd"] = number
    assert len(found) == 4
    return found


def whose(systemd: Systemd) -> int | None:
    """The process that has the only lease in the store."""
    return linux.pidfd_process(pieces(systemd)["exit"])


def memory(data: bytes, seals: int = store.SEALS) -> int:
    return linux.sealed_memory("test", data, seals)


def content(number: int) -> bytes:
    return os.pread(number, 1 << 20, 0)


def other_descriptor(rig: Rig) -> int:
    return os.open(rig.ports["ttyS1"].path, os.O_RDWR | os.O_NOCTTY)


def other_watcher(rig: Rig) -> int:
    watcher = select.epoll()
    watcher.register(rig.ports["ttyS1"].master, 0)
    return os.dup(watcher.fileno())


def two_in_a_watcher(_rig: Rig, have: dict[str, int]) -> int:
    watcher = select.epoll()
    watcher.register(have["own_fd"], 0)
    watcher.register(have["exit"], 0)
    return os.dup(watcher.fileno())


def changed(data: bytes, **fields: object) -> record.Record:
    """The record in these bytes, with other fields."""
    return record.Record(**{**vars(record.decode(data)), **fields})  # type: ignore[arg-type]


def of_version_1(data: bytes, **fields: object) -> bytes:
    """The record in these bytes as a daemon of commit 7778755 would have written it."""
    now = {**vars(record.decode(data)), "user": "nobody", **fields}
    now["settings"] = [0, 0, termios.CS8 | termios.CREAD | 15, 0, 15, 15, [b"\0"] * 32]
    return old_record.encode(
        old_record.Record(**{name: now[name] for name in old_record.Record._fields})
    )


Replace = Callable[[Rig, dict[str, int]], int]
ODD: dict[str, tuple[str, Replace | None]] = {
    "no descriptor": ("own_fd", None),
    "no watcher": ("watcher", None),
    "no record": ("record", None),
    "another port's descriptor": ("own_fd", lambda rig, _: other_descriptor(rig)),
    "no terminal": ("own_fd", lambda *_: os.open("/dev/null", os.O_RDWR)),
    "another port's watcher": ("watcher", lambda rig, _: other_watcher(rig)),
    "a watcher of more": ("watcher", two_in_a_watcher),
    "another's pidfd": ("exit", lambda *_: os.pidfd_open(os.getpid())),
    "not sealed": ("record", lambda _, have: memory(content(have["record"]), fcntl.F_SEAL_GROW)),
    "a file": ("record", lambda *_: os.open("/proc/self/exe", os.O_RDONLY)),
    "empty": ("record", lambda *_: memory(b"")),
    "cut": ("record", lambda _, have: memory(content(have["record"])[:-1])),
    "long": ("record", lambda _, have: memory(content(have["record"]) + bytes(1 << 16))),
    "next version": ("record", lambda _, have: memory(
        content(have["record"]).replace(record.MAGIC, record.MAGIC[:-1] + b"\3"))),
    "another device": ("record", lambda rig, have: memory(record.encode(changed(
        content(have["record"]), rdev=rig.ports["ttyS1"].number)))),
    "of no kind": ("exit", lambda *_: os.eventfd(0)),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_does_not_fit_together_is_dropped_and_the_lock_tells(
    rig: Rig, systemd: Systemd, case: str
) -> None:
    systemd.start()
    holder = talker(rig)
    end(systemd, rig)
    (name,) = systemd.names()
    have = pieces(systemd)
    which, replace = ODD[case]
    kept = [os.dup(number) for what, number in have.items() if what != which]
    kept += [] if replace is None else [replace(rig, have)]
    systemd.remove(name)
    systemd.put(name, kept)
    for number in kept:
        os.close(number)
    daemon = systemd.start()
    daemon.record("store-refused", 5, name=name)
    assert systemd.names() == set()
    told = row(rig).holder
    assert told is not None and told.how == "lock file" and told.pid == holder.pid
    says(holder, rig)
    as_user(ALICE, (), lambda: take(rig, "ttyS1"))
    holder.kill()
    rig.ports["ttyS0"].forget_exclusive()
    as_user(ALICE, (), lambda: take(rig))


def test_of_two_leases_of_one_port_one_is_believed(rig: Rig, systemd: Systemd) -> None:
    systemd.start()
    holder = talker(rig)
    end(systemd, rig)
    systemd.put("ttyS0.again", [number for _, number in list(systemd.stored)])
    daemon = systemd.start()
    daemon.record("store-refused", name="ttyS0.again")
    daemon.record("adopt", port="ttyS0", pid=holder.pid)
    assert len(systemd.names()) == 1


def test_what_is_not_from_here_at_all_is_dropped(rig: Rig, systemd: Systemd) -> None:
    ends = os.pipe()
    systemd.put("stored", ends)
    systemd.put("other", [rig.ports["ttyS0"].master])
    for number in ends:
        os.close(number)
    systemd.start()
    assert systemd.names() == set()
    as_user(ALICE, (), lambda: take(rig))
