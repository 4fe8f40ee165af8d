"""`ttyrun` as installed, with the real broker behind it and a pty for a port."""

from __future__ import annotations

import ctypes
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import tty
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.processes import descriptors
from ttybroker.version import VERSION

pytest.importorskip("prctl", reason="python-prctl is copied by the install: extra `broker`")

if TYPE_CHECKING:
    from launcher.conftest import Launcher

pytestmark = pytest.mark.root

SOURCE = Path(__file__).parents[2] / "packaging" / "launcher"
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# linux/capability.h: CAP_DAC_OVERRIDE and CAP_SYS_ADMIN, see ttybrokerd/root/confine.py
BACKEND_CAPABILITIES = 1 << 1 | 1 << 21
DEADLINE = 10.0  # seconds; nothing here takes one, it is for a broken build
TALK = 'exec 5<>{0}; echo up >&5; read line <&5; echo "got $line" >&5; exit 7'


Process = subprocess.Popen[bytes]


class Port:
    """A pty that only root may open, as the policy's port `demo`; we hold the far end."""

    def __init__(self, launcher: Launcher, master: int, node: str) -> None:
        self.launcher, self.master, self.node = launcher, master, node
        self.locks = launcher.base / "locks"
        self.seen = b""

    def start(self, *program: str, before: Callable[[], None] | None = None) -> Process:
        words = [word.format(self.node) for word in program]
        return self.launcher.popen(*words, stdout=subprocess.DEVNULL, before=before)

    def expect(self, text: bytes) -> None:
        """Wait until the far end has got `text`."""
        while text not in self.seen:
            assert select.select([self.master], [], [], DEADLINE)[0], self.seen
            self.seen += os.read(self.master, 4096)

    def say(self, text: bytes) -> None:
        os.write(self.master, text)


def wait_end(pid: int) -> None:
    """Until `pid`, an orphan of ours, has ended, by whatever; reap it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], DEADLINE)[0], f"{pid} does not end"
    finally:
        os.close(pidfd)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def orphans() -> Iterator[None]:
    """What `ttyrun` daemonises becomes a child of this process, so that it is found."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def children() -> set[int]:
    return set(map(int, Path("/proc/thread-self/children").read_text().split()))


@pytest.fixture
def port(own: Launcher, orphans: None) -> Iterator[Port]:
    """The installed tree with a policy and a lock directory of this test's own."""
    before = children()
    variables = [f"PREFIX={own.base}", f"CODE={own.code}", f"VENV={sys.prefix}"]
    command = ["make", "-s", "-C", str(SOURCE), f"BUILD={own.base}/build-whole", "install"]
    subprocess.run([*command, *variables], check=True, stdout=subprocess.PIPE)
    own.program = own.base / "bin/ttyrun"
    main = own.code / "ttyrun_main.py"
    policy, locks, daemon = (own.base / name for name in ("policy.toml", "locks", "socket"))
    replace(main, " start()\n", f" start({str(policy)!r}, {str(locks)!r}, {str(daemon)!r})\n")
    allowance = own.code / "ttybrokerd/allowance.py"
    replace(allowance, '"/run/ttyrun"', repr(str(own.base / "allowance")))
    locks.mkdir(mode=0o755)
    master, slave = pty.openpty()
    tty.setraw(slave)  # and left open: without any the far end reads EIO
    node = os.ttyname(slave)
    os.chmod(node, 0o600)
    rule = f'[[rule]]\nport = "demo"\ndevice = "{node}"\nclass = "pty"\nallow = [{own.uid}]\n'
    policy.write_text(rule)
    try:
        yield Port(own, master, node)
    finally:
        os.close(master)
        os.close(slave)
        for pid in children() - before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_end(pid)


def test_program_opens_a_port_that_it_may_not_open(port: Port) -> None:
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        port.say(b"hello\n")
        port.expect(b"got hello")
        assert process.wait(DEADLINE) == 7


def test_hostile_start_is_no_obstacle(port: Port) -> None:
    """Everything at once that a caller can do to the process before it becomes ttyrun."""

    def prepare() -> None:
        os.chdir("/proc/self/fdinfo")
        for name, soft in (("NOFILE", 16), ("FSIZE", 0), ("STACK", 1 << 16)):
            number = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))
        os.umask(0o777)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.kill(os.getpid(), signal.SIGALRM)
        signal.alarm(1000)
        for fd in (0, 1):
            os.close(fd)

    with port.start("demo", "--", "/bin/sh", "-c", TALK, before=prepare) as process:
        port.expect(b"up")
        port.say(b"hello\n")
        port.expect(b"got hello")
        assert process.wait(DEADLINE) == 7


ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)


def ignore() -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


@pytest.mark.parametrize("before", [ignore, block])
def test_what_its_caller_ignores_or_blocks_does_not_end_the_wait(
    port: Port, before: Callable[[], None]
) -> None:
    """As nohup(1) promises. What is blocked waits for the program, as without `ttyrun`."""
    wait = ("--hold", "--wait", "30", "demo", "--", "/bin/grep", "^ShdPnd", "/proc/self/status")
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as holder:
        port.expect(b"up")
        with port.launcher.popen(*wait, before=before, start_new_session=True) as process:
            assert process.stderr and b"waiting" in process.stderr.readline()
            for number in ENDING:
                process.send_signal(number)
            port.say(b"\n")
            assert holder.wait(DEADLINE) == 7
            out, error = process.communicate(timeout=DEADLINE)
    pending = sum(1 << number - 1 for number in ENDING) if before is block else 0
    assert (process.returncode, out.split()) == (0, [b"ShdPnd:", b"%016x" % pending]), error


def test_its_callers_alarm_ends_the_wait(port: Port) -> None:
    wait = ("--hold", "--wait", "30", "demo", "--", "/bin/true")
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as holder:
        port.expect(b"up")
        with port.launcher.popen(*wait, before=lambda: signal.alarm(1) and None) as process:
            try:
                assert process.wait(DEADLINE) == -signal.SIGALRM
            finally:
                port.say(b"\n")
        assert holder.wait(DEADLINE) == 7


def test_its_end_hangs_up_no_stopped_process_beside_it(port: Port) -> None:
    """As of `ttybroker run`: what it makes is in sessions of its own."""
    script = f"""sh -c 'kill -STOP $$' <&- >&- 2>&- &
until grep -q State:.T /proc/$!/status; do sleep 0.01; done
{port.launcher.program} demo -- sh -c 'exit 3'; echo $?; kill -KILL $!"""
    done = port.launcher.run("-c", script, program=Path("/bin/sh"), start_new_session=True)
    assert (done.returncode, done.stdout) == (0, "3\n"), done


def test_it_says_its_version(port: Port) -> None:
    done = port.launcher.run("--version")
    assert (done.returncode, done.stdout) == (0, f"ttyrun {VERSION}\n")


def test_root_may_read_how_it_is_used(port: Port) -> None:
    done = port.launcher.run("--help", user=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: ttyrun [-q")
    done = port.launcher.run("--version", user=False)
    assert (done.returncode, done.stdout) == (0, f"ttyrun {VERSION}\n")


def test_without_ttyrun_it_may_not(port: Port) -> None:
    done = subprocess.run(["/bin/sh", "-c", f"exec 5<>{port.node}"], user=port.launcher.uid)
    assert done.returncode != 0


def test_refused_user_is_refused(port: Port) -> None:
    (port.launcher.base / "policy.toml").write_text(
        f'[[rule]]\nport = "demo"\ndevice = "{port.node}"\nclass = "pty"\nallow = ["root"]\n'
    )
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        _, error = process.communicate(timeout=DEADLINE)
    assert process.returncode not in (0, 7) and b"not permitted" in error, error


def processes(port: Port, process: Process) -> tuple[int, list[int]]:
    """The backend, and all that are the caller's: program and supervisor."""
    mine = children() - {process.pid}
    roots = [pid for pid in mine if facts(pid)["Uid"].split()[0] == "0"]
    assert len(roots) == 1, [facts(pid) for pid in mine]
    return roots[0], [process.pid, *(mine - set(roots))]


def test_every_process_has_the_ids_and_capabilities_that_it_must(port: Port) -> None:
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        backend, others = processes(port, process)
        assert len(others) >= 2  # the program and its supervisor
        seen = facts(backend)
        assert seen["Uid"].split() == seen["Gid"].split() == ["0"] * 4
        assert seen["Groups"] == ""
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(seen[name], 16) == BACKEND_CAPABILITIES, name
        for name in ("CapInh", "CapAmb"):
            assert int(seen[name], 16) == 0, name
        assert seen["NoNewPrivs"] == "1"
        for pid in others:
            seen = facts(pid)
            assert seen["Uid"].split() == [str(port.launcher.uid)] * 4
            assert seen["Gid"].split() == [str(port.launcher.gid)] * 4
            assert seen["Groups"].split() == [str(port.launcher.group)]
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(seen[name], 16) == 0, name
        port.say(b"\n")
        assert process.wait(DEADLINE) == 7
        wait_end(backend)


def test_backend_is_out_of_the_callers_reach(port: Port) -> None:
    """No signal, no look at it, none of the caller's descriptors, directory or terminal."""
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        backend, _ = processes(port, process)
        for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
            shot = subprocess.run(
                ["/bin/sh", "-c", f"kill -{int(number)} {backend}"],
                user=port.launcher.uid,
                stderr=subprocess.PIPE,
            )
            assert shot.returncode != 0 and b"not permitted" in shot.stderr
        peek = subprocess.run(
            ["cat", f"/proc/{backend}/environ"], user=port.launcher.uid, stderr=subprocess.PIPE
        )
        assert b"Permission denied" in peek.stderr
        proc = Path(f"/proc/{backend}")
        assert os.readlink(proc / "cwd") == "/"
        assert os.getsid(backend) == backend or os.getsid(backend) != os.getsid(0)
        assert [os.readlink(proc / f"fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3
        assert not [what for what in descriptors(backend).values() if what.startswith("/memfd:")]
        port.say(b"\n")
        assert process.wait(DEADLINE) == 7


@pytest.mark.parametrize("which", ["program", "backend"])
def test_killed_half_leaves_nothing_behind(port: Port, which: str) -> None:
    """The program: backend and lock go. The backend: the program goes on with its port."""
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        assert os.listdir(port.locks)
        backend, _ = processes(port, process)
        if which == "program":
            process.kill()
            wait_end(backend)
            assert os.listdir(port.locks) == []
        else:
            os.kill(backend, signal.SIGKILL)
            wait_end(backend)
            port.say(b"still\n")
            port.expect(b"got still")
            assert process.wait(DEADLINE) == 7


@pytest.mark.parametrize("which", ["program", "backend"])
def test_stopped_half_goes_on_where_it_was(port: Port, which: str) -> None:
    """A stopped backend is not in the way of a byte; a stopped program keeps its port."""
    with port.start("demo", "--", "/bin/sh", "-c", TALK) as process:
        port.expect(b"up")
        backend, _ = processes(port, process)
        stopped = process.pid if which == "program" else backend
        os.kill(stopped, signal.SIGSTOP)
        os.waitid(os.P_PID, stopped, os.WSTOPPED | os.WNOWAIT)
        assert os.listdir(port.locks)
        port.say(b"later\n")
        if which == "backend":
            port.expect(b"got later")
        os.kill(stopped, signal.SIGCONT)
        port.expect(b"got later")
        assert process.wait(DEADLINE) == 7
        wait_end(backend)
        assert os.listdir(port.locks) == []
