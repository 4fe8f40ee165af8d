"""`broker://NAME?wait=SECONDS&broker=PATH&yields=user` for serialx, from its import on.

    import serialx, ttybroker.serialx
    reader, writer = await serialx.open_serial_connection("broker://ttyS0?yields=user", 115200)

A port that yields comes back under the same descriptor number, and is registered with the loop
again: ttybroker.inloop. What is written meanwhile stays in the transport's own buffer.
"""

from __future__ import annotations

from typing import Any

import serialx

from ttybroker import inloop
from ttybroker.errors import BrokerError
from ttybroker.loan import readable
from ttybroker.port import open_fd
from ttybroker.urls import leased_as


class BrokerSerial(serialx.Serial):  # type: ignore[misc]
    """A leased port for serialx's calls that block. It does not yield."""

    def _open(self) -> None:
        name, how = leased_as(str(self.path))
        if "yields" in how:
            raise serialx.UnsupportedSetting("yields: only serialx's asyncio side has it")
        self._fileno = open_fd(name, **how)
        self._auto_close = True


class BrokerTransport(serialx.SerialTransport):  # type: ignore[misc]
    """A leased port for serialx's asyncio side."""

    _fileno: int | None

    async def _connect(self, *, path: str, **settings: Any) -> None:
        self._serial = self._extra["serial"] = serialx.Serial(path, **settings)
        lines = {"dtr": self._serial.dtr_on_open, "rts": self._serial.rts_on_open}
        if serialx.PinState.UNDEFINED in lines.values():
            raise serialx.UnsupportedSetting("broker://: dtr_on_open and rts_on_open: HIGH or LOW")
        name, how = leased_as(path)
        self._port = inloop.make(**how, **_as_pyserial(self._serial._all_settings()))
        await self._set_modem_pins(serialx.ModemPins(**lines))
        await inloop.lease(self._port, name)
        self._fileno = self._serial._fileno = self._port.fileno()
        self._loop.add_reader(self._fileno, self._read_ready)
        self._call_protocol_connection_made()

    def _is_here(self) -> bool:
        """Return whether the port is not lent. If it does not come back, close the transport."""
        try:
            return not (isinstance(self._port, inloop.LoopSerial) and self._port.lent_now())
        except BrokerError as error:
            self._mark_broken(error)
            self._close(error)
            return False

    def _read_ready(self) -> None:
        # Without data a read returns as little as at a hang-up, and what woke the loop may be news.
        if self._is_here() and self._fileno is not None and readable(self._fileno):
            super()._read_ready()

    def _write_ready(self) -> None:
        if self._is_here():
            super()._write_ready()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Do as serialx does, but keep the data while the port is lent."""
        if self._is_here() or self._buffer or self._closing or not data:
            super().write(data)
            return
        self._buffer += data
        self._loop.add_writer(self._fileno, self._write_ready)  # when it is back
        self._maybe_pause_protocol()

    async def _flush(self) -> None:
        try:
            await super()._flush()
        except OSError:
            if self._is_here():
                raise  # else it was lent meanwhile, and nothing of ours is left in the device

    async def _reconfigure_port(self, update: Any) -> None:
        self._port.apply_settings(_as_pyserial(update))

    async def _set_modem_pins(self, modem_pins: Any) -> None:
        for line in ("dtr", "rts"):
            state = getattr(modem_pins, line).to_bool()
            if state is not None:
                setattr(self._port, line, state)

    async def _call_connection_lost(self, exc: Exception | None) -> None:
        self._fileno = None  # serialx closes what is there, and it is the port's to close
        self._port.close()
        await super()._call_connection_lost(exc)


def _as_pyserial(update: Any) -> dict[str, Any]:
    """Return what changes, under pyserial's names."""
    changed = {name: getattr(value, "value", value) for name, value in vars(update).items()}
    changed["bytesize"] = changed.pop("byte_size")
    return {name: value for name, value in changed.items() if value is not None}


serialx.register_uri_handler(
    scheme="broker://",
    unique_scheme="broker://",
    sync_cls=BrokerSerial,
    async_transport_cls=BrokerTransport,
)
