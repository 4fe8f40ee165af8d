"""Whatever way a program opens its port, it gets the port, or one line says why not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from run.conftest import LIMIT, Rig
from ttybroker.run import choose

VIA = pytest.mark.parametrize("via", ["auto", "notify"])
PORT = "/dev/ttyS7"

# ---- read-only opens of modern runtimes ----

READERS = {
    "python": [sys.executable, "-c", f"print(open({PORT!r}, 'rb', buffering=0).read(3).decode())"],
    "perl": ["perl", "-e", f"open(F, '<', '{PORT}') or die $!; sysread(F, $x, 3); print qq($x\\n)"],
    "ruby": ["ruby", "-e", f"puts File.open('{PORT}', 'rb').readpartial(3)"],
    "node": [
        "node",
        "-e",
        f"require('fs').createReadStream('{PORT}').once('data', d => "
        "{ console.log(d.toString().slice(0, 3)); process.exit() })",
    ],
    "cat": ["sh", "-c", f"head -c 3 {PORT}; echo"],
}
RUST = f"""use std::io::Read;
fn main() {{
    let mut text = [0u8; 3];
    std::fs::File::open("{PORT}").unwrap().read_exact(&mut text).unwrap();
    println!("{{}}", std::str::from_utf8(&text).unwrap());
}}"""
GO = f"""package main
import ("fmt"; "os")
func main() {{
    file, err := os.Open("{PORT}")
    if err != nil {{ panic(err) }}
    text := make([]byte, 3)
    file.Read(text)
    fmt.Println(string(text))
}}"""
C = f"""#include <stdio.h>
int main(void) {{
    char text[4] = "";
    FILE *file = fopen("{PORT}", "re");
    if (!file) {{ perror("fopen"); return 1; }}
    setbuf(file, 0);
    fread(text, 1, 3, file);
    puts(text);
    return 0;
}}"""
COMPILED = {
    "c": ("port.c", C, ["gcc", "-o", "program", "port.c"]),
    "rust": ("port.rs", RUST, ["rustc", "-o", "program", "port.rs"]),
    "go": ("port.go", GO, ["go", "build", "-o", "program", "port.go"]),
}


def _reads(rig: Rig, via: str, program: list[str]) -> None:
    rig.device.say(b"abc\n")
    status, output, errors = rig.run("--via", via, "ttyS7", "--", *program)
    assert (status, output, errors) == (0, "abc\n", "")


@VIA
@pytest.mark.parametrize("runtime", READERS)
def test_a_read_only_open_is_answered(rig: Rig, runtime: str, via: str) -> None:
    if shutil.which(READERS[runtime][0]) is None:
        pytest.skip(f"no {runtime} here")
    _reads(rig, via, READERS[runtime])


@pytest.mark.parametrize("language", COMPILED)
def test_a_read_only_open_of_a_compiled_program_is_answered(
    rig: Rig, tmp_path: Path, language: str
) -> None:
    name, source, command = COMPILED[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    (tmp_path / name).write_text(source)
    made = subprocess.run(command, cwd=tmp_path, capture_output=True)
    if made.returncode:
        pytest.skip(f"{command[0]} cannot: {made.stderr.decode()[-200:]}")
    _reads(rig, "auto", [str(tmp_path / "program")])


READ_ONLY = "print(os.open('/dev/ttyS7', os.O_RDONLY | os.O_CLOEXEC) >= 0)\n"


def test_a_path_below_dev_on_the_command_line_has_the_loader_s_way_to_open_looked_at(
    rig: Rig,
) -> None:
    assert rig.python(READ_ONLY) == (0, "True\n", "")
    assert len(rig.log("open")) == 1


def test_without_one_and_without_a_named_port_it_is_not_looked_at(rig: Rig) -> None:
    program = rig.directory / "meter.py"
    program.write_text(f"import os\n{READ_ONLY}")
    assert rig.run("--", sys.executable, str(program))[0] == 1
    assert rig.log("open") == []


@VIA
def test_a_port_that_the_run_does_not_name_is_told_once_with_what_to_write(
    rig: Rig, via: str
) -> None:
    for name in ("ttyS8", "gps"):
        rig.port(name)
    code = """
for path in ("/dev/ttyS8", "/dev/gps", "/dev/ttyS8"):
    try: os.open(path, os.O_RDWR | os.O_NOCTTY)
    except OSError as error: print(error.strerror)"""
    status, output, errors = rig.python(code, "--via", via, "ttyS7")
    assert (status, output) == (0, "No such file or directory\n" * 3)
    line = "ttyS8: not named in this run, so not brokered; write: ttyS7 ttyS8 -- PROGRAM"
    assert errors == f"ttybroker: {line}\n"


def test_another_port_that_the_user_may_open_himself_is_not_told_of(rig: Rig) -> None:
    rig.port("ttyS8")
    (rig.directory / "ttyS7").unlink()
    (rig.directory / "ttyS7").symlink_to("/dev/nosuch")
    code = f"print(os.open({rig.device.node!r}, os.O_RDWR | os.O_NOCTTY) >= 0)"
    assert rig.python(code, "ttyS7") == (0, "True\n", "")
    assert rig.log("open") == []


# ---- other ways to the same place ----


@VIA
@pytest.mark.parametrize(
    "statement",
    [
        'os.open("/dev/pts/../ttyS7", 2)',
        'os.open(f"/proc/self/fd/{os.open({node!r}, os.O_PATH)}", 2)',
        'os.chdir("/dev"); os.open("/proc/self/cwd/ttyS7", 2)',
        'os.chdir("/dev"); os.open("/proc/thread-self/cwd/ttyS7", 2)',
        'os.open("/proc/self/root/dev/ttyS7", 2)',
        'os.open(f"/proc/{os.getpid()}/root/dev/ttyS7", 2)',
        'os.chdir("/dev"); how(0, b"ttyS7")',
        'how(0x04, b"/dev/ttyS7")',  # RESOLVE_NO_SYMLINKS
        'os.chdir("/dev"); how(0x08, b"pts/{number}")',  # RESOLVE_BENEATH
        'how(0x20, b"/dev/pts/{number}")',  # RESOLVE_CACHED
    ],
)
def test_every_way_leads_to_the_broker(rig: Rig, statement: str, via: str) -> None:
    code = """
import ctypes, struct
def how(resolve, path):
    libc = ctypes.CDLL(None, use_errno=True)
    what = struct.pack("=QQQ", os.O_RDWR | os.O_NOCTTY, 0, resolve)
    fd = libc.syscall(437, -100, path, what, 24)
    assert fd >= 0, os.strerror(ctypes.get_errno())
"""
    if "how(0x04" in statement:
        statement = statement.replace("/dev/ttyS7", rig.device.node)
    statement = statement.replace("{node!r}", repr(rig.device.node).replace('"', "'"))
    statement = statement.replace("{number}", rig.device.node.rpartition("/")[2])
    status, _, errors = rig.python(code + statement, "--via", via, "ttyS7")
    assert (status, errors) == (0, "")
    assert len(rig.log("open")) == 1


@VIA
@pytest.mark.parametrize(
    ("how", "path"),
    [
        (("--stdio", "ttyS7"), "/dev/stdin"),
        (("--stdio", "ttyS7"), "/dev/stdout"),
        (("--stdio", "ttyS7"), "/proc/self/fd/0"),
        (("--fd", "3", "ttyS7"), "/dev/fd/3"),
        (("--fd", "3", "ttyS7"), "/proc/self/fd/3"),
        (("--fd", "3", "ttyS7"), "//proc//self/./fd//3"),
        (("--fd", "3", "ttyS7"), "/dev/./fd/3"),
        (("--fd", "3", "ttyS7"), "/proc/self/root/proc/self/fd/3"),
        (("--fd", "3", "ttyS7"), "/proc/self/root/proc/thread-self/root/dev/fd/3"),
    ],
)
def test_a_descriptor_s_path_opens_the_port_that_it_has(
    rig: Rig, how: tuple[str, ...], path: str, via: str
) -> None:
    code = f"""
fd = os.open({path!r}, os.O_RDWR); os.write(fd, b'hello')
os.set_blocking(fd, False)
sys.exit(os.get_blocking({how[1] if how[0] == "--fd" else 0}))  # one open file description"""
    status, _, errors = rig.python(code, "--via", via, *how)
    assert (status, errors) == (0, "")
    assert rig.device.hear(5) == b"hello"
    assert len(rig.log("open")) == 1  # the one before the program began


@VIA
def test_a_relative_path_of_its_own_descriptor_is_not_one_of_ours(rig: Rig, via: str) -> None:
    """/dev/fd is a link to /proc/self/fd, which differs for each process."""
    code = """
os.dup2(0, 100); os.close(0)
for directory, path in ("/dev", "fd/100"), ("/proc", "self/fd/100"), ("/dev", "stdin"):
    os.chdir(directory)
    os.dup2(100, 0)
    os.write(os.open(path, os.O_RDWR), b"hello")"""
    status, _, errors = rig.python(code, "--via", via, "--stdio", "ttyS7")
    assert (status, errors) == (0, "")
    assert rig.device.hear(15) == b"hello" * 3
    assert len(rig.log("open")) == 4  # one before the program began


def test_a_shell_reads_and_writes_its_standard_streams_by_name(rig: Rig) -> None:
    rig.device.say(b"abc")
    script = "head -c 3 /dev/stdin >&2; echo x > /dev/stdout"
    status, _, errors = rig.run("--stdio", "ttyS7", "--", "bash", "-c", script)
    assert (status, errors) == (0, "abc")
    assert rig.device.hear(2) == b"x\n"


def test_a_descriptor_that_is_no_port_is_the_kernel_s(rig: Rig) -> None:
    code = "fd = os.open('/etc/hostname', 0); print(os.open(f'/dev/fd/{fd}', os.O_RDONLY) > fd)"
    assert rig.python(code, "ttyS7")[1] == "True\n"


def test_appending_is_kept_as_asked(rig: Rig) -> None:
    code = """
import fcntl
for flags in (0, os.O_APPEND):
    fd = os.open("/dev/ttyS7", os.O_RDWR | flags)
    print(bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)); os.close(fd)"""
    assert rig.python(code)[1] == "False\nTrue\n"


def test_the_registers_of_the_program_are_as_before_the_call(rig: Rig, tmp_path: Path) -> None:
    """The tracer writes into an argument: the program must not see it afterwards."""
    if os.uname().machine != "x86_64":
        pytest.skip("registers of x86-64")
    source = r"""
#include <stdio.h>
int main(void) {
    long result = 257;
    register long rdx __asm__("rdx") = 0x7fffffff00000002; /* O_RDWR, and an upper half */
    register const char *path __asm__("rsi") = "/dev/ttyS7";
    register long at __asm__("rdi") = -100;
    __asm__ volatile("syscall" : "+a"(result), "+r"(rdx), "+r"(path), "+r"(at)
                     : : "rcx", "r11", "memory");
    printf("%d %lx\n", result >= 0, rdx);
    return 0;
}"""
    (tmp_path / "r.c").write_text(source)
    subprocess.run(["gcc", "-O1", "-o", tmp_path / "r", tmp_path / "r.c"], check=True)
    assert rig.run("--", str(tmp_path / "r"))[1] == "1 7fffffff00000002\n"


# ---- what cannot be served says so, once ----


def test_io_uring_is_not_there_so_that_programs_open_the_old_way(rig: Rig) -> None:
    code = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(425, 8, ctypes.create_string_buffer(120)) == -1
print(errno.errorcode[ctypes.get_errno()])"""
    assert rig.python(code)[1] == "ENOSYS\n"


@pytest.mark.parametrize("ring", ["0", "1"])
def test_node_opens_its_port_with_and_without_a_ring(rig: Rig, ring: str) -> None:
    if shutil.which("node") is None:
        pytest.skip("no node here")
    code = f"require('fs').open('{PORT}', 'r+', e => console.log(e ? e.message : 'opened'))"
    environment = {"UV_USE_IO_URING": ring}
    assert rig.run("--", "node", "-e", code, env=environment)[1] == "opened\n"


def test_a_process_that_hides_its_memory_is_told_once(rig: Rig) -> None:
    code = """
import ctypes
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
for _ in range(3):
    try: os.open("/dev/ttyS7", os.O_RDWR)
    except OSError as error: print(error.errno)"""
    process = rig.start("--", "python3", "-c", f"import os, sys\n{code}", **as_nobody(rig))
    output, errors = process.communicate(timeout=LIMIT)
    assert errors.decode().count("hides its memory (PR_SET_DUMPABLE)") == 1, (output, errors)


def as_nobody(rig: Rig) -> dict[str, object]:
    """Return how to start a program as nobody, and let nobody read what it runs.

    Root may look into every process, so root sees no such refusal.
    """
    if os.geteuid() != 0:
        return {}
    rig.copy_code()
    for path in (rig.directory, *rig.directory.parents[:3]):
        if path != Path("/tmp"):
            path.chmod(0o777)
    os.chmod(rig.device.node, 0o666)
    return {"user": 65534, "group": 65534, "extra_groups": []}


def test_a_controlling_terminal_that_is_not_given_is_said(rig: Rig) -> None:
    script = "exec 3<>/dev/ttyS7; exec 4<>/dev/ttyS7"
    status, _, errors = rig.run("--", "setsid", "-w", "sh", "-c", script)
    assert status == 0
    assert errors.count("does not become the controlling terminal") == 1, errors


def test_a_watch_on_a_port_that_cannot_be_had_is_said(rig: Rig) -> None:
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for _ in range(2): libc.inotify_add_watch(libc.inotify_init(), b"/dev/ttyS7", 1)"""
    _, _, errors = rig.python(code)
    assert errors == "ttybroker: ttyS7: inotify on a port is not brokered\n"


TRACES = (
    "ttybroker: strace traces by itself, so opens are answered as with --via notify: "
    "a signal can make that of a file for writing fail with EINTR\n"
)


def test_a_debugger_started_by_another_program_traces(rig: Rig) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    program = ["env", "strace", "-f", "-o", "/dev/null", "sh", "-c", "echo hello > /dev/ttyS7"]
    status, _, errors = rig.run("--", *program)
    assert (status, errors) == (0, TRACES)
    assert rig.device.hear(6) == b"hello\n"
    assert rig.run("--via", "notify", "--", *program)[2] == ""  # what was asked for needs no word


@pytest.mark.parametrize("tracer", ["strace", "gdb"])
def test_a_debugger_as_the_program_traces_and_its_program_gets_the_port(
    rig: Rig, tracer: str
) -> None:
    if shutil.which(tracer) is None:
        pytest.skip(f"no {tracer} here")
    program = ["sh", "-c", "echo hello > /dev/ttyS7"]
    command = {
        "strace": ["strace", "-f", "-o", "/dev/null", *program],
        "gdb": ["gdb", "-q", "-batch", "-ex", "run", "--args", *program],
    }[tracer]
    _, _, errors = rig.run("--", *command)
    assert errors.count(TRACES.replace("strace", tracer)) == 1
    assert rig.device.hear(6) == b"hello\n"


@pytest.mark.parametrize(
    ("argv", "traces"),
    [
        ("strace ls", "strace"),
        ("/opt/bin/gdb", "gdb"),
        ("env -i A=b strace ls", "strace"),
        ("timeout -s KILL 5 nice -n 3 gdb", "gdb"),
        ("make gdb", ""),
        ("env make gdb", ""),
        ("env A=b", ""),
        ("vim strace.txt", ""),
    ],
)
def test_a_debugger_is_one_only_where_a_program_stands(
    tmp_path: Path, argv: str, traces: str
) -> None:
    for name in ("strace", "gdb", "make", "nice", "ls"):
        (tmp_path / name).touch(0o755)
    assert choose.own_tracer(argv.split(), str(tmp_path)) == traces


def test_a_program_with_a_debugger_s_name_among_its_arguments_reads_its_port(rig: Rig) -> None:
    """A plain open for reading of a run that names no port: only a tracer looks at it."""
    rig.device.say(b"hello\n")
    program = ["sh", "-c", "head -c 6 < /dev/ttyS7", "gdb", "strace"]
    assert rig.run("--", *program) == (0, "hello\n", "")


def test_a_debugger_inside_is_told_how_to_be_started(rig: Rig) -> None:
    status, _, errors = rig.run("--", "sh", "-c", "strace -o /dev/null true; exit 0")
    assert status == 0
    assert errors.count("ttybroker: strace, gdb and the like cannot trace inside") == 1, errors


def _block_all_signals() -> None:
    """As a daemon that waits for signals in a thread of its own, and does not unblock them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@pytest.mark.root
@pytest.mark.parametrize("before", [None, _block_all_signals])
def test_a_link_in_mounts_that_only_the_program_has_leads_to_the_broker(
    rig: Rig, before: Callable[[], None] | None
) -> None:
    here = rig.directory / "here"
    here.mkdir()
    (here / "modem").write_text("no port for others")
    code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
os.open("{here}/modem", os.O_RDWR)
assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
assert libc.mount(b"none", b"{here}", b"tmpfs", 0, None) == 0
os.symlink({rig.device.node!r}, "{here}/modem")
print(os.ttyname(os.open("{here}/modem", os.O_RDWR)))"""
    status, output, errors = rig.python(code, preexec_fn=before)
    assert (status, output, errors) == (0, f"{rig.device.node}\n", "")
    assert len(rig.log("open")) == 1
