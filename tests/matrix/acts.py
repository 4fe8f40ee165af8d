"""What is done with a program on the port, for each kind of program: text goes both ways, the
lock is looked at meanwhile, and it is left as people leave it."""

from __future__ import annotations

import errno
import os
import re
import shlex
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from matrix.farend import FarEnd
from matrix.namespace import NAMED
from matrix.stage import AGAIN, LOCK, Ended, Stage, ended
from matrix.terminal import Terminal
from support.waiting import IN_CREATE, TIMEOUT, Watch

if TYPE_CHECKING:
    from matrix.programs import Program


PATIENCE = 40  # seconds for a whole dialog; some ask often before they give up
LISTEN = 0.05  # seconds between two looks whether it has ended
NMEA = b"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A\r\n"


class Act:
    """A program about to be started under a launcher, `line`."""

    def __init__(self, stage: Stage, terminal: Terminal, line: list[str]) -> None:
        self.stage, self.terminal, self.line = stage, terminal, line
        self.lock = "none"

    def command(self, program: Program) -> list[str]:
        """The whole command line."""
        command = program.command.replace("{programs}", str(self.stage.programs))
        return [*self.line, *shlex.split(command)]

    def look_at_lock(self, program: Program, pid: int) -> None:
        """The lock names the program; it is the program's own file or else the broker's."""
        self.stage.program(pid)
        own = self.stage.lock_owner() != 0
        assert own == (program.lock == "LCK file"), self.stage.lock_owner()


def converse(act: Act, program: Program) -> None:
    """Text both ways in a terminal, then the program's own way to leave it."""
    act.terminal.run(*act.command(program))
    talk(act, program)
    act.look_at_lock(program, act.terminal.pane_pid)
    leave(act, program)
    assert act.terminal.status() == program.status


def talk(act: Act, program: Program) -> None:
    """hello and world."""
    if program.ready:
        act.terminal.see(program.ready)
    act.terminal.write_until_heard("hello")
    act.stage.say(b"world\r\n")
    act.terminal.see("world")


def leave(act: Act, program: Program) -> None:
    """Type what leaves it; where a word begins with ? see the rest of it first."""
    for word in program.quit:
        if word.startswith("?"):
            act.terminal.see(word[1:])
        else:
            act.terminal.type(word)


def detach(act: Act, program: Program) -> None:
    """screen goes on with the port while nobody looks, and is found again without a launcher."""
    sockets = str(act.stage.home / "sockets")
    assert act.stage.run("mkdir", "-m", "700", sockets, uid=NAMED).status == 0
    act.terminal.run(*act.command(program), env={"SCREENDIR": sockets})
    talk(act, program)
    daemon = act.stage.lock_pid()
    assert daemon != act.terminal.pane_pid
    act.look_at_lock(program, daemon)
    act.terminal.type("C-a", "d")
    assert act.terminal.status() == 0
    act.look_at_lock(program, daemon)
    act.stage.say(b"meanwhile\r\n")
    act.terminal.again("screen", "-r")
    act.terminal.see("meanwhile")
    leave(act, program)
    assert act.terminal.status() == 0
    assert ended(daemon)


def redirect(act: Act, program: Program) -> None:
    """The shell opens the port for reading, for writing and for both, at once after another."""
    process = act.stage.start(*act.command(program))
    act.stage.locks.wait(LOCK, IN_CREATE)
    act.stage.say(b"hello\n")
    act.stage.hear(b"hello back")
    act.stage.hear(b"again")
    act.look_at_lock(program, process.pid)
    act.stage.say(b"world\n")
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out, err) == (program.status, b"got world\n", b"")


def set_speed(act: Act, program: Program) -> None:
    """It sets the speed of the port and reads it back."""
    before = act.stage.speed()
    done = act.stage.run(*act.command(program))
    assert done == Ended(0, "19200\n", "")
    act.stage.demand_free()
    assert act.stage.speed() == before != 19200


def send_file(act: Act, program: Program) -> None:
    """64 KiB to an rz at the far end."""
    content = os.urandom(65536)
    (act.stage.home / "file").write_bytes(content)
    with FarEnd(act.stage.rig, act.stage.far.master, "rz", "-q", "-y") as far:
        done = act.stage.run(*act.command(program), stdin=subprocess.DEVNULL)
        assert (done.status, done.err.strip()) == (0, "")
        assert far.result("file") == content


def dialog(act: Act, program: Program) -> None:
    """It asks what is at the far end, and is answered."""
    process = act.stage.start(*act.command(program), stdin=subprocess.DEVNULL)
    heard, asked = b"", False
    end = time.monotonic() + PATIENCE
    while process.poll() is None:
        assert time.monotonic() < end, f"no end; heard {heard!r}"
        heard += act.stage.listen(LISTEN)
        while met := next(filter(None, (answer(heard, *rule) for rule in program.dialog)), None):
            if not asked:
                act.look_at_lock(program, process.pid)
            asked = True
            reply, heard = met
            act.stage.say(reply)
    out, err = (part.decode(errors="replace") for part in process.communicate())
    assert asked, f"heard only {heard!r}; {out}{err}"
    assert (process.returncode, program.shows in out + err) == (program.status, True), out + err


def answer(heard: bytes, pattern: bytes, reply: bytes) -> tuple[bytes, bytes] | None:
    """The reply if this was asked first, and what was heard behind it."""
    met = re.match(pattern, heard, re.DOTALL)
    return None if met is None else (met.expand(reply), heard[met.end() :])


def serve(act: Act, program: Program) -> None:
    """The port is open while somebody is connected, and no longer."""
    path = act.stage.home / "accept"
    (act.stage.home / "ser2net.yaml").write_text(
        f"connection: &one\n  accepter: unix,{path}\n"
        "  connector: serialdev,/dev/ttyS7,115200n81,local\n"
    )
    with Watch(act.stage.home) as files:
        process = act.stage.start(*act.command(program))
        files.wait("accept", IN_CREATE)
    with socket.socket(socket.AF_UNIX) as client:
        connect(client, str(path))
        client.sendall(b"hello")
        act.stage.hear(b"hello")
        act.look_at_lock(program, process.pid)
        act.stage.say(b"world")
        assert receive(client, b"world")
    act.stage.demand_free(TIMEOUT)
    process.terminate()
    assert process.wait(TIMEOUT) == program.status


def navigate(act: Act, program: Program) -> None:
    """What the receiver says comes out of gpsd's own port; what gpsd asks it goes in."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    words = [word.format(free=port) for word in act.command(program)]
    process = act.stage.start(*words)
    act.stage.hear(b"$")
    act.look_at_lock(program, process.pid)
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
        client.sendall(b'?WATCH={"enable":true,"nmea":true};\n')
        receive(client, b'"nmea":true')
        act.stage.say(NMEA)
        receive(client, NMEA)
    process.terminate()
    assert process.wait(TIMEOUT) == program.status


def connect(client: socket.socket, path: str) -> None:
    """To a socket that is there, but that nobody may listen at yet."""
    end = time.monotonic() + TIMEOUT
    while client.connect_ex(path) == errno.ECONNREFUSED:
        assert time.monotonic() < end, f"nobody listens at {path}"
        time.sleep(AGAIN)


def receive(client: socket.socket, text: bytes) -> bytes:
    """Read until `text` has come; all that came."""
    client.settimeout(TIMEOUT)
    heard = b""
    while text not in heard:
        data = client.recv(4096)
        assert data, f"closed after {heard!r}"
        heard += data
    return heard
