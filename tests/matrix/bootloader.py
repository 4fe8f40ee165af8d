"""The bootloader of an Arduino, with its memory: AVR061, "STK500 Communication Protocol"."""

from __future__ import annotations

END, IN_SYNC, OK = b" ", b"\x14", b"\x10"
SIGNATURE = b"\x1e\x95\x0f"  # ATmega328P
FLASH = 32768
# Lengths of the requests that always have the same, END included.
LENGTHS = {b"0": 2, b"A": 3, b"B": 22, b"P": 2, b"Q": 2, b"U": 4, b"V": 6, b"u": 2, b"t": 5}


class Bootloader:
    """What is read from the port goes into `hear`; what it returns is the answer."""

    def __init__(self) -> None:
        self.flash = bytearray(b"\xff" * FLASH)  # as it is when erased
        self._heard = b""
        self._address = 0  # in bytes

    def hear(self, data: bytes) -> bytes:
        """Take bytes of requests, and answer those that are whole."""
        self._heard += data
        answers = b""
        while (length := self._length()) and len(self._heard) >= length:
            request, self._heard = self._heard[:length], self._heard[length:]
            assert request.endswith(END), f"not a request: {request!r}"
            answers += IN_SYNC + self._answer(request) + OK
        return answers

    def _length(self) -> int:
        """The length of the request that comes next; 0 if too little of it has come."""
        heard = self._heard
        kind = heard[:1]
        if kind == b"E" and len(heard) > 1:  # it begins with its length
            return heard[1] + 2
        if kind == b"d" and len(heard) > 2:  # a page, its length before it
            return 5 + int.from_bytes(heard[1:3])
        assert kind in (b"", b"E", b"d", *LENGTHS), f"not a request: {heard!r}"
        return LENGTHS.get(kind, 0)

    def _answer(self, request: bytes) -> bytes:
        """What stands between IN_SYNC and OK."""
        kind = request[:1]
        if kind == b"U":
            self._address = 2 * int.from_bytes(request[1:3], "little")  # it counts words
        elif kind == b"d":
            page = request[4:-1]
            self.flash[self._address : self._address + len(page)] = page
        elif kind == b"t":
            size = int.from_bytes(request[1:3])
            return bytes(self.flash[self._address : self._address + size])
        return {b"A": b"\x01", b"V": b"\x00", b"u": SIGNATURE}.get(kind, b"")
