"""Sockets with a path, which Landlock can forbid from ABI 9 on, if that is asked for."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ttybroker import landlock
from ttybroker.term.terminal import Terminal

SINCE = 9
BIT = 1 << 16  # LANDLOCK_ACCESS_FS_RESOLVE_UNIX of linux/landlock.h
ENFORCED = pytest.mark.skipif(
    landlock.abi() < SINCE, reason=f"this kernel's Landlock has ABI {landlock.abi()}, not {SINCE}"
)


class Kernel:
    """What is asked of a kernel with this ABI, which enforces nothing."""

    def __init__(self, abi: int) -> None:
        self._abi = abi
        self.handled = 0
        self.rules: list[int] = []

    def call(self, number: int, *arguments: Any) -> int:
        if number == landlock._CREATE_RULESET:
            if arguments[-1] == landlock._VERSION:
                return self._abi
            self.handled = arguments[0]._obj.fs
            return os.open("/dev/null", os.O_RDONLY)
        rule = arguments[2]._obj
        self.rules.append(rule.allowed)
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Kernel]:
    def of(abi: int) -> Kernel:
        made = Kernel(abi)
        monkeypatch.setattr(landlock, "_call", made.call)
        return made

    return of


@pytest.mark.parametrize("abi", [1, 6, 8, 9, 10])
def test_they_are_given_up_if_the_kernel_can(
    kernel: Callable[[int], Kernel], abi: int, tmp_path: Path
) -> None:
    asked = kernel(abi)
    allowed = {str(tmp_path): landlock.RESOLVE_UNIX, "/": landlock.READ_FILE}
    rules = landlock.ruleset(allowed, sockets=True)
    os.close(rules.descriptor)
    assert bool(asked.handled & BIT) == (abi >= SINCE)
    # No rule may allow what is not given up, or nothing: the kernel refuses both.
    assert asked.rules == [BIT, landlock.READ_FILE][abi < SINCE :]
    assert rules.level == min(abi, landlock.KNOWN)


def test_they_stay_if_nobody_asks(kernel: Callable[[int], Kernel]) -> None:
    """The root side sends to the journal and to systemd by paths."""
    asked = kernel(SINCE)
    os.close(landlock.ruleset({"/": landlock.READ_FILE}).descriptor)
    assert not asked.handled & BIT


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def kind(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def sockets(tmp_path: Path, kind: int) -> Iterator[tuple[Path, Path]]:
    """The paths of two sockets, each in a directory of its own."""
    made = []
    paths = tmp_path / "broker" / "socket", tmp_path / "agent" / "socket"
    for path in paths:
        path.parent.mkdir()
        made.append(socket.socket(socket.AF_UNIX, kind))
        made[-1].bind(str(path))
        if kind != socket.SOCK_DGRAM:
            made[-1].listen()
    yield paths
    for each in made:
        each.close()


def errors(
    broker: Path | None, kind: int, *paths: Path, meanwhile: Callable[[], object] = bool
) -> list[int]:
    """The errno of a connect to each path, by a terminal that has given up the file system.

    meanwhile: is called here once it has.
    """
    ours, its = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            Terminal.restrict(None if broker is None else str(broker))
            its.send(b"!")
            its.recv(1)
            for path in paths:
                with socket.socket(socket.AF_UNIX, kind) as sock:
                    its.send(bytes([sock.connect_ex(str(path))]))
        finally:
            os._exit(0)
    its.close()
    with ours:
        assert ours.recv(1) == b"!"
        meanwhile()
        ours.send(b"!")
        found = list(ours.makefile("rb").read())
    os.waitpid(child, 0)
    return found


def test_the_terminal_reaches_its_broker(sockets: tuple[Path, Path], kind: int) -> None:
    """On every kernel."""
    broker, _ = sockets
    assert errors(broker, kind, broker) == [0]


@ENFORCED
def test_the_terminal_reaches_no_other_socket(sockets: tuple[Path, Path], kind: int) -> None:
    broker, agent = sockets
    assert errors(broker, kind, broker, agent) == [0, errno.EACCES]
    assert errors(None, kind, agent) == [errno.EACCES]


@ENFORCED
def test_a_broker_that_was_started_again_is_reached(sockets: tuple[Path, Path], kind: int) -> None:
    """Its socket is another one then, in the same directory, and a link may lead there."""
    broker, agent = sockets
    link = broker.parent.parent / "link"
    link.symlink_to(broker)
    with socket.socket(socket.AF_UNIX, kind) as new:

        def start_again() -> None:
            broker.unlink()
            new.bind(str(broker))
            if kind != socket.SOCK_DGRAM:
                new.listen()

        found = errors(link, kind, link, agent, meanwhile=start_again)
    assert found == [0, errno.EACCES]
