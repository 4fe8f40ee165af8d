"""Take a port back, or close it with output stuck: holder, next client and lines."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import termios
import time
from collections.abc import Callable

import pytest

from figures import note
from lines import FAR, LONE, NEAR, far, lines, raw, swallow, unsent
from service import ALICE, BOB, PATIENT, Service, locks, until
from support.children import Chat, Child
from ttybroker import client, open_fd
from ttybrokerd.root.port import DRAIN_STALL
from usbip import Chip

SLOWLY = 1000.0  # ms: an adapter is told by and by
AT_ONCE = 200.0  # ms, from the revoke to the next client's grant: no wait for output (DRAIN_STALL)
ROUNDS = 3  # of what others on the machine can slow: what is slow by itself is so in each
XOFF, XON = b"\x13", b"\x11"


def reading(descriptor: int, chat: Chat) -> None:
    os.set_blocking(descriptor, True)
    chat.say()
    assert os.read(descriptor, 1) == b""


def polling(descriptor: int, chat: Chat) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    chat.say()
    assert poll.poll()[0][1] & select.POLLHUP


def writing(descriptor: int, chat: Chat) -> None:
    os.set_blocking(descriptor, True)
    chat.say()
    with pytest.raises(OSError) as caught:
        while True:
            os.write(descriptor, bytes(512))
    assert caught.value.errno == errno.EIO


def stopped(descriptor: int, chat: Chat) -> None:
    """Block in a write behind XOFF."""
    stop(descriptor, chat)
    os.set_blocking(descriptor, True)
    chat.say()
    assert os.write(descriptor, bytes(65536)) < 65536


def stop(descriptor: int, chat: Chat) -> None:
    """Make the test send XOFF, and wait until it has an effect."""
    raw(descriptor, xon=True)
    chat.say()
    os.set_blocking(descriptor, True)
    assert os.read(descriptor, 1) == b"!"


@pytest.mark.parametrize("act", [reading, polling, writing, stopped])
def test_revoke(broker: Service, act: Callable[[int, Chat], None]) -> None:
    """The holder sees its end whatever it does, and the next client is served at once."""
    assert min(revoked(broker, act) for _ in range(ROUNDS)) < AT_ONCE


def revoked(broker: Service, act: Callable[[int, Chat], None]) -> float:
    """Take the port from a holder who does this; return the ms until the next client has it."""

    def hold(chat: Chat) -> None:
        descriptor = open_fd("ttyS1")
        raw(descriptor)
        act(descriptor, chat)
        assert os.read(descriptor, 1) == b""
        with pytest.raises(OSError) as caught:
            os.write(descriptor, b"x")
        assert caught.value.errno == errno.EIO
        chat.say("over")

    holder = broker.child(BOB, hold)
    holder.hear()
    if act is stopped:
        end = far("ttyS2")
        os.write(end, XOFF + b"!")
        holder.hear()
    waiting = broker.holder(ALICE, "ttyS1", wait=60)
    until("alice to wait", lambda: broker.waiting("ttyS1"))
    with client.connect() as connection:
        start = time.monotonic()
        connection.revoke("ttyS1")
    took = note("ms from revoke to the next client's grant", 1000 * (waiting.hear() - start))
    assert holder.hear() == "over"
    waiting.kill()
    if act is not stopped:  # a far end that takes bytes meanwhile costs the guest's one processor
        end = far("ttyS2")
    swallow(end, b"")
    os.close(end)
    return took


@pytest.mark.parametrize("hupcl", [True, False], ids=["hupcl", "-hupcl"])
def test_dtr_falls_at_the_end_with_hupcl(broker: Service, hupcl: bool) -> None:
    """It depends on the port's own settings, those with which it is found.

    A whole lease comes first: it puts back the settings that the last revoke may have left.
    """
    first = broker.holder(BOB, "ttyS1")
    first.say()
    first.wait()
    until("free", lambda: broker.port("ttyS1").state == "free")
    descriptor = far("ttyS1")
    settings = termios.tcgetattr(descriptor)
    settings[2] = settings[2] | termios.HUPCL if hupcl else settings[2] & ~termios.HUPCL
    termios.tcsetattr(descriptor, termios.TCSANOW, settings)
    os.close(descriptor)
    try:
        broker.holder(BOB, "ttyS1")
        assert lines("ttyS1") >= {"DTR", "RTS"}
        with client.connect() as connection:
            connection.revoke("ttyS1")
        assert lines("ttyS1") & {"DTR", "RTS"} == (set() if hupcl else {"DTR", "RTS"})
    finally:
        os.close(far("ttyS1"))


def stuck(broker: Service, end: int) -> Child:
    """Start a holder of ttyS1 with 1000 bytes stuck behind XOFF; a word makes it close."""

    def hold(chat: Chat) -> None:
        descriptor = open_fd("ttyS1")
        stop(descriptor, chat)
        assert os.write(descriptor, b"x" * 1000) == 1000
        chat.say(unsent(descriptor))
        chat.hear()
        before = time.monotonic()
        os.close(descriptor)
        chat.say((before, 1000 * (time.monotonic() - before)))

    child = broker.child(BOB, hold)
    child.hear()
    os.write(end, XOFF + b"!")
    assert child.hear() > 900
    return child


def test_a_close_with_stuck_output_delays_nobody(broker: Service) -> None:
    """The close returns at once.

    The next client has the port when it is clear that nobody takes the output any more.
    """
    for _ in range(ROUNDS):
        took, waited = closed_stuck(broker)
        if took < 50 and waited < 1000 * DRAIN_STALL + AT_ONCE:
            return
    pytest.fail(f"the close took {took:.1f} ms, the next grant {waited:.1f}, as before")


def closed_stuck(broker: Service) -> tuple[float, float]:
    """Return how many ms a close takes, and how many more the next grant."""
    end = far("ttyS2")
    holder = stuck(broker, end)
    waiting = broker.holder(ALICE, "ttyS1", wait=60)
    until("alice to wait", lambda: broker.waiting("ttyS1"))
    holder.say()
    closed, took = holder.hear()
    note("ms a close takes with 1000 bytes stuck behind XOFF", took)
    waited = note("ms from there to the next grant", 1000 * (waiting.hear() - closed))
    waiting.kill()
    os.close(end)
    return took, waited


def test_what_can_still_go_out_does(broker: Service) -> None:
    end = far("ttyS2")
    holder = stuck(broker, end)
    holder.say()
    closed, _ = holder.hear()
    os.write(end, XON)
    got = b""
    while got.count(b"x") < 1000:
        assert select.select([end], [], [], 10)[0], len(got)
        got += os.read(end, 4096)
    until("the port to be free", lambda: not broker.held())
    note("ms from a close with output that can go to a free port",
         1000 * (time.monotonic() - closed))  # fmt: skip
    os.close(end)


def written(broker: Service, name: str) -> Child:
    """A holder that has written 4 KiB; a word makes it close."""

    def hold(chat: Chat) -> None:
        descriptor = open_fd(name)
        raw(descriptor)
        assert os.write(descriptor, b"x" * 4096) == 4096
        chat.say()
        chat.hear()
        os.close(descriptor)
        chat.say(time.monotonic())
        chat.hear(PATIENT)

    child = broker.child(BOB, hold)
    child.hear()
    return child


@pytest.mark.bare  # the driver is the same in both
@pytest.mark.parametrize("end", ["close", "revoke"])
def test_what_an_adapter_does_not_take_is_not_the_next_holders(
    broker: Service, chip: Chip, end: str
) -> None:
    """usb-serial has no tcflush(3) of output: the hang-up throws it away."""
    chip.take(False)
    holder = written(broker, chip.name)
    waiting = broker.holder(ALICE, chip.name, wait=60)
    until("alice to wait", lambda: broker.waiting(chip.name))
    if end == "close":
        holder.say()
        closed = holder.hear()
        stall = 1000 * DRAIN_STALL
    else:
        closed, stall = time.monotonic(), 0.0
        with client.connect() as connection:
            connection.revoke(chip.name)
    took = 1000 * (waiting.hear() - closed)
    note(f"ms from a {end} to the next grant of an adapter that takes nothing", took)
    assert took < stall + SLOWLY
    chip.take(True)
    waiting.say()
    until("the lock to go", lambda: not locks())
    assert chip.written() == b""


@pytest.mark.bare  # the driver is the same in both
def test_what_an_adapter_can_still_take_and_send_it_does(broker: Service, chip: Chip) -> None:
    """It takes it when the holder has closed the port. Then it says as long as one waits that it
    has not sent it."""
    chip.take(False)
    holder = written(broker, chip.name)
    holder.say()
    closed = holder.hear()
    chip.transmit(False)
    chip.take(True)
    until("the lock to go", lambda: not locks())
    assert chip.written() == b"x" * 4096
    assert time.monotonic() - closed > DRAIN_STALL


def test_a_controlling_terminal_ends_with_the_lease(broker: Service) -> None:
    """/dev/tty is a second description of the port, which no lease counts."""

    def hold(chat: Chat) -> bytes:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.setsid()
        descriptor = open_fd("ttyS1")
        fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
        fcntl.ioctl(descriptor, termios.TIOCNXCL)  # or /dev/tty could not be opened
        kept = os.open("/dev/tty", os.O_RDWR)
        os.close(descriptor)
        return os.read(kept, 1)

    assert broker.child(BOB, hold).result() == b""
    until("the port to be free", lambda: not broker.held())
    broker.holder(ALICE, "ttyS1").kill()


def test_a_close_outside_the_broker_delays_no_other_port(broker: Service) -> None:
    """The kernel keeps everybody from a port whose last close is stuck, for 30 s.

    Others have their ports meanwhile, and a client that waits for this port is told why.
    """

    def close(chat: Chat) -> None:
        descriptor = far(NEAR)
        stop(descriptor, chat)
        os.write(descriptor, b"x" * 1000)
        chat.say()
        os.close(descriptor)

    def wait(chat: Chat) -> None:
        client.tell_why = chat.say
        descriptor = open_fd(NEAR, wait=60)
        chat.say("granted")
        os.close(descriptor)

    def others(_chat: Chat) -> list[float]:
        times = []
        for _ in range(20):
            start = time.monotonic()
            os.close(open_fd(LONE, wait=5))
            times.append(1000 * (time.monotonic() - start))
        return times

    def worst() -> float:
        return min(max(broker.child(BOB, others).result()) for _ in range(ROUNDS))

    usual = worst()
    end = far(FAR)
    outsider = broker.child(0, close)
    outsider.hear()
    os.write(end, XOFF + b"!")
    outsider.hear()
    waiting = broker.child(ALICE, wait)
    told = waiting.hear()
    assert told.startswith(f"{NEAR}: ") and "another program may be closing it" in told
    assert broker.port(NEAR).state == "opening"
    now = worst()
    note("ms for an open, the worst of 20", usual)
    note("ms for an open while the close of another port is stuck, the worst of 20", now)
    assert now - usual < 50
    os.write(end, XON)
    assert waiting.hear() == "granted"
    os.close(end)
