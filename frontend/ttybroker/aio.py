"""The broker for asyncio programs: an open that does not block the loop while it waits.

    port = await ttybroker.aio.open_tty("ttyS0", baudrate=115200, wait=10)
    transport, protocol = await serial_asyncio_fast.connection_for_serial(loop, factory, port)

With yields="user" the port is lent to other programs of the user, and comes back. The transport
stays open. Bytes that are written meanwhile are sent afterwards.
"""

from __future__ import annotations

from ttybroker import client, inloop
from ttybroker.loan import alive

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from typing import Any

    from ttybroker.port import BrokeredSerial


async def open_fd(
    port: str, *, broker: client.Broker = None, wait: float | None = None, label: str = ""
) -> int:
    """Lease a port as ttybroker.open_fd does, without blocking the loop.

    Cancelling the coroutine withdraws the request, and nothing stays leased.
    """
    with client.connect(broker, label=label) as connection:
        return alive(await inloop.ask(connection, port, wait), port)


async def open_tty(
    port: str,
    baudrate: int = 9600,
    *,
    broker: client.Broker = None,
    wait: float | None = None,
    yields: bool | str = False,
    label: str = "",
    **settings: Any,
) -> BrokeredSerial:
    """Lease a port as ttybroker.open_tty does, without blocking the loop.

    Returns a ready instance for pyserial-asyncio and pyserial-asyncio-fast.
    """
    ready = inloop.make(
        yields=yields, broker=broker, wait=wait, label=label, baudrate=baudrate, **settings
    )
    await inloop.lease(ready, port)
    return ready
