"""What a lease is to the program that has it, and when it ends: by the kernel's word alone."""

from __future__ import annotations

import array
import asyncio
import copy
import errno
import fcntl
import gc
import os
import pickle
import select
import signal
import socket
import struct
import termios
import threading
import time
import tty

import pytest
import serial
import serial_asyncio_fast

import ttybroker.aio
from support.children import Chat, Child, as_user
from support.daemon import Daemon
from support.rig import Rig, lock_text
from support.users import ALICE, BOB, CAROL, NOBODY
from support.waiting import IN_MOVED_TO, TIMEOUT, Watch
from ttybroker import (
    BrokeredSerial,
    BrokerError,
    NoSuchPort,
    NotPermitted,
    PortBusy,
    WaitTimeout,
    client,
    open_fd,
    open_tty,
    wire,
)

pytestmark = pytest.mark.root

TIOCEXCL, TIOCNXCL, TIOCGEXCL, TIOCSCTTY = 0x540C, 0x540D, 0x80045440, 0x540E
AT_ONCE = 0.1  # seconds


def exclusive(descriptor: int) -> bool:
    """Whether TIOCEXCL is set."""
    return bool(struct.unpack("i", fcntl.ioctl(descriptor, TIOCGEXCL, bytes(4)))[0])


def fetch(path: object, name: str = "ttyS0", **options: float) -> int:
    """open_fd at this broker."""
    return open_fd(name, broker=str(path), **options)


# data


def test_nobody_without_a_right_to_the_node_talks_both_ways(rig: Rig, daemon: Daemon) -> None:
    far = rig.ports["ttyS0"]

    def talk(chat: Chat) -> bytes:
        with pytest.raises(PermissionError):
            os.open(far.path, os.O_RDWR | os.O_NOCTTY)
        with open_tty("ttyS0", 115200, timeout=10, broker=str(rig.socket)) as port:
            assert isinstance(port, serial.Serial) and port.baudrate == 115200
            chat.say("open")
            assert port.read(4) == b"ping"
            port.write(b"pong\r\n\x00\xff")
            chat.hear()
            return port.read(3)

    child = rig.child(NOBODY, talk)
    child.hear()
    far.write(b"ping")
    assert far.read(8) == b"pong\r\n\x00\xff"
    far.write(b"end")
    child.say()
    assert child.result() == b"end"


def test_bytes_that_wait_at_open_are_not_lost(rig: Rig, daemon: Daemon) -> None:
    """They come between the grant and pyserial's set-up, where its own open() drops them."""
    far = rig.ports["ttyS0"]

    def read(chat: Chat) -> bytes:
        with client.connect(str(rig.socket)) as connection:
            descriptor = connection.open("ttyS0")
        tty.setraw(descriptor)
        chat.say("open")
        chat.hear()
        port = BrokeredSerial(timeout=10)
        port.port = "ttyS0"
        port.adopt(descriptor)
        with port:
            return port.read(5)

    child = rig.child(NOBODY, read)
    child.hear()
    far.write(b"early")
    child.say()
    assert child.result() == b"early"


def test_a_descriptor_is_close_on_exec_and_non_blocking_and_no_controlling_tty(
    rig: Rig, daemon: Daemon
) -> None:
    def look() -> tuple[bool, bool, bool]:
        os.setsid()
        descriptor = fetch(rig.socket)
        blocking = os.get_blocking(descriptor)
        with pytest.raises(OSError):
            os.open("/dev/tty", os.O_RDWR)
        return os.get_inheritable(descriptor), blocking, os.isatty(descriptor)

    assert as_user(NOBODY, (), look) == (False, False, True)


def test_in_waiting_cancel_read_and_settings_work_as_on_any_port(rig: Rig, daemon: Daemon) -> None:
    far = rig.ports["ttyS0"]

    def use(chat: Chat) -> None:
        with open_tty("ttyS0", timeout=None, broker=str(rig.socket)) as port:
            chat.say("open")
            chat.hear()
            select.select([port], [], [], 10)
            assert port.in_waiting == 3
            assert port.read(3) == b"abc"
            reading = threading.Thread(target=lambda: chat.say(port.read(1)))
            reading.start()
            port.cancel_read()
            reading.join()
            port.baudrate = 57600
            assert termios.tcgetattr(port.fd or 0)[4] == termios.B57600

    child = rig.child(NOBODY, use)
    child.hear()
    far.write(b"abc")
    child.say()
    assert child.hear() == b""
    child.result()


def test_the_port_setter_gives_one_port_back_and_leases_the_other(rig: Rig, daemon: Daemon) -> None:
    def move(chat: Chat) -> None:
        with open_tty("ttyS0", broker=str(rig.socket)) as port:
            port.port = "ttyS1"
            assert port.name == "ttyS1" and port.is_open
            chat.say("moved")
            chat.hear()

    child = rig.child(NOBODY, move)
    child.hear()
    daemon.record("release", port="ttyS0")
    assert rig.lock_files() == ["LCK..ttyS1"]
    child.say()
    child.result()


def test_serial_for_url_leases_by_broker_url(rig: Rig, daemon: Daemon) -> None:
    def use() -> str:
        url = f"broker://ttyS0?wait=5&broker={rig.socket}"
        with serial.serial_for_url(url, baudrate=19200) as port:
            assert isinstance(port, BrokeredSerial) and port.baudrate == 19200
            assert port.wait == 5
        closed = serial.serial_for_url(url, do_not_open=True)
        assert not closed.is_open
        for wrong in ("patience=5", "wait", "wait=", "wait=soon", "wait=1&", "wait=1;yields=all"):
            with pytest.raises(ValueError, match="the form is broker://"):
                serial.serial_for_url(f"broker://ttyS0?{wrong}")
        return str(port.name)

    assert as_user(NOBODY, (), use) == "ttyS0"


# locks


def test_a_lease_is_locked_by_every_convention(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(NOBODY)
    assert rig.lock().read_bytes() == lock_text(holder.pid)
    status = rig.lock().stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_nlink) == (0o644, 0, 1)
    descriptor = os.open(rig.ports["ttyS0"].path, os.O_RDWR | os.O_NOCTTY)
    try:
        assert exclusive(descriptor)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
    assert rig.lock_files() == ["LCK..ttyS0"]


@pytest.mark.alone
def test_a_closed_port_is_free_within_100_ms(rig: Rig, daemon: Daemon) -> None:
    for _ in range(5):
        holder = rig.holder(NOBODY)
        with Watch(rig.locks) as watch:
            holder.say()
            closed = holder.result()
            assert watch.gone("LCK..ttyS0") - closed < AT_ONCE


@pytest.mark.alone
def test_a_killed_holder_frees_its_port_within_100_ms(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(NOBODY)
    with Watch(rig.locks) as watch:
        killed = time.monotonic()
        holder.kill(signal.SIGKILL)
        assert watch.gone("LCK..ttyS0") - killed < AT_ONCE
    assert daemon.record("release", port="ttyS0").fields["reason"] == "closed"


def test_a_lease_lives_until_the_last_duplicate_is_closed(rig: Rig, daemon: Daemon) -> None:
    def hold(chat: Chat) -> float:
        descriptor = fetch(rig.socket)
        copy = os.dup(descriptor)
        os.close(descriptor)
        chat.say("one left")
        chat.hear()
        before = time.monotonic()
        os.close(copy)
        return before

    child = rig.child(NOBODY, hold)
    child.hear()
    with pytest.raises(PortBusy):
        fetch(rig.socket)
    assert rig.lock().read_bytes() == lock_text(child.pid)
    with Watch(rig.locks) as watch:
        child.say()
        assert watch.gone("LCK..ttyS0") - child.result() < AT_ONCE


def test_a_copy_in_another_process_keeps_the_lease_and_the_broker_signs_for_it(
    rig: Rig, daemon: Daemon
) -> None:
    reading, writing = os.pipe()

    def hold(chat: Chat) -> int:
        fetch(rig.socket)
        if (pid := os.fork()) == 0:
            os.read(reading, 1)
            os._exit(0)
        chat.hear()
        return pid

    child = rig.child(NOBODY, hold, keep=[reading])
    os.close(reading)
    daemon.record("grant", port="ttyS0")
    assert rig.lock().read_bytes() == lock_text(child.pid)
    with Watch(rig.locks) as watch:
        child.say()
        grandchild = child.result()
        watch.wait("LCK..ttyS0", IN_MOVED_TO)
        assert rig.lock().read_bytes() == lock_text(daemon.pid)
        with pytest.raises(PortBusy) as caught:
            fetch(rig.socket)
        assert caught.value.holder is not None and caught.value.holder.uid == NOBODY
        before = time.monotonic()
        os.close(writing)
        assert watch.gone("LCK..ttyS0") - before < AT_ONCE
    os.waitpid(grandchild, 0)


def test_a_descriptor_that_is_never_received_is_no_lease(rig: Rig, daemon: Daemon) -> None:
    def ask(chat: Chat) -> None:
        connection = client.connect(str(rig.socket))
        connection.ask_open("ttyS0")
        select.select([connection], [], [], 10)  # the answer is there, and stays there
        chat.say("in flight")
        chat.hear()

    child = rig.child(NOBODY, ask)
    child.hear()
    with pytest.raises(PortBusy) as caught:
        fetch(rig.socket)
    assert caught.value.holder is not None and caught.value.holder.pid == child.pid
    with Watch(rig.locks) as watch:
        killed = time.monotonic()
        child.kill(signal.SIGKILL)
        assert watch.gone("LCK..ttyS0") - killed < AT_ONCE


def test_a_hundred_times_close_and_open_again_never_meets_itself(rig: Rig, daemon: Daemon) -> None:
    def cycle() -> int:
        port = open_tty("ttyS0", broker=str(rig.socket))
        for _ in range(100):
            port.close()
            port.open()
        port.close()
        for _ in range(100):
            os.close(fetch(rig.socket))
        return 200

    assert as_user(NOBODY, (), cycle) == 200


def test_a_close_is_noticed_though_the_kernel_tells_of_it_too_early(rig: Rig) -> None:
    """fs/file_table.c, __fput(): inotify hears of the close, then epoll forgets the description;
    between the two the closing process may lose its processor. Here it always does."""
    rig.port("ttyS0")
    rig.daemon(hook=TOO_EARLY)

    def cycle(chat: Chat) -> None:
        while chat.hear() == "again":
            descriptor = fetch(rig.socket, wait=5)
            chat.say("held")
            chat.hear()
            before = time.monotonic()
            os.close(descriptor)
            chat.say(before)  # and it lives on: nothing else tells of the end

    child = rig.child(NOBODY, cycle)
    for _ in range(5):
        child.say("again")
        assert child.hear() == "held"
        with Watch(rig.locks) as watch:
            child.say()
            assert watch.gone("LCK..ttyS0") - child.hear() < AT_ONCE
    child.say("enough")
    child.result()


TOO_EARLY = """
from ttybrokerd.root import linux
true_read, true_open, early = linux.read_watches, linux.still_open, [False]
def read_watches(*arguments):
    news = true_read(*arguments)
    early[0] = bool(news[0])
    return news
def still_open(watcher):
    told, early[0] = early[0], False
    return told or true_open(watcher)
linux.read_watches, linux.still_open = read_watches, still_open
"""


# waiting


def test_who_waits_is_served_first_come_first_served(rig: Rig, daemon: Daemon) -> None:
    first = rig.holder(NOBODY)

    def wait(chat: Chat) -> None:
        with client.connect(str(rig.socket)) as connection:
            connection.ask_open("ttyS0", wait=30)
            chat.say("asked")
            descriptor = connection.take_descriptor()
        chat.say("served")
        chat.hear()
        os.close(descriptor)

    waiting: list[Child] = []
    for uid in (ALICE, BOB, CAROL, ALICE):
        child = rig.child(uid, wait)
        child.hear()
        waiting.append(child)
        while row(rig).waiting != len(waiting):  # a round trip each: no sleep
            pass
    first.say()
    for child in waiting:
        assert child.hear() == "served"
        assert rig.lock().read_bytes() == lock_text(child.pid)
        child.say()
        child.result()


def row(rig: Rig, name: str = "ttyS0") -> wire.PortInfo:
    """The row of this port in root's list."""
    with client.connect(str(rig.socket)) as connection:
        return next(port for port in connection.ports() if port.name == name)


def test_who_waited_long_enough_is_told_who_has_it(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(NOBODY)
    before = time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        as_user(ALICE, (), lambda: fetch(rig.socket, wait=0.2))
    assert time.monotonic() - before >= 0.2
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.holder is not None and caught.value.holder.pid == holder.pid


def test_a_waiter_that_dies_is_forgotten_and_the_next_is_served(rig: Rig, daemon: Daemon) -> None:
    first = rig.holder(NOBODY)
    dying = rig.holder(ALICE, wait=3600)  # longer than the test may take
    while row(rig).waiting != 1:
        pass
    served = rig.holder(BOB, wait=30)
    while row(rig).waiting != 2:
        pass
    dying.kill(signal.SIGKILL)
    end = time.monotonic() + TIMEOUT
    while row(rig).waiting != 1:
        assert time.monotonic() < end, "waited for it to be forgotten"
    first.say()
    served.hear()
    assert rig.lock().read_bytes() == lock_text(served.pid)


# refusals


def test_busy_says_who_since_when_and_what_to_do(rig: Rig, daemon: Daemon) -> None:
    before = time.time()
    holder = rig.holder(NOBODY)
    after = time.time()
    with pytest.raises(PortBusy) as caught:
        as_user(ALICE, (), lambda: fetch(rig.socket))
    assert caught.value.errno == errno.EBUSY
    who = caught.value.holder
    assert who is not None
    assert (who.uid, who.user, who.pid, who.how) == (NOBODY, "nobody", holder.pid, "lease")
    with open(f"/proc/{holder.pid}/comm", encoding="ascii") as file:
        assert who.program == file.read().strip()
    assert who.since is not None and before <= who.since <= after
    text = str(caught.value)
    assert text.startswith("ttyS0: busy") and f"pid {holder.pid}" in text and "wait" in text


def test_settings_that_cannot_be_leave_nothing_leased(rig: Rig, daemon: Daemon) -> None:
    def ask() -> None:
        open_tty("ttyS0", parity="X", broker=str(rig.socket))

    with pytest.raises(ValueError, match="parity"):
        as_user(NOBODY, (), ask)
    os.close(fetch(rig.socket))


def test_a_port_without_a_name_is_not_opened(rig: Rig, daemon: Daemon) -> None:
    for nameless in (None, b"ttyS0", 0):
        with pytest.raises(TypeError, match="a port is meant by its name"):
            open_tty(nameless, broker=str(rig.socket))  # type: ignore[arg-type]


def test_settings_that_the_device_refuses_later_are_an_error_of_pyserial_s(
    rig: Rig, daemon: Daemon
) -> None:
    with open_tty("ttyS0", broker=str(rig.socket)) as port:
        with pytest.raises(serial.SerialException, match="ttyS0: settings: Invalid") as caught:
            port.bytesize = 7  # a pty has eight
        assert caught.value.errno == errno.EINVAL
        port.bytesize = 8
        with pytest.raises(ValueError, match="ttyS0: no device has these settings"):
            port.baudrate = 10**20


def test_modem_lines_that_the_device_refuses_are_an_error_with_the_port_s_name(
    rig: Rig, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))  # as USB adapters may

    monkeypatch.setattr(serial.Serial, "_update_dtr_state", refuse)
    with pytest.raises(serial.SerialException, match="ttyS0: modem lines: Protocol") as caught:
        open_tty("ttyS0", broker=str(rig.socket))
    assert caught.value.errno == errno.EPROTO


def test_an_open_port_is_neither_copied_nor_pickled(rig: Rig, daemon: Daemon) -> None:
    with open_tty("ttyS0", timeout=5, broker=str(rig.socket)) as port:
        for way in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="an open port is not copied or pickled"):
                way(port)
        gc.collect()
        rig.ports["ttyS0"].write(b"still here")
        assert port.read(10) == b"still here"


# asyncio


def test_asyncio_gets_a_port_without_blocking_its_loop(rig: Rig, daemon: Daemon) -> None:
    far = rig.ports["ttyS0"]
    holder = rig.holder(ALICE)

    class Echo(asyncio.Protocol):
        def __init__(self) -> None:
            self.got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.got.set_result(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(None)

    async def use(chat: Chat) -> bytes:
        opening = asyncio.create_task(
            ttybroker.aio.open_tty("ttyS0", 115200, broker=str(rig.socket), wait=30)
        )
        await asyncio.sleep(0)
        chat.say("the loop runs on")
        port = await opening
        loop = asyncio.get_running_loop()
        transport, protocol = await serial_asyncio_fast.connection_for_serial(loop, Echo, port)
        chat.say("open")
        assert isinstance(protocol, Echo)
        data = await protocol.got
        transport.write(data.upper())
        transport.close()
        await protocol.lost
        return data

    child = rig.child(NOBODY, lambda chat: asyncio.run(use(chat)))
    assert child.hear() == "the loop runs on"
    holder.say()
    assert child.hear() == "open"
    far.write(b"hello")
    assert far.read(5) == b"HELLO"
    assert child.result() == b"hello"


def test_a_cancelled_open_leaves_nothing(rig: Rig, daemon: Daemon) -> None:
    holder = rig.holder(ALICE)

    async def cancel() -> None:
        opening = asyncio.create_task(
            ttybroker.aio.open_fd("ttyS0", broker=str(rig.socket), wait=30)
        )
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    def run(chat: Chat) -> None:
        before = os.listdir("/proc/self/fd")
        asyncio.run(cancel())
        assert os.listdir("/proc/self/fd") == before
        chat.say("cancelled")
        chat.hear()

    child = rig.child(NOBODY, run)
    child.hear()
    while row(rig).waiting:
        pass
    holder.say()
    holder.result()
    os.close(fetch(rig.socket, wait=5))
    child.say()
    child.result()


# taking back


@pytest.mark.alone
def test_a_revoked_holder_sees_a_hang_up_and_the_port_is_free_at_once(
    rig: Rig, daemon: Daemon
) -> None:
    def hold(chat: Chat) -> None:
        descriptor = fetch(rig.socket)
        os.set_blocking(descriptor, True)
        tty.setraw(descriptor)
        chat.say("reading")
        assert os.read(descriptor, 1) == b""
        with pytest.raises(OSError) as caught:
            os.write(descriptor, b"x")
        assert caught.value.errno == errno.EIO
        with pytest.raises(termios.error):
            termios.tcgetattr(descriptor)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLOUT)
        bits = select.POLLIN | select.POLLOUT | select.POLLERR | select.POLLHUP
        assert poll.poll(0) == [(descriptor, bits)]
        chat.say("saw it")
        chat.hear()

    child = rig.child(NOBODY, hold)
    child.hear()
    with client.connect(str(rig.socket)) as connection:
        before = time.monotonic()
        connection.revoke("ttyS0")
        assert time.monotonic() - before < AT_ONCE
        assert rig.lock_files() == []
        assert row(rig).state == "free"  # its dead descriptor is open still, and has the flock
        descriptor = connection.open("ttyS0")
    assert child.hear() == "saw it"
    os.close(descriptor)
    record = daemon.record("revoke", port="ttyS0", uid=NOBODY, pid=child.pid)
    assert "uid 0" in record.fields["by"]
    assert record.fields["device"] == rig.ports["ttyS0"].path  # history finds it by any name
    assert daemon.record("release").fields["reason"] == "revoked"
    child.say()
    child.result()
    os.close(fetch(rig.socket, wait=5))  # the broker looks after the dead ones when it is asked


def test_pyserial_raises_serial_exception_when_revoked(rig: Rig, daemon: Daemon) -> None:
    def hold(chat: Chat) -> str:
        with open_tty("ttyS0", timeout=None, broker=str(rig.socket)) as port:
            chat.say("reading")
            with pytest.raises(serial.SerialException) as caught:
                port.read(1)
        return str(caught.value)

    child = rig.child(NOBODY, hold)
    child.hear()
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")
    assert child.result()
    os.close(fetch(rig.socket))


def test_the_holder_and_an_admin_may_revoke_and_nobody_else(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.admins = f"[{CAROL}]"
    daemon = rig.daemon()

    def revoke() -> None:
        with client.connect(str(rig.socket)) as connection:
            connection.revoke("ttyS0")

    for allowed in (NOBODY, CAROL, 0):
        holder = rig.holder(NOBODY)
        with pytest.raises(NotPermitted) as caught:
            as_user(ALICE, (), revoke)
        assert caught.value.holder is None
        assert rig.lock().read_bytes() == lock_text(holder.pid)
        as_user(allowed, (), revoke)
        assert rig.lock_files() == []
        holder.kill()
        os.close(fetch(rig.socket, wait=5))
    with pytest.raises(NotPermitted) as again:  # nor does it learn that nobody has it
        as_user(ALICE, (), revoke)
    assert str(again.value) == str(caught.value)
    with pytest.raises(BrokerError) as free:
        revoke()
    assert free.value.errno == errno.ESRCH
    daemon.record("refuse", uid=ALICE)


def test_a_port_is_taken_back_by_the_name_of_another_node_of_its_device(rig: Rig) -> None:
    pty = rig.port("ttyS0")
    node = rig.base / "node"
    os.mknod(node, 0o20600, os.stat(pty.path).st_rdev)
    rig.rules.append(f'[[rule]]\nport = "other"\ndevice = "{node}"\nclass = "pty"\nallow = ["*"]\n')
    rig.daemon()
    holder = rig.holder(NOBODY)
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("other")
    node.unlink()
    holder.kill()
    os.close(fetch(rig.socket, wait=5))


def test_a_second_lease_is_whole_beside_a_revoked_one_that_locked_all_it_could(
    rig: Rig, daemon: Daemon
) -> None:
    far = rig.ports["ttyS0"]

    def cling(chat: Chat) -> None:
        descriptor = fetch(rig.socket)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fcntl.ioctl(descriptor, TIOCEXCL)
        chat.say("held")
        chat.hear()

    ghost = rig.child(ALICE, cling)
    ghost.hear()
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")

    def use(chat: Chat) -> None:
        with open_tty("ttyS0", timeout=10, broker=str(rig.socket)) as port:
            chat.say("open")
            port.write(port.read(5))
            chat.hear()

    for _ in range(2):
        child = rig.child(BOB, use)
        child.hear()
        far.write(b"again")
        assert far.read(5) == b"again"
        with pytest.raises(PortBusy) as caught:
            fetch(rig.socket)
        assert caught.value.holder is not None and caught.value.holder.pid == child.pid
        child.say()
        child.result()
    ghost.say()
    ghost.result()
    os.close(fetch(rig.socket, wait=5))


def test_who_revokes_for_ever_cannot_pile_up_dead_descriptors(rig: Rig, daemon: Daemon) -> None:
    def pile(chat: Chat) -> int:
        kept = 0
        with client.connect(str(rig.socket)) as connection:
            try:
                while True:
                    connection.open("ttyS0")
                    connection.revoke("ttyS0")
                    kept += 1
            except BrokerError as error:
                assert error.errno == errno.EDQUOT
        chat.say(kept)
        chat.hear()
        return kept

    child = rig.child(ALICE, pile)
    assert child.hear() == 64
    holder = rig.holder(BOB)
    holder.say()
    holder.result()
    child.say()
    child.result()
    os.close(fetch(rig.socket, wait=5))


def test_a_controlling_terminal_is_no_way_to_keep_the_port(rig: Rig, daemon: Daemon) -> None:
    def cling(chat: Chat) -> str:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        descriptor = fetch(rig.socket)
        fcntl.ioctl(descriptor, TIOCNXCL)  # or /dev/tty could not be opened
        fcntl.ioctl(descriptor, TIOCSCTTY, 0)
        hidden = os.open("/dev/tty", os.O_RDWR)  # another description: no epoll entry sees it
        os.close(descriptor)
        chat.say("closed")
        chat.hear()
        with pytest.raises(OSError) as caught:
            os.write(hidden, b"still here")
        return errno.errorcode[caught.value.errno or 0]

    child = rig.child(NOBODY, cling)
    with Watch(rig.locks) as watch:
        child.hear()
        watch.gone("LCK..ttyS0")
    descriptor = fetch(rig.socket)
    child.say()
    assert child.result() == "EIO"
    os.close(descriptor)


def test_a_lease_with_a_time_limit_is_hung_up_when_it_is_over(rig: Rig) -> None:
    rig.port("ttyS0", extra="max_lease = 0.3")
    daemon = rig.daemon()

    def hold(chat: Chat) -> float:
        descriptor = fetch(rig.socket)
        os.set_blocking(descriptor, True)
        chat.say()
        before = time.monotonic()
        assert os.read(descriptor, 1) == b""
        return time.monotonic() - before

    child = rig.child(NOBODY, hold)
    child.hear()
    assert 0.2 < child.result() < 2
    assert daemon.record("release").fields["reason"] == "time limit"
    os.close(fetch(rig.socket, wait=5))


# the device


@pytest.mark.alone
@pytest.mark.parametrize("waiting", [False, True])
def test_a_lost_device_frees_port_and_lock_at_once(rig: Rig, waiting: bool) -> None:
    rig.port("ttyS0", far=True)
    daemon = rig.daemon()

    def hold(chat: Chat) -> bytes:
        descriptor = fetch(rig.socket)
        os.set_blocking(descriptor, True)
        chat.say("held")
        try:
            return os.read(descriptor, 1)
        except OSError as error:  # a pty's own way to end, if it is faster than the hang-up
            assert error.errno == errno.EIO
            return b""

    child = rig.child(NOBODY, hold)
    child.hear()
    waiter = rig.child(ALICE, lambda _chat: fetch(rig.socket, wait=3)) if waiting else None
    while row(rig).waiting != waiting:
        pass
    with Watch(rig.locks) as watch:
        before = time.monotonic()
        rig.ports["ttyS0"].close()
        assert watch.gone("LCK..ttyS0") - before < AT_ONCE
    assert child.result() == b""
    assert daemon.record("release").fields["reason"] == "hung up or unplugged"
    if waiter is not None:
        with pytest.raises(WaitTimeout, match="ttyS0: timed out: absent"):  # it waits on
            waiter.result()
    with pytest.raises(NoSuchPort, match="plugged in"):
        fetch(rig.socket)
    assert row(rig).state == "gone"


def test_a_pty_starts_afresh_after_a_lease(rig: Rig, daemon: Daemon) -> None:
    """What real ports keep (their settings are put back at the end), a pty's driver resets."""

    def use() -> int:
        descriptor = fetch(rig.socket, wait=5)
        flags = termios.tcgetattr(descriptor)[3]
        tty.setraw(descriptor)
        return int(flags)

    as_user(NOBODY, (), use)
    assert as_user(ALICE, (), use) & termios.ICANON


# one process, many ports


def test_one_process_holds_many_ports_up_to_its_limit(rig: Rig) -> None:
    for number in range(66):
        rig.port(f"port{number}")
    rig.daemon()

    def take(chat: Chat) -> None:
        for number in range(64):
            fetch(rig.socket, f"port{number}")
        with pytest.raises(BrokerError) as caught:
            fetch(rig.socket, "port64")
        assert caught.value.errno == errno.EDQUOT
        chat.say()
        chat.hear()

    child = rig.child(ALICE, take)
    child.hear()
    assert len(os.listdir(rig.locks)) == 64
    holder = rig.holder(BOB, "port65")
    child.kill()
    holder.say()
    holder.result()


def test_the_descriptor_may_travel_on_and_the_lease_with_it(rig: Rig, daemon: Daemon) -> None:
    """A lease is a plain int: who got it may pass it to a process that could not ask."""
    giver, taker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def give() -> None:
        descriptor = fetch(rig.socket)
        packed = array.array("i", [descriptor])
        giver.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])

    child = rig.child(NOBODY, lambda _chat: give(), keep=[giver.fileno()])
    with Watch(rig.locks) as watch:
        child.result()
        watch.wait("LCK..ttyS0", IN_MOVED_TO)
        assert rig.lock().read_bytes() == lock_text(daemon.pid)
        _, received, _, _ = socket.recv_fds(taker, 1, 1)
        os.write(received[0], b"passed on")
        assert rig.ports["ttyS0"].read(9) == b"passed on"
        os.close(received[0])
        watch.gone("LCK..ttyS0")
    giver.close()
    taker.close()


def test_a_holder_may_undo_its_locks_and_the_table_still_decides(rig: Rig, daemon: Daemon) -> None:
    def undo(chat: Chat) -> None:
        descriptor = fetch(rig.socket)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        fcntl.ioctl(descriptor, TIOCNXCL)
        chat.say()
        chat.hear()

    child = rig.child(NOBODY, undo)
    child.hear()
    rig.lock().unlink()
    with pytest.raises(PortBusy) as caught:
        fetch(rig.socket)
    assert caught.value.holder is not None and caught.value.holder.pid == child.pid
    child.say()
    child.result()
    os.close(fetch(rig.socket, wait=5))
