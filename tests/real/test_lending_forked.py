"""A program that lends its port, and forks: the parent goes on, the child has no part in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context

import pytest
import serial

from real.test_lending import Flasher, monitor, one_port
from support.daemon import Daemon
from support.rig import Rig
from support.waiting import TIMEOUT
from ttybroker import aio, client
from ttybroker.lending import OpenInParent

__all__ = ["one_port"]

pytestmark = pytest.mark.root

GRACE = 1.0  # seconds after which a port that is not let go is hung up


@contextlib.contextmanager
def forked(body: Callable[[], object] = lambda: None) -> Iterator[list[str]]:
    """A child by os.fork(), as of multiprocessing, which lives until the end; what it says."""
    said: list[str] = []
    end, told = os.pipe(), os.pipe()

    def work() -> None:
        os.close(end[1])
        try:
            word = str(body())
        except Exception as error:
            word = f"{type(error).__name__}: {error}"
        os.write(told[1], word.encode() or b"-")
        select.select([end[0]], [], [], TIMEOUT)

    child = get_context("fork").Process(target=work)
    child.start()
    said.append(os.read(told[0], 4096).decode())
    try:
        yield said
    finally:
        for fd in (*end, *told):
            os.close(fd)
        child.join(TIMEOUT)
        assert child.exitcode == 0
        child.close()


def test_the_parent_lends_at_once_and_has_the_port_again(rig: Rig, one_port: Daemon) -> None:
    with monitor(rig, timeout=TIMEOUT) as port, forked():
        heard: list[str] = []
        port.on_lent = lambda _: heard.append("lent")
        port.on_back = lambda _: rig.ports["ttyS0"].write(b"back")
        before = time.monotonic()
        flasher = Flasher(rig)
        port.timeout = 0
        while not heard:
            port.read(1)
        flasher.started()
        assert time.monotonic() - before < GRACE
        port.timeout = TIMEOUT
        flasher.child.say()
        assert port.read(4) == b"back"
        flasher.child.wait()


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_the_child_has_no_descriptor_of_the_port(
    rig: Rig, one_port: Daemon, in_a_loop: bool
) -> None:
    def descriptors() -> list[str]:
        return os.listdir("/proc/self/fd")

    async def leased() -> serial.Serial:
        return await aio.open_tty("ttyS0", broker=str(rig.socket), yields="user")

    with asyncio.Runner() as runner:
        runner.get_loop()
        with forked(lambda: len(descriptors())) as said:
            before = said[0]
        port = runner.run(leased()) if in_a_loop else monitor(rig)
        with forked(lambda: len(descriptors())) as said:
            assert said == [before]
        port.close()


def test_the_child_s_object_is_closed_and_says_who_has_the_port(rig: Rig, one_port: Daemon) -> None:
    port = monitor(rig)
    parent = os.getpid()
    uses = (port.read, partial(port.write, b"x"), port.send_break)
    for use in (*uses, lambda: port.in_waiting, lambda: port.lent):
        with forked(use) as said:
            assert said == [
                f"OpenInParent: ttyS0: open in process {parent}, which lends it; "
                "open it again after a fork"
            ]
    assert issubclass(OpenInParent, serial.PortNotOpenError)
    with forked(lambda: (port.close(), port.is_open)) as said:
        assert said == ["(None, False)"]
    port.write(b"here")
    assert rig.ports["ttyS0"].read(4) == b"here"
    port.close()


def test_a_child_that_opens_the_port_borrows_it_from_its_parent(rig: Rig, one_port: Daemon) -> None:
    far = rig.ports["ttyS0"]
    with monitor(rig, timeout=0.01) as port:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                port.open()
                port.write(b"child")
                port.timeout = TIMEOUT
                os._exit(port.read(1)[0])
            os._exit(0)
        while port.lent is None:
            port.read(1)
        assert port.lent.pid == child
        assert far.read(5) == b"child"
        far.write(b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ord("x")
        while port.lent is not None:
            port.read(1)


def test_the_end_of_the_parent_is_the_end_of_the_lease(rig: Rig, one_port: Daemon) -> None:
    """A child that lives on keeps neither the port nor the claim."""
    port = monitor(rig)
    with forked():
        port.close()
        one_port.record("release", port="ttyS0")
        with client.connect(str(rig.socket)) as broker:
            (row,) = broker.ports()
            assert (row.state, row.lent) == ("free", None)
