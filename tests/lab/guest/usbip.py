"""An FTDI adapter that the test itself answers for, by USB/IP. It sends what QEMU's never does,
bytes with errors, it knows what the driver told it, and it may stop answering.

The protocol is in Documentation/usb/usbip_protocol.rst, and that of the chip in
drivers/usb/serial/ftdi_sio.h.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from collections import deque
from pathlib import Path
from typing import Any

from adapters import names
from service import run, until
from support.children import Chat, Child

VHCI = Path("/sys/devices/platform/vhci_hcd.0")
OVERRUN, PARITY, FRAME, BREAK = 0x02, 0x04, 0x08, 0x10  # FTDI_RS_OE, _PE, _FE, _BI
DTR, RTS = 1, 2
SET_BREAK = 1 << 14
CTS, DSR, RI, DCD = 0x10, 0x20, 0x40, 0x80  # FTDI_RS0_CTS, _DSR, _RI, _RLSD

Told = dict[str, tuple[int, int]]  # wValue and wIndex of the last request of each kind

_CMD_SUBMIT, _CMD_UNLINK, _RET_SUBMIT, _RET_UNLINK = 1, 2, 3, 4
_ASKED = struct.Struct(">5I I i 12x 8s")  # a header, flags or a number, length, setup
_ANSWERED = struct.Struct(">5I 2i 20x")  # a header, status, length
_SETUP = struct.Struct("<BBHHH")
_IN, _VENDOR, _GET_DESCRIPTOR = 0x80, 0x40, 6

_STRINGS = ("\u0409", "ttybroker", "USB/IP FT232R", "EMULATED1")
_DEVICE = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0, 0, 0, 8,
                      0x0403, 0x6001, 0x0600, 1, 2, 3, 1)  # fmt: skip
_CONFIGURATION = (
    struct.pack("<BBHBBBBB", 9, 2, 32, 1, 1, 0, 0x80, 45)
    + struct.pack("<9B", 9, 4, 0, 0, 2, 0xFF, 0xFF, 0xFF, 2)
    + struct.pack("<BBBBHB", 7, 5, 0x81, 2, 64, 0)
    + struct.pack("<BBBBHB", 7, 5, 0x02, 2, 64, 0)
)
_DESCRIPTORS = {0x100: _DEVICE, 0x200: _CONFIGURATION} | {
    0x300 + number: bytes([2 + 2 * len(text), 3]) + text.encode("utf-16-le")
    for number, text in enumerate(_STRINGS)
}
_KINDS = {1: "lines", 2: "flow", 3: "speed", 4: "data", 9: "latency"}
_RESET, _LINES, _MODEM_STATUS, _GET_LATENCY = 0, 1, 5, 10
_ALWAYS, _EMPTY = 0x01, 0x60  # in the first byte; the transmitter
_PAYLOAD = 62  # of a packet


class Chip:
    """An adapter that is plugged in. It lives in a process of its own."""

    def __init__(self) -> None:
        run("modprobe", "vhci-hcd")
        self.plug()

    def plug(self) -> None:
        """Plug it in, as new, and wait until it is there."""
        before = names()
        self._process = Child(lambda chat: _Device(chat).serve(), 0)
        until("the emulated adapter", lambda: names() - before)
        (self.name,) = names() - before

    def send(self, data: bytes, errors: int = 0) -> None:
        """Have it send this to the host, each packet of it with these errors."""
        self._ask("send", data, errors)

    def written(self) -> bytes:
        """All that the host has sent to it."""
        got: bytes = self._ask("written")
        return got

    def told(self) -> Told:
        """What the driver last said of each kind; of the lines, which are up."""
        said: Told = self._ask("told")
        return said

    def take(self, yes: bool) -> None:
        """Whether it takes what the host has for it, as one does whose other end says stop."""
        self._ask("take", yes)

    def transmit(self, yes: bool) -> None:
        """Whether what it has taken goes out; if not, its transmitter is not empty."""
        self._ask("transmit", yes)

    def report(self, lines: int) -> None:
        """Say that these of CTS, DSR, RI and DCD are up, and no other."""
        self._ask("report", lines)

    def answer(self, yes: bool) -> None:
        """Whether it does; it is there in any case."""
        self._process.kill(signal.SIGCONT if yes else signal.SIGSTOP)

    def pull(self) -> None:
        """Unplug it, and wait until the socket is free."""
        self._process.kill()
        until("the USB/IP socket", lambda: _status() == "004")

    def _ask(self, *words: object) -> Any:
        self._process.say(words)
        return self._process.hear()


def _status() -> str:
    """Of the first socket: VDEV_ST_NULL of usbip.h is 4."""
    return (VHCI / "status").read_text().splitlines()[1].split()[2]


def _first(requests: dict[int, bytes]) -> tuple[int, bytes]:
    number = next(iter(requests))
    return number, requests.pop(number)


class _Device:
    """The adapter's own process: it answers to the kernel and to the test, one at a time."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._usb, kernels = socket.socketpair()
        # socket, descriptor, any number, and USB_SPEED_FULL
        (VHCI / "attach").write_text(f"0 {kernels.fileno()} 1 2")
        kernels.close()
        self._told: Told = {"latency": (16, 0), "lines": (0, 0)}
        self._written = b""
        self._packets: deque[bytes] = deque()
        self._readers: dict[int, bytes] = {}  # the kernel's requests for a packet, by number
        self._writers: dict[int, bytes] = {}  # and what it has for the chip
        self._takes = True
        self._lines, self._transmitter = CTS | DSR, _EMPTY

    def serve(self) -> None:
        """For ever, or until the kernel lets go of it."""
        while True:
            ready, _, _ = select.select([self._usb, self._chat.sock], [], [])
            if self._usb in ready:
                self._hear_kernel()
            if self._chat.sock in ready:
                self._hear_test(*self._chat.hear())
            while self._writers and self._takes:
                self._take()
            while self._packets and self._readers:
                self._answer(_first(self._readers)[0], self._packets.popleft())

    def _hear_test(self, what: str, *words: Any) -> None:
        if what == "send":
            data, errors = words
            for at in range(0, len(data), _PAYLOAD):
                self._packet(data[at : at + _PAYLOAD], errors)
        elif what == "take":
            (self._takes,) = words
        elif what == "transmit":
            self._transmitter = _EMPTY if words[0] else 0
            self._packet()
        elif what == "report":
            (self._lines,) = words
            self._packet()
        self._chat.say({"written": self._written, "told": self._told}.get(what))

    def _packet(self, data: bytes = b"", errors: int = 0) -> None:
        lines, transmitter = self._status()
        self._packets.append(bytes([lines, transmitter | errors]) + data)

    def _status(self) -> bytes:
        return bytes([self._lines | _ALWAYS, self._transmitter])

    def _hear_kernel(self) -> None:
        header = self._receive(_ASKED.size)
        command, number, _, is_in, endpoint, what, size, setup = _ASKED.unpack(header)
        if command == _CMD_UNLINK:
            self._unlink(number, what)
        elif endpoint == 0:
            self._receive(0 if is_in else size)
            self._control(number, *_SETUP.unpack(setup))
        elif is_in:
            self._readers[number] = b""
        else:
            self._writers[number] = self._receive(size)

    def _take(self) -> None:
        number, data = _first(self._writers)
        self._written += data
        self._answer(number, taken=len(data))
        self._packet()  # as a true one does every few milliseconds

    def _unlink(self, number: int, other: int) -> None:
        status = 0
        for requests in (self._readers, self._writers):
            if requests.pop(other, None) is not None:
                status = -errno.ECONNRESET
        self._usb.sendall(_ANSWERED.pack(_RET_UNLINK, number, 0, 0, 0, status, 0))

    def _control(
        self, number: int, kind: int, request: int, value: int, index: int, size: int
    ) -> None:
        data, status = bytes(size if kind & _IN else 0), 0
        if kind == _VENDOR:
            self._tell(request, value, index)
        elif kind == _VENDOR | _IN and request == _MODEM_STATUS:
            data = self._status()
        elif kind == _VENDOR | _IN and request == _GET_LATENCY:
            data = bytes([self._told["latency"][0]])
        elif kind == _IN and request == _GET_DESCRIPTOR:
            data = _DESCRIPTORS.get(value, b"")[:size]
            status = 0 if data else -errno.EPIPE
        self._answer(number, data, status=status)

    def _tell(self, request: int, value: int, index: int) -> None:
        if request == _LINES:
            mask = value >> 8
            value = self._told["lines"][0] & ~mask | value & mask
        if request in _KINDS:
            self._told[_KINDS[request]] = value, index
        elif request == _RESET:
            self._packet()

    def _answer(self, number: int, data: bytes = b"", taken: int = 0, status: int = 0) -> None:
        size = len(data) or taken
        self._usb.sendall(_ANSWERED.pack(_RET_SUBMIT, number, 0, 0, 0, status, size) + data)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := self._usb.recv(size - len(data))):
                os._exit(0)
            data += more
        return data
