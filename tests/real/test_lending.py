"""Python programs whose port is borrowed: nothing to be done, and nothing of it noticed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import resource
import select
import signal
import socket
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
from ttybroker import BrokerError, DeviceGone, PortLent, client, open_fd, open_tty
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


def test_all_threads_that_read_let_go_at_once_and_go_on(rig: Rig, one_port: Daemon) -> None:
    with monitor(rig, timeout=TIMEOUT) as port:
        got: list[object] = []

        def read() -> None:
            try:
                got.append(port.read(1))
            except Exception as error:
                got.append(error)

        readers = [threading.Thread(target=read) for _ in range(5)]
        for reader in readers:
            reader.start()
        for _ in range(5):
            began = time.monotonic()
            flasher = Flasher(rig)
            assert flasher.started()
            assert time.monotonic() - began < 0.9  # it was not hung up by force
            flasher.stop()
            while port.lent is not None:
                time.sleep(0.001)
        rig.ports["ttyS0"].write(b"xxxxx")
        for reader in readers:
            reader.join()
        assert got == [b"x"] * 5


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


class Late:
    """A program of the same user that was stopped in the queue, and has had the port since."""

    def __init__(self, rig: Rig, daemon: Daemon, use: Callable[[Chat], object]) -> None:
        holder = rig.holder(0)
        self.child = rig.child(0, use)
        with client.connect(str(rig.socket)) as connection:
            while not connection.ports()[0].waiting:
                time.sleep(0.01)
        os.kill(self.child.pid, signal.SIGSTOP)
        holder.say()
        daemon.record("release", pid=holder.pid)
        daemon.record("grant", pid=self.child.pid)

    def go_on(self) -> None:
        os.kill(self.child.pid, signal.SIGCONT)


@pytest.mark.parametrize("in_a_loop", [False, True])
@pytest.mark.parametrize("is_back", [False, True])
def test_a_port_that_is_lent_before_the_program_can_use_it_comes_back(
    rig: Rig, one_port: Daemon, in_a_loop: bool, is_back: bool
) -> None:
    def use(chat: Chat) -> tuple[list[str], int]:
        heard: list[str] = []

        def lent(port: YieldingSerial) -> None:
            heard.append(f"lent {port.is_open}")
            chat.say()

        wanted: dict[str, Any] = {
            "baudrate": 57600, "broker": str(rig.socket), "wait": 60, "yields": "user",
            "on_lent": lent,
            "on_back": lambda port: heard.append(f"back {port.is_open}"),
        }  # fmt: skip

        async def in_loop() -> None:
            with await ttybroker.aio.open_tty("ttyS0", **wanted) as port:
                await until(lambda: len(heard) == 2)
                wanted["speed"] = termios.tcgetattr(port.fileno())[5]

        if in_a_loop:
            asyncio.run(in_loop())
        else:
            with open_tty("ttyS0", timeout=0.05, **wanted) as port:
                while len(heard) < 2:
                    port.read(1)
                wanted["speed"] = termios.tcgetattr(port.fileno())[5]
        return heard, wanted["speed"]

    late = Late(rig, one_port, use)
    flasher = Flasher(rig)
    assert flasher.started() != termios.B57600
    if is_back:
        flasher.child.say()
        one_port.record("release", pid=flasher.child.pid)
        one_port.record("grant", pid=late.child.pid)
    late.go_on()
    late.child.hear()
    if not is_back:
        flasher.child.say()
    assert late.child.result() == (["lent True", "back True"], termios.B57600)
    flasher.child.wait()
    one_port.settled()


def fd_in_a_loop(name: str, **wanted: Any) -> int:
    return asyncio.run(ttybroker.aio.open_fd(name, **wanted))


@pytest.mark.parametrize(
    "opens", [open_tty, partial(open_tty, yields="user"), open_fd, fd_in_a_loop]
)
def test_a_port_that_is_taken_back_before_the_program_can_use_it_is_an_error_with_its_name(
    rig: Rig, one_port: Daemon, opens: Callable[..., object]
) -> None:
    def use(_: Chat) -> tuple[int | None, str, int]:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(DeviceGone) as caught:
            opens("ttyS0", broker=str(rig.socket), wait=60)
        return caught.value.errno, str(caught.value), len(os.listdir("/proc/self/fd")) - before

    late = Late(rig, one_port, use)
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")
    line = "ttyS0: taken back, or hung up, before it could be used; try again"
    late.go_on()
    assert late.child.result() == (errno.EIO, line, 0)


class Full:
    """Within it, this process has no descriptor left, or this many."""

    def __init__(self, left: int = 0) -> None:
        self._left = left

    def __enter__(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._taken = [os.open("/dev/null", os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._taken[0] + 50, self._limits[1]))
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(os.dup(self._taken[0]))
        for _ in range(self._left):
            os.close(self._taken.pop())

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
        for descriptor in self._taken:
            os.close(descriptor)


@pytest.mark.parametrize("yields", ["", "user"])
@pytest.mark.parametrize("in_a_loop", [False, True])
def test_with_too_few_descriptors_for_the_port_the_program_is_told_that(
    rig: Rig, one_port: Daemon, yields: str, in_a_loop: bool
) -> None:
    """Whichever it lacks: the connection's, which is the first, the port's, or one beside it."""
    with asyncio.Runner() as runner:

        def opened() -> serial.Serial:
            wanted: dict[str, Any] = {"broker": str(rig.socket), "yields": yields}
            if in_a_loop:
                return runner.run(ttybroker.aio.open_tty("ttyS0", **wanted))
            return open_tty("ttyS0", **wanted)

        opened().close()
        before = os.listdir("/proc/self/fd")
        for left in itertools.count():
            with Full(left):
                try:
                    port = opened()
                    break
                except BrokerError as error:
                    assert error.errno == errno.EMFILE
                    line = "too many open files here; close some, or allow more: ulimit -n"
                    assert str(error) == (f"ttyS0: {line}" if left else line)
            assert os.listdir("/proc/self/fd") == before
            one_port.settled()
        assert left > 2
        port.close()


def test_without_a_descriptor_for_a_copy_of_the_connection_the_program_is_told_that(
    rig: Rig, one_port: Daemon
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connected:
        connected.connect(str(rig.socket))
        with Full(), pytest.raises(BrokerError, match="too many open files"):
            open_fd("ttyS0", broker=connected)
        os.close(open_fd("ttyS0", broker=connected))


def test_a_port_is_lent_also_when_no_descriptor_is_free(rig: Rig, one_port: Daemon) -> None:
    heard: list[str] = []
    with monitor(rig, timeout=0.05, on_lent=lambda _: heard.append("lent")) as port:
        for _ in range(2):
            flasher = rig.child(0, lambda chat: (chat.hear(), borrow(rig)))
            with Full():
                flasher.say()
                while port.lent is None:
                    port.read(1)
            while port.lent is not None:
                port.read(1)
            assert flasher.result()[1] < 0.9  # it let go at once
        assert heard == ["lent", "lent"]


def borrow(rig: Rig) -> float:
    """Have the port a moment; return how long it took to get it."""
    before = time.monotonic()
    os.close(open_fd("ttyS0", broker=str(rig.socket), wait=TIMEOUT))
    return time.monotonic() - before


def test_one_more_thread_that_reads_is_told_that_there_is_no_descriptor_for_it(
    rig: Rig, one_port: Daemon
) -> None:
    with monitor(rig, timeout=TIMEOUT) as port:
        reader = threading.Thread(target=port.read, args=(1,))
        reader.start()
        while port._idle:
            time.sleep(0.001)
        with Full(), pytest.raises(BrokerError, match="ttyS0: too many open files") as caught:
            port.read(1)
        assert caught.value.errno == errno.EMFILE
        rig.ports["ttyS0"].write(b"x")
        reader.join()


@pytest.mark.parametrize("yields", ["", "user"])
def test_any_number_of_reads_and_writes_may_be_cancelled(
    rig: Rig, one_port: Daemon, yields: str
) -> None:
    with open_tty("ttyS0", broker=str(rig.socket), timeout=TIMEOUT, yields=yields) as port:
        for _ in range(70_000):  # a pipe has 65,536 bytes
            port.cancel_read()
            port.cancel_write()
        assert port.read(1) == b""


def test_a_thread_whose_cancellation_another_thread_has_taken_reads_on(
    rig: Rig, one_port: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monitor(rig, timeout=TIMEOUT) as port:
        usual = select.select

        def woken_in_vain(*_: object) -> tuple[list[int], list[int], list[int]]:
            monkeypatch.setattr(select, "select", usual)
            return [port.pipe_abort_read_r], [], []

        monkeypatch.setattr(select, "select", woken_in_vain)
        rig.ports["ttyS0"].write(b"x")
        assert port.read(1) == b"x"


def test_who_polls_the_descriptor_wakes_up_also_if_the_broker_was_started_again(rig: Rig) -> None:
    rig.port("ttyS0")
    with manager(rig) as systemd:
        systemd.start()
        with monitor(rig, timeout=0) as port:
            flasher = Flasher(rig)
            while port.lent is None:
                port.read(1)
            flasher.started()
            systemd.restart()
            poll = select.poll()
            poll.register(port, select.POLLIN)
            assert poll.poll(TIMEOUT * 1000)
            assert port.lent is not None  # it has asked the new broker
            flasher.stop()
            while port.lent is not None:
                assert poll.poll(TIMEOUT * 1000), "nothing woke it up"


def test_a_lent_port_comes_back_when_there_is_a_descriptor_for_it(
    rig: Rig, one_port: Daemon
) -> None:
    with monitor(rig, timeout=0.05) as port:
        flasher = Flasher(rig)
        while port.lent is None:
            port.read(1)
        flasher.started()
        with Full():
            flasher.child.say()
            one_port.record("release", pid=flasher.child.pid)
            one_port.record("grant", pid=os.getpid())
            grants = one_port.output().count(": grant ")
            port.timeout = 1.2  # it looks for one again and again, and asks the broker for nothing
            assert port.read(1) == b""
            assert port.lent is not None
            assert one_port.output().count(": grant ") == grants
        flasher.child.wait()
        while port.lent is not None:
            port.read(1)
        port.write(b"y")
        assert rig.ports["ttyS0"].read(1) == b"y"


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def until_sent(port: serial.Serial, data: bytes) -> int:
    """Write it when the port takes it; return how much it took."""
    while not (sent := port.write(data)):
        await asyncio.sleep(0.005)
    return sent


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


@pytest.mark.parametrize("through_a_transport", [True, False])
def test_the_loop_runs_while_the_port_takes_no_more_of_what_was_kept(
    rig: Rig, one_port: Daemon, through_a_transport: bool
) -> None:
    """As on a slow line, or one that the other end has stopped."""
    kept = os.urandom(40000)

    async def program() -> None:
        loop = asyncio.get_running_loop()
        port = await ttybroker.aio.open_tty(
            "ttyS0", broker=str(rig.socket), yields="user", write_timeout=0
        )
        writer: Any = port
        if through_a_transport:
            writer, _ = await serial_asyncio_fast.connection_for_serial(loop, Lines, port)
        flasher = Flasher(rig)
        await until(lambda: port.lent is not None)
        await asyncio.to_thread(flasher.started)
        writer.write(kept)
        await asyncio.to_thread(flasher.stop)
        await until(lambda: port.lent is None)
        await until(lambda: not select.select([], [port.fd], [], 0)[1])
        await asyncio.sleep(0.05)  # it tries again, in vain
        assert await asyncio.to_thread(rig.ports["ttyS0"].read, len(kept)) == kept
        if not through_a_transport:  # what follows waits for the port no more than that did
            much = kept * 4
            sent = await until_sent(port, much)
            while more := port.write(much[sent:]):  # the kernel moves it on meanwhile
                sent += more
            assert sent < len(much)
            assert await asyncio.to_thread(rig.ports["ttyS0"].read, sent) == much[:sent]
        writer.close()
        await until(lambda: not port.is_open)  # a transport closes it in the next turn

    asyncio.run(program())


@pytest.mark.parametrize("is_full", [False, True])
def test_a_transport_ends_when_the_next_broker_refuses_its_lent_port(
    rig: Rig, is_full: bool
) -> None:
    """Also if no descriptor is free then. The news comes through another connection."""
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
        with Full() if is_full else contextlib.nullcontext():
            assert "not permitted" in str(await asyncio.wait_for(lines.lost, TIMEOUT))
        flasher.stop()

    with manager(rig) as systemd:
        systemd.start()
        asyncio.run(program(systemd))
    assert [what for what in wrong if "Exception in callback" in str(what)] == []
