"""Which processes have a descriptor of a device: each one that may be looked into."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.waiting import TIMEOUT
from ttybroker.copies import Copy, copies

ME = os.getpid()
CLONE_FILES = 0x400  # linux/sched.h


@pytest.fixture
def pty() -> Iterator[int]:
    """The slave's descriptor."""
    master, slave = os.openpty()
    yield slave
    os.close(master)
    os.close(slave)


def by_pid(device: str) -> dict[int, Copy]:
    return {copy.pid: copy for copy in copies(device)}


def test_each_process_is_told_with_its_user_program_and_descriptors(pty: int) -> None:
    device = os.ttyname(pty)
    second = os.dup(pty)
    with subprocess.Popen(["sleep", "99"], stdin=pty, stdout=pty) as other:
        found = by_pid(device)
        other.kill()
    os.close(second)
    assert found[other.pid] == Copy(other.pid, os.geteuid(), "sleep", (0, 1))
    assert found[ME].descriptors == tuple(sorted((pty, second)))
    assert other.pid not in by_pid(device)


@pytest.mark.root
def test_another_node_of_the_device_is_the_same_device(tmp_path: Path) -> None:
    node = tmp_path / "node"
    os.mknod(node, 0o20600, os.makedev(1, 3))
    null = os.open("/dev/null", os.O_RDONLY)
    assert null in by_pid(str(node))[ME].descriptors
    os.close(null)


def test_a_thread_with_a_table_of_its_own_hides_nothing(pty: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    opened, seen = threading.Event(), threading.Event()
    device, numbers = os.ttyname(pty), []

    def hide() -> None:
        assert libc.unshare(CLONE_FILES) == 0
        numbers.append(fcntl.fcntl(pty, fcntl.F_DUPFD_CLOEXEC, 700))
        opened.set()
        seen.wait(TIMEOUT)

    thread = threading.Thread(target=hide)
    thread.start()
    assert opened.wait(TIMEOUT)
    found = by_pid(device)[ME].descriptors
    seen.set()
    thread.join()
    assert numbers == [700] and 700 in found


def test_a_descriptor_by_dev_tty_counts_where_that_is_the_device(pty: int) -> None:
    body = "import os, sys; os.open('/dev/tty', os.O_RDWR); os.close(0); print(flush=True); "
    body += "os.read(int(sys.argv[1]), 1)"
    read, write = os.pipe()

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        [sys.executable, "-Sc", body, str(read)],
        stdin=pty,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=own_terminal,
        pass_fds=[read],
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        found = by_pid(os.ttyname(pty)).get(child.pid)
        os.write(write, b"x")
    os.close(read)
    os.close(write)
    assert found is not None and len(found.descriptors) == 1 and 0 not in found.descriptors


def test_without_the_device_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        copies("/dev/no-such-device")
