"""Python programs whose port is borrowed: nothing to be done, and nothing of it noticed."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import os
import select
import sys
import termios
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import serial
import serial_asyncio_fast

import ttybroker.aio
from support.board import Board
from support.children import Chat, as_user
from support.daemon import Daemon
from support.rig import Rig
from support.systemd import Systemd, manager
from support.users import ALICE
from support.waiting import TIMEOUT
from ttybroker import BrokerError, PortLent, client, open_fd, open_tty
from ttybroker.inloop import LoopSerial
from ttybroker.lending import YieldingSerial

pytestmark = pytest.mark.root


@pytest.fixture
def one_port(rig: Rig) -> Daemon:
    """A daemon with the port ttyS0."""
    rig.port("ttyS0")
    return rig.daemon()


def monitor(rig: Rig, **settings: Any) -> YieldingSerial:
    """A program's port, at 57600 and with a timeout of a second."""
    made = open_tty("ttyS0", 57600, broker=str(rig.socket), **{"yields": "user", "timeout": 1,
                                                              **settings})  # fmt: skip
    assert isinstance(made, YieldingSerial)
    return made


class Flasher:
    """Another program of the same user, which has the port from its start to `stop`."""

    def __init__(self, rig: Rig, uid: int = 0) -> None:
        def hold(chat: Chat) -> None:
            descriptor = open_fd("ttyS0", broker=str(rig.socket), wait=TIMEOUT)
            chat.say(termios.tcgetattr(descriptor)[5])
            chat.hear()
            os.close(descriptor)

        self.child = rig.child(uid, hold)

    def started(self) -> int:
        """Wait until it has the port; return the speed that it found."""
        return int(self.child.hear())

    def stop(self) -> None:
        self.child.say()
        self.child.wait()


def test_one_read_lasts_over_a_whole_hand_over(rig: Rig, one_port: Daemon) -> None:
    """The thread reads, and does nothing else; what the other program gets it does not see."""
    heard: list[str] = []
    with monitor(
        rig,
        timeout=TIMEOUT,
        on_lent=lambda port: heard.append(f"lent to {port.lent.pid}"),
        on_back=lambda port: heard.append(f"back, {port.lent}"),
    ) as port:
        flasher = Flasher(rig)

        def meanwhile() -> None:
            assert flasher.started() != termios.B57600
            rig.ports["ttyS0"].write(b"for the flasher")
            flasher.stop()
            while not heard or not heard[-1].startswith("back"):
                time.sleep(0.01)
            rig.ports["ttyS0"].write(b"for the monitor\n")

        other = threading.Thread(target=meanwhile)
        other.start()
        assert port.read(16) == b"for the monitor\n"
        other.join()
        assert heard == [f"lent to {flasher.child.pid}", "back, None"]
        assert termios.tcgetattr(port.fd)[5] == termios.B57600


def test_a_read_whose_port_is_closed_by_on_lent_says_that_it_is_closed(
    rig: Rig, one_port: Daemon
) -> None:
    port = monitor(rig, timeout=TIMEOUT, on_lent=lambda lent: lent.close())
    flasher = Flasher(rig)
    with pytest.raises(serial.PortNotOpenError):
        port.read(1)
    flasher.started()
    flasher.stop()


def test_who_hears_of_a_loan_when_it_is_over_is_told_of_it_as_it_was(
    rig: Rig, one_port: Daemon
) -> None:
    """A program that was suspended, or busy, for all that time."""
    heard: list[object] = []
    with monitor(
        rig,
        on_lent=lambda port: heard.append(port.lent and port.lent.pid),
        on_back=lambda port: heard.append(port.lent),
    ) as port:
        pids = []
        for _ in range(2):
            flasher = Flasher(rig)
            flasher.started()
            pids.append(flasher.child.pid)
            flasher.stop()
            with client.connect(str(rig.socket)) as connection:
                while (
                    (row := connection.ports()[0]).state != "busy"
                    or row.holder is None
                    or row.holder.pid in pids
                ):
                    time.sleep(0.01)
        while port.lent is not None:
            port.read(1)
    assert heard == [pids[0], None, pids[1], None]


def test_in_a_chain_the_present_borrower_is_told(rig: Rig, one_port: Daemon) -> None:
    """Also while the second has it, who was in the queue when the first was done."""
    with monitor(rig, timeout=0.05) as port:
        first = Flasher(rig)
        while port.lent is None:
            port.read(1)
        first.started()
        second = Flasher(rig)
        with client.connect(str(rig.socket)) as connection:
            while not connection.ports()[0].waiting:
                time.sleep(0.01)
        assert port.lent.pid == first.child.pid
        first.stop()
        second.started()
        end = time.monotonic() + TIMEOUT
        while port.lent.pid != second.child.pid:
            assert time.monotonic() < end, port.lent
            port.read(1)
        with pytest.raises(PortLent) as caught:
            port.write(b"x")
        assert caught.value.holder is not None
        assert caught.value.holder.pid == second.child.pid
        second.stop()
        while port.lent is not None:
            port.read(1)


def test_a_copy_of_a_lent_ports_descriptor_is_hung_up(rig: Rig, one_port: Daemon) -> None:
    """As a C program has it that inherited it. The port itself comes back."""
    with monitor(rig, timeout=0.05) as port:
        copy = os.dup(port.fileno())
        flasher = Flasher(rig)
        while port.lent is None:
            port.read(1)
        flasher.started()
        assert os.read(copy, 1) == b""
        with pytest.raises(OSError) as caught:
            os.write(copy, b"x")
        assert caught.value.errno == errno.EIO
        flasher.stop()
        while port.lent is not None:
            port.read(1)
        assert os.read(copy, 1) == b""
        os.close(copy)
        port.write(b"y")
        assert rig.ports["ttyS0"].read(1) == b"y"


def test_who_has_a_lent_port_is_asked_once_a_second_at_most(
    rig: Rig, one_port: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    ports = client.Client.ports

    def counted(self: client.Client, *names: Any, **more: Any) -> Any:
        asked.append(time.monotonic())
        return ports(self, *names, **more)

    with monitor(rig, timeout=0) as port:
        flasher = Flasher(rig)
        while port.lent is None:
            pass
        monkeypatch.setattr(client.Client, "ports", counted)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert port.lent is not None
        flasher.started()
        flasher.stop()
    assert 2 <= len(asked) <= 3
    assert all(later - before >= 1.0 for before, later in itertools.pairwise(asked))


def test_while_it_is_lent_reads_time_out_writes_raise_and_settings_wait(
    rig: Rig, one_port: Daemon
) -> None:
    with monitor(rig, timeout=0.05) as port:
        number = port.fileno()
        flasher = Flasher(rig)
        while port.lent is None:
            pass
        assert flasher.started()
        assert port.lent.pid == flasher.child.pid
        assert port.read(5) == b""
        for call in (lambda: port.write(b"x"), port.send_break):
            with pytest.raises(PortLent) as caught:
                call()
            assert caught.value.holder is not None
            assert caught.value.holder.pid == flasher.child.pid
        port.baudrate = 115200
        port.rts = port.dtr = port.break_condition = False
        port.reset_input_buffer()
        port.reset_output_buffer()
        port.flush()
        assert (port.in_waiting, port.out_waiting) == (0, 0)
        assert (port.cts, port.dsr, port.ri, port.cd) == (False,) * 4
        with pytest.raises(OSError):
            os.write(number, b"not to anybody")
        flasher.stop()
        while port.lent is not None:
            pass
        assert port.fileno() == number
        assert termios.tcgetattr(number)[5] == termios.B115200
        port.write(b"y")
        assert rig.ports["ttyS0"].read(1) == b"y"


def test_a_program_that_is_busy_for_a_while_learns_of_it_at_its_next_call(
    rig: Rig, one_port: Daemon
) -> None:
    with monitor(rig) as port:
        flasher = Flasher(rig)
        assert flasher.started()  # it was hung up
        with pytest.raises(PortLent):
            port.write(b"x")
        flasher.stop()
        rig.ports["ttyS0"].write(b"")
        while port.lent is not None:
            pass
        rig.ports["ttyS0"].write(b"line\n")
        assert port.readline() == b"line\n"


def test_who_polls_the_descriptor_wakes_up_for_the_loan_and_for_its_end(
    rig: Rig, one_port: Daemon
) -> None:
    with monitor(rig, timeout=0) as port:
        poll = select.poll()
        poll.register(port, select.POLLIN)

        def until(lent: bool) -> None:
            end = time.monotonic() + TIMEOUT
            while (port.lent is not None) != lent:
                assert poll.poll((end - time.monotonic()) * 1000), "nothing woke it up"
                port.read(1)

        flasher = Flasher(rig)
        assert flasher.started()  # it was hung up: that is readable
        until(lent=True)
        assert poll.poll(50) == []
        flasher.stop()
        until(lent=False)


def test_a_second_thread_that_writes_sees_the_same(rig: Rig, one_port: Daemon) -> None:
    with monitor(rig, timeout=TIMEOUT) as port:
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(port.read(4)))
        reader.start()
        began = time.monotonic()
        for _ in range(10):
            flasher = Flasher(rig)
            assert flasher.started()
            with pytest.raises(PortLent):
                port.write(b"x")
            flasher.stop()
            while port.lent is not None:
                time.sleep(0.001)
            port.write(b"out")
            assert rig.ports["ttyS0"].read(3) == b"out"
        assert time.monotonic() - began < 5  # it let go at once
        rig.ports["ttyS0"].write(b"done")
        reader.join()
        assert got == [b"done"]


def test_a_port_that_was_taken_back_meanwhile_says_so(rig: Rig, one_port: Daemon) -> None:
    with monitor(rig, timeout=TIMEOUT) as port:
        flasher = Flasher(rig)
        while port.lent is None:
            pass
        flasher.started()
        with client.connect(str(rig.socket)) as connection:
            connection.revoke("ttyS0")
        for call in (port.read, lambda: port.write(b"x")):
            with pytest.raises(BrokerError, match="taken back"):
                call()
        flasher.child.kill()


def test_a_url_says_it_too(rig: Rig, one_port: Daemon) -> None:
    url = f"broker://ttyS0?yields=user&broker={rig.socket}"
    with serial.serial_for_url(url, timeout=0.05) as port:
        flasher = Flasher(rig)
        while port.lent is None:
            pass
        assert flasher.started()
        flasher.stop()
        while port.lent is not None:
            pass


@pytest.mark.parametrize(
    "make",
    [
        lambda rig: open_tty("ttyS0", broker=str(rig.socket), yields="everybody"),
        lambda rig: serial.serial_for_url(f"broker://ttyS0?yields=x&broker={rig.socket}"),
    ],
)
def test_other_words_are_a_mistake(
    rig: Rig, one_port: Daemon, make: Callable[[Rig], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is said when what was not made is thrown away."""
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: ignored.append(str(what.exc_value)))
    with pytest.raises(ValueError, match="yields"):
        make(rig)
    gc.collect()
    assert ignored == []


def test_a_program_that_ends_while_it_is_lent_claims_nothing(rig: Rig, one_port: Daemon) -> None:
    port = monitor(rig)
    flasher = Flasher(rig)
    while port.lent is None:
        pass
    flasher.started()
    port.close()
    flasher.stop()
    as_user(ALICE, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket), wait=TIMEOUT)))
    one_port.settled()


def test_a_board_that_comes_back_as_another_device_after_it_was_flashed_is_had_again(
    rig: Rig,
) -> None:
    board = Board(rig)
    daemon = rig.daemon()
    with open_tty("board", broker=str(rig.socket), yields="user", timeout=0.05) as port:
        flasher = rig.holder(0, "board")
        while port.lent is None:
            pass
        board.unplug()
        daemon.record("release", port="board", pid=flasher.pid)
        assert port.read(1) == b""
        assert port.lent is not None
        new = board.plug()
        while port.lent is not None:
            port.read(1)
        port.write(b"hello")
        assert new.read(5) == b"hello"
        flasher.kill()
    board.close()
    daemon.settled()


class Lines(asyncio.Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.got = b""
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def have(lines: Lines, end: bytes) -> bool:
    return lines.got.endswith(end)


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_a_transport_of_asyncio_stays_while_its_port_is_lent(rig: Rig, one_port: Daemon) -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        port = await ttybroker.aio.open_tty("ttyS0", 57600, broker=str(rig.socket), yields="user")
        transport, lines = await serial_asyncio_fast.connection_for_serial(loop, Lines, port)
        for number in range(1, 6):
            flasher = Flasher(rig)
            began = time.monotonic()
            await until(lambda: port.lent is not None)
            await asyncio.to_thread(flasher.started)
            assert time.monotonic() - began < 0.9  # it let go at once
            transport.write(f"later {number}".encode())
            await asyncio.to_thread(flasher.stop)
            await until(lambda: port.lent is None)
            assert await asyncio.to_thread(rig.ports["ttyS0"].read, 7) == f"later {number}".encode()
            rig.ports["ttyS0"].write(b"%d" % number)
            await until(partial(have, lines, b"%d" % number))
        assert lines.got == b"12345"
        flasher = Flasher(rig)
        await asyncio.to_thread(flasher.started)
        with client.connect(str(rig.socket)) as connection:
            await asyncio.to_thread(connection.revoke, "ttyS0")
        assert "taken back" in str(await asyncio.wait_for(lines.lost, TIMEOUT))
        flasher.child.kill()

    asyncio.run(program())


def test_a_transport_ends_when_the_next_broker_refuses_its_lent_port(rig: Rig) -> None:
    """The news comes through another connection than the one that the stand-in watches."""
    rig.port("ttyS0")
    wrong: list[object] = []

    async def program(systemd: Systemd) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, what: wrong.append(what))
        port = await ttybroker.aio.open_tty("ttyS0", broker=str(rig.socket), yields="all")
        _, lines = await serial_asyncio_fast.connection_for_serial(loop, Lines, port)
        flasher = Flasher(rig, ALICE)
        await asyncio.to_thread(flasher.started)
        rig.rules[0] = rig.rules[0].replace("*", str(ALICE))
        rig.daemons[-1].process.terminate()
        rig.daemons[-1].wait()
        assert isinstance(port, LoopSerial) and port.lent_now()  # and it has asked again
        systemd.start()
        assert "not permitted" in str(await asyncio.wait_for(lines.lost, TIMEOUT))
        flasher.stop()

    with manager(rig) as systemd:
        systemd.start()
        asyncio.run(program(systemd))
    assert [what for what in wrong if "Exception in callback" in str(what)] == []
