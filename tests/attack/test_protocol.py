"""Attacks on the protocol: whole conversations against an oracle, a fuzzed decoder, floods.

The oracle (model.py) was written from the protocol's words and not from the broker's code, as
h11 and the OpenSSH monitor are tested: whatever sequence of messages comes, valid or not, the
answers, the lease table, the locks and the descriptors are what it says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import time
from collections.abc import Callable

import pytest

from attack.dialogue import Dialogue
from attack.runs import Run
from support.children import Chat, as_user
from support.daemon import Daemon
from support.processes import descriptors
from support.raw import IN_TIME, connect, opening, others_are_served
from support.rig import Rig, lock_text
from support.users import ALICE, BOB
from ttybroker import asking, client, open_fd, wire

pytestmark = pytest.mark.root

SEQPACKET_NOW = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
Scale = Callable[[int, int], int]
Count = Callable[[str, int], None]
Say = Callable[[str], None]


def test_conversations_go_as_the_oracle_says(scale: Scale, count: Count, progress: Say) -> None:
    """Ten million messages at full scale, in as many processes as there are processors."""
    processes = scale(1, os.cpu_count() or 1)
    share = scale(6_000, 10_000_000) // processes
    runs = [Run("attack.conversation", share) for _ in range(processes)]
    for run in runs:
        word = run.finish(progress).split()
        count("messages to the broker's own code", int(word[2]))
        count("leases in them", int(word[4]))


def test_conversations_with_a_daemon_go_as_the_oracle_says(
    rig: Rig, scale: Scale, count: Count, progress: Say
) -> None:
    seed = secrets.randbelow(1 << 31)
    print(f"seed {seed}")
    dialogue = Dialogue(rig, seed)
    dialogue.play(scale(500, 100_000))
    count("messages to a daemon", dialogue.sent)
    progress(f"{dialogue.sent} messages, {dialogue.granted} leases")


def test_the_decoder_under_atheris(scale: Scale, count: Count, progress: Say) -> None:
    """An hour (make attack FUZZ_SECONDS=...); in `make test`, tests/unit/test_wire.py stands in."""
    seconds = scale(0, int(os.environ.get("FUZZ_SECONDS", "3600")))
    if not seconds:
        pytest.skip("an hour of fuzzing is for make attack")
    lines: list[str] = []
    Run("attack.fuzz_wire", seconds).finish(lambda line: (lines.append(line), progress(line))[1])
    count("inputs to the decoder", int(lines[-2].split()[2]))


def test_a_flood_of_connections_keeps_nobody_else_waiting(
    rig: Rig, daemon: Daemon, scale: Scale, count: Count, progress: Say
) -> None:
    """Ten thousand connects a second, from two processes of one user, without a word and with
    half a one; those for which the backlog has no room fail, and are tried again at once. Others
    still get their ports, each within three seconds."""
    seconds = scale(1, 60)

    def flood(chat: Chat) -> tuple[int, int]:
        tried = made = 0
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < seconds:
            if tried > passed * 5000:
                time.sleep(0.002)
                continue
            tried += 1
            with socket.socket(socket.AF_UNIX, SEQPACKET_NOW) as sock:
                if sock.connect_ex(str(rig.socket)) != 0:
                    continue
                made += 1
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sock.send((b"", b"\1", opening(b"ttyS0", wait=60_000))[made % 3])
        return tried, made

    def ask(_chat: Chat) -> list[float]:
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = time.monotonic()
            os.close(open_fd("ttyS1", broker=str(rig.socket), wait=5))
            times.append(time.monotonic() - before)
        return times

    calm = rig.child(BOB, ask).result(seconds + 30)
    floods = [rig.child(ALICE, flood) for _ in range(2)]
    times = rig.child(BOB, ask).result(seconds + 30)
    tried, made = map(sum, zip(*(child.result(seconds + 30) for child in floods), strict=True))
    assert max(times) < 3 * IN_TIME, sorted(times)[-5:]
    count("connects tried in floods", tried)
    count("connections in floods", made)
    median = sorted(times)[len(times) // 2] / sorted(calm)[len(calm) // 2]
    progress(f"{tried / seconds:.0f} connects a second, {made / seconds:.0f} of them "
             f"accepted; others' opens took {median:.1f} times "
             f"their median without, {max(times) * 1000:.0f} ms at most")  # fmt: skip


def test_who_connects_and_is_silent_keeps_a_place_of_its_own_user_alone(
    rig: Rig, daemon: Daemon
) -> None:
    """Slow clients. On SOCK_SEQPACKET there is no byte a minute: a datagram is a message, whole
    or broken. What is left is to say nothing at all, or to send the first byte for a message."""

    def silent(chat: Chat) -> None:
        socks = [connect(rig) for _ in range(250)]
        chat.say("silent")
        chat.hear()
        for sock in socks:
            with contextlib.suppress(BrokenPipeError):
                sock.send(b"\1")  # the first byte of every request
        for sock in socks:
            reply = asking.decode_reply(sock.recv(65536))
            assert isinstance(reply, wire.Refused) and reply.errno == errno.EPROTO
            assert sock.recv(1) == b""
        chat.say("cut off")
        chat.hear()

    child = rig.child(ALICE, silent)
    child.hear()
    others_are_served(rig)
    child.say()
    child.hear()
    others_are_served(rig)
    daemon.settled()  # while the client lives on
    child.say()
    child.result()


def test_an_answer_read_byte_by_byte_is_one_message_and_nothing_waits_for_the_rest(
    rig: Rig, daemon: Daemon
) -> None:
    def sip() -> None:
        sock = connect(rig)
        for _ in range(50):
            sock.send(asking.encode_request(wire.List()))
            assert sock.recv(1) == bytes([wire.VERSION])
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)

    as_user(ALICE, (), sip)
    others_are_served(rig)


SLOW = """
import time
from ttybrokerd.root import port
from ttybrokerd.root.device import Devices
port.PTY_SETTLE = 0.3
opened = Devices.open
def slow(self, seen, *mode):
    if seen.target.name == "slow":
        time.sleep(0.25)
    return opened(self, seen, *mode)
Devices.open = slow
"""


@pytest.mark.parametrize("way", ["closed", "killed", "half closed", "piled on and closed"])
@pytest.mark.parametrize("state", ["opening", "busy", "closing", "busy elsewhere"])
def test_a_wait_may_be_cancelled_in_every_state_of_the_port(rig: Rig, state: str, way: str) -> None:
    name = "slow" if state == "opening" else "ttyS0"
    rig.port(name)
    rig.port("ttyS1")
    daemon = rig.daemon(hook=SLOW)

    def there() -> wire.PortInfo:
        with client.connect(str(rig.socket)) as connection:
            return next(port for port in connection.ports() if port.name == name)

    def wait(chat: Chat) -> None:
        sock = connect(rig)
        sock.send(opening(name.encode(), wait=60_000))
        chat.say("asked")
        chat.hear()
        if way == "piled on and closed":
            sock.send(opening(name.encode(), wait=60_000))
        if way == "half closed":
            sock.shutdown(socket.SHUT_WR)
            chat.say("gone")
            assert sock.recv(1) == b"", "it is dropped, and hears of it"
        sock.close()
        chat.say("gone")
        chat.hear()

    holder = rig.holder(BOB) if state in ("busy", "closing") else None
    if state == "busy elsewhere":
        rig.lock().write_bytes(lock_text(os.getpid()))
    if holder is not None and state == "closing":
        holder.say()
        holder.result()
        while there().state != "closing":
            pass
    waiter = rig.child(ALICE, wait)
    waiter.hear()
    while ((row := there()).state, row.waiting) != (state, state != "opening"):
        assert row.state in (state, "free", "opening", "closing"), row
    if way == "killed":
        waiter.kill()
    else:
        waiter.say()
        waiter.hear()
    if state == "busy elsewhere":
        rig.lock().unlink()
    elif holder is not None and state == "busy":
        holder.say()
        holder.result()
    after = rig.holder(BOB, name, wait=30)
    after.hear()
    assert rig.lock(name).read_bytes() == lock_text(after.pid)
    after.say()
    after.result()
    assert f"uid={ALICE}" not in "".join(
        record.text for record in daemon.records if record.event == "grant"
    )
    if way != "killed":
        waiter.say()
    others_are_served(rig)


def test_no_descriptor_is_left_by_ten_thousand_requests_that_nobody_waits_for(
    rig: Rig, daemon: Daemon, scale: Scale, count: Count
) -> None:
    """Ask, and be gone before the answer comes: for every request, over and over."""
    holder = rig.holder(BOB)
    requests = [opening(b"ttyS0"), opening(b"ttyS0", wait=60_000), opening(b"ttyS1"),
                *map(asking.encode_request, (wire.List(), wire.Revoke("ttyS1"), wire.Check("ttyS0"),
                                           wire.Status()))]  # fmt: skip
    times = scale(700, 10_000)

    def run() -> None:
        for number in range(times):
            # On a busy machine the connections are too many now and then, and some are refused.
            with connect(rig) as sock, contextlib.suppress(BrokenPipeError):
                sock.send(requests[number % len(requests)])

    as_user(ALICE, (), run)
    count("requests that nobody waited for", times)
    others_are_served(rig)
    holder.say()
    holder.result()
    daemon.settled()
    assert "pts" not in " ".join(descriptors(daemon.pid).values())
