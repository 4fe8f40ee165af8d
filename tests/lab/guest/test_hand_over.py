"""A port with a real driver is lent, and comes back.

The tests measure how soon, check the settings, and that nobody reads the bytes of the other.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

from adapters import BY_ID, Adapters
from figures import note
from lines import FAR, NEAR, far, raw, receive
from service import BOB, PATIENT, Service, flavour, until
from support.children import Chat, Child
from test_zmodem import HOME, become_bob
from ttybroker import open_fd, open_tty
from ttybroker.lending import YieldingSerial

ROUNDS = 5
GRACE = 1000.0  # ms that a session gets which does not let go; others need less, most of the time
AFTER_GRACE = 2000.0  # ms: 1200, and what the emulation takes on a busy host
XOFF = b"\x13"
RIGHT = 1000.0  # ms
# The monitor's settings, and those that a port is found with.
SPEED, FRAME = termios.B57600, termios.CS7 | termios.PARENB
FOUND = termios.B9600, termios.CS8
SIZE = 32 * 1024  # bytes
# How it is started, what it says last before it shows the line, and the keys that end it.
TERMINALS = {
    "16550A": (["term", "{}"], r"Quit: Ctrl\+\][^\n]*\n", "\x1d"),
    "FTDI": (["run", "--yield", "--", "picocom", "-b", "115200", "/dev/{}"],
             r"Terminal ready\r\n", "\x01\x18"),
}  # fmt: skip


def settings(descriptor: int) -> tuple[int, int]:
    """Return speed and frame."""
    found = termios.tcgetattr(descriptor)
    return found[5], found[2] & (termios.CSIZE | termios.PARENB)


class Monitor:
    """A session that yields, in a child. One thread reads lines, and does nothing for the loan."""

    def __init__(self, chat: Chat, name: str, **more: Any) -> None:
        self._chat = chat
        self._port = open_tty(name, 57600, bytesize=7, parity="E", timeout=600, yields="user",
                              on_lent=self._lent, on_back=self._back, **more)  # fmt: skip
        assert isinstance(self._port, YieldingSerial)
        chat.say("has it")

    def reads(self) -> None:
        """Say each line as it comes."""
        while True:
            self._chat.say(("line", self._port.readline()))

    def sends(self, data: bytes) -> None:
        """Write when the other side has said a word, and say when the bytes have been sent."""
        self._port.read_until(b"!")
        self._port.write(data)
        self._chat.say("written")

    def _lent(self, port: YieldingSerial) -> None:
        assert port.lent is not None
        self._chat.say(("lent", port.lent.pid))

    def _back(self, port: YieldingSerial) -> None:
        self._chat.say(("back", os.ttyname(port.fd), settings(port.fd), time.monotonic()))


def monitor(broker: Service, name: str) -> Child:
    """Start a child that reads the port's lines, and lends it to bob's other programs."""
    child = broker.child(BOB, lambda chat: Monitor(chat, name).reads())
    assert child.hear(PATIENT) == "has it"
    return child


def flash(chat: Chat, name: str) -> None:
    """Be another program: open the port, read the board, answer, and leave some bytes unread."""
    before = time.monotonic()
    descriptor = open_fd(name, wait=PATIENT)
    took = 1000 * (time.monotonic() - before)
    assert settings(descriptor) == FOUND
    raw(descriptor)
    chat.say(took)
    while (word := chat.hear(PATIENT)) != "end":
        chat.say(receive(descriptor, len(word)))
        os.write(descriptor, word.upper())
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(PATIENT * 1000)
    chat.say(time.monotonic())
    os.close(descriptor)


def test_a_port_is_lent_at_once_and_comes_back_with_its_settings(
    broker: Service, wire: tuple[str, str, int]
) -> None:
    """The monitor does not get the bytes that the other program did not read.

    QEMU's FTDI adapter never says that its transmitter is empty, as a true one does. So the broker
    waits for its output as long as it ever does: 0.1 s before it lends the port, and a second
    before it returns.
    """
    kind, name, end = wire
    reader, times = monitor(broker, name), []
    for number in range(ROUNDS):
        line = b"line %d\n" % number
        os.write(end, line)
        assert reader.hear(PATIENT) == ("line", line)
        flasher = broker.child(BOB, lambda chat: flash(chat, name))
        took = flasher.hear(PATIENT)
        times.append(note(f"ms until a port that is let go of is the asker's, {kind}", took))
        assert reader.hear(PATIENT) == ("lent", flasher.pid)
        shown = broker.port(name)
        assert shown.holder is not None and shown.holder.pid == flasher.pid
        assert shown.lent is not None and shown.lent.pid == reader.pid
        for word in (b"sync", b"block of firmware\n"):
            os.write(end, word)
            flasher.say(word)
            assert flasher.hear(PATIENT) == word
            assert receive(end, len(word)) == word.upper()
        os.write(end, b"never read\n")
        flasher.say("end")
        closed = flasher.hear(PATIENT)
        _, path, found, back = reader.hear(PATIENT)
        note(f"ms from the asker's close until the port is back, {kind}", 1000 * (back - closed))
        assert (path, found) == (f"/dev/{name}", (SPEED, FRAME))
    os.write(end, b"last\n")
    assert reader.hear(PATIENT) == ("line", b"last\n")
    assert sorted(times)[ROUNDS // 2] < GRACE


@pytest.mark.bare  # the driver is the same in both
def test_who_does_not_let_go_is_hung_up_in_time_though_its_output_is_stuck(broker: Service) -> None:
    """It is suspended with a thousand bytes behind XOFF, of which nobody gets any."""
    times = []
    for _ in range(3):
        end = far(FAR)
        suspended = broker.child(BOB, stuck_monitor)
        assert suspended.hear(PATIENT) == "has it"
        os.write(end, XOFF + b"!")
        assert suspended.hear(PATIENT) == "written"
        suspended.kill(signal.SIGSTOP)
        flasher = broker.child(BOB, lambda chat: flash(chat, NEAR))
        took = flasher.hear(PATIENT)
        times.append(note("ms until a port is the asker's that nobody lets go of", took))
        assert broker.port(NEAR).lent is not None
        flasher.say(b"go!")
        os.write(end, b"go!")
        assert flasher.hear(PATIENT) == b"go!"
        assert receive(end, 3) == b"GO!"
        os.write(end, b"never read\n")
        flasher.say("end")
        flasher.wait(PATIENT)
        suspended.kill(signal.SIGCONT)
        assert suspended.hear(PATIENT) == ("lent", flasher.pid)
        assert suspended.hear(PATIENT)[:3] == ("back", f"/dev/{NEAR}", (SPEED, FRAME))
        os.write(end, b"line\n")
        assert suspended.hear(PATIENT) == ("line", b"line\n")
        suspended.kill()
        os.close(end)
    assert GRACE <= min(times) < AFTER_GRACE


def stuck_monitor(chat: Chat) -> None:
    monitor = Monitor(chat, NEAR, xonxoff=True, write_timeout=0)
    monitor.sends(b"x" * 1000)
    monitor.reads()


def test_a_board_that_is_plugged_in_anew_while_it_is_lent_is_the_monitors_again(
    broker: Service, adapters: Adapters
) -> None:
    """It gets a new number, because the flasher keeps the old one with its dead descriptor."""
    meant = "link" if flavour() == "systemd" else "words"
    link = BY_ID.format("BOARD1")
    rule = 'serial = "BOARD1"' if meant == "words" else f'device = "{link}"'
    broker.policy(f'[[rule]]\nport = "board"\n{rule}\nallow = ["bob"]\n')
    first = adapters.plug(0, "BOARD1")
    there = link if meant == "link" else f"/dev/{first}"
    until("its name", lambda: os.path.exists(there))
    end = far("ttyS3")
    reader = monitor(broker, "board")
    flasher = broker.child(BOB, lambda chat: flash(chat, "board"))
    flasher.hear(PATIENT)
    assert reader.hear(PATIENT) == ("lent", flasher.pid)
    adapters.unplug(0)
    until("it to be gone", lambda: not os.path.exists(f"/dev/{first}"))
    second = adapters.plug(0, "BOARD1")
    assert second != first
    there = link if meant == "link" else f"/dev/{second}"
    until("its name", lambda: os.path.exists(there))
    came = os.lstat(there).st_ctime
    _, path, found, back = reader.hear(PATIENT)
    assert (path, found) == (f"/dev/{second}", (SPEED, FRAME))
    took = 1000 * (back - time.monotonic() + time.time() - came)
    assert note(f"ms from the name until the monitor has it again, {meant}", took) < RIGHT
    os.write(end, b"board is up\n")
    assert reader.hear(PATIENT) == ("line", b"board is up\n")
    os.close(end)


@pytest.mark.bare  # of programs there is nothing that is systemd's
def test_a_terminal_stays_open_while_a_file_goes_over_its_port(
    broker: Service, wire: tuple[str, str, int], tmp_path: Path
) -> None:
    """The terminal gets no byte of the file, and the first line after it is complete."""
    kind, name, end = wire
    os.set_blocking(end, True)  # rz takes EAGAIN for an error
    program, ready, leave = TERMINALS[kind]
    screen = pexpect.spawn(
        "ttybroker", [word.format(name) for word in program], cwd=HOME, preexec_fn=become_bob,
        timeout=PATIENT, encoding="latin-1", env={**os.environ, "TERM": "linux", "HOME": str(HOME)},
    )  # fmt: skip
    sent = HOME / "file"
    sent.write_bytes(os.urandom(SIZE))
    try:
        screen.expect(ready)
        words = ["ttybroker", "run", "--stdio", name, "--", "sz", "-b", "-q", "file"]
        had = holder_of(broker, name)
        flasher = subprocess.Popen(words, cwd=HOME, preexec_fn=become_bob)
        until("the flasher to have it", lambda: holder_of(broker, name) not in (had, 0))
        subprocess.run(["rz", "-b", "-q", "-y"], cwd=tmp_path, stdin=end, stdout=end, check=True)
        assert flasher.wait(PATIENT) == 0
        assert (tmp_path / "file").read_bytes() == sent.read_bytes()
        until("the terminal to have it again", lambda: holder_of(broker, name) == had)
        os.write(end, b"board is up\r\n")
        screen.expect_exact("board is up\r")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.before)
        lines = [line for line in text.split("\n") if line]
        assert [line for line in lines if not line.startswith("ttybroker: ")] == []
        screen.send(leave)
        screen.expect(pexpect.EOF)
        screen.wait()
        assert screen.exitstatus == 0
    finally:
        screen.close(force=True)
        sent.unlink()


def holder_of(broker: Service, name: str) -> int:
    """Return its pid; 0: nobody has the port, or not yet."""
    row = broker.port(name)
    return row.holder.pid if row.state == "busy" and row.holder is not None else 0
