"""Odd starts work, or end with one clear line."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from run.conftest import LIMIT, Rig
from ttybroker.run import command
from ttybroker.run.broker import line_of
from ttybroker.version import VERSION

TCGETS2 = 0x802C542A  # asm-generic/ioctls.h
BOTHER = 0o010000

# ---- descriptors ----


@pytest.mark.parametrize("via", ["auto", "notify"])
def test_the_highest_descriptor_can_be_the_port(rig: Rig, via: str) -> None:
    highest = os.sysconf("SC_OPEN_MAX") - 1
    code = f"os.write({highest}, b'hello')"
    status, _, errors = rig.python(code, "--via", via, "--fd", str(highest), "ttyS7")
    assert (status, errors) == (0, "")
    assert rig.device.hear(5) == b"hello"


def test_ports_can_have_each_other_s_numbers(rig: Rig) -> None:
    rig.port("gps")
    numbers = [word for n in (3, 4, 5, 6, 7) for word in ("--fd", str(n), f"p{n}")]
    for n in (3, 4, 5, 6, 7):
        rig.port(f"p{n}")
    code = "print([os.ttyname(n) for n in range(3, 8)] == [os.ttyname(3)] * 5)"
    assert rig.python(code, *numbers)[1] == "True\n"


@pytest.mark.parametrize("env", [{}, {"TEST_PTRACE_SCOPE": "1", "TEST_VIA": "notify"}])
def test_closed_standard_descriptors_stay_closed(rig: Rig, env: dict[str, str]) -> None:
    found = rig.directory / "found"
    code = f"""
import os
closed = []
for fd in (0, 1, 2):
    try: os.fstat(fd)
    except OSError: closed.append(fd)
fd = os.open("/dev/ttyS7", os.O_RDWR | os.O_NOCTTY)
open({str(found)!r}, "w").write(f"{{closed}} {{fd}}")"""
    command = [sys.executable, str(Path(__file__).parent / "fake_broker.py"), str(rig.directory)]
    line = " ".join(f"'{word}'" for word in [*command, "--", sys.executable, "-c", "CODE"])
    script = f"exec {line} <&- >&- 2>&-".replace("'CODE'", '"$CODE"')
    roots = str(Path(command_file()).parents[2])
    done = subprocess.run(
        ["sh", "-c", script],
        env={**os.environ, "PYTHONPATH": roots, "CODE": code, **env},
        timeout=LIMIT,
    )
    assert done.returncode == 0
    assert found.read_text() == "[0, 1, 2] 0"


def command_file() -> str:
    assert command.__file__ is not None
    return command.__file__


def test_a_port_of_fd_may_be_named_again(rig: Rig) -> None:
    code = "print(os.open('/dev/ttyS7', os.O_RDWR) > 3)"
    status, output, errors = rig.python(code, "--fd", "3", "ttyS7", "ttyS7")
    assert (status, output, errors) == (0, "True\n", "")


def test_with_few_descriptors_one_line_says_so(rig: Rig) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))

    status, _, errors = rig.run("--", "true", preexec_fn=few)
    assert status == 1
    assert errors == (
        "ttybroker: nothing was started: only 5 open files are allowed (ulimit -n); 16 are needed\n"
    )


@pytest.mark.parametrize("via", ["auto", "notify"])
def test_a_refusal_that_the_locale_cannot_write_is_an_answer(rig: Rig, via: str) -> None:
    rig.write("ttyS7.refuse", "16 ttyS7: busy: held for 'Prüfstand'\nby alice")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code = """
try: os.open("/dev/ttyS7", os.O_RDWR)
except OSError as error: print(error.errno)"""
    status, output, errors = rig.python(code, "--via", via, env=ascii_only)
    assert (status, output) == (0, "16\n")
    assert errors == "ttybroker: ttyS7: busy: held for 'Pr?fstand'?by alice\n"


# ---- many and much ----


@pytest.mark.parametrize("env", [{}, {"TEST_VIA": "notify"}], ids=["traced", "listened"])
def test_a_thousand_threads_open_at_once(rig: Rig, env: dict[str, str]) -> None:
    code = """
import threading
threading.stack_size(131072)
resource = __import__("resource")
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
start = threading.Event()
opened = []
def work():
    start.wait()
    opened.append(os.open("/dev/ttyS7", os.O_RDWR | os.O_NOCTTY))
threads = [threading.Thread(target=work) for _ in range(1000)]
for thread in threads: thread.start()
start.set()
for thread in threads: thread.join()
print(len(set(opened)))"""
    program = ["--", sys.executable, "-c", f"import os, sys\n{code}"]
    process = rig.start("--wait", "50", *program, env=env)
    assert process.communicate(timeout=50) == (b"1000\n", b"")


@pytest.mark.parametrize("via", ["auto", "pty"])
def test_two_megabytes_of_arguments_arrive(rig: Rig, via: str) -> None:
    words = ["x" * 100_000] * 19
    code = "print(len(sys.argv), sum(map(len, sys.argv[2:])))"
    program = [sys.executable, "-c", f"import sys\n{code}", "/dev/ttyS7", *words]
    status, output, _ = rig.run("--via", via, "ttyS7", "--", *program)
    assert (status, output) == (0, "21 1900000\n")


@pytest.mark.parametrize("via", ["auto", "notify"])
def test_too_many_arguments_are_one_line(rig: Rig, tmp_path: Path, via: str) -> None:
    """They are too many for the program, though not for us: its long path counts, too."""
    deep = tmp_path.joinpath(*["d" * 200] * 15)
    deep.mkdir(parents=True)
    program = deep / "program"
    program.symlink_to("/bin/true")
    env = {**os.environ, "PYTHONPATH": rig.code, "PATH": f"{deep}:{os.environ['PATH']}"}
    few = [*rig.command, str(rig.directory), "--via", via, "--", "program"]

    def size(words: list[str]) -> int:
        """Return what execve(2) counts: each text with its end, and a pointer to it."""
        texts = [*words, *(f"{name}={value}" for name, value in env.items())]
        return sum(len(os.fsencode(text)) + 1 + 8 for text in texts)

    # The launcher's own words are less than the program's path.
    room = min(os.sysconf("SC_ARG_MAX"), 6 << 20) - size(few) - len(str(program)) // 2
    most = 100_000
    words = ["x" * (most - 9)] * (room // most)
    assert rig.run("--via", via, "--", "program", *words, env=env) == (0, "", "")
    words.append("x" * (room % most))
    assert rig.run("--via", via, "--", "program", *words, env=env) == (
        126,
        "",
        "ttybroker: program: Argument list too long\n",
    )


def test_a_run_in_a_run_copies_through_a_pty_and_says_why(rig: Rig) -> None:
    inner = [sys.executable, str(Path(__file__).parent / "fake_broker.py"), str(rig.directory)]
    status, _, errors = rig.run("--", *inner, "--", "sh", "-c", "echo hi >$0", "/dev/ttyS7")
    assert status == 0
    assert errors.startswith(
        "ttybroker: copying through a pty (another supervisor is there already): "
    )
    assert errors.count("\n") == 1
    assert rig.device.hear(3) == b"hi\n"


def test_without_proc_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a chroot. All ways of answering opens need it."""
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith("/proc"))
    assert command.main(["ttyS7", "--", "true"]) == 1
    assert capfd.readouterr().err == (
        "ttybroker: nothing was started: /proc is not mounted here; have it mounted "
        "(mount -t proc proc /proc)\n"
    )


def test_a_file_that_a_sandbox_refuses_to_the_supervisor_is_named() -> None:
    error = PermissionError(13, "Permission denied", "/dev/null")
    assert line_of(error) == "/dev/null: Permission denied"
    assert line_of(OSError(5, "Input/output error")) == "Input/output error"


# ---- the pty ----


def _speed(fd: int) -> tuple[int, int]:
    buffer = bytearray(44)
    fcntl.ioctl(fd, TCGETS2, buffer)
    cflag = struct.unpack_from("I", buffer, 8)[0]
    return cflag & 0o010017, struct.unpack_from("I", buffer, 40)[0]


def test_a_free_speed_passes_the_pty_both_ways(rig: Rig) -> None:
    code = """
import fcntl, struct
def get(fd):
    buffer = bytearray(44); fcntl.ioctl(fd, 0x802C542A, buffer); return buffer
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
print(struct.unpack_from("I", get(fd), 40)[0])
buffer = get(fd)
flags = struct.unpack_from("I", buffer, 8)[0] & ~0o010017 & ~(0o010017 << 16) | 0o010000
struct.pack_into("I", buffer, 8, flags); struct.pack_into("II", buffer, 36, 250000, 250000)
fcntl.ioctl(fd, 0x402C542B, buffer)
os.write(fd, b"x"); sys.stdin.read()"""
    buffer = bytearray(44)
    fcntl.ioctl(rig.device.near, TCGETS2, buffer)
    flags = struct.unpack_from("I", buffer, 8)[0] & ~0o010017 & ~(0o010017 << 16) | BOTHER
    struct.pack_into("I", buffer, 8, flags)
    struct.pack_into("II", buffer, 36, 14400, 14400)
    fcntl.ioctl(rig.device.near, 0x402C542B, buffer)
    program = ["--", sys.executable, "-c", f"import os, sys\n{code}", "/dev/ttyS7"]
    process = rig.start("--via", "pty", *program)
    rig.device.hear(1)
    assert _speed(rig.device.near) == (BOTHER, 250000)
    output, _ = process.communicate(b"", timeout=LIMIT)
    assert output == b"14400\n"


def test_what_the_pty_cannot_do_fails_and_is_among_what_is_lost(rig: Rig) -> None:
    code = """
import fcntl, termios
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
for call in (termios.TIOCGICOUNT, termios.TIOCGSERIAL, termios.TIOCSSERIAL, 0x542E):
    try: fcntl.ioctl(fd, call, bytearray(128))
    except OSError as error: print(error.errno)"""
    program = ["--", sys.executable, "-c", f"import os, sys\n{code}", "/dev/ttyS7"]
    status, output, errors = rig.run("--via", "pty", *program)
    assert (status, output.split()) == (0, [str(errno.ENOTTY)] * 4)
    for lost in ("TIOCGICOUNT", "TIOCSSERIAL", "RS-485", "tcflush()"):
        assert lost in errors


def test_a_flush_leaves_what_the_proxy_has_read(rig: Rig) -> None:
    """What is flushed reaches the port: so it is said."""
    code = """
import termios
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
os.write(fd, b"x" * 60000)
termios.tcflush(fd, termios.TCOFLUSH)
print("flushed"); sys.stdout.flush(); sys.stdin.read()"""
    program = ["--", sys.executable, "-c", f"import os, sys\n{code}", "/dev/ttyS7"]
    process = rig.start("--via", "pty", *program)
    assert process.stdout is not None and process.stdout.readline() == b"flushed\n"
    capacity = 30000  # more than a pty keeps by itself, and less than it lets pass of 60,000
    assert rig.device.hear(capacity) == b"x" * capacity
    process.communicate(timeout=LIMIT)


@pytest.mark.root
def test_why_a_pty_was_tried_is_said(rig: Rig, tmp_path: Path) -> None:
    program = tmp_path / "su"
    program.write_bytes(Path("/bin/true").read_bytes())
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    status, _, errors = rig.run("--", str(program), "-c", "true")
    assert status == 1
    assert errors == (
        f"ttybroker: {program}: {program} gains privilege when it starts, which a filter would "
        "take from it; a pty cannot stand in, because no argument of the program is a port; name "
        "one there\n"
    )


# ---- words ----


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["ttyS7", "--help"]])
def test_help_is_given_on_stdout(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 0
    output, errors = capfd.readouterr()
    assert output.startswith("usage: ttybroker run [-q | --quiet] [--via")
    assert "--stdio PORT" in output and errors == ""


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_is_given_on_stdout(option: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert command.main([option]) == 0
    assert capfd.readouterr() == (f"ttybroker {VERSION}\n", "")


def test_help_that_nobody_reads_is_no_error(rig: Rig) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = rig.start("--help", stdout=writer)
    os.close(writer)
    assert (process.wait(LIMIT), process.communicate()[1]) == (1, b"")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--holt ttyS7 -- true", "--holt: no such option; did you mean --hold?"),
        ("--hold=1 ttyS7 -- true", "--hold: takes no value"),
        ("--help=1 -- true", "--help: takes no value"),
    ],
)
def test_a_mistyped_option_is_told_with_what_is_right(
    words: str, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words.split()) == 2
    assert capfd.readouterr().err == f"ttybroker: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["sh", "/dev/ttyS7"], "ttybroker run -- sh /dev/ttyS7"),
        (["--wait", "5", "ttyS7", "sh"], "ttybroker run --wait 5 ttyS7 -- sh"),
    ],
)
def test_forgotten_dashes_are_written(
    arguments: list[str], instead: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    assert capfd.readouterr().err == f"ttybroker: no -- before the program; write: {instead}\n"
