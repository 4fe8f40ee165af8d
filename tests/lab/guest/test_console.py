"""Ports that have a user already: the kernel's console, and a port with a login on it."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator

import pytest

from lines import LONE
from service import BOB, Service, until
from support.children import Chat
from ttybroker import NotPermitted, PortBusy, open_fd
from ttybroker.users import named
from ttybroker.wire import Holder


def test_the_console_is_refused(broker: Service) -> None:
    def attempt(_chat: Chat) -> str:
        with pytest.raises(NotPermitted) as caught:
            open_fd("ttyS0", wait=10)
        assert caught.value.errno == errno.EACCES
        assert broker.port("ttyS0").state == "refused"
        return str(caught.value)

    said = broker.child(BOB, attempt).result()
    assert "ttyS0" in said and "console" in said


@pytest.fixture
def getty() -> Iterator[subprocess.Popen[bytes]]:
    """A login prompt on a UART, as init starts it."""
    process = subprocess.Popen(["agetty", LONE, "115200"], start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def test_a_getty_is_the_holder_of_its_port(broker: Service, getty: subprocess.Popen[bytes]) -> None:
    def attempt(_chat: Chat) -> Holder | None:
        with pytest.raises(PortBusy) as caught:
            open_fd(LONE)
        assert "agetty" in str(caught.value)
        return caught.value.holder

    until("the getty to be known", lambda: broker.port(LONE).state == "busy")
    holder = broker.child(BOB, attempt).result()
    assert holder is not None
    assert (holder.pid, holder.uid, holder.program) == (getty.pid, 0, "agetty")
    seen = broker.port(LONE).holder
    assert seen is not None and named(seen) == holder
    assert getty.poll() is None
