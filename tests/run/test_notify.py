"""The filter asks about exactly what it should, and the listener's answers arrive."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ttybroker.run import kernel, notify

X86_64, I386 = notify.MACHINES["x86_64"][1]
(AARCH64,) = notify.MACHINES["aarch64"][1]
(RISCV64,) = notify.MACHINES["riscv64"][1]
ASK, PASS = notify.RET_USER_NOTIF, notify.RET_ALLOW
RDWR, NOCTTY, NONBLOCK, CLOEXEC = 0o2, 0o400, 0o4000, 0o2000000
X32 = 0x40000000


def build(abis: tuple[notify.Abi, ...], plain: int = notify.PLAIN_INHERITED) -> bytes:
    return notify.Filter(abis, plain=plain, traced=False).code()


def judge(code: bytes, arch: int, nr: int, *args: int) -> int:
    """Interpret the filter as the kernel would: it uses only a few instructions."""
    data = struct.pack("=iIQ6Q", nr, arch, 0, *(list(args) + [0] * 6)[:6])
    at = accumulator = 0
    while True:
        op, yes, no, value = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if op == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif op == 0x54:
            accumulator &= value
        elif op == 0x15:
            at += yes if accumulator == value else no
        elif op == 0x45:
            at += yes if accumulator & value else no
        else:
            assert op == 0x06
            return int(value)


@pytest.mark.parametrize("abi", [X86_64, I386, AARCH64, RISCV64])
@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        (RDWR, ASK),
        (0o1 | CLOEXEC, ASK),
        (NOCTTY | CLOEXEC, ASK),
        (NONBLOCK | CLOEXEC, ASK),
        (0, PASS),  # a signal could interrupt it
        (CLOEXEC, PASS),  # the loader
        (CLOEXEC | 0o100000, PASS),
    ],
)
def test_an_open_is_asked_about_by_its_flags(abi: notify.Abi, flags: int, verdict: int) -> None:
    code = build((abi,))
    for nr, kind in abi.calls.items():
        if kind == notify.OPENAT:
            assert judge(code, abi.audit, nr, 5, 0x1000, flags) == verdict
        if kind == notify.OPEN:
            assert judge(code, abi.audit, nr, 0x1000, flags) == verdict


def traced(abi: notify.Abi, plain: int = notify.PLAIN_INHERITED) -> bytes:
    return notify.Filter((abi,), plain=plain, traced=True).code()


def number(abi: notify.Abi, kind: int) -> int:
    return next(nr for nr, what in abi.calls.items() if what == kind)


@pytest.mark.parametrize("abi", [X86_64, AARCH64, RISCV64])
def test_a_tracer_is_asked_first_and_a_marked_call_goes_to_the_listener(abi: notify.Abi) -> None:
    code = traced(abi)
    nr = number(abi, notify.OPENAT)
    trace = notify.RET_TRACE | notify.OPENAT
    for flags in (RDWR, NOCTTY | CLOEXEC, NONBLOCK, 0, RDWR | NOCTTY | 0o100):
        assert judge(code, abi.audit, nr, 5, 0x1000, flags) == trace
        assert judge(code, abi.audit, nr, 5, 0x1000, flags | notify.MARK << 32) == ASK
    assert judge(code, abi.audit, nr, 5, 0x1000, CLOEXEC) == PASS
    nr = number(abi, notify.FACCESSAT)
    assert judge(code, abi.audit, nr, 5, 0x1000, 6) == notify.RET_TRACE | notify.FACCESSAT
    assert judge(code, abi.audit, nr, 5, 0x1000, 6 | notify.MARK << 32) == ASK


@pytest.mark.parametrize("abi", [X86_64, AARCH64, RISCV64])
@pytest.mark.parametrize("more", [0, NONBLOCK, CLOEXEC])
def test_an_open_as_terminal_programs_do_it_goes_to_the_listener_at_once(
    abi: notify.Abi, more: int
) -> None:
    nr = number(abi, notify.OPENAT)
    assert judge(traced(abi), abi.audit, nr, 5, 0x1000, RDWR | NOCTTY | more) == ASK


def test_a_call_that_a_tracer_cannot_mark_goes_to_the_listener() -> None:
    nr = number(I386, notify.OPENAT)
    assert judge(traced(I386), I386.audit, nr, 5, 0x1000, RDWR) == ASK
    nr = number(AARCH64, notify.OPENAT2)
    assert judge(traced(AARCH64), AARCH64.audit, nr) == ASK
    trace = notify.RET_TRACE | notify.OPENAT2
    assert judge(traced(X86_64), X86_64.audit, nr) == trace


@pytest.mark.parametrize("abi", [X86_64, I386, AARCH64, RISCV64])
@pytest.mark.parametrize("build_it", [lambda abi: build((abi,)), traced])
def test_a_ring_cannot_be_set_up(abi: notify.Abi, build_it: Callable[[notify.Abi], bytes]) -> None:
    verdict = judge(build_it(abi), abi.audit, number(abi, notify.IO_URING))
    assert verdict == notify.RET_ERRNO | errno.ENOSYS


@pytest.mark.parametrize("abi", [X86_64, AARCH64, RISCV64])
def test_only_a_tracer_sees_tracing_watches_and_new_roots(abi: notify.Abi) -> None:
    for nr, kind in abi.calls.items():
        if kind in (notify.PTRACE, notify.INOTIFY, notify.VIEW):
            assert judge(traced(abi), abi.audit, nr) == notify.RET_TRACE | kind
            assert judge(build((abi,)), abi.audit, nr) == PASS


PLAIN = [notify.PLAIN_INHERITED, notify.PLAIN_TRACED, notify.PLAIN_ALWAYS]


@pytest.mark.parametrize(
    ("abi", "build_it"),
    [(abi, build) for abi in (X86_64, I386, AARCH64, RISCV64)]
    + [(I386, lambda abis, plain: traced(*abis, plain))],
)
@pytest.mark.parametrize("plain", PLAIN)
def test_only_with_a_port_named_does_the_listener_alone_see_plain_reading(
    abi: notify.Abi, build_it: Callable[[tuple[notify.Abi, ...], int], bytes], plain: int
) -> None:
    """A signal can interrupt what it sees. No tracer can mark the calls of a 32-bit program."""
    code = build_it((abi,), plain)
    verdict = ASK if plain == notify.PLAIN_ALWAYS else PASS
    for nr, kind in abi.calls.items():
        before = {notify.OPEN: (0x1000,), notify.OPENAT: (5, 0x1000)}.get(kind)
        if before:
            for flags in (0, CLOEXEC, 0o100000):
                assert judge(code, abi.audit, nr, *before, flags) == verdict
            assert judge(code, abi.audit, nr, *before, RDWR) == ASK


@pytest.mark.parametrize("abi", [X86_64, AARCH64, RISCV64])
@pytest.mark.parametrize("plain", PLAIN)
def test_a_tracer_sees_plain_reading_as_wanted(abi: notify.Abi, plain: int) -> None:
    code, trace = traced(abi, plain), notify.RET_TRACE | notify.OPENAT
    for flags, least in ((0, notify.PLAIN_INHERITED), (CLOEXEC, notify.PLAIN_TRACED)):
        verdict = trace if plain >= least else PASS
        assert judge(code, abi.audit, number(abi, notify.OPENAT), 5, 0x1000, flags) == verdict


@pytest.mark.parametrize("abi", [X86_64, I386, AARCH64, RISCV64])
def test_a_file_that_must_be_new_and_a_mere_path_are_never_asked_about(abi: notify.Abi) -> None:
    nr = number(abi, notify.OPENAT)
    for code in (build((abi,), notify.PLAIN_ALWAYS), traced(abi, notify.PLAIN_ALWAYS)):
        assert judge(code, abi.audit, nr, 5, 0x1000, RDWR | 0o300) == PASS  # O_CREAT | O_EXCL
        assert judge(code, abi.audit, nr, 5, 0x1000, os.O_PATH) == PASS


@pytest.mark.parametrize("abi", [X86_64, I386, AARCH64, RISCV64])
def test_a_directory_is_never_asked_about(abi: notify.Abi) -> None:
    code = build((abi,))
    nr = next(nr for nr, kind in abi.calls.items() if kind == notify.OPENAT)
    assert judge(code, abi.audit, nr, 5, 0x1000, NONBLOCK | abi.o_directory) == PASS


def test_arm64_has_its_own_o_directory() -> None:
    # Elsewhere this bit is O_DIRECTORY; there it is O_DIRECT, and may be any file.
    assert judge(build((AARCH64,)), AARCH64.audit, 56, 5, 0, RDWR | 0o200000) == ASK


@pytest.mark.parametrize("abi", [X86_64, I386, AARCH64, RISCV64])
def test_access_is_asked_about_for_reading_and_writing(abi: notify.Abi) -> None:
    code = build((abi,))
    for nr, kind in abi.calls.items():
        before = {notify.ACCESS: [0x1000], notify.FACCESSAT: [5, 0x1000]}.get(kind)
        if before is not None:
            verdicts = [judge(code, abi.audit, nr, *before, mode) for mode in (0, 1, 2, 4, 6)]
            assert verdicts == [PASS, PASS, ASK, ASK, ASK]


@pytest.mark.parametrize("abi", [X86_64, I386, AARCH64, RISCV64])
def test_calls_without_visible_flags_are_always_asked_about(abi: notify.Abi) -> None:
    code = build((abi,))
    kinds = (notify.OPENAT2, notify.CREAT)
    numbers = [nr for nr, kind in abi.calls.items() if kind in kinds]
    assert 437 in numbers
    assert {judge(code, abi.audit, nr) for nr in numbers} == {ASK}


@pytest.mark.parametrize("abi", [X86_64, I386, AARCH64, RISCV64])
def test_each_lock_is_asked_about_and_no_unlocking(abi: notify.Abi) -> None:
    nr = number(abi, notify.FLOCK)
    traced_verdict = notify.RET_TRACE | notify.FLOCK if abi.registers else ASK
    for code, verdict in ((build((abi,)), ASK), (traced(abi), traced_verdict)):
        for operation in range(17):  # LOCK_SH 1, LOCK_EX 2, LOCK_NB 4, LOCK_UN 8: flock(2)
            expected = verdict if operation in (1, 2, 5, 6) else PASS
            assert judge(code, abi.audit, nr, 3, operation) == expected
    marked = judge(traced(abi), abi.audit, nr, 3, 6 | notify.MARK << 32)
    assert marked == ASK


def test_nothing_else_is_asked_about() -> None:
    code = build((X86_64, I386))
    for abi in (X86_64, I386):
        others = set(range(500)) - set(abi.calls)
        assert {judge(code, abi.audit, nr, *[0xFFFFFFFF] * 6) for nr in others} == {PASS}


def test_x32_calls_are_held_to_the_rules_of_x86_64() -> None:
    code = build((X86_64, I386))
    assert judge(code, X86_64.audit, X32 | 257, 5, 0x1000, RDWR) == ASK
    assert judge(code, X86_64.audit, X32 | 2, 0x1000, RDWR) == ASK
    assert judge(code, X86_64.audit, X32 | 257, 5, 0x1000, CLOEXEC) == PASS


def test_an_unknown_convention_passes() -> None:
    code = build((X86_64, I386))
    assert judge(code, AARCH64.audit, 56, 5, 0x1000, RDWR) == PASS


def test_an_unknown_machine_is_refused_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "MACHINE", "loongarch64")
    with pytest.raises(notify.Unsupported, match="loongarch64"):
        notify.install()


NAMES = {
    "open": notify.OPEN,
    "openat": notify.OPENAT,
    "openat2": notify.OPENAT2,
    "creat": notify.CREAT,
    "access": notify.ACCESS,
    "faccessat": notify.FACCESSAT,
    "faccessat2": notify.FACCESSAT,
    "ptrace": notify.PTRACE,
    "inotify_add_watch": notify.INOTIFY,
    "io_uring_setup": notify.IO_URING,
    "chroot": notify.VIEW,
    "pivot_root": notify.VIEW,
    "unshare": notify.VIEW,
    "setns": notify.VIEW,
    "flock": notify.FLOCK,
}


@pytest.mark.parametrize(
    ("header", "abi"),
    [
        ("x86_64-linux-gnu/asm/unistd_64.h", X86_64),
        ("x86_64-linux-gnu/asm/unistd_32.h", I386),
        ("asm-generic/unistd.h", AARCH64),
        ("asm-generic/unistd.h", RISCV64),
    ],
)
def test_the_numbers_are_those_of_the_headers(header: str, abi: notify.Abi) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"no {path}")
    found = dict(re.findall(r"^#define __NR_(\w+)\s+(\d+)", path.read_text(), re.MULTILINE))
    expected = {int(found[name]): kind for name, kind in NAMES.items() if name in found}
    if "access" not in expected and header.startswith("asm-generic"):
        expected = {nr: kind for nr, kind in expected.items() if kind not in (0, 3, 4)}
    if abi is I386:  # what only a tracer wants to see, and none sees there
        expected = {nr: kind for nr, kind in expected.items() if kind != notify.VIEW}
    assert abi.calls == expected


# ---- with the kernel ----


class Child:
    """A process under the filter; `listener` is its listener, `word()` returns its next report."""

    def __init__(self, act: Callable[[], str]) -> None:
        mine, its = os.pipe()
        self.report, write = os.pipe()
        wait, go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(its, b"%d" % notify.install())
                os.read(wait, 1)  # until the listener is taken
                try:
                    os.write(write, act().encode())
                except OSError as error:
                    os.write(write, f"errno {error.errno}".encode())
            finally:
                os._exit(0)
        os.close(write)
        os.close(its)
        number = int(os.read(mine, 16))
        os.close(mine)
        handle = os.pidfd_open(self.pid)
        libc = kernel.libc
        self.listener = libc.syscall(438, handle, number, 0)  # pidfd_getfd, 5.6
        os.close(handle)
        assert self.listener >= 0
        os.write(go, b"g")
        os.close(go)
        os.close(wait)

    def word(self) -> str:
        assert select.select([self.report], [], [], 10)[0]
        return os.read(self.report, 1000).decode()

    def close(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.listener)
        os.close(self.report)


@pytest.fixture
def child() -> Iterator[Callable[[Callable[[], str]], Child]]:
    made: list[Child] = []

    def make(act: Callable[[], str]) -> Child:
        made.append(Child(act))
        return made[-1]

    yield make
    for one in made:
        one.close()


Make = Callable[[Callable[[], str]], Child]


def open_and_tell() -> str:
    fd = os.open("/no/such/port", os.O_RDWR)
    return f"{os.readlink(f'/proc/self/fd/{fd}')} inheritable={os.get_inheritable(fd)}"


@pytest.mark.parametrize("cloexec", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_open_returns_the_descriptor_we_put(child: Make, cloexec: bool, steps: int) -> None:
    one = child(open_and_tell)
    call = notify.receive(one.listener)
    assert (call.pid, call.kind) == (one.pid, notify.OPENAT)
    fd = os.open("/dev/null", os.O_RDWR)
    flags = os.O_CLOEXEC if cloexec else 0
    put = notify._put_in_one_step if steps == 1 else notify._put_in_two_steps
    assert put(one.listener, call.id, fd, flags)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert one.word() == f"/dev/null inheritable={not cloexec}"


def test_a_refusal_is_the_errno_that_the_program_sees(child: Make) -> None:
    one = child(open_and_tell)
    notify.refuse(one.listener, notify.receive(one.listener).id, errno.EBUSY)
    assert one.word() == f"errno {errno.EBUSY}"


def test_a_call_let_go_meets_the_kernel_s_own_answer(child: Make) -> None:
    one = child(open_and_tell)
    notify.let_go_on(one.listener, notify.receive(one.listener).id)
    assert one.word() == f"errno {errno.ENOENT}"


def test_an_answer_to_a_killed_program_is_no_error(child: Make) -> None:
    one = child(open_and_tell)
    call = notify.receive(one.listener)
    assert notify.is_waiting(one.listener, call.id)
    os.kill(one.pid, signal.SIGKILL)
    os.waitpid(one.pid, 0)
    assert not notify.is_waiting(one.listener, call.id)
    assert not notify.put_fd(one.listener, call.id, os.dup(one.listener), cloexec=True)
    notify.let_go_on(one.listener, call.id)
    notify.refuse(one.listener, call.id, errno.EIO)


def test_a_signal_does_not_restart_a_call_under_way(child: Make) -> None:
    """Linux 5.19. Otherwise the port of the first try would be busy for the second."""

    def act() -> str:
        caught = []
        signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
        return f"{open_and_tell()} caught={len(caught)}"

    one = child(act)
    call = notify.receive(one.listener)
    os.kill(one.pid, signal.SIGUSR1)
    poll = select.poll()
    poll.register(one.listener, select.POLLIN)
    assert poll.poll(500) == []  # a call that starts again would be here as a new one
    assert notify.is_waiting(one.listener, call.id)
    null = os.open("/dev/null", os.O_RDWR)
    assert notify.put_fd(one.listener, call.id, null, cloexec=True)
    assert one.word() == "/dev/null inheritable=False caught=1"


def test_the_listener_hangs_up_when_nobody_has_the_filter(child: Make) -> None:
    one = child(lambda: "done")
    assert one.word() == "done"
    os.waitpid(one.pid, 0)
    poll = select.poll()
    poll.register(one.listener, 0)
    assert poll.poll(10_000) == [(one.listener, select.POLLHUP)]


def test_a_second_listener_is_a_reason_that_is_said(child: Make) -> None:
    def act() -> str:
        notify.try_here()
        return "supported"

    assert child(act).word() == f"errno {errno.EBUSY}"
