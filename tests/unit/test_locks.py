"""Lock files as other programs make and read them, and who holds what."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import ttybroker
import ttybrokerd
from support.processes import descriptors
from ttybrokerd.root import linux, locks, processes
from ttybrokerd.root.clock import Clock
from ttybrokerd.root.locks import YOUNG, LockFiles, Taken, parse_pid
from ttybrokerd.root.processes import printable, process
from ttybrokerd.root.refusal import Refusal
from unit.helpers import dead_pid
from unit.helpers import process as helper

NAME = "LCK..ttyS0"
ME = os.getpid()
ASKER = os.getppid()  # a live process that is not this one, on whose behalf is asked
HOUR = 3600


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A lock directory; whatever happens in it, no temporary file is left."""
    path = tmp_path / "lock"
    path.mkdir()
    yield path
    assert [name for name in os.listdir(path) if name.startswith(".")] == []


@pytest.fixture
def files(directory: Path) -> Iterator[LockFiles]:
    before = descriptors(os.getpid())
    opened = LockFiles(str(directory))
    yield opened
    for device in list(opened._unconfirmed):
        opened.confirm(device)
    opened.close()
    assert descriptors(os.getpid()) == before


@pytest.fixture
def other() -> Iterator[int]:
    """The pid of another live process."""
    with helper("") as child:
        yield child.pid


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def busy(files: LockFiles, pid: int = ASKER) -> Refusal:
    with pytest.raises(Refusal) as caught:
        files.take("ttyS0", pid)
    assert caught.value.number == errno.EBUSY
    return caught.value


# the file itself


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o777, 0])
def test_a_lock_is_the_pid_in_ten_columns_for_all_to_read(
    files: LockFiles, directory: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        assert files.take("ttyS0", ASKER).ours
        files.confirm("ttyS0")
    finally:
        os.umask(before)
    lock = directory / NAME
    assert lock.read_bytes() == str(ASKER).rjust(10).encode() + b"\n"
    assert lock.lstat().st_mode == 0o100644
    assert lock.lstat().st_nlink == 1


def test_a_lock_is_released_and_can_be_taken_again(files: LockFiles, directory: Path) -> None:
    for _ in range(3):
        assert files.take("ttyS0", ASKER).ours
        files.release("ttyS0", ASKER)
        assert os.listdir(directory) == []


def test_locks_of_two_devices_are_two(files: LockFiles, directory: Path, other: int) -> None:
    assert files.take("ttyS0", ASKER).ours
    assert files.take("ttyS01", other).ours
    files.confirm("ttyS0")
    files.confirm("ttyS01")
    assert sorted(os.listdir(directory)) == ["LCK..ttyS0", "LCK..ttyS01"]


def test_the_second_is_refused_and_told_who_holds_the_lock(files: LockFiles, other: int) -> None:
    assert files.take("ttyS0", other).ours
    told = busy(files)
    assert told.holder is not None
    assert (told.holder.pid, told.holder.uid, told.holder.how) == (other, os.getuid(), "lock file")
    assert told.holder.program.startswith("python")
    assert told.holder.since == pytest.approx(time.time(), abs=60)
    assert told.reason.startswith(f"busy: held by uid {os.getuid()} with python")


def test_a_lock_that_the_asking_process_holds_already_is_accepted_and_stays_its_own(
    files: LockFiles, directory: Path
) -> None:
    (directory / NAME).write_bytes(b"%d\n" % ASKER)
    assert files.take("ttyS0", ASKER).ours is False
    assert (directory / NAME).read_bytes() == b"%d\n" % ASKER


# what may be lying there

DEAD = dead_pid()
SPELLINGS: list[Callable[[int], bytes]] = [
    lambda pid: b"%10d\n" % pid,
    lambda pid: b"%d\n" % pid,
    lambda pid: b"%d" % pid,
    lambda pid: b"%10d" % pid,
    lambda pid: b"%010d\n" % pid,
    lambda pid: b"%05d minicom root\n" % pid,
    lambda pid: b"%10ld\tcu uucp\n".replace(b"l", b"") % pid,
    lambda pid: b"\n%d\n\n" % pid,
    lambda pid: b"%d\n/dev/ttyS0\n" % pid + b"x" * 1000,
    lambda pid: b"%d\r\n" % pid,
    lambda pid: struct.pack("i", pid),
    lambda pid: struct.pack("l", pid),  # microcom
]


@pytest.mark.parametrize("number", range(len(SPELLINGS)))
def test_a_pid_is_read_in_every_spelling(
    files: LockFiles, directory: Path, other: int, number: int
) -> None:
    spell = SPELLINGS[number]
    lock = directory / NAME
    lock.write_bytes(spell(other))
    age(lock, YOUNG + 1)  # without a pid it would be stale
    told = busy(files)
    assert told.holder is not None
    assert told.holder.pid == other
    assert lock.read_bytes() == spell(other)
    assert files.take("ttyS0", other).ours is False
    lock.write_bytes(spell(DEAD))
    assert files.take("ttyS0", ASKER).ours
    assert lock.read_bytes() == b"%10d\n" % ASKER


def test_a_process_that_its_parent_has_not_asked_for_has_ended(
    files: LockFiles, directory: Path
) -> None:
    """Such as a cu(1) that a script started, and killed, and forgot."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    (directory / NAME).write_bytes(b"%10d\n" % child)
    assert files.holder("ttyS0") is None
    taken = files.take("ttyS0", ASKER)
    assert taken.ours and taken.replaced == f"of uid {os.getuid()}: pid {child} has ended"
    os.waitpid(child, 0)


def test_a_process_whose_first_thread_has_ended_lives(files: LockFiles, directory: Path) -> None:
    end = 60 if os.uname().machine == "x86_64" else 93  # exit(2), asm-generic/unistd.h
    code = f"""
import ctypes, threading
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
ctypes.CDLL(None).syscall({end}, 0)
"""
    with helper(code) as child:
        while b"Z (zombie)" not in Path(f"/proc/{child.pid}/status").read_bytes():
            pass
        (directory / NAME).write_bytes(b"%10d\n" % child.pid)
        told = busy(files)
        assert told.holder is not None and told.holder.pid == child.pid


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"garbage\n", b"-5\n", b"0\n", b"99999999999\n", b"12xy\n", b"1.55\n", b"0x10\n",
     b"\0" * 64, b"\xff" * 4, b"\0" * 4, b"2147483648\n", b" " * 30 + b"1\n", b"9" * 100_000],
)  # fmt: skip
def test_a_file_without_a_pid_is_believed_while_it_is_young_and_stale_when_old(
    files: LockFiles, directory: Path, content: bytes
) -> None:
    lock = directory / NAME
    lock.write_bytes(content)
    told = busy(files)
    assert told.holder is not None
    assert (told.holder.pid, told.holder.uid, told.holder.how) == (None, os.getuid(), "lock file")
    assert lock.read_bytes() == content
    age(lock, YOUNG + 1)
    assert files.take("ttyS0", ASKER).ours
    assert lock.read_bytes() == b"%10d\n" % ASKER


def test_a_file_from_the_future_is_not_young_for_ever(files: LockFiles, directory: Path) -> None:
    (directory / NAME).touch()
    age(directory / NAME, -HOUR)
    assert files.take("ttyS0", ASKER).ours


def test_a_huge_file_costs_no_more_than_a_small_one(files: LockFiles, directory: Path) -> None:
    with open(directory / NAME, "wb") as file:
        file.truncate(1 << 40)
    busy(files)
    age(directory / NAME, HOUR)
    assert files.take("ttyS0", ASKER).ours


def test_a_lock_of_our_own_pid_is_left_over_from_another_life(
    files: LockFiles, directory: Path
) -> None:
    (directory / NAME).write_bytes(b"%10d\n" % ME)
    assert files.holder("ttyS0") is None
    assert files.take("ttyS0", ASKER).ours
    assert (directory / NAME).read_bytes() == b"%10d\n" % ASKER


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """What stands for /etc/shadow: whoever writes to it, removes or renames it fails the test."""
    path = tmp_path / "secret"
    path.write_text("root:$1$")
    path.chmod(0o600)
    age(path, HOUR)
    return path


def test_a_link_is_not_followed_and_what_it_leads_to_is_untouched(
    files: LockFiles, directory: Path, secret: Path
) -> None:
    (directory / NAME).symlink_to(secret)
    age(directory / NAME, HOUR)
    before = secret.lstat()
    told = busy(files)
    assert told.reason.startswith(f"busy: {directory}/{NAME}: ")
    assert told.reason.endswith("not a lock file; the administrator must remove it")
    assert files.holder("ttyS0") is not None
    files.reassign("ttyS0", ASKER, instead_of=1)
    files.release("ttyS0", ASKER)
    assert os.readlink(directory / NAME) == str(secret)
    after = secret.lstat()
    assert (after.st_mtime_ns, after.st_ino, after.st_nlink, after.st_mode) == (
        before.st_mtime_ns, before.st_ino, 1, before.st_mode,
    )  # fmt: skip
    assert secret.read_text() == "root:$1$"


@pytest.mark.root
def test_a_link_to_the_shadow_file_leaves_it_as_it_was(files: LockFiles, directory: Path) -> None:
    before = os.lstat("/etc/shadow")
    (directory / NAME).symlink_to("/etc/shadow")
    age(directory / NAME, HOUR)
    busy(files)
    files.release("ttyS0", ASKER)
    after = os.lstat("/etc/shadow")
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    assert (after.st_ino, after.st_nlink) == (before.st_ino, before.st_nlink)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, dangling, circle])
def test_what_no_program_makes_for_a_lock_is_busy_and_left_alone(
    files: LockFiles, directory: Path, make: Callable[[Path], None]
) -> None:
    make(directory / NAME)
    age(directory / NAME, HOUR)
    before = (directory / NAME).lstat()
    told = busy(files)
    assert "the administrator must remove it" in told.reason
    holder = files.holder("ttyS0")
    assert holder is not None
    assert holder.how == "lock file"
    files.release("ttyS0", ASKER)
    assert (directory / NAME).lstat().st_ino == before.st_ino


# looking, signing, releasing


def test_who_looks_changes_nothing(files: LockFiles, directory: Path, other: int) -> None:
    assert files.holder("ttyS0") is None
    (directory / NAME).write_bytes(b"%10d\n" % other)
    found = files.holder("ttyS0")
    assert found is not None
    assert (found.pid, found.how) == (other, "lock file")
    (directory / NAME).write_bytes(b"%10d\n" % DEAD)
    assert files.holder("ttyS0") is None
    assert (directory / NAME).read_bytes() == b"%10d\n" % DEAD


def test_only_the_lock_that_names_the_holder_is_released(
    files: LockFiles, directory: Path, other: int
) -> None:
    files.release("ttyS0", ASKER)
    assert files.take("ttyS0", other).ours
    files.release("ttyS0", ASKER)
    assert (directory / NAME).read_bytes() == b"%10d\n" % other
    files.release("ttyS0", other)
    assert os.listdir(directory) == []


@pytest.mark.root
def test_a_lock_left_behind_is_told_from_a_processs_own(files: LockFiles, directory: Path) -> None:
    """Who is not root cannot have made a lock that is root's."""
    with helper("import os; os.setuid(65534)") as nobody:
        for maker, left_behind in ((0, True), (65534, False)):
            assert files.take("ttyS0", nobody.pid).ours
            os.chown(directory / "LCK..ttyS0", maker, maker)
            assert files.left_behind("ttyS0", nobody.pid) is left_behind
            files.release("ttyS0", nobody.pid)
        assert not files.left_behind("ttyS0", nobody.pid)
    with helper("") as root:
        assert files.take("ttyS0", root.pid).ours
        assert not files.left_behind("ttyS0", root.pid)
        assert files.named("ttyS0") == root.pid
    assert not files.left_behind("ttyS0", root.pid)


def test_a_lock_is_signed_again_in_one_step_and_only_instead_of_whom_it_named(
    files: LockFiles, directory: Path, other: int
) -> None:
    files.reassign("ttyS0", ME, instead_of=other)
    assert os.listdir(directory) == []
    assert files.take("ttyS0", other).ours
    files.reassign("ttyS0", ME, instead_of=ASKER)
    assert (directory / NAME).read_bytes() == b"%10d\n" % other
    files.reassign("ttyS0", ME, instead_of=other)
    assert (directory / NAME).read_bytes() == b"%10d\n" % ME
    assert (directory / NAME).lstat().st_mode == 0o100644
    files.release("ttyS0", ME)
    assert os.listdir(directory) == []


def test_a_missing_directory_is_said_to_be_that_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, text in (
        ("nowhere", "the lock directory {} does not exist: create it, or name another with "
         "--lock-dir"),
        ("file", "{} is no directory: name another lock directory with --lock-dir"),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            LockFiles(str(tmp_path / name))
        assert str(caught.value) == text.format(tmp_path / name)


def test_the_default_directory_is_made_if_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "DIRECTORY", str(tmp_path / "lock"))
    before = os.umask(0o077)
    try:
        files = LockFiles(str(tmp_path / "lock"))
    finally:
        os.umask(before)
    assert (tmp_path / "lock").stat().st_mode == 0o40755
    assert files.take("ttyS0", ASKER).ours
    files.release("ttyS0", ASKER)
    files.close()
    monkeypatch.setattr(locks, "DIRECTORY", str(tmp_path / "no" / "lock"))
    with pytest.raises(OSError, match="does not exist and cannot be made"):
        LockFiles(str(tmp_path / "no" / "lock"))


# what a broker leaves that is killed


def killed(directory: Path, code: str) -> int:
    """The pid of a broker that did this in the directory, and was killed."""
    child = os.fork()
    if child == 0:
        try:
            exec(code, {"files": LockFiles(str(directory)), "ASKER": ASKER})
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    return child


def swept(directory: Path) -> list[str]:
    """What is in the directory when the next one has started."""
    files = LockFiles(str(directory))
    files.remove_leftovers()
    files.close()
    return sorted(os.listdir(directory))


def test_a_lock_for_a_port_that_nobody_got_any_more_is_removed(directory: Path) -> None:
    """It names a live process, which the broker was killed before it could answer."""
    killed(directory, "files.take('ttyS0', ASKER)")
    assert (directory / NAME).stat().st_nlink == 2
    assert swept(directory) == []


def test_a_finished_lock_is_its_holders_whatever_becomes_of_the_broker(directory: Path) -> None:
    killed(directory, "files.take('ttyS0', ASKER); files.confirm('ttyS0')")
    assert swept(directory) == [NAME]


def test_a_lock_that_was_signed_again_meanwhile_stays(directory: Path) -> None:
    killed(directory, "files.take('ttyS0', ASKER); files.reassign('ttyS0', 1, instead_of=ASKER)")
    assert len(os.listdir(directory)) == 2
    assert swept(directory) == [NAME]
    assert (directory / NAME).read_bytes() == b"%10d\n" % 1


def test_temporary_files_of_the_dead_are_removed(directory: Path) -> None:
    killed(directory, "files._temporary(ASKER)")
    assert swept(directory) == []


def test_what_a_live_broker_is_at_is_left_alone(directory: Path, files: LockFiles) -> None:
    files.take("ttyS0", ASKER)
    left = sorted(os.listdir(directory))
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if swept(directory) == left else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.root
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, dangling, Path.touch])
def test_what_others_call_like_a_brokers_file_is_theirs(
    directory: Path, make: Callable[[Path], None]
) -> None:
    path = directory / f".ttybroker.{DEAD}.0123456789abcdef"
    make(path)
    os.chown(path, 65534, 65534, follow_symlinks=False)
    assert swept(directory) == [path.name]
    path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "name",
    [".ttybroker.1", ".ttybroker.{}.x", "x.ttybroker.{}.0123456789abcdef", "{}.0123456789abcdef",
     ".ttybroker.{}.0123456789abcdeF", ".ttybroker.{}.0123456789abcdef0",
     ".ttybroker.-{}.0123456789abcdef", ".ttybroker.{:011}.0123456789abcdef",
     ".ttybroker.\u0663.0123456789abcdef"],
)  # fmt: skip
def test_other_names_are_not_swept(directory: Path, name: str) -> None:
    name = name.format(DEAD)
    (directory / name).touch()
    assert swept(directory) == [name]
    (directory / name).unlink()


# races


def test_of_two_who_find_a_stale_lock_one_gets_it(directory: Path) -> None:
    code = """
import json, os
sys.path[:0] = sys.argv[2:]
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.refusal import Refusal
files = LockFiles(sys.argv[1])
print(flush=True)
for line in sys.stdin:
    try:
        got = [files.take("ttyS0", os.getpid()).ours, None]
        files.hung_up("ttyS0")
    except Refusal as refusal:
        got = [None, refusal.holder and refusal.holder.pid]
    print(json.dumps(got), flush=True)
    sys.stdin.readline()
    files.release("ttyS0", os.getpid())
    print(flush=True)
"""
    roots = [str(Path(package.__path__[0]).parent) for package in (ttybrokerd, ttybroker)]
    command = [sys.executable, "-c", "import sys" + code, str(directory), *roots]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as two:
        both = one, two

        def say() -> None:
            for child in both:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()

        def hear() -> list[str]:
            return [child.stdout.readline() for child in both if child.stdout is not None]

        assert hear() == ["\n", "\n"]
        for _ in range(150):
            (directory / NAME).write_bytes(b"%10d\n" % DEAD)
            say()
            answers = [json.loads(line) for line in hear()]
            winners = [child.pid for child, (got, _) in zip(both, answers, strict=True) if got]
            assert len(winners) == 1, answers
            assert [holder for got, holder in answers if not got] == winners
            assert (directory / NAME).read_bytes() == b"%10d\n" % winners[0]
            say()
            assert hear() == ["\n", "\n"]
            assert os.listdir(directory) == []
        for child in both:
            assert child.stdin is not None
            child.stdin.close()


def between(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], object], after: Callable[[], object]
) -> None:
    """Have others act just before and just after the first rename of a lock found stale."""
    rename = os.rename
    left = [1]

    def racing(source: str, target: str, **options: int) -> None:
        first = left and left.pop()
        if first:
            before()
        rename(source, target, **options)
        if first:
            after()

    monkeypatch.setattr(os, "rename", racing)


def test_a_lock_taken_between_look_and_removal_is_put_back(
    files: LockFiles, directory: Path, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % DEAD)
    between(monkeypatch, lambda: lock.write_bytes(b"%10d\n" % other), lambda: None)
    told = busy(files)
    assert told.holder is not None
    assert told.holder.pid == other
    assert lock.read_bytes() == b"%10d\n" % other


def test_a_broker_out_of_means_puts_a_stale_lock_back(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % DEAD)
    really = os.open

    def failing(name: str, flags: int, *args: int, **options: int) -> int:
        if not flags & os.O_CREAT and name != NAME:
            raise OSError(errno.EMFILE, "Too many open files")
        return really(name, flags, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        with pytest.raises(Refusal) as caught:
            files.take("ttyS0", ASKER)
    assert caught.value.number == errno.EMFILE
    assert lock.read_bytes() == b"%10d\n" % DEAD
    assert os.listdir(directory) == [NAME]


def test_a_third_who_takes_the_lock_meanwhile_has_it(
    files: LockFiles, directory: Path, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % DEAD)
    third = b"%10d\n" % os.getppid()
    between(
        monkeypatch,
        lambda: lock.write_bytes(b"%10d\n" % other),
        lambda: lock.write_bytes(third),
    )
    with pytest.raises(Refusal) as caught:
        files.take("ttyS0", ME)
    assert caught.value.holder is not None
    assert caught.value.holder.pid == os.getppid()
    assert lock.read_bytes() == third


def test_a_stale_lock_that_vanishes_by_itself_is_no_obstacle(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % DEAD)
    between(monkeypatch, lock.unlink, lambda: None)
    assert files.take("ttyS0", ASKER).ours


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, dangling])
def test_what_is_put_in_a_stale_locks_place_is_put_back_and_not_removed(
    files: LockFiles,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
) -> None:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % DEAD)
    between(monkeypatch, lambda: (lock.unlink(), make(lock)), lambda: None)
    told = busy(files)
    assert told.reason.startswith(f"busy: {lock}: ")
    assert os.listdir(directory) == [NAME]
    assert not (lock.is_file() and not lock.is_symlink())


def test_a_lock_taken_meanwhile_is_not_replaced_by_what_is_put_back(
    files: LockFiles, directory: Path, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % DEAD)
    between(
        monkeypatch,
        lambda: (lock.unlink(), os.mkfifo(lock)),
        lambda: lock.write_bytes(b"%10d\n" % other),
    )
    busy(files)
    assert lock.read_bytes() == b"%10d\n" % other


def test_a_link_slipped_in_for_our_temporary_file_is_not_followed(
    files: LockFiles, directory: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def racing(source: str, target: str, **options: Any) -> None:
        (directory / source).unlink()
        (directory / source).symlink_to(secret)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", racing)
    files.take("ttyS0", ASKER)
    assert secret.stat().st_nlink == 1


@pytest.mark.parametrize("how", ["link", "file"])
def test_a_temporary_name_that_somebody_guessed_is_not_written(
    files: LockFiles, directory: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    before = secret.read_bytes()
    trap = directory / "guessed"
    trap.symlink_to(secret) if how == "link" else os.link(secret, trap)
    monkeypatch.setattr(files, "_unique", lambda: "guessed")
    with pytest.raises(Refusal) as caught:
        files.take("ttyS0", ASKER)
    assert caught.value.number == errno.EBUSY
    assert "other programs keep making the broker's temporary files" in caught.value.reason
    assert secret.read_bytes() == before
    assert os.listdir(directory) == ["guessed"]


def test_who_loses_the_race_again_and_again_is_refused_in_the_end(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = directory / NAME
    link = os.link

    def always_first(source: str, target: str, **options: Any) -> None:
        lock.write_bytes(b"%10d\n" % DEAD)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", always_first)
    assert "other programs keep making" in busy(files).reason


# directories that cannot be written


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["open", "write", "link", "fchmod"])
@pytest.mark.parametrize(
    ("number", "told", "reason"),
    [
        (errno.ENOSPC, errno.ENOSPC, "the lock directory {} is full (No space left on device); see "
         "df and df -i {}, and ask your administrator to make room in it"),
        (errno.EDQUOT, errno.ENOSPC, "the lock directory {} is full (Disk quota exceeded); see "
         "df and df -i {}, and ask your administrator to make room in it"),
        (errno.EROFS, errno.EROFS, "the lock directory {} is read-only; ask your administrator to "
         "make it writable"),
        (errno.EACCES, errno.EIO, "the lock directory {} cannot be used: Permission denied; ask "
         "your administrator"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_directory_is_said_at_whatever_step_it_shows(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int,
    told: int, reason: str,
) -> None:  # fmt: skip
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(Refusal) as caught:
            files.take("ttyS0", ASKER)
    assert caught.value.number == told
    assert caught.value.reason == reason.format(directory, directory)
    assert os.listdir(directory) == []


def test_a_directory_is_named_so_that_it_is_found_from_elsewhere(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    files = LockFiles(directory.name)
    assert files.path == str(directory)
    files.close()


def test_a_directory_that_was_removed_is_not_the_one_that_was_made_in_its_place(
    files: LockFiles, directory: Path
) -> None:
    directory.rmdir()
    directory.mkdir()
    with pytest.raises(Refusal) as caught:
        files.take("ttyS0", ASKER)
    assert caught.value.reason == (
        f"the lock directory {directory} was removed while the broker had it "
        "open; restart the broker"
    )


def test_a_stale_lock_that_cannot_be_moved_is_the_administrators_to_mend(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / NAME).write_bytes(b"%10d\n" % DEAD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", no_space)
        with pytest.raises(Refusal) as caught:
            files.take("ttyS0", ASKER)
    assert caught.value.number == errno.ENOSPC
    assert os.listdir(directory) == [NAME]


def test_a_lock_that_cannot_be_put_back_is_the_administrators_to_mend(
    files: LockFiles, directory: Path, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % DEAD)
    between(
        monkeypatch,
        lambda: lock.write_bytes(b"%10d\n" % other),
        lambda: monkeypatch.setattr(os, "link", no_space),
    )
    with pytest.raises(Refusal) as caught:
        files.take("ttyS0", ASKER)
    assert caught.value.number == errno.ENOSPC


@pytest.mark.parametrize("call", ["open", "write", "rename"])
def test_a_lock_that_cannot_be_signed_again_stays_as_it_was(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    files.take("ttyS0", ASKER)
    files.confirm("ttyS0")
    really = getattr(os, call)

    def failing(*args: Any, **options: Any) -> Any:
        if call != "open" or args[1] & os.O_CREAT:
            no_space()
        return really(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(Refusal) as caught:
            files.reassign("ttyS0", ME, instead_of=ASKER)
    assert caught.value.number == errno.ENOSPC
    assert os.listdir(directory) == [NAME]
    assert (directory / NAME).read_bytes() == b"%10d\n" % ASKER


IN_NAMESPACE = """
import json, os, sys
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.refusal import Refusal
directory = sys.argv[1]
before = sorted(os.listdir(directory))
files = LockFiles(directory)
try:
    told = repr(files.take("ttyS0", os.getppid()).ours)
except Refusal as refusal:
    told = [refusal.number, refusal.reason]
print(json.dumps([told, sorted(os.listdir(directory)) == before]))
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "prepare", "number", "why"),
    [
        ("nr_inodes=1", "", errno.ENOSPC, "full"),
        ("size=4k", 'head -c 4096 /dev/zero >"$0"/full', errno.ENOSPC, "full"),
        ("size=4k", 'mount -o remount,ro "$0"', errno.EROFS, "read-only"),
        ("size=4k", 'echo 1999999999 >"$0"/LCK..ttyS0; mount -o remount,ro "$0"', errno.EROFS,
         "read-only"),
    ],
    ids=["no inode", "no block", "read-only", "read-only with a stale lock"],
)  # fmt: skip
def test_a_really_full_or_read_only_directory_is_refused_and_nothing_left_in_it(
    directory: Path, options: str, prepare: str, number: int, why: str
) -> None:
    script = f'mount -t tmpfs -o {options} none "$0" || exit 9\n{prepare}\nexec "$@"'
    roots = [str(Path(package.__path__[0]).parent) for package in (ttybrokerd, ttybroker)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(directory),
         sys.executable, "-c", IN_NAMESPACE, str(directory)],
        env={**os.environ, "PYTHONPATH": ":".join(roots)},
        stdout=subprocess.PIPE,
        check=True,
    )  # fmt: skip
    told, unchanged = json.loads(done.stdout)
    assert told[0] == number
    assert told[1].startswith(f"the lock directory {directory} is {why}")
    assert unchanged


# numbers and names


@given(st.binary(max_size=64))
@example(b"\n" * 4)
@settings(deadline=None)
def test_any_bytes_are_a_pid_that_can_be_or_none(content: bytes) -> None:
    pid = parse_pid(content)
    assert pid is None or 0 < pid <= 0x7FFFFFFF


BLANKS = st.text(" \t\n\v\f\r", max_size=12)


@given(BLANKS, st.text("0123456789", max_size=12), BLANKS, st.text(max_size=3))
@settings(deadline=None, max_examples=500)
def test_a_pid_is_up_to_ten_digits_behind_up_to_ten_blanks(
    before: str, digits: str, after: str, rest: str
) -> None:
    content = (before + digits + after + rest).encode()
    match = re.match(rb"\s{0,10}([0-9]{1,10})(\s|$)", content)
    pid = int(match[1]) if match else 0
    assume(b"\0" not in content and len(content) != 4)  # numbers of a machine
    assert parse_pid(content) == (pid if 0 < pid <= 0x7FFFFFFF else None)


@given(st.integers(1, 0x7FFFFFFF))
@settings(deadline=None)
def test_every_pid_is_read_as_text_and_as_a_number(pid: int) -> None:
    assert parse_pid(b"%10d\n" % pid) == pid
    raw = struct.pack("i", pid)
    assert parse_pid(raw) == pid or raw.strip().isdigit()


@given(st.binary())
@settings(deadline=None)
def test_what_is_shown_is_printable_ascii_of_the_same_length(raw: bytes) -> None:
    shown = printable(raw)
    assert len(shown) == len(raw)
    assert shown.isascii()
    assert shown.isprintable()
    assert all(char in (chr(byte), "?") for char, byte in zip(shown, raw, strict=True))


def test_plain_names_are_shown_as_they_are() -> None:
    assert printable(b"minicom (usb) ~") == "minicom (usb) ~"
    assert printable(b"a\nb\x1b[2J\xc3\xa9\x7f") == "a?b?[2J???"


def test_a_live_process_is_known_by_uid_and_name(other: int) -> None:
    found = process(other)
    assert found is not None
    assert (found.uid, found.pid) == (os.getuid(), other)
    assert found.program == processes.program(other)
    assert found.program.startswith("python")


@pytest.mark.parametrize("pid", [DEAD, 0x7FFFFFFF, 1 << 40], ids=["dead", "greatest", "too great"])
def test_no_process_is_nobody(pid: int) -> None:
    assert process(pid) is None
    assert processes.program(pid) == ""


def test_a_process_that_calls_itself_something_nasty_is_masked() -> None:
    code = "open('/proc/self/comm', 'wb').write(b'x\\nUid:\\t0\\xff')"
    with helper(code) as child:
        found = process(child.pid)
        assert found is not None
        assert found.uid == os.getuid()
        for shown in (found.program, processes.program(child.pid)):
            assert shown.isprintable()
            assert shown.isascii()
            assert shown.startswith("x")


@pytest.mark.root
def test_a_lock_of_another_users_process_names_that_user(files: LockFiles) -> None:
    with helper("import os; os.setgroups([]); os.setresgid(*[60123] * 3); "
                "os.setresuid(*[60123] * 3)") as child:  # fmt: skip
        files.take("ttyS0", child.pid)
        told = busy(files)
        assert told.holder is not None
        assert told.holder.uid == 60123


def test_a_process_that_the_kernel_hides_is_a_holder_all_the_same(
    other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr(os, "kill", refused)
    monkeypatch.setattr(linux, "read_file", refused)
    found = process(other)
    assert found is not None
    assert (found.uid, found.pid, found.program) == (None, other, "")


# lock files by anybody


@pytest.fixture
def open_directory(directory: Path) -> Path:
    """One in which everybody may make files, as /run/lock of Debian."""
    directory.chmod(0o1777)
    return directory


def lock_of(directory: Path, maker: int, pid: int) -> Path:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % pid)
    os.chown(lock, maker, maker)
    return lock


AS = "import os; os.setgroups([]); os.setresgid(*[60123] * 3); os.setresuid({})"


@pytest.mark.root
def test_a_lock_that_its_maker_could_not_have_made_is_forged_and_taken(
    files: LockFiles, open_directory: Path, other: int
) -> None:
    lock_of(open_directory, maker=60124, pid=other)
    assert files.holder("ttyS0") is None
    taken = files.take("ttyS0", ASKER)
    assert taken == Taken(True, f"forged by uid 60124: names pid {other} of uid 0", False)
    assert (open_directory / NAME).read_bytes() == b"%10d\n" % ASKER


@pytest.mark.root
@pytest.mark.parametrize(
    ("uids", "maker"),
    [
        ("60123, 60123, 60123", 60123),
        ("60123, 60124, 60124", 60123),  # who started it
        ("60123, 60124, 60123", 60124),  # and what it is: setuid, as cu
        ("60123, 60123, 60123", 0),  # a broker's
    ],
)
def test_a_lock_is_believed_of_root_and_of_the_user_of_the_process_that_it_names(
    files: LockFiles, open_directory: Path, uids: str, maker: int
) -> None:
    with helper(AS.format(uids)) as child:
        lock = lock_of(open_directory, maker, child.pid)
        told = busy(files)
        assert told.holder is not None and told.holder.pid == child.pid
        lock.unlink()
        lock_of(open_directory, 60125, child.pid)
        assert files.take("ttyS0", ASKER).replaced == (
            f"forged by uid 60125: names pid {child.pid} of uid 60123"
        )


@pytest.mark.root
def test_in_a_directory_that_only_root_writes_whoever_owns_the_file_is_believed(
    files: LockFiles, directory: Path, other: int
) -> None:
    lock_of(directory, 60124, other)
    with pytest.raises(Refusal):
        files.take("ttyS0", ME)
    for mode in (0o775, 0o757, 0o1777):
        directory.chmod(mode)
        assert files.holder("ttyS0") is None
    directory.chmod(0o755)
    assert files.holder("ttyS0") is not None
    os.chown(directory, 60124, 60124)
    assert files.holder("ttyS0") is None


@pytest.mark.parametrize("mode", [0o755, 0o1777])
@pytest.mark.parametrize(("later", "stale"), [(50, False), (70, True)])
def test_a_process_that_began_after_the_lock_was_written_is_another_one(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch, other: int,
    later: float, stale: bool, mode: int,
) -> None:  # fmt: skip
    """Its number was that of the process which wrote the lock, whoever may write here."""
    directory.chmod(mode)
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % other)
    began = processes.began(other)
    assert began is not None
    clock = Clock()
    written = clock.offset() + began - later
    os.utime(lock, (written, written))
    monkeypatch.setattr(clock, "steady_since", lambda: 0.0)
    monkeypatch.setattr(files, "_clock", clock)
    if stale:
        assert files.holder("ttyS0") is None
        why = f"of uid {os.getuid()}: stale, pid {other} was started later"
        assert files.take("ttyS0", ME).replaced == why
    else:
        with pytest.raises(Refusal):
            files.take("ttyS0", ME)


def test_where_the_clock_was_set_since_the_lock_is_believed_and_the_refusal_says_so(
    files: LockFiles, open_directory: Path, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    lock = open_directory / NAME
    lock.write_bytes(b"%10d\n" % other)
    age(lock, 30 * 24 * HOUR)
    monkeypatch.setattr(files._clock, "steady_since", lambda: time.time() - HOUR)
    with pytest.raises(Refusal) as caught:
        files.take("ttyS0", ME)
    assert ", by lock file; wait for it" in caught.value.reason
    assert caught.value.reason.endswith(
        f", or if that process (ps -fp {other}) does not use the port, remove {lock} "
        "(the clock was set, so the file may be older than the process)"
    )


def test_a_refusal_names_the_file_and_the_way_to_see_whether_it_is_stale(
    files: LockFiles, directory: Path, other: int
) -> None:
    (directory / NAME).write_bytes(b"%10d\n" % other)
    told = busy(files)
    assert ", by lock file; wait for it" in told.reason
    assert told.reason.endswith(
        f", or if that process (ps -fp {other}) does not use the port, remove {directory}/{NAME}"
    )
    (directory / NAME).write_bytes(b"")
    assert busy(files).reason.endswith(
        f", by lock file; {directory}/{NAME} names no process yet: ask again in 10 seconds"
    )


def test_the_clock_is_known_to_have_run_on_from_boot_or_from_when_it_was_first_seen_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, up, mounted = [2_000_000.0], [1000.0], [1_999_005.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "clock_gettime", lambda _: up[0])
    monkeypatch.setattr(os, "stat", lambda _: os.stat_result([0] * 9 + [int(mounted[0])]))
    clock = Clock()
    assert clock.steady_since() == 0  # 5 seconds after boot, by the clock of now

    def later(seconds: float, set_by: float = 0) -> float:
        up[0] += seconds
        now[0] += seconds + set_by
        return clock.steady_since()

    assert later(500) == 0
    assert later(500, set_by=1.5) == 0  # or the two were not read at once
    set_at = later(10, set_by=3600)
    assert set_at == now[0]
    assert later(10) == set_at
    for mounted[0] in (1_998_000.0, 1_999_500.0):  # an hour ago by the clock of then; too late
        now[0], up[0] = 2_000_000.0, 1000.0
        assert Clock().steady_since() == 2_000_000


# what may lie in the directory when a broker starts


@pytest.mark.root
def test_a_file_that_not_even_root_may_look_at_ends_nobody(directory: Path) -> None:
    """As with fuse(4) on it, that a user mounted."""
    name = f".ttybroker.{DEAD}.0123456789abcdef"
    (directory / name).touch()
    stat = os.stat

    def refusing(path: Any, **options: Any) -> os.stat_result:
        if path == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", refusing)
        assert swept(directory) == [name]
    (directory / name).unlink()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_broker_that_is_out_of_means_calls_no_lock_a_wrong_one(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (directory / NAME).write_bytes(b"%10d\n" % ASKER)
    really = os.open

    def failing(name: str, flags: int, *args: int, **options: int) -> int:
        if name == NAME:
            raise OSError(number, os.strerror(number))
        return really(name, flags, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        with pytest.raises(Refusal, match="the broker is short of a resource: ") as caught:
            files.take("ttyS0", ME)
    assert caught.value.number == number


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTCONN, errno.EIO])
@pytest.mark.parametrize("call", ["open", "read"])
def test_a_lock_that_cannot_be_read_is_busy_and_ends_nobody(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    (directory / NAME).write_bytes(b"%10d\n" % ASKER)
    really = getattr(os, call)

    def failing(*args: Any, **options: Any) -> Any:
        if call != "open" or (args[0] == NAME and not args[1] & os.O_CREAT):
            raise OSError(number, os.strerror(number))
        return really(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        told = busy(files)
        assert f"{directory}/{NAME}: {os.strerror(number)}, made by uid {os.getuid()}: not" in (
            told.reason
        )
        assert files.holder("ttyS0") is not None
        for step in (
            lambda: files.named("ttyS0"),
            lambda: files.release("ttyS0", ASKER),
            lambda: files.reassign("ttyS0", ME, instead_of=ASKER),
        ):
            with pytest.raises(Refusal, match="cannot be used: "):
                step()
    assert (directory / NAME).read_bytes() == b"%10d\n" % ASKER


def test_of_a_crowded_directory_a_part_is_looked_at_and_leftovers_are_found_in_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(directory, "files.take('ttyS0', ASKER)")
    for number in range(300):
        (directory / f".ttybroker.{DEAD}.{number:016x}x").touch()
        (directory / f"LCK..ttyS{number + 1}").mkdir()
    assert len([name for name in swept(directory) if name == NAME]) == 0
    monkeypatch.setattr(locks, "MOST_NAMES", 50)
    looked, real = [], locks._maker
    monkeypatch.setattr(locks, "_maker", lambda name: (looked.append(name), real(name))[1])
    swept(directory)
    assert len(looked) <= 50
    for path in directory.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_lock_that_cannot_be_dropped_keeps_no_other_from_it(
    files: LockFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.take("ttyS0", ASKER)
    files.take("ttyS1", ASKER)
    unlink = os.unlink

    def failing(name: str, **options: int) -> None:
        if name == NAME:
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing)
        files.drop_unconfirmed()
    assert os.listdir(directory) == [NAME]


def test_whoever_guesses_the_next_temporary_names_keeps_nobody_from_the_port(
    files: LockFiles, directory: Path
) -> None:
    """They can be seen as long as a lock is not confirmed, and are counted."""
    assert files.take("ttyS1", ASKER).ours
    (seen,) = [name for name in os.listdir(directory) if name.startswith(".")]
    head, count = seen[:-8], int(seen[-8:], 16)
    traps = [directory / f"{head}{count + number:08x}" for number in range(1, 100)]
    for trap in traps:
        trap.touch()
    try:
        assert files.take("ttyS0", ASKER).ours
        files.confirm("ttyS0")
    finally:
        for trap in traps:
            trap.unlink()


# what a broker left that is gone, and whom it may have left the port


@pytest.mark.root
def test_a_stale_lock_of_roots_is_told_until_the_port_was_hung_up(
    files: LockFiles, directory: Path, other: int
) -> None:
    lock = directory / NAME
    lock.write_bytes(b"%10d\n" % DEAD)
    assert files.take("ttyS0", other) == Taken(True, f"of uid 0: pid {DEAD} has ended", True)
    files.release("ttyS0", other)  # refused by something else meanwhile
    assert lock.read_bytes() == b"%10d\n" % locks.NO_PROCESS
    after = LockFiles(str(directory))  # and that broker was killed
    assert after.holder("ttyS0") is None
    assert after.take("ttyS0", other).root_stale
    after.hung_up("ttyS0")
    after.release("ttyS0", other)
    assert os.listdir(directory) == []
    assert not after.take("ttyS0", other).root_stale
    after.release("ttyS0", other)
    after.close()


@pytest.mark.root
def test_a_stale_lock_of_anybodys_is_not_a_brokers(files: LockFiles, directory: Path) -> None:
    lock_of(directory, 60124, DEAD)
    assert files.take("ttyS0", ASKER) == Taken(True, f"of uid 60124: pid {DEAD} has ended", False)
    files.release("ttyS0", ASKER)
    assert os.listdir(directory) == []
