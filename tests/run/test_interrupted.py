"""We make no open fail, except that of a port, whatever signals arrive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from run.conftest import LIMIT, Rig

TICKS = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>
static void tick(int number) { (void)number; }
int main(int argc, char **argv) {
    struct sigaction action = { .sa_handler = tick };
    struct itimerval every = { { 0, 200 }, { 0, 200 } };
    int failed = 0;
    (void)argc;
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &every, 0);
    for (int i = 0; i < atoi(argv[3]); i++) {
        int fd = open(argv[1], atoi(argv[2]), 0600);
        if (fd < 0) failed++; else close(fd);
    }
    printf("%d\n", failed);
    return 0;
}
"""
LOOP = "trap : CHLD; i=0; while [ $i -lt 300 ]; do i=$((i+1)); true & : %s; done; wait; echo done"
OPENS = "3000"
NAMED = pytest.mark.parametrize("ports", [(), ("ttyS7",)], ids=["no port named", "port named"])
REDIRECTIONS = pytest.mark.parametrize("what", ["< /etc/hostname", "> file", ">> new.$i"])
FILES = pytest.mark.parametrize(
    ("path", "flags"),
    [("/etc/hostname", 0), ("/etc/hostname", 0o2000000), ("/dev/null", 2), ("file", 0o1101)],
)


@pytest.fixture(scope="module")
def ticks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build a C program: PATH FLAGS NUMBER opens that a timer interrupts every 200 µs."""
    here = tmp_path_factory.mktemp("ticks")
    (here / "ticks.c").write_text(TICKS)
    subprocess.run(["gcc", "-o", here / "ticks", here / "ticks.c"], check=True)
    return str(here / "ticks")


@NAMED
@REDIRECTIONS
def test_a_shell_s_redirections_are_not_interrupted(
    rig: Rig, tmp_path: Path, ports: tuple[str, ...], what: str
) -> None:
    program = ("--", "dash", "-c", LOOP % what)
    status, output, errors = rig.run(*ports, *program, cwd=tmp_path)
    assert (status, output, errors) == (0, "done\n", "")


@NAMED
@FILES
def test_opens_of_a_program_with_a_timer_are_not_interrupted(
    rig: Rig, tmp_path: Path, ticks: str, ports: tuple[str, ...], path: str, flags: int
) -> None:
    status, output, errors = rig.run(*ports, "--", ticks, path, str(flags), OPENS, cwd=tmp_path)
    assert (status, output, errors) == (0, "0\n", "")


def test_with_the_listener_alone_plain_reading_is_not_interrupted(rig: Rig, ticks: str) -> None:
    arguments = ("--via", "notify", "--", ticks, "/etc/hostname", "0", OPENS)
    assert rig.run(*arguments)[1] == "0\n"


# Copies four bytes, with no loader that opens anything.
COPY_FOUR = r"""
static long call(long number, long fd, char *data, long size) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(fd), "S"(data), "d"(size)
                     : "rcx", "r11", "memory");
    return result;
}
void _start(void) {
    char data[64];
    call(1, 1, data, call(0, 0, data, 4));
    call(60, 0, 0, 0);
}
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the program is for x86-64")
def test_what_a_thread_executes_while_another_waits_for_the_port_runs_unchanged(
    rig: Rig, compiled: Callable[..., str]
) -> None:
    """The first thread is gone then, and its number is the new program's."""
    code = f"""
import sys, threading
path = "/de" + "v/ttyS7"  # with no port in an argument, fewer calls are looked at
def replace():
    sys.stdin.readline()
    os.execv({compiled(COPY_FOUR)!r}, ["program"])
threading.Thread(target=replace).start()
os.open(path, os.O_RDWR)"""
    gate = rig.gate("ttyS7")
    process = rig.start("--", sys.executable, "-c", f"import os\n{code}", bufsize=0)
    assert process.stdin is not None and process.stdout is not None
    gate.wait_for(1)
    process.stdin.write(b"now\n")
    until_it_reads(process.pid, "program")
    process.send_signal(signal.SIGWINCH)  # its first stop: the read begins again
    until_it_reads(process.pid, "program")
    process.stdin.write(b"0123456789")
    assert process.stdout.read() == b"0123"
    gate.open()


def until_it_reads(pid: int, program: str) -> None:
    """Wait until the process is this program, has taken its signals, and sleeps."""
    end = time.monotonic() + LIMIT
    wanted = (f"Name:\t{program}\n", "State:\tS", "ShdPnd:\t0000000000000000")
    while not all(field in Path(f"/proc/{pid}/status").read_text() for field in wanted):
        assert time.monotonic() < end, f"no {program} that sleeps"
        time.sleep(0.01)


# The same loop for i386, without a library.
TICKS_32 = r"""
static long call(long nr, long a, long b, long c, long d) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
                     : "memory");
    return result;
}
static void tick(int number) { (void)number; }
void _start(void) {
    struct { void (*handler)(int); unsigned long flags, restorer, mask[2]; } action = { tick };
    long every[4] = { 0, 200, 0, 200 };
    int failed = 0;
    call(174, 14, (long)&action, 0, 8);  /* rt_sigaction, SIGALRM */
    call(104, 0, (long)every, 0, 0);  /* setitimer, ITIMER_REAL */
    for (int i = 0; i < 3000; i++) {
        long fd = call(5, (long)"/etc/hostname", FLAGS, 0, 0);
        if (fd < 0) failed++; else call(6, fd, 0, 0, 0);
    }
    call(1, failed ? 1 : 0, 0, 0, 0);
}
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the program is for x86")
@pytest.mark.parametrize("flags", ["0", "02000000"])
@pytest.mark.parametrize("more", [(), ("/dev/ttyS7",)], ids=["no port", "a port for itself"])
def test_plain_reading_of_a_32_bit_program_is_not_interrupted(
    rig: Rig, compiled: Callable[..., str], flags: str, more: tuple[str, ...]
) -> None:
    """A tracer cannot mark its calls. So nobody looks at them if no port is named."""
    program = compiled(TICKS_32, "-m32", "-fno-pie", "-no-pie", f"-DFLAGS={flags}")
    assert rig.run("--", program, *more) == (0, "", "")
