"""The broker for asyncio programs: an open that does not block the loop while it waits.

port = await ttybroker.aio.open_tty("ttyS0", baudrate=115200, wait=10)
transport, protocol = await serial_asyncio_fast.connection_for_serial(loop, factory, port)
"""

from __future__ import annotations

import asyncio
import contextlib

from ttybroker import client
from ttybroker.port import BrokeredSerial


async def open_fd(port: str, *, broker: client.Broker = None, wait: float | None = None) -> int:
    """Lease a port as ttybroker.open_fd does, without blocking the loop.

    Cancelling it withdraws the request: nothing stays leased.
    """
    loop = asyncio.get_running_loop()
    budget = client.RetryBudget(wait)
    with client.connect(broker) as connection:
        while True:
            connection.ask_open(port, wait=wait)
            try:
                descriptor = None
                while descriptor is None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(connection.time_left()):
                            await _readable(loop, connection.fileno())
                    descriptor = connection.take_answer()  # which raises when the time is up
                return descriptor
            except client.BrokenOff:  # the daemon is being started again
                for pause in connection.come_back(budget):
                    await asyncio.sleep(pause)
                wait = budget.left()


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    """Wait until there is something to read."""
    answered = loop.create_future()
    loop.add_reader(descriptor, _set, answered)
    try:
        await answered
    finally:
        loop.remove_reader(descriptor)


async def open_tty(
    port: str,
    baudrate: int = 9600,
    *,
    broker: client.Broker = None,
    wait: float | None = None,
    **settings: object,
) -> BrokeredSerial:
    """Lease a port as ttybroker.open_tty does, without blocking the loop.

    Returns a ready instance for pyserial-asyncio and pyserial-asyncio-fast.
    """
    ready = BrokeredSerial(None, broker=broker, wait=wait, baudrate=baudrate, **settings)
    ready.port = port
    ready.adopt(await open_fd(port, broker=broker, wait=wait))
    return ready


def _set(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)
