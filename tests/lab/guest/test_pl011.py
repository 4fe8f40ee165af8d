"""The PL011 of an Arm board is a port like any other. test_settings.py has its settings, too."""

from __future__ import annotations

import os

import pytest

from adapters import Adapters
from lines import swallow
from service import BOB, PATIENT, Service, run
from support.children import Chat
from ttybroker import open_tty

pytestmark = pytest.mark.skipif(os.uname().machine != "aarch64", reason="a board of Arm has it")


def test_a_pl011_is_granted_listed_and_carries_bytes(broker: Service, adapters: Adapters) -> None:
    """Its driver is another than that of the ports that are called ttyS: amba-pl011.c."""
    name = adapters.plug(1)  # wired to it

    def exchange(chat: Chat) -> None:
        with pytest.raises(PermissionError):
            os.open("/dev/ttyAMA0", os.O_RDWR)
        settings = {"timeout": PATIENT, "write_timeout": PATIENT}
        with open_tty("ttyAMA0", 115200, **settings) as near:
            with open_tty(name, 115200, **settings) as end:
                for source, sink in ((near, end), (end, near)):
                    source.write(b"ready?")
                    swallow(sink.fd, b"ready?")  # behind it is what other tests have sent
                    source.write(bytes(range(256)))
                    assert sink.read(256) == bytes(range(256))
            chat.say()
            chat.hear()

    holder = broker.child(BOB, exchange)
    holder.hear(PATIENT)
    held = broker.port("ttyAMA0").holder
    assert held is not None and (held.uid, held.pid) == (BOB, holder.pid)
    assert "115200 8N1, no flow control; on: RTS DTR" in run(
        "ttybroker", "list", "--details", "ttyAMA0"
    )
    holder.say()
    holder.result()
