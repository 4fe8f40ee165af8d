"""FTDI adapters that a test plugs and unplugs, by QEMU's protocol on a separate channel."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lab.qmp import Qmp
from support.waiting import TIMEOUT

TTYS = Path("/sys/class/tty")
# What udev calls the one with this serial number.
BY_ID = "/dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_{}-if00-port0"


class Adapters:
    """Sockets 0 to 3 of the machine; ../machine.py says what is behind each."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/vport0p1", os.O_RDWR)
        self._qmp = Qmp(self._fd)
        self._plugged: set[int] = set()
        self._pulled: set[int] = set()

    def close(self) -> None:
        """Let go of the channel."""
        os.close(self._fd)

    def plug(self, socket: int, serial: str = "") -> str:
        """Plug an adapter in, wait until it is there, and return its kernel name (ttyUSB0)."""
        before = names()
        what = {"driver": "usb-serial", "bus": "xhci.0", "serial": serial or f"LAB{socket}"}
        where = {"id": f"adapter{socket}", "chardev": f"usb{socket}", "always-plugged": True}
        self._qmp.command("device_add", **what, **where)
        self._plugged.add(socket)
        end = time.monotonic() + TIMEOUT
        while not (new := names() - before):
            assert time.monotonic() < end, f"adapter {socket} does not come up"
            time.sleep(0.005)
        (name,) = new
        return name

    def unplug(self, socket: int) -> None:
        """Pull an adapter. The guest's kernel may notice a moment earlier or later."""
        self.pull(socket)
        self.pulled(socket)

    def pull(self, socket: int) -> None:
        """Take the adapter from QEMU's bus: the first half of `unplug`."""
        self._qmp.command("device_del", id=f"adapter{socket}")
        self._plugged.remove(socket)
        self._pulled.add(socket)

    def pulled(self, socket: int) -> None:
        """Wait until it may be plugged again: the second half of `unplug`."""
        self._qmp.wait("DEVICE_DELETED", device=f"adapter{socket}")
        self._pulled.remove(socket)

    def unplug_all(self) -> None:
        """Pull those that are left, and wait until the kernel has seen that."""
        for socket in list(self._plugged):
            self.pull(socket)
        for socket in list(self._pulled):
            self.pulled(socket)
        end = time.monotonic() + TIMEOUT
        while names():
            assert time.monotonic() < end, f"adapters do not go: {names()}"
            time.sleep(0.005)

    def send_break(self, uart: str) -> None:
        """Let a break arrive at ttyS1 to ttyS6."""
        self._qmp.command("chardev-send-break", id=uart.removeprefix("tty").lower())


def names() -> set[str]:
    """Return the USB ports that the kernel knows now."""
    return {path.name for path in TTYS.glob("ttyUSB*") if Path("/dev", path.name).exists()}
