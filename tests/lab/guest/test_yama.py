"""`ttybroker run` and `ttyrun` on a UART, where the kernel enforces Yama's ptrace_scope.

    0    a process of the same user may look into a program's memory
    1    only its ancestors and its tracer may, and whom it allows (PR_SET_PTRACER)
    2    only a process with CAP_SYS_PTRACE may
    3    nobody, until the machine boots again: not tried here

The program says itself how its opens are answered: who traces it, who its parent is, whether it has
a filter, and what it has opened. Source: Documentation/admin-guide/LSM/Yama.rst.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lines import far, receive
from service import BOB, PATIENT, Service, until
from support.children import Chat
from ttybroker.run.ptyproxy import DROPPED, LOST

pytestmark = pytest.mark.bare  # the kernel is the same in both

SETTING = Path("/proc/sys/kernel/yama/ptrace_scope")
PORT, OTHER_END = "ttyS4", "ttyS5"
LAUNCHERS = (("ttybroker", "run"), ("ttyrun",))
COPIES = f"copying through a pty (Yama's ptrace_scope is 2): {LOST}\n"
BY_ITSELF = ": strace traces by itself, so opens are answered as with --via notify"
NO_STRACE = "strace, gdb and the like cannot trace inside"
ROOT_RULE = f'[[rule]]\nport = "{PORT}"\nallow = ["root"]\n'
# Root as in most containers.
CONFINED_ROOT = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")

# Opens the port in every way, and ends when it is told to.
PROGRAM = """
import os, signal, sys, tty
path = sys.argv[1]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until it is waited for

def send(word, flags=os.O_RDWR):
    port = os.open(path, flags | os.O_NOCTTY)
    os.write(port, word)
    os.close(port)

def apart(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

def daemonise():
    os.setsid()
    middle = os.getpid()
    if os.fork() == 0:
        while os.getppid() == middle:
            pass
        send(b"daemon ")
        os.write(done, b".")

port = os.open(path, os.O_RDWR | os.O_NOCTTY)
tty.setraw(port)
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
beside = status["TracerPid"].strip(), status["Seccomp"].strip()
print(os.getpid(), os.getppid(), *beside, os.ttyname(port), flush=True)
os.write(port, b"first ")
send(b"second ", os.O_WRONLY)
with open(path, "rb", buffering=0) as reader:
    os.write(port, reader.read(1))
apart(lambda: send(b"child "))
daemon, done = os.pipe()
apart(daemonise)
os.read(daemon, 1)
os.write(port, b"end")
signal.sigwait([signal.SIGTERM])
sys.exit(7)
"""
SAYS = b"first second !child daemon end"

# Becomes a program under a filter that refuses nothing which is needed, as in a container.
FILTERED = """
import os, seccomp, sys
rules = seccomp.SyscallFilter(seccomp.ALLOW)
rules.add_rule(seccomp.ERRNO(1), "swapon")
rules.load()
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Run(NamedTuple):
    """What a run has shown: how its opens were answered, its exit status and its messages."""

    layout: str
    status: int
    messages: str


@pytest.fixture(autouse=True)
def _setting() -> Iterator[None]:
    """Put Yama's setting back."""
    before = SETTING.read_text()
    yield
    SETTING.write_text(before)


def run(words: tuple[str, ...], *options: str, uid: int = BOB) -> Run:
    """Run the program, and end it when it has sent all its words."""
    end = far(OTHER_END)
    command = [*words, *options, PORT, "--", "/usr/bin/python3", "-c", PROGRAM, f"/dev/{PORT}"]
    with subprocess.Popen(command, user=uid, group=uid, extra_groups=[], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        try:
            got = receive(end, SAYS.index(b"!"))
            os.write(end, b"!")
            got += receive(end, len(SAYS) - len(got))
            process.terminate()
            output, messages = process.communicate(timeout=PATIENT)
        finally:
            process.kill()
            os.close(end)
    assert got == SAYS
    return Run(layout(process.pid, output), process.returncode, messages)


def layout(launcher: int, says: str) -> str:
    """Return the name of a layout, as `ttybroker.run.choose` has it."""
    pid, parent, tracer, seccomp, tty = says.split()
    if tty != f"/dev/{PORT}":
        assert tty.startswith("/dev/pts/")
        return "pty"
    assert seccomp == "2"
    if int(tracer):
        return "traced"
    return "listened" if int(pid) == launcher else "tree" if int(parent) != os.getpid() else "?"


def may_look(broker: Service, *, at_child: bool) -> bool:
    """Return whether bob may read the memory of a process of his: his child, or any other."""

    def look(chat: Chat) -> bool:
        with running() as child:
            pid = chat.hear()
            try:
                os.close(os.open(f"/proc/{child.pid if at_child else pid}/mem", os.O_RDONLY))
            except PermissionError:
                return False
            return True

    with running(user=BOB, group=BOB, extra_groups=[]) as other:
        child = broker.child(BOB, look)
        child.say(other.pid)
        return bool(child.result(PATIENT))


@contextmanager
def running(**more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program that does nothing, and wait until it is itself."""
    with subprocess.Popen(["cat"], stdin=-1, stdout=-1, bufsize=0, **more) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b".")
        assert process.stdout.read(1) == b"."
        yield process


@pytest.mark.parametrize(("scope", "own", "others"), [(0, True, True), (1, True, False),
                                                      (2, False, False)])  # fmt: skip
def test_the_kernel_enforces_it(broker: Service, scope: int, own: bool, others: bool) -> None:
    """Or the other tests here would prove nothing."""
    SETTING.write_text(f"{scope}\n")
    assert may_look(broker, at_child=True) == own
    assert may_look(broker, at_child=False) == others


@pytest.mark.parametrize("words", LAUNCHERS, ids=" ".join)
@pytest.mark.parametrize(
    ("scope", "options", "expected"),
    [
        (1, [], "traced"),
        (1, ["--via", "notify"], "tree"),
        (2, [], "pty"),
    ],
    ids=["1", "1, notify", "2"],
)  # fmt: skip
def test_every_open_of_a_users_program_is_the_port(
    broker: Service, words: tuple[str, ...], scope: int, options: list[str], expected: str
) -> None:
    """A second one, a reader's, a child's and a daemon's too; and SIGTERM reaches the program."""
    SETTING.write_text(f"{scope}\n")
    messages = f"{words[0]}: {COPIES}" if expected == "pty" else ""
    assert run(words, *options) == (expected, 7, messages)


def test_scope_2_leaves_no_way_but_the_pty(broker: Service) -> None:
    """And a program to which a pty cannot be given is not started."""
    SETTING.write_text("2\n")
    reason = "Yama's ptrace_scope is 2"
    for options, why in (
        (["--via", "notify"], f"true: no seccomp notification: {reason}; try --via pty"),
        ([], f"true: {reason}; a pty cannot stand in, because no argument of the program is a port;"
             " name one there"),
    ):  # fmt: skip
        refused = as_bob("ttybroker", "run", *options, "--", "true")
        assert (refused.returncode, refused.stderr) == (1, f"ttybroker: {why}\n")


@pytest.mark.parametrize("words", LAUNCHERS, ids=" ".join)
def test_strace_works_inside_as_the_manual_says(broker: Service, words: tuple[str, ...]) -> None:
    """As the program itself, of which a line tells, and under --via notify anywhere in it.
    Otherwise one line says why not."""
    SETTING.write_text("1\n")
    traced = ["strace", "-f", "-o", "/dev/null", "sh", "-c", f"tty <>/dev/{PORT}"]
    inside = ["sh", "-c", f"{shlex.join(traced)}; exit $?"]
    for options, program in (([], traced), (["--via", "notify"], inside)):
        done = as_bob(*words, *options, PORT, "--", *program)
        assert (done.stdout, done.returncode) == (f"/dev/{PORT}\n", 0)
        assert done.stderr.count("\n") == done.stderr.count(BY_ITSELF) == (not options)
    refused = as_bob(*words, PORT, "--", *inside)
    assert refused.returncode == 1
    assert refused.stderr.count(NO_STRACE) == 1


def test_a_yielding_run_lends_its_port_to_one_that_is_traced(broker: Service) -> None:
    SETTING.write_text("1\n")
    end = far(OTHER_END)
    monitor = subprocess.Popen(
        ["ttybroker", "run", "--yield", PORT, "--", "cat", f"/dev/{PORT}"],
        user=BOB, group=BOB, extra_groups=[], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert monitor.stdout is not None
        until("the monitor to have it", lambda: broker.port(PORT).holder is not None)
        os.write(end, b"one")
        assert receive(monitor.stdout.fileno(), 3) == b"one"
        run_beside = as_bob(
            "ttybroker", "run", PORT, "--", "sh", "-c", f"printf flash >/dev/{PORT}"
        )
        assert (run_beside.returncode, run_beside.stderr) == (0, "")
        assert receive(end, 5) == b"flash"
        until("it to be back", lambda: broker.port(PORT).lent is None)
        os.write(end, b"two")
        assert receive(monitor.stdout.fileno(), 3) == b"two"
    finally:
        monitor.terminate()
        _, messages = monitor.communicate(timeout=PATIENT)
        os.close(end)
    assert messages.decode().startswith(f"ttybroker: copying through a pty: {LOST}; {DROPPED}\n")


@pytest.mark.parametrize("options", [[], ["--via", "notify"]], ids=["auto", "notify"])
def test_a_filter_that_is_there_already_is_no_obstacle(broker: Service, options: list[str]) -> None:
    """Whether ours works beside it must be tried in a way that Yama allows."""
    SETTING.write_text("1\n")
    words = ("/usr/bin/python3", "-c", FILTERED, "ttybroker", "run")
    assert run(words, *options) == ("tree" if options else "traced", 7, "")


@pytest.mark.parametrize(
    ("scope", "prefix", "options", "expected"),
    [
        (2, (), [], "traced"),
        (2, (), ["--via", "notify"], "listened"),
        (1, CONFINED_ROOT, [], "traced"),
        (1, CONFINED_ROOT, ["--via", "notify"], "tree"),
        (2, CONFINED_ROOT, [], "pty"),
    ],
    ids=["2", "2, notify", "1, confined", "1, confined, notify", "2, confined"],
)
def test_root_is_bound_only_where_it_lacks_the_capability(
    broker: Service, scope: int, prefix: tuple[str, ...], options: list[str], expected: str
) -> None:
    broker.policy(ROOT_RULE)
    SETTING.write_text(f"{scope}\n")
    messages = f"ttybroker: {COPIES}" if expected == "pty" else ""
    assert run((*prefix, *LAUNCHERS[0]), *options, uid=0) == (expected, 7, messages)


def as_bob(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, user=BOB, group=BOB, extra_groups=[], capture_output=True,
                          text=True, timeout=PATIENT, cwd="/")  # fmt: skip
