"""A port that yields, under the asyncio libraries that PyPI has: its transport stays."""

from __future__ import annotations

import os
import signal
import subprocess
import termios

import pytest

from docs.blocks import blocks
from matrix.namespace import INSTALLED, PORT
from matrix.stage import Installation, Stage
from support.users import BOB
from support.waiting import TIMEOUT, wait_readable
from ttybroker import client, open_fd

LIBRARIES = INSTALLED / "python"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not LIBRARIES.exists(), reason="`make matrix` installs the libraries"),
]

# Says what it hears, and does what it is told: a word on its standard input.
HEAD = """
import asyncio, sys

class Talk(asyncio.Protocol):
    def __init__(self):
        self.over = asyncio.get_running_loop().create_future()
    def data_received(self, data):
        for letter in data:  # which may come one by one
            print("got", chr(letter), flush=True)
    def pause_writing(self):
        print("pause", flush=True)
    def resume_writing(self):
        print("resume", flush=True)
    def connection_lost(self, exc):
        print("lost", exc, flush=True)
        self.over.set_result(None)

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, what: print("exception", what, flush=True))
    transport, talk = await connect(loop)
    def told():
        word, _, rest = sys.stdin.readline().strip().partition(" ")
        if word == "write":
            transport.write(rest.encode())
        elif word == "much":
            transport.write(b"x" * int(rest))
        elif word == "more":
            asyncio.ensure_future(more(transport, rest))
        elif word == "close":
            transport.close()
        else:
            loop.remove_reader(0)
    loop.add_reader(0, told)
    print("open", flush=True)
    await talk.over
"""
PYSERIAL = """
import ttybroker.aio
async def connect(loop):
    port = await ttybroker.aio.open_tty("ttyS7", 57600, yields="all")
    return await LIBRARY.connection_for_serial(loop, Talk, port)
"""
SERIALX = """
import serialx, ttybroker.serialx
URL = "broker://ttyS7?yields=all"
async def connect(loop):
    return await serialx.create_serial_connection(loop, Talk, URL, 57600)
async def more(transport, what):
    if what == "flush":
        await transport.flush()
    elif what == "settings":
        await transport.reconfigure_port(baudrate=19200)
        await transport.set_modem_pins(rts=False)
    print("did", what, transport.baudrate, flush=True)
"""
CONNECT = {
    "pyserial-asyncio": PYSERIAL.replace("LIBRARY", "__import__('serial_asyncio')"),
    "pyserial-asyncio-fast": PYSERIAL.replace("LIBRARY", "__import__('serial_asyncio_fast')"),
    "serialx": SERIALX,
}


class Program:
    """One of the libraries in a process of its own, as an ordinary user."""

    def __init__(
        self, stage: Stage, installation: Installation, code: str, run: str = "asyncio.run(main())"
    ) -> None:
        path = f"{stage.programs / 'python'}:{installation.base / 'lib/ttybroker'}"
        command = ("/usr/bin/python3", "-B", "-c", HEAD + code + run)
        self._said = b""
        self.process: subprocess.Popen[bytes] = stage.start(
            *command, env={"PYTHONPATH": path}, stderr=subprocess.STDOUT
        )

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        while b"\n" not in self._said:
            wait_readable(self.process.stdout.fileno(), f"a line, got {self._said!r}")
            self._said += (data := os.read(self.process.stdout.fileno(), 4096))
            assert data, self._said.decode()
        said, _, self._said = self._said.partition(b"\n")
        return said.decode()

    def hear(self, line: str) -> None:
        """Demand that this is the next line."""
        assert self.line() == line

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """What it said since; it must have ended well."""
        said = (self._said + self.process.communicate(timeout=TIMEOUT)[0]).decode()
        assert self.process.returncode == 0, said
        return said


@pytest.mark.parametrize("library", CONNECT)
def test_the_transport_stays_while_the_port_is_lent(
    stage: Stage, installation: Installation, library: str
) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    program = Program(stage, installation, CONNECT[library])
    program.hear("open")
    speed = stage.speed()
    for number in "12345":
        other = stage.rig.holder(BOB, PORT, wait=TIMEOUT)
        other.hear()
        assert stage.speed() != speed
        stage.say(b"not for it")
        program.tell(f"write later {number}")
        other.say()
        other.result()
        stage.hear(f"later {number}".encode())
        assert stage.speed() == speed
        stage.say(number.encode())
        program.hear(f"got {number}")
    other = stage.rig.holder(BOB, PORT, wait=TIMEOUT)
    other.hear()
    program.tell("close")  # which gives up the claim
    assert program.end() == "lost None\n"
    other.say()
    other.result()
    stage.demand_free()


@pytest.mark.parametrize("library", CONNECT)
def test_the_transport_ends_when_a_lent_port_is_taken_back(
    stage: Stage, installation: Installation, library: str
) -> None:
    """With the reason, and without an exception in a callback of the loop."""
    stage.rig.daemon(*stage.rig.arguments)
    program = Program(stage, installation, CONNECT[library])
    program.hear("open")
    other = stage.rig.holder(BOB, PORT, wait=TIMEOUT)
    other.hear()
    with client.connect(str(stage.rig.socket)) as connection:
        connection.revoke(PORT)
    said = program.end()
    assert "\nlost " in f"\n{said}" and "taken back" in said
    assert "Exception in callback" not in said
    other.say()
    other.result()


def test_a_program_that_was_busy_when_its_port_was_lent_goes_on(
    stage: Stage, installation: Installation
) -> None:
    """The port was hung up by force, and the news is the first that it hears."""
    stage.rig.daemon(*stage.rig.arguments)
    program = Program(stage, installation, SERIALX)
    program.hear("open")
    program.process.send_signal(signal.SIGSTOP)
    other = stage.rig.holder(BOB, PORT, wait=TIMEOUT)
    other.hear()
    program.process.send_signal(signal.SIGCONT)
    program.tell("write afterwards")
    other.say()
    other.result()
    stage.hear(b"afterwards")
    program.tell("close")
    assert program.end() == "lost None\n"


def test_serialx_holds_back_who_writes_too_much_while_it_is_lent(
    stage: Stage, installation: Installation
) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    program = Program(stage, installation, SERIALX)
    program.hear("open")
    other = stage.rig.holder(BOB, PORT, wait=TIMEOUT)
    other.hear()
    program.tell("much 100000")
    program.hear("pause")
    other.say()
    other.result()
    heard = 0
    while heard < 100000:
        heard += len(stage.hear(b"x"))
    assert heard == 100000
    program.hear("resume")
    program.tell("close")
    assert program.end() == "lost None\n"


def test_serialx_has_its_new_settings_when_the_port_is_back(
    stage: Stage, installation: Installation
) -> None:
    """And neither they nor a flush fail while it is lent."""
    stage.rig.daemon(*stage.rig.arguments)
    program = Program(stage, installation, SERIALX)
    program.hear("open")
    other = stage.rig.holder(BOB, PORT, wait=TIMEOUT)
    other.hear()
    before = stage.speed()
    for what in ("settings", "flush"):
        program.tell(f"more {what}")
        program.hear(f"did {what} 19200")
    assert stage.speed() == before
    program.tell("write back")
    other.say()
    other.result()
    stage.hear(b"back")
    assert stage.speed() == termios.B19200
    program.tell("close")
    assert program.end() == "lost None\n"
    stage.demand_free()


WAITS = """
import serialx, ttybroker.serialx
async def main():
    try:
        await serialx.open_serial_connection("broker://ttyS7", 57600)
    except OSError as busy:
        print(busy, flush=True)
    try:
        await asyncio.wait_for(serialx.open_serial_connection("broker://ttyS7?wait=60", 57600), 0.2)
    except TimeoutError:
        print("withdrawn", flush=True)
    opening = asyncio.ensure_future(serialx.open_serial_connection("broker://ttyS7?wait=60", 57600))
    sys.stdin.readline()
    reader, writer = await opening
    writer.write(b"now")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    with serialx.serial_for_url("broker://ttyS7", 57600) as port:
        port.write(b"sync")
        sys.stdin.readline()
        print(port.read(5).decode(), flush=True)
    for url in ("broker://ttyS7?yields=all", "broker://ttyS7?speed=9"):
        try:
            serialx.serial_for_url(url, 57600).open()
        except Exception as error:
            print(type(error).__name__, flush=True)
"""


def test_serialx_waits_for_a_busy_port_and_blocks_where_it_is_told_to(
    stage: Stage, installation: Installation
) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    descriptor = open_fd(PORT, broker=str(stage.rig.socket), label="nightly build")
    program = Program(stage, installation, WAITS)
    assert "for 'nightly build'" in program.line()
    program.hear("withdrawn")
    program.tell("")
    os.close(descriptor)
    stage.hear(b"now")
    stage.hear(b"sync")
    stage.say(b"hello")
    program.tell("")
    program.hear("hello")
    assert program.end() == "UnsupportedSetting\nValueError\n"
    stage.demand_free()


def test_the_example_of_serialx_does_what_the_page_says(
    stage: Stage, installation: Installation
) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    (example,) = [block for block in blocks("docs/python.md") if "import serialx" in block.code]
    program = Program(stage, installation, example.code.replace("ttyS0", PORT), run="")
    stage.hear(b"hello\n")
    stage.say(b"hello\n")
    assert program.end() == example.output
    stage.demand_free()
