"""Landlock as it is used here: what is named stays, everything else goes, and for good."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ttybroker import landlock


@pytest.fixture(autouse=True)
def _kernel() -> None:
    if landlock.abi() < landlock.KNOWN:
        pytest.skip(f"this kernel's Landlock has ABI {landlock.abi()}, not {landlock.KNOWN}")


def confined(allowed: Mapping[str, int], attempt: Callable[[], object]) -> int:
    """The errno of `attempt` in a process under these rules; 0 if it may."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        number = errno.ENOSYS
        try:
            rules = landlock.ruleset(allowed)
            landlock.enforce(rules)
            assert rules.level == landlock.KNOWN
            attempt()
            number = 0
        except OSError as error:
            number = error.errno or errno.ENOSYS
        finally:
            os.write(write, struct.pack("i", number))
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return int(struct.unpack("i", answer)[0])


def test_what_is_not_named_can_neither_be_read_nor_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert confined({}, (tmp_path / "file").read_text) == errno.EACCES
    assert confined({}, lambda: os.listdir(tmp_path)) == errno.EACCES
    assert confined({}, lambda: os.mkdir(tmp_path / "new")) == errno.EACCES
    assert confined({}, lambda: os.unlink(tmp_path / "file")) == errno.EACCES


def test_what_is_named_can_be_used_as_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    rules = {str(tmp_path): landlock.READ_FILE}
    assert confined(rules, (tmp_path / "file").read_text) == 0
    assert confined(rules, lambda: (tmp_path / "file").write_text("y")) == errno.EACCES
    assert confined(rules, Path("/etc/passwd").read_text) == errno.EACCES


def test_a_single_file_can_be_named_with_rights_that_only_directories_have(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    rules = {str(tmp_path / "file"): landlock.READ_FILE | landlock.READ_DIR}
    assert confined(rules, (tmp_path / "file").read_text) == 0


def test_a_path_that_is_not_there_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    rules = {str(tmp_path / "missing"): landlock.READ_FILE, str(tmp_path): landlock.READ_FILE}
    assert confined(rules, (tmp_path / "file").read_text) == 0


def test_no_signal_reaches_a_process_outside() -> None:
    assert confined({}, lambda: os.kill(os.getppid(), 0)) == errno.EPERM
    assert confined({}, lambda: os.kill(os.getpid(), signal.SIGCHLD)) == 0


def test_no_abstract_socket_outside_can_be_reached() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel chooses an abstract name: unix(7), autobind
        listener.listen()
        name = listener.getsockname()

        def connect() -> None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(name)

        assert confined({}, connect) == errno.EPERM


def test_an_open_terminal_stays_what_it_is_and_no_other_can_be_opened() -> None:
    _master, slave = os.openpty()
    path = os.ttyname(slave)
    try:
        assert confined({}, lambda: os.write(slave, b"x")) == 0
        assert confined({}, lambda: os.get_terminal_size(slave)) == 0
        assert confined({}, lambda: os.open(path, os.O_RDWR | os.O_NOCTTY)) == errno.EACCES
    finally:
        os.close(slave)
        os.close(_master)


def test_the_rules_hold_in_what_is_started_later() -> None:
    def attempt() -> None:
        child = os.fork()
        if child == 0:
            try:
                Path("/etc/passwd").read_text()
            except PermissionError:
                os._exit(errno.EACCES)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        raise OSError(status, "the child's")

    assert confined({}, attempt) == errno.EACCES
