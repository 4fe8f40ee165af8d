"""Ctrl-C, Ctrl-Z, a resized or closed terminal, and kill -9 of whatever there is to be killed:
nothing hangs, the status is the program's own, and port and lock are free at once (FREE seconds)
when the last copy of the descriptor is gone."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from matrix.namespace import PORT
from matrix.stage import NODE, Ended, Installation, Stage, ended, parent
from matrix.terminal import Terminal
from support.processes import children
from support.rig import Rig
from support.waiting import TIMEOUT, wait_readable

pytestmark = pytest.mark.root

# Has the port, says so through it, and shows what comes from it.
CAT = ["sh", "-c", f"exec 3<>{NODE}; echo up >&3; exec cat <&3"]

# Does what its standard input says, and answers done, what was read, or the error's name.
ACTOR = f"""
import errno, os, sys
ports = []
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    answer = "done"
    try:
        if word == "open": ports.append(os.open("{NODE}", os.O_RDWR | os.O_NOCTTY))
        elif word == "write": os.write(ports[0], rest.encode())
        elif word == "read": answer = os.read(ports[0], 4096).decode().strip()
        elif word == "close": os.close(ports.pop())
        elif word == "exit": os._exit(int(rest))
    except OSError as error:
        answer = errno.errorcode[error.errno]
    print(answer, flush=True)
"""

# Tells the port the terminal's size whenever that changes.
SIZE = f"""
import os, signal
port = os.open("{NODE}", os.O_RDWR | os.O_NOCTTY)
signal.signal(signal.SIGWINCH, lambda *_: os.write(port, b"%dx%d\\n" % os.get_terminal_size(0)))
os.write(port, b"up\\n")
while True:
    signal.pause()
"""


LAYOUTS = {  # name -> (Yama's ptrace_scope, options)
    "traces": (0, []),
    "traces under Yama": (1, []),
    "listens": (0, ["--via", "notify"]),
    "stays as its ancestor": (1, ["--via", "notify"]),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    """What the process beside the program does."""
    return str(request.param)


@pytest.fixture
def stage(layout: str, rig: Rig, installation: Installation) -> Iterator[Stage]:
    """In each of the launcher's layouts."""
    made = Stage(rig, installation.base, ptrace_scope=LAYOUTS[layout][0])
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def line(layout: str, stage: Stage, installation: Installation, launcher: str) -> list[str]:
    """How the command line begins; the daemon runs where it needs one."""
    if launcher == "ttybroker run":
        stage.rig.daemon(*stage.rig.arguments)
    words = installation.launcher(launcher)
    return [*words[:-1], *LAYOUTS[layout][1], words[-1]]


class Actor:
    """A program on the port that does as it is told."""

    def __init__(self, stage: Stage, line: list[str], *, in_tree: bool) -> None:
        self.stage = stage
        before = children()
        self.process = stage.start(*line, "python3", "-c", ACTOR)
        assert self.ask("open") == "done"
        self.pid = stage.program(self.process.pid)
        self.helpers = children() - before - {self.process.pid}
        assert self.in_tree == in_tree
        if self.in_tree:
            self.helpers.add(parent(self.pid))

    @property
    def in_tree(self) -> bool:
        """Whether the launcher stays and waits for the program."""
        return self.pid != self.process.pid

    def ask(self, words: str) -> str:
        """Its answer."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(f"{words}\n".encode())
        stdin.flush()
        wait_readable(stdout.fileno(), f"an answer to {words}")
        return stdout.readline().decode().strip()

    def talks(self) -> None:
        """Text goes both ways."""
        assert self.ask("write hello") == "done"
        self.stage.hear(b"hello")
        self.stage.say(b"world\n")
        assert self.ask("read") == "world"

    def helper(self, uid: int) -> int:
        """The launcher's process with this uid: root's is the backend, ours the supervisor."""
        (pid,) = (pid for pid in self.helpers if os.stat(f"/proc/{pid}").st_uid == uid)
        return pid

    def end(self, words: str) -> tuple[int, str]:
        """Have it end; its status as shells have it, and what was written to its stderr."""
        _, err = self.process.communicate(f"{words}\n".encode(), timeout=TIMEOUT)
        status = self.process.returncode
        return (128 - status if status < 0 else status), err.decode()


@pytest.fixture
def actor(stage: Stage, line: list[str], layout: str) -> Iterator[Actor]:
    made = Actor(stage, line, in_tree=layout == "stays as its ancestor")
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.fixture
def shell(stage: Stage, terminal: Terminal, line: list[str]) -> Terminal:
    """An interactive bash in which the port's text is shown, by a program in the foreground."""
    terminal.run("bash", "--norc", "--noprofile", "-i", env={"PS1": "ready> "})
    terminal.see("ready>")
    terminal.write(shlex.join([*line, *CAT]))
    terminal.type("Enter")
    stage.hear(b"up")
    return terminal


def demand_status(shell: Terminal, status: int) -> None:
    """What bash says that it was."""
    shell.write('echo "status=$?"')
    shell.type("Enter")
    shell.see(f"status={status}")


def test_ctrl_c_ends_the_program_with_130(stage: Stage, shell: Terminal) -> None:
    program = stage.lock_pid()
    shell.type("C-c")
    assert ended(program)
    stage.demand_free()
    demand_status(shell, 130)


def test_ctrl_z_keeps_the_port_and_fg_goes_on(stage: Stage, shell: Terminal) -> None:
    program = stage.lock_pid()
    shell.type("C-z")
    shell.see("Stopped")
    assert stage.lock_pid() == program
    stage.say(b"meanwhile\n")
    shell.write("fg")
    shell.type("Enter")
    shell.see("meanwhile")
    stage.say(b"world\n")
    shell.see("world")
    shell.type("C-c")
    assert ended(program)
    stage.demand_free()
    demand_status(shell, 130)


def test_a_new_size_of_the_terminal_reaches_the_program(
    stage: Stage, terminal: Terminal, line: list[str]
) -> None:
    terminal.run(*line, "python3", "-c", SIZE)
    stage.hear(b"up")
    terminal.tmux("resize-window", "-x", "97", "-y", "31")
    stage.hear(b"97x31")
    os.kill(stage.program(terminal.pane_pid), signal.SIGTERM)
    assert terminal.status() == 128 + signal.SIGTERM
    stage.demand_free()


def test_closing_the_terminal_ends_the_program_and_frees_the_port(
    stage: Stage, shell: Terminal
) -> None:
    program = stage.lock_pid()
    shell.tmux("kill-pane")
    assert ended(program)
    stage.demand_free()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_program_has_its_own_status_and_leaves_a_free_port(
    stage: Stage, actor: Actor, number: int
) -> None:
    os.kill(actor.pid, number)
    assert ended(actor.pid)
    stage.demand_free()
    assert actor.end("") == (128 + number, "")


def test_a_program_keeps_its_port_when_the_supervisor_is_killed(stage: Stage, actor: Actor) -> None:
    supervisor = actor.helper(os.stat(f"/proc/{actor.pid}").st_uid)
    os.kill(supervisor, signal.SIGKILL)
    assert ended(supervisor)
    actor.talks()
    assert actor.ask("open") == "ENOSYS"
    assert actor.ask("close") == "done"
    stage.demand_free()
    status, err = actor.end("exit 7")
    if actor.in_tree:  # and so the launcher cannot know
        assert status == 1 and "exit status is unknown" in err
    else:
        assert (status, err) == (7, "")


def kill_broker(stage: Stage, actor: Actor) -> None:
    """The daemon, or the backend of ttyrun."""
    if stage.rig.daemons:
        stage.rig.daemons[0].kill()
        stage.rig.socket.unlink()
    else:
        backend = actor.helper(0)
        os.kill(backend, signal.SIGKILL)
        assert ended(backend)


def test_a_program_keeps_its_port_when_the_broker_is_killed(
    stage: Stage, actor: Actor, launcher: str, line: list[str]
) -> None:
    kill_broker(stage, actor)
    actor.talks()
    assert stage.lock_pid() == actor.pid
    assert [actor.ask("open") for _ in range(3)] == ["EIO"] * 3
    status, err = actor.end("exit 7")
    assert status == 7
    assert err.count("\n") == 1 and err.startswith(f"{launcher.split()[0]}: "), err
    stage.far.forget_exclusive()
    if stage.rig.daemons:
        stage.rig.daemon(*stage.rig.arguments)
    done = stage.run(*line, "sh", "-c", f"echo next >{NODE}")
    assert done == Ended(0, "", "")
    stage.hear(b"next")
    stage.demand_free()


def test_a_descriptor_that_ttyrun_hands_over_is_a_whole_lease(
    stage: Stage, bare: list[str], launcher: str
) -> None:
    """The broker is there until the end, though nobody is connected to it."""
    before = children()
    program = stage.start(*bare, "--fd", "3", PORT, "--", "sh", "-c", "echo up >&3; read x; exit 3")
    stage.hear(b"up")
    helpers = children() - before - {program.pid}
    backends = {pid for pid in helpers if os.stat(f"/proc/{pid}").st_uid == 0}
    assert len(backends) == (1 if launcher == "ttyrun" else 0)
    assert not any(ended(pid, 2.3) for pid in backends)  # server.LAST_WORDS is 2
    program.communicate(b"\n", timeout=TIMEOUT)
    assert program.returncode == 3
    stage.demand_free()
    assert all(ended(pid) and not Path(f"/proc/{pid}/fd/0").exists() for pid in helpers)
