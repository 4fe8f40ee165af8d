"""What a user of `ttybroker run` may rely on, with real processes on pty-backed ports."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from run.conftest import LIMIT, ROOTS, Rig, wait_for_end
from support.processes import accounts
from ttybroker.run import become, choose, command, notify, ptyproxy
from ttybroker.run.names import Names, is_serial_name
from ttybroker.run.ptyproxy import replace
from ttybroker.wire import PortInfo

TRACED, LISTENED = {"TEST_VIA": "auto"}, {"TEST_VIA": "notify"}
YAMA, TREE = {"TEST_PTRACE_SCOPE": "1"}, {"TEST_PTRACE_SCOPE": "1", "TEST_VIA": "notify"}
LAYOUTS = pytest.mark.parametrize(
    "env", [TRACED, LISTENED, YAMA, TREE], ids=["traced", "listened", "traced under Yama", "tree"]
)

OPEN = 'fd = os.open("/dev/ttyS7", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)\n'
ATTEMPT = """
def attempt(call, *args):
    try:
        return call(*args)
    except OSError as error:
        return -error.errno
"""


def sh(rig: Rig, script: str, *arguments: str, **more: object) -> tuple[int, str, str]:
    return rig.run(*arguments, "--", "sh", "-c", script, **more)


# ---- it works as if the user had the port ----


@LAYOUTS
def test_text_goes_both_ways_and_the_exit_status_is_the_program_s(
    rig: Rig, env: dict[str, str]
) -> None:
    rig.device.say(b"welcome\n")
    status, output, errors = sh(
        rig, "echo hello > /dev/ttyS7; head -c 8 < /dev/ttyS7; exit 7", "ttyS7", env=env
    )
    assert (status, output, errors) == (7, "welcome\n", "")
    assert rig.device.hear(6) == b"hello\n"


@LAYOUTS
def test_a_program_that_dies_by_a_signal_ends_us_by_that_signal(
    rig: Rig, env: dict[str, str]
) -> None:
    assert sh(rig, "kill -TERM $$", env=env)[0] == -signal.SIGTERM
    assert sh(rig, "kill -KILL $$", env=env)[0] == -signal.SIGKILL


def test_the_program_has_the_launcher_s_pid_and_no_child_it_does_not_know(rig: Rig) -> None:
    code = "print(os.getpid(), open(f'/proc/self/task/{os.getpid()}/children').read())"
    process = rig.start("--", sys.executable, "-c", f"import os\n{code}")
    output, _ = process.communicate(timeout=LIMIT)
    assert output.split() == [b"%d" % process.pid]


@LAYOUTS
def test_the_broker_is_told_the_program_s_pid(rig: Rig, env: dict[str, str]) -> None:
    _, output, _ = rig.python(OPEN + "print(os.getpid())", env=env)
    assert rig.log("open") == [f"open ttyS7 wait=None pid={output.strip()}"]


def test_a_thread_s_open_is_its_process_s(rig: Rig) -> None:
    code = """
import threading
thread = threading.Thread(target=os.open, args=("/dev/ttyS7", os.O_RDWR))
thread.start(); thread.join(); print(os.getpid())"""
    _, output, _ = rig.python(code)
    assert rig.log("open") == [f"open ttyS7 wait=None pid={output.strip()}"]


def test_the_environment_the_signals_and_the_descriptors_are_the_caller_s(rig: Rig) -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    env = {"LC_ALL": "", "LC_CTYPE": "", "LANG": "", "MARK": "x"}
    show = "env | grep -v -e ^_= -e ^PWD= -e ^SHLVL= | sort; grep Sig[BIC] /proc/self/status; "
    show += "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done"
    settings = {"pass_fds": [inherited], "stderr": subprocess.DEVNULL}
    env = {name: value for name, value in env.items() if value}
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    bare |= env | {"PYTHONPATH": f"{Path(notify.__file__).parents[2]}"}
    plain = subprocess.run(
        ["sh", "-c", show], env=bare, pass_fds=[inherited], capture_output=True, check=True
    ).stdout
    command = [sys.executable, str(Path(__file__).parent / "fake_broker.py"), str(rig.directory)]
    brokered = subprocess.run(
        [*command, "--", "sh", "-c", show], env=bare, stdout=subprocess.PIPE, **settings
    ).stdout
    os.close(inherited)
    assert brokered.decode() == plain.decode()


def test_every_open_is_asked_for_anew(rig: Rig) -> None:
    rig.python(OPEN + "os.close(fd)\n" + OPEN)
    assert len(rig.log("open")) == 2


def test_waiting_is_the_broker_s_business(rig: Rig) -> None:
    sh(rig, ": < /dev/ttyS7", "--wait", "2.5", "ttyS7")
    assert rig.log("open")[0].startswith("open ttyS7 wait=2.5 ")


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("cloexec", [True, False])
def test_the_descriptor_is_as_the_program_asked(rig: Rig, blocking: bool, cloexec: bool) -> None:
    code = f"""
import ctypes, fcntl
flags = os.O_RDWR | os.O_NOCTTY | {0 if blocking else os.O_NONBLOCK}
flags |= {os.O_CLOEXEC if cloexec else 0}
fd = ctypes.CDLL(None).open(b"/dev/ttyS7", flags)
print(os.get_blocking(fd), not os.get_inheritable(fd))"""
    assert rig.python(code)[1] == f"{blocking} {cloexec}\n"


# ---- whatever the port is called ----


@pytest.mark.parametrize(
    "statement",
    [
        'os.open("/dev/ttyS7", 2)',
        'os.open("/dev/./../dev//ttyS7", 2)',
        'os.chdir("/dev"); os.open("ttyS7", 2)',
        'os.chdir("/tmp"); os.open("../dev/./ttyS7", 2)',
        'os.open("ttyS7", 2, dir_fd=os.open("/dev", os.O_RDONLY | os.O_DIRECTORY))',
        'os.open("{there}/link", 2)',
        'os.chdir("{there}"); os.open("link", 2)',
        'os.open("{there}/chain", 2)',
        'os.open("{there}/devices/ttyS7", 2)',
        'os.open("{there}/by-id", 2)',
        'os.open("{node}", 2)',
        'os.open("/dev/gps", 2)',
        'os.open("{there}/alias", 2)',
    ],
)
def test_every_way_to_the_port_leads_to_the_broker(rig: Rig, statement: str) -> None:
    rig.port("gps")
    there = rig.directory / "links"
    there.mkdir()
    (there / "link").symlink_to("/dev/ttyS7")
    (there / "chain").symlink_to("link")
    (there / "devices").symlink_to("/dev")
    (there / "by-id").symlink_to(rig.device.node)
    (there / "alias").symlink_to("../../../../../../../../dev/gps")
    statement = statement.format(there=there, node=rig.device.node)
    status, _, errors = rig.python(statement)
    assert (status, errors) == (0, "")
    asked = "gps" if "gps" in statement or "alias" in statement else "(gps|ttyS7)"
    (line,) = rig.log("open")
    assert line.split()[1] in asked


# asm/unistd_64.h, and asm-generic/unistd.h for all others
CALLS = {"openat2": "437, -100, path, how, 24"} | (
    {"creat": "85, path, 0", "open": "2, path, 2", "openat": "257, -100, path, 2"}
    if os.uname().machine == "x86_64"
    else {"openat": "56, -100, path, 2"}
)


@LAYOUTS
@pytest.mark.parametrize("call", CALLS)
def test_every_kind_of_open_is_answered(rig: Rig, call: str, env: dict[str, str]) -> None:
    code = f"""
import ctypes, struct
syscall = ctypes.CDLL(None, use_errno=True).syscall
path, how = b"/dev/ttyS7", struct.pack("=QQQ", os.O_RDWR | os.O_NOCTTY, 0, 0)
fd = syscall({CALLS[call]})
print(os.ttyname(fd) if fd >= 0 else ctypes.get_errno())"""
    assert rig.python(code, env=env)[1] == f"{rig.device.node}\n"


C_PROGRAM = r"""
static long call(long nr, long a, long b, long c) {
    long result;
    %s
    return result;
}
void _start(void) {
    long fd = call(%d, (long)"/dev/ttyS7", 02 | 0400, 0);
    call(%d, fd, (long)"ping", 4);
    call(%d, fd < 0 ? 1 : 5, 0, 0);
    for (;;) ;
}
"""
PER_LINUX32 = 8  # sys/personality.h
INT80 = '__asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c));'
SYSCALL = '__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c)'
SYSCALL += ' : "rcx", "r11", "memory");'


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="programs of x86")
@pytest.mark.parametrize(
    ("flags", "instruction", "numbers"),
    [
        (("-m32",), INT80, (5, 4, 1)),
        ((), SYSCALL, (2, 1, 60)),
        ((), SYSCALL, (0x40000002, 1, 60)),
    ],
    ids=["i386", "static", "x32"],
)
def test_static_and_32_bit_programs_get_it_too(
    rig: Rig,
    compiled: Callable[..., str],
    flags: tuple[str, ...],
    instruction: str,
    numbers: tuple[int, int, int],
) -> None:
    program = compiled(C_PROGRAM % (instruction, *numbers), *flags)
    assert rig.run("--", program)[0] == 5
    assert rig.device.hear(4) == b"ping"


def _as_a_32_bit_machine() -> None:
    """As setarch(8) does, for what is built for one."""
    assert ctypes.CDLL(None).personality(PER_LINUX32) >= 0


@pytest.mark.parametrize("via", ["auto", "notify"])
def test_a_run_for_a_32_bit_machine_gets_it_too(rig: Rig, via: str) -> None:
    """The kernel then names another machine, but the calls of our interpreter stay as they are."""
    code = """
print(os.uname().machine, os.ttyname(os.open("/dev/ttyS7", os.O_RDWR)))"""
    status, output, errors = rig.python(code, "--via", via, preexec_fn=_as_a_32_bit_machine)
    machine, _, node = output.rpartition(" ")
    assert (status, node, errors) == (0, f"{rig.device.node}\n", "")
    assert machine != os.uname().machine


# ---- everything else goes on untouched ----


def test_other_files_are_the_kernel_s(rig: Rig) -> None:
    code = f"""{ATTEMPT}
os.chdir({str(rig.directory)!r})
for flags in (os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_WRONLY):
    print(attempt(os.open, "file", flags) > 0)
os.mkfifo("fifo"); print(attempt(os.open, "fifo", os.O_RDONLY | os.O_NONBLOCK) > 0)
print(attempt(os.open, "nothing", os.O_RDWR), attempt(os.open, "", os.O_RDWR))
print(attempt(os.open, "/dev/null", os.O_RDWR) > 0, attempt(os.open, "/dev/ptmx", os.O_RDWR) > 0)
print(attempt(os.open, "/proc/self/comm", os.O_RDWR) > 0, os.access(".", os.W_OK))
print(attempt(os.open, "/dev", os.O_WRONLY), attempt(os.open, "x" * 5000, os.O_RDWR))"""
    _, output, _ = rig.python(code)
    numbers = (errno.EEXIST, errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG)
    missing = f"-{numbers[1]} -{numbers[1]}"
    expected = ["True", "False", "True", "True", missing, "True True", "True True"]
    assert output.splitlines() == [*expected, f"-{numbers[2]} -{numbers[3]}"]
    assert rig.log("open") == rig.log("check") == []


def test_a_bad_pointer_is_the_kernel_s(rig: Rig) -> None:
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for address in (0, 1, 2**63, 2**64 - 1):
    assert libc.open(ctypes.c_void_p(address), os.O_RDWR) == -1
    print(ctypes.get_errno())"""
    assert rig.python(code)[1].split() == [str(errno.EFAULT)] * 4


def test_a_lock_file_that_must_not_exist_is_no_port(rig: Rig) -> None:
    flags = "os.O_RDWR | os.O_CREAT | os.O_EXCL"
    _, output, _ = rig.python(f"{ATTEMPT}print(attempt(os.open, {rig.device.node!r}, {flags}))")
    assert output == f"-{errno.EEXIST}\n"
    assert rig.log("open") == []


def test_a_serial_port_that_no_rule_names_is_the_kernel_s(rig: Rig) -> None:
    _, output, errors = rig.python(f'{ATTEMPT}print(attempt(os.open, "/dev/ttyUSB3", os.O_RDWR))')
    assert (output, errors) == (f"-{errno.ENOENT}\n", "")
    assert rig.log("check") == ["check ttyUSB3"]


def test_ports_that_were_not_named_are_not_brokered(rig: Rig) -> None:
    rig.port("gps")
    code = f"""{ATTEMPT}
for port in ("gps", "ttyS7", "ttyUSB3"):
    print(attempt(os.open, "/dev/" + port, os.O_RDWR) > 0)"""
    assert rig.python(code, "ttyS7")[1].split() == ["False", "True", "False"]


# ---- refusals ----


@pytest.mark.parametrize(
    ("cause", "number"),
    [
        (errno.EACCES, errno.EACCES),
        (errno.EBUSY, errno.EBUSY),
        (errno.ENOENT, errno.ENOENT),
        (errno.ENODEV, errno.ENODEV),
        (errno.ETIMEDOUT, errno.EBUSY),
        (errno.EPROTO, errno.EIO),
    ],
)
def test_a_refusal_is_an_ordinary_errno_and_one_line_for_all_retries(
    rig: Rig, cause: int, number: int
) -> None:
    rig.write("ttyS7.refuse", f"{cause} ttyS7: no, because")
    code = f'{ATTEMPT}for _ in range(5): print(attempt(os.open, "/dev/ttyS7", os.O_RDWR))'
    _, output, errors = rig.python(code)
    assert output.split() == [f"-{number}"] * 5
    assert errors == "ttybroker: ttyS7: no, because\n"


def test_a_port_the_policy_denies_says_so(rig: Rig) -> None:
    rig.write("ttyUSB3.deny", "rule 1 does not let you")
    _, output, errors = rig.python(f'{ATTEMPT}print(attempt(os.open, "/dev/ttyUSB3", os.O_RDWR))')
    assert output == f"-{errno.EACCES}\n"
    assert errors == "ttybroker: ttyUSB3: rule 1 does not let you\n"


@LAYOUTS
def test_an_alias_that_the_policy_denies_says_so(rig: Rig, env: dict[str, str]) -> None:
    """There is no node of its name, and it is not in the list."""
    rig.write("gps.deny", "rule 1 does not let you")
    code = f"""{ATTEMPT}os.chdir("/dev")
for path in ("/dev/gps", "gps", "/dev/nothing"):
    print(attempt(os.open, path, os.O_RDWR))"""
    _, output, errors = rig.python(code, env=env)
    assert output.split() == [f"-{errno.EACCES}"] * 2 + [f"-{errno.ENOENT}"]
    assert errors == "ttybroker: gps: rule 1 does not let you\n"


def test_an_alias_that_the_policy_denies_is_not_told_in_a_run_of_other_ports(rig: Rig) -> None:
    rig.write("gps.deny", "rule 1 does not let you")
    _, output, errors = rig.python(
        f'{ATTEMPT}print(attempt(os.open, "/dev/gps", os.O_RDWR))', "ttyS7"
    )
    assert (output, errors) == (f"-{errno.ENOENT}\n", "")


def test_without_the_broker_a_file_that_is_not_there_is_the_kernel_s(rig: Rig) -> None:
    code = f"""{ATTEMPT}open({str(rig.directory / "broker.down")!r}, "w").close()
for path in ("/dev/nothing", "/dev/ttyUSB3"): print(attempt(os.open, path, os.O_RDWR))"""
    _, output, errors = rig.python(code)
    assert output.split() == [f"-{errno.ENOENT}", f"-{errno.EIO}"]
    assert errors == "ttybroker: no broker at FAKE: is ttybrokerd running?\n"


def test_access_is_answered_by_the_policy(rig: Rig) -> None:
    rig.write("ttyUSB3.deny", "rule 1 does not let you")
    code = """
for port in ("ttyS7", "ttyUSB3", "ttyUSB4"):
    path = "/dev/" + port
    print(*(os.access(path, mode) for mode in (os.R_OK, os.R_OK | os.W_OK, os.R_OK | os.X_OK)))
print(os.access("/dev/ttyS7", os.W_OK, effective_ids=True))"""
    _, output, _ = rig.python(code)
    no = "False False False"
    assert output.splitlines() == ["True True False", no, no, "True"]
    assert rig.log("open") == []


@LAYOUTS
def test_a_port_that_will_be_refused_stops_us_before_the_program(
    rig: Rig, env: dict[str, str]
) -> None:
    status, output, errors = sh(rig, "echo started", "ttyUSB3", env=env)
    assert (status, output) == (1, "")
    assert errors == "ttybroker: ttyUSB3: no rule names this port\n"


@LAYOUTS
def test_no_broker_stops_us_before_the_program(rig: Rig, env: dict[str, str]) -> None:
    rig.write("broker.down", "")
    status, output, errors = sh(rig, "echo started", env=env)
    assert (status, output) == (1, "")
    assert errors == "ttybroker: no broker at FAKE: is ttybrokerd running?\n"


def test_a_broker_that_dies_leaves_what_is_open_and_refuses_cleanly(rig: Rig) -> None:
    process = rig.start(
        "--",
        sys.executable,
        "-uc",
        f"import os\n{ATTEMPT}{OPEN}"
        + """
print("open"); input()
print(*(attempt(os.open, "/dev/ttyS7", os.O_RDWR) for _ in range(3)))
os.write(fd, b"still")""",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    rig.write("broker.down", "")
    output, errors = process.communicate(b"\n", timeout=LIMIT)
    assert output.split() == [b"-%d" % errno.EIO] * 3
    assert errors.count(b"\n") == 1
    assert rig.device.hear(5) == b"still"


# ---- many at once, and the ends of things ----


@LAYOUTS
def test_one_slow_open_holds_up_nobody_else(rig: Rig, env: dict[str, str]) -> None:
    rig.port("slow")
    gate = rig.gate("slow")
    code = """
import threading
slow = [threading.Thread(target=os.open, args=("/dev/slow", os.O_RDWR)) for _ in range(4)]
for thread in slow: thread.start()
input()
for _ in range(20): os.close(os.open("/dev/ttyS7", os.O_RDWR))
os.close(os.open("/dev/null", os.O_RDWR))
print("quick"); sys.stdout.flush()
for thread in slow: thread.join()
print("slow")"""
    process = rig.start("--", sys.executable, "-c", f"import os, sys\n{code}", env=env)
    assert process.stdin is not None
    assert process.stdout is not None
    gate.wait_for(1)  # the others are behind it
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"quick\n"
    gate.open()
    assert process.stdout.read() == b"slow\n"


@LAYOUTS
def test_nothing_of_ours_is_left_when_the_program_has_ended(rig: Rig, env: dict[str, str]) -> None:
    process = rig.start("--", "sh", "-c", ": <> /dev/ttyS7; echo opened; read line", env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"opened\n"
    ours = rig.processes() - {process.pid}
    assert ours
    process.communicate(b"\n", timeout=LIMIT)
    for pid in ours:
        wait_for_end(pid)


@LAYOUTS
def test_a_daemon_of_the_program_is_served_and_keeps_no_pipe_of_ours(
    rig: Rig, env: dict[str, str]
) -> None:
    go = rig.directory / "go"
    os.mkfifo(go)
    script = f"(exec >/dev/null 2>&1; read word < {go}; echo late > /dev/ttyS7) & exit 3"
    status, _, errors = sh(rig, script, env=env)  # comes back only when the pipes have ended
    assert (status, errors) == (3, "")
    go.write_text("now\n")
    assert rig.device.hear(5) == b"late\n"


@LAYOUTS
def test_a_pipe_that_the_program_closes_ends(rig: Rig, env: dict[str, str]) -> None:
    reading, writing = os.pipe()
    code = f"import os; os.close({writing}); input()"
    process = rig.start("--", sys.executable, "-c", code, pass_fds=[writing], env=env)
    os.close(writing)
    assert select.select([reading], [], [], LIMIT)[0], "somebody of ours keeps it open"
    assert process.poll() is None  # it ended by the close, not by the program's end
    assert os.read(reading, 1) == b""
    os.close(reading)
    _, errors = process.communicate(b"\n", timeout=LIMIT)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize("env", [TRACED, LISTENED], ids=["traced", "listened"])
def test_while_the_supervisor_is_stopped_the_port_works_and_opens_wait(
    rig: Rig, env: dict[str, str]
) -> None:
    """As ttyrun(1) has it in its caveats."""
    code = (
        OPEN
        + """
for line in sys.stdin:
    os.write(fd, b"written") if line == "write\\n" else os.close(os.open("/dev/null", os.O_RDWR))
    print(line, end="", flush=True)"""
    )
    process = rig.start("--", sys.executable, "-c", f"import os, sys\n{code}", env=env, bufsize=0)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"open\n")
    assert process.stdout.readline() == b"open\n"
    (supervisor,) = rig.processes() - {process.pid}
    os.kill(supervisor, signal.SIGSTOP)
    until_stopped(supervisor)
    process.stdin.write(b"write\n")
    assert process.stdout.readline() == b"write\n"
    assert rig.device.hear(7) == b"written"
    process.stdin.write(b"open\n")
    assert not select.select([process.stdout], [], [], 0.3)[0]
    os.kill(supervisor, signal.SIGCONT)
    assert process.stdout.readline() == b"open\n"


def until_stopped(pid: int) -> None:
    """Wait until every thread of the process is stopped."""
    end = time.monotonic() + LIMIT
    while not all(account["State"].startswith("T") for account in accounts(pid)):
        assert time.monotonic() < end, "it is not stopped"
        time.sleep(0.01)


def test_a_killed_supervisor_leaves_what_is_open_and_opens_fail(rig: Rig) -> None:
    code = (
        f"{ATTEMPT}{OPEN}"
        + """
print("open"); input()
print(attempt(os.open, "/dev/ttyS7", os.O_RDWR))
os.write(fd, b"still")"""
    )
    process = rig.start("--", sys.executable, "-uc", f"import os\n{code}")
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    (supervisor,) = rig.processes() - {process.pid}
    os.kill(supervisor, signal.SIGKILL)
    wait_for_end(supervisor)
    output, _ = process.communicate(b"\n", timeout=LIMIT)
    assert output == b"-%d\n" % errno.ENOSYS
    assert rig.device.hear(5) == b"still"


def test_a_program_killed_while_it_waits_leaves_nothing(rig: Rig) -> None:
    gate = rig.gate("ttyS7")
    process = rig.start("--", "sh", "-c", ": < /dev/ttyS7")
    gate.wait_for(1)
    ours = rig.processes() - {process.pid}
    process.kill()
    process.wait(LIMIT)
    for pid in ours:
        wait_for_end(pid)
    gate.open()


# ---- the tree, for Yama 1 ----


def _started_in_tree(rig: Rig, script: str) -> tuple[subprocess.Popen[bytes], int]:
    process = rig.start("--", "sh", "-c", script.replace("READY", "echo $$"), env=TREE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_tree_knows_the_status_of_a_program_that_ends_before_it_looks(rig: Rig) -> None:
    assert sh(rig, "exit 3", env={**TREE, "TEST_LATE": "1"}) == (3, "", "")


def test_tree_forwards_signals_to_the_program(rig: Rig) -> None:
    process, program = _started_in_tree(rig, "trap 'exit 9' USR1; READY; while :; do read x; done")
    assert program != process.pid
    process.send_signal(signal.SIGUSR1)
    assert process.wait(LIMIT) == 9


def test_tree_stops_and_goes_on_with_the_program(rig: Rig) -> None:
    process, _ = _started_in_tree(rig, "READY; kill -STOP $$; exit 4")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(LIMIT) == 4


def test_tree_kills_the_program_with_the_launcher(rig: Rig) -> None:
    process, program = _started_in_tree(rig, "READY; read x")
    process.kill()
    wait_for_end(program)


def test_tree_waits_for_the_program_of_a_killed_supervisor(rig: Rig) -> None:
    process, program = _started_in_tree(rig, "READY; read x; echo on")
    status = Path(f"/proc/{program}/status").read_text()
    os.kill(int(status.split("PPid:\t")[1].split()[0]), signal.SIGKILL)
    output, errors = process.communicate(b"\n", timeout=LIMIT)
    assert output == b"on\n"
    assert b"the supervisor was killed" in errors


# ---- descriptors ----


def test_fd_and_stdio_hand_over_a_descriptor(rig: Rig) -> None:
    rig.port("gps")
    process = rig.start("--fd", "5", "ttyS7", "--", "sh", "-c", "echo one >&5; cat >&2")
    _, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (0, b"")
    assert rig.device.hear(4) == b"one\n"
    rig.device.say(b"abc")
    status, _, errors2 = sh(rig, "head -c 3 >&2; echo two; exit 5", "--stdio", "gps")
    assert (status, errors2) == (5, "abc")
    assert rig.device.hear(4) == b"two\n"


def test_fd_is_blocking_and_the_only_copy(rig: Rig) -> None:
    code = "print(os.get_blocking(3), [fd for fd in os.listdir('/proc/self/fd') if int(fd) > 3])"
    _, output, _ = rig.python(code, "--fd", "3", "ttyS7", "ttyS7b")
    assert output == ""  # ttyS7b is refused before anything starts
    _, output, _ = rig.python(code, "--fd", "3", "ttyS7")
    assert output == "True ['4']\n"  # 4 is the listing


# ---- the pty proxy ----


def test_the_pty_proxy_copies_both_ways_and_says_what_is_lost(rig: Rig) -> None:
    rig.device.say(b"welcome")
    code = """
fd = os.open(sys.argv[1].split(",")[0], os.O_RDWR | os.O_NOCTTY)
print(os.read(fd, 7).decode(), sys.argv[1].split(",")[1]); os.write(fd, b"x" * 20000)
sys.exit(6)"""
    process = rig.start(
        "--via", "pty", "--", sys.executable, "-c", "import os, sys\n" + code, "/dev/ttyS7,b9600"
    )
    assert rig.device.hear(20000) == b"x" * 20000
    output, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, output) == (6, b"welcome b9600\n")
    assert errors == f"ttybroker: copying through a pty: {ptyproxy.LOST}\n".encode()


def test_the_pty_proxy_says_what_is_lost_of_a_port_beside_it(rig: Rig) -> None:
    rig.port("gps")
    words = ("--via", "pty", "--fd", "3", "ttyS7", "gps", "--", "sh", "-c", "echo >&3", "/dev/gps")
    status, _, errors = rig.run(*words)
    lost = f"{ptyproxy.LOST}; {become.NO_PATHS}"
    assert (status, errors) == (0, f"ttybroker: copying through a pty: {lost}\n")


def test_the_pty_proxy_hands_the_speed_on(rig: Rig) -> None:
    process = rig.start(
        "--via", "pty", "--", "sh", "-c", "stty 9600 <$0; echo > $0; read x", "/dev/ttyS7"
    )
    rig.device.hear(1)
    assert termios.tcgetattr(rig.device.near)[4:6] == [termios.B9600] * 2
    process.communicate(b"\n", timeout=LIMIT)


def test_the_pty_proxy_ends_with_the_program_and_frees_the_port(rig: Rig) -> None:
    process = rig.start("--via", "pty", "--", "sh", "-c", "echo >$0; read x", "ttyS7")
    rig.device.hear(1)
    ours = rig.processes() - {process.pid}
    assert ours
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == -signal.SIGTERM
    for pid in ours:
        wait_for_end(pid)


def test_a_proxy_that_nobody_would_talk_to_is_refused(rig: Rig) -> None:
    status, _, errors = sh(rig, ":", "--via", "pty")
    assert status == 1
    assert errors == (
        "ttybroker: sh: a pty cannot stand in, because no argument of the program is a port; name "
        "one there\n"
    )


def test_the_pty_proxy_says_why_an_alias_is_refused(rig: Rig) -> None:
    rig.write("gps.deny", "rule 1 does not let you")
    rig.write("gps.refuse", f"{errno.EACCES} gps: not permitted, because")
    status, _, errors = rig.run("--via", "pty", "--", "true", "/dev/nothing", "/dev/gps")
    assert (status, errors) == (1, "ttybroker: gps: not permitted, because\n")


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("/dev/ttyS7", "PTY"),
        ("ttyS7", "PTY"),
        ("-D/dev/ttyS7", "-DPTY"),
        ("--port=/dev/ttyS7", "--port=PTY"),
        ("OPEN:/dev/ttyS7,b9600", "OPEN:PTY,b9600"),
        ("/dev/ttyS70", "/dev/ttyS70"),
        ("stty </dev/ttyS7; cat /dev/ttyS70 /dev/ttyS7", "stty <PTY; cat /dev/ttyS70 PTY"),
        ("xttyS7", "xttyS7"),
    ],
)
def test_what_counts_as_naming_the_port(word: str, becomes: str) -> None:
    assert replace(word, ["/dev/ttyS7", "ttyS7"], "PTY") == becomes


# ---- the probe ----


def test_yama_two_falls_back_and_notify_insists(rig: Rig) -> None:
    scope = {"TEST_PTRACE_SCOPE": "2"}
    status, _, errors = rig.run("--", "sh", "-c", ": $0", "/dev/ttyS7", env=scope)
    assert status == 0
    assert "copying through a pty (Yama's ptrace_scope is 2)" in errors
    status, _, errors = sh(rig, ":", "--via", "notify", env=scope)
    assert (status, errors.count("\n")) == (1, 1)
    assert "ptrace_scope is 2; try --via pty" in errors


@pytest.mark.root
@pytest.mark.parametrize("scope", range(4))
def test_yama_binds_who_may_not_trace_all(tmp_path: Path, scope: int) -> None:
    """Root, too, as in most containers. 3 binds everybody."""
    setting = tmp_path / "ptrace_scope"
    setting.write_text(f"{scope}\n")
    code = f"from ttybroker.run import choose\nchoose.YAMA = {str(setting)!r}\nprint(choose.yama())"
    bound = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    for prefix, found in (([], scope if scope == 3 else 0), (bound, scope)):
        command = [*prefix, sys.executable, "-c", code]
        assert subprocess.check_output(command, env={"PYTHONPATH": ROOTS}) == b"%d\n" % found


def test_without_yama_nothing_binds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "YAMA", str(tmp_path / "none"))
    assert choose.yama() == 0


def test_a_port_that_is_open_when_the_program_begins_needs_no_filter(rig: Rig) -> None:
    status, _, errors = sh(rig, "echo >&3", "--fd", "3", "ttyS7", env={"TEST_PTRACE_SCOPE": "2"})
    why = "opens are not answered (Yama's ptrace_scope is 2)"
    assert (status, errors) == (0, f"ttybroker: {why}: {become.NO_PATHS}\n")
    assert rig.device.hear(1) == b"\n"


def test_inside_another_supervisor_a_pty_takes_over(rig: Rig) -> None:
    command = [sys.executable, str(Path(__file__).parent / "fake_broker.py"), str(rig.directory)]
    status, _, errors = rig.run("--", *command, "--", "sh", "-c", ": <$0", "/dev/ttyS7")
    assert status == 0
    assert "another supervisor is there already" in errors


def test_programs_that_a_filter_would_break_are_seen(tmp_path: Path) -> None:
    abis = notify.machine()[1]
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    assert choose.of_program(str(program), abis) == ""
    script = tmp_path / "script"
    script.write_text(f"#!{program} -x\n")
    assert choose.of_program(str(script), abis) == ""
    head = bytearray(program.read_bytes())
    head[18:20] = b"\x15\x00"  # EM_PPC64
    program.write_bytes(head)
    assert "another kind of machine" in choose.of_program(str(program), abis)
    assert "another kind of machine" in choose.of_program(str(script), abis)


@LAYOUTS
@pytest.mark.parametrize("line", ["#!/no/such/sh\n", "#!/bin/sh\r\n"])
def test_a_script_whose_interpreter_is_not_there_says_so(
    rig: Rig, line: str, env: dict[str, str]
) -> None:
    script = rig.directory / "script"
    script.write_text(line)
    script.chmod(0o755)
    what = "the interpreter of its first line, or its loader: No such file or directory"
    assert rig.run("--", str(script), env=env) == (127, "", f"ttybroker: {script}: {what}\n")


@pytest.mark.root
def test_privileged_and_unreadable_programs_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abis = notify.machine()[1]
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    os.chown(program, 65534, 65534)
    for mode in (0o4755, 0o2755):
        program.chmod(mode)
        assert "gains privilege" in choose.of_program(str(program), abis)
    program.chmod(0o755)
    assert choose.of_program(str(program), abis) == ""
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.R_OK)
    assert "not readable" in choose.of_program(str(program), abis)


# ---- words ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fd", "3", "a", "--fd", "3", "b", "--", "true"], "descriptor 3: wanted for two"),
        (["--stdio", "a", "--fd", "1", "b", "--", "true"], "descriptor 1: wanted for two"),
        (["--wait", "soon", "--", "true"], "--wait soon: must be a number of seconds"),
        (["--wait", "-1", "--", "true"], "--wait -1"),
        (["--wait", "nan", "--", "true"], "--wait nan"),
        (["--wait", "1e9", "--", "true"], "--wait 1e9: must be a number of seconds, 0 to 4294967"),
        (["--wait", "--", "true"], "--wait needs a value"),
        (["--fd", "3", "--", "true"], "--fd 3 needs a port"),
        (["--via", "magic", "--", "true"], "--via magic: must be auto, notify or pty"),
        (["--fd", "x", "ttyS7", "--", "true"], "--fd x: must be a descriptor's number"),
        (["--fd", "99999999999", "ttyS7", "--", "true"], "--fd 99999999999"),
        (["--yield", "--hold", "a", "--", "true"], "--yield gives a port to others, --hold keeps"),
        (["--yield", "--fd", "3", "a", "--", "true"], "--yield lends what the program opens itse"),
        (["--yield", "--via", "notify", "--", "true"], "--yield needs a pty: leave --via notify"),
        (["", "--", "true"], "'': not a port's name"),
        (["../x!", "--", "true"], "'../x!': not a port's name"),
    ],
)
def test_a_bad_command_line_is_one_line_and_status_2(
    arguments: list[str], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    errors = capfd.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1


def test_programs_that_cannot_run_have_the_shells_statuses(rig: Rig) -> None:
    text = rig.directory / "text"
    text.write_text("not a program\n")
    for program, status in (("nosuch", 127), ("/no/such", 127), (str(text), 126), ("/tmp", 126)):
        found, _, errors = rig.run("--", program)
        assert (found, errors.count("\n"), errors.count(program)) == (status, 1, 1)
    assert rig.run("--", "")[::2] == (127, "ttybroker: the name of the program is empty\n")


def test_a_script_without_a_first_line_runs_as_in_a_shell(rig: Rig) -> None:
    script = rig.directory / "script"
    script.write_text("exit 8\n")
    script.chmod(0o755)
    assert rig.run("--", str(script))[0] == 8


@pytest.mark.parametrize("name", ["ttyS0", "ttyUSB12", "ttyACM0", "ttyXRUSB1"])
def test_serial_names(name: str) -> None:
    assert is_serial_name(name)


@pytest.mark.parametrize("name", ["tty", "tty1", "ttyS", "console", "ttyS0/", "tty\u0660"])
def test_other_names(name: str) -> None:
    assert not is_serial_name(name)


def test_a_node_with_several_names_is_asked_for_by_the_best_one() -> None:
    kernel = PortInfo("ttyUSB3", "/dev/ttyUSB3", "free", "")
    alias = PortInfo("gps", "/dev/ttyUSB3", "free", "")
    assert Names((), [alias, kernel]).of("/dev/ttyUSB3") == "ttyUSB3"
    assert Names((), [alias]).of("/dev/ttyUSB3") == "gps"
    assert Names(("gps",), [alias, kernel]).of("/dev/ttyUSB3") == "gps"
    assert Names(("gps",), [alias, kernel]).of("/dev/ttyS7") is None
    assert Names(("gps", "ttyUSB3"), [alias, kernel]).of("/dev/ttyUSB3") == "ttyUSB3"
