"""Attacks on every step of a grant: each system call made to fail, the broker killed before each.

By strace --inject on a running daemon: each call on the way to a grant and to the end of a lease
in turn, each with each of seven errors. Whatever fails, the client gets the port or an answer that
says why; no lock outlives its holder, no port is stuck, no descriptor is left, nobody else
notices. Killed before any of them: the same, as soon as there is a daemon again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

import pytest

from attack.faults import ERRORS, HOOK, Call, calls, failing, killed_before, spread, traced
from support.children import Chat
from support.daemon import Daemon
from support.rig import Rig, lock_text
from support.users import ALICE
from support.waiting import wait_readable
from ttybroker import BrokerError, BrokerUnavailable, PortBusy, client

pytestmark = pytest.mark.root

Scale = Callable[[int, int], int]
Count = Callable[[str, int], None]
Say = Callable[[str], None]

# How an error reaches the client: as itself, or as what it means for the port.
MEANT = {errno.EIO, errno.ENOENT, errno.ENODEV, errno.EACCES, errno.EBUSY}


def take(connection: client.Client, name: str = "ttyS0", wait: float | None = None) -> int:
    """A port, or the refusal, in time."""
    connection.ask_open(name, wait=wait)
    wait_readable(connection.fileno(), f"an answer about {name}", 5)
    return connection.take_descriptor()


def fetch(rig: Rig, name: str = "ttyS0", wait: float | None = None) -> int:
    """The same, by a connection of its own."""
    with client.connect(str(rig.socket)) as connection:
        return take(connection, name, wait)


def converse(rig: Rig) -> tuple[int, BrokerError | None]:
    """Connect, ask for the port, and once more for something else: by then the daemon has done
    all that belongs to the grant. The descriptor, or -1, and what went wrong, if anything did."""
    descriptor = -1
    try:
        with client.connect(str(rig.socket)) as connection:
            descriptor = take(connection)
            connection.check("ttyS0")
    except BrokerError as error:
        return descriptor, error
    return descriptor, None


def start(rig: Rig) -> Daemon:
    """A daemon that has walked all its ways once."""
    daemon = rig.daemon(hook=HOOK)
    for name in ("ttyS0", "ttyS1"):
        os.close(fetch(rig, name, wait=5))
    daemon.settled()
    return daemon


def end_lease(rig: Rig, descriptor: int, by: client.Client) -> None:
    """Close, and see the port in order again, or see that it does not come."""
    os.close(descriptor)
    for _ in range(200):
        by.check("unknown")  # a name for which no device is looked at
        if not rig.lock_files():
            return


def whole(rig: Rig, daemon: Daemon, what: str) -> None:
    """Both ports are to be had, work, are locked, and nothing is left of what went before."""
    for name in ("ttyS1", "ttyS0"):
        try:
            descriptor = fetch(rig, name, wait=5)
        except (BrokerError, AssertionError) as error:
            raise AssertionError(f"{what}: {name} is stuck: {error}\n{daemon.output()}") from error
        os.write(descriptor, b"works")
        assert rig.ports[name].read(5) == b"works"
        assert rig.lock(name).read_bytes() == lock_text(os.getpid())
        os.close(descriptor)
    assert daemon.process.poll() is None, f"{what}: the daemon ended:\n{daemon.output()}"
    try:
        daemon.settled()
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error


def check_grant(rig: Rig, daemon: Daemon, descriptor: int, error: BrokerError | None,
                what: str, injected: int) -> None:  # fmt: skip
    """The answer was one: the port, and then it is nobody else's; or a refusal that says why."""
    if descriptor >= 0:
        one_holder(rig, descriptor, what)
        os.close(descriptor)
    elif isinstance(error, BrokerUnavailable) or "cut off: " in str(error):
        assert "cut-off" in daemon.output() or what.startswith("recvmsg"), f"{what}: no word of it"
    else:
        assert error is not None
        assert error.errno in MEANT | {injected}, f"{what}: {error!r}"
        assert "ttyS0" in str(error) and len(str(error)) > len("ttyS0: "), f"{what}: {error}"


def one_holder(rig: Rig, descriptor: int, what: str) -> None:
    """It works and nobody else gets the port."""
    with pytest.raises(PortBusy):
        os.close(fetch(rig))
    os.write(descriptor, b"mine")
    assert rig.ports["ttyS0"].read(4) == b"mine", what


@pytest.fixture
def ports(rig: Rig) -> Rig:
    """Two ports, and nothing else of it started."""
    rig.port("ttyS0")
    rig.port("ttyS1")
    return rig


def test_whatever_fails_on_the_way_to_a_grant_it_is_an_answer_and_leaves_nothing(
    ports: Rig, scale: Scale, count: Count, progress: Say
) -> None:
    daemon = start(ports)
    with traced(daemon) as trace:
        descriptor, _ = converse(ports)
        steps = calls(trace.read_text())
    os.close(descriptor)
    daemon.settled()
    assert len(steps) > 30, steps
    for call, error in spread(steps, scale(len(steps), len(steps) * len(ERRORS))):
        with traced(daemon, failing(call, error)):
            descriptor, refused = converse(ports)
        what = f"{call}: {error}"
        check_grant(ports, daemon, descriptor, refused, what, getattr(errno, error))
        forget_temporaries(ports)
        whole(ports, daemon, what)
        count("system calls of a grant made to fail", 1)
    progress(f"{len(steps)} calls")


def test_whatever_fails_at_the_end_of_a_lease_the_port_is_free(
    ports: Rig, scale: Scale, count: Count, progress: Say
) -> None:
    daemon = start(ports)
    with client.connect(str(ports.socket)) as connection:
        descriptor = take(connection)
        with traced(daemon) as trace:
            end_lease(ports, descriptor, connection)
            steps = calls(trace.read_text())
    daemon.settled()
    assert len(steps) > 15, steps
    for call, error in spread(steps, scale(len(steps), len(steps) * len(ERRORS))):
        what = f"{call}: {error}"
        with client.connect(str(ports.socket)) as connection:
            descriptor = take(connection, wait=5)
            with traced(daemon, failing(call, error)):
                try:
                    end_lease(ports, descriptor, connection)
                except BrokerError:
                    assert call.name in ("recvmsg", "sendmsg"), what
        if call.name in ("unlinkat", "openat", "fstat", "newfstatat", "read"):
            remove_what_could_not_be(ports, daemon)
        if "TIOCNXCL" in call.what:
            forget_exclusive(ports)
        whole(ports, daemon, what)
        if "TIOCNXCL" in call.what or "TIOCVHANGUP" in call.what:
            daemon.record("release-failed", port="ttyS0")
        count("system calls of a lease's end made to fail", 1)
    progress(f"{len(steps)} calls")


def remove_what_could_not_be(rig: Rig, daemon: Daemon) -> None:
    """A lock file that the broker could not remove, and said so: the administrator's to mend."""
    for name in rig.lock_files():
        assert "lock-failed" in daemon.output()
        (rig.locks / name).unlink()


@pytest.mark.parametrize("part", ["grant", "end"])
def test_killed_at_any_step_it_leaves_no_lock_that_outlives_its_holder(
    ports: Rig, part: str, scale: Scale, count: Count
) -> None:
    daemon = start(ports)
    steps = steps_of(ports, daemon, part)
    for call, _ in spread(steps, scale(5, len(steps)), errors=("",)):
        what = f"killed before {call}"
        holder = ports.child(ALICE, partial(hold, ports))
        if part == "end":
            holder.say("ask")
            assert holder.hear() == ""
        with traced(daemon, killed_before(call)):
            holder.say("close for ever" if part == "end" else "ask")
            said = holder.hear(20)
            assert daemon.wait() == -9, what
        assert said == "gone" or (part, said) == ("grant", ""), f"{what}: {said}"
        os.unlink(ports.socket)
        forget_exclusive(ports)
        daemon = ports.daemon(hook=HOOK)
        if part == "grant" and said == "":  # it lost nothing, and is still who has the port
            assert ports.lock().read_bytes() == lock_text(holder.pid), what
            with pytest.raises(PortBusy):
                fetch(ports)
            holder.say("write")
            assert ports.ports["ttyS0"].read(5) == b"works", what
        holder.kill()
        forget_temporaries(ports)
        whole(ports, daemon, what)
        count("system calls before which it was killed", 1)


def hold(rig: Rig, chat: Chat) -> None:
    """In a child: ask for the port, write to it, close it, as told; says what went wrong."""
    descriptor = -1
    while True:
        word, said = chat.hear(), ""
        try:
            if word == "ask":
                connection = client.connect(str(rig.socket))
                descriptor = take(connection, wait=5)
            elif word == "write":
                os.write(descriptor, b"works")
                continue
            else:
                end_lease(rig, descriptor, connection)
            connection.check("ttyS0")
            while word == "close for ever":
                connection.check("ttyS0")
        except (BrokerError, AssertionError) as error:
            said = "gone" if isinstance(error, BrokerUnavailable) else repr(error)
            if descriptor >= 0 and word == "ask":
                said = ""
        chat.say(said)


def steps_of(rig: Rig, daemon: Daemon, part: str) -> list[Call]:
    """The calls of one part, in order."""
    holder = rig.child(ALICE, partial(hold, rig))
    if part == "end":
        holder.say("ask")
        assert holder.hear() == ""
    with traced(daemon) as trace:
        holder.say("close" if part == "end" else "ask")
        assert holder.hear() == ""
        steps = calls(trace.read_text())
    holder.kill()
    daemon.settled()
    return steps


def forget_temporaries(rig: Rig) -> None:
    """Files of the broker's own that it was about to link or remove: no locks.

    After a refusal the port may still be put in order, which makes and removes some.
    """
    for path in rig.locks.glob(".ttybroker.*"):
        path.unlink(missing_ok=True)


def forget_exclusive(rig: Rig) -> None:
    """A pty keeps TIOCEXCL as long as its master lives; a real port until its last close."""
    rig.ports["ttyS0"].forget_exclusive()
