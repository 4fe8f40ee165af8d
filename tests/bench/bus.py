"""A peer of the bench: the service of bus_service.c in Python, and a client of either.

bus.py service ADDRESS UID DEVICE...
bus.py client ADDRESS NAME          a line "N" is a call for pN; the answer is its seconds
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
DRIVER = "org.freedesktop.DBus"


async def serve(address: str, uid: str, *devices: str) -> None:
    """Answer calls until the bus ends."""
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(call: Message) -> None:
        who = await bus.call(
            Message(destination=DRIVER, path="/org/freedesktop/DBus", interface=DRIVER,
                    member="GetConnectionUnixUser", signature="s", body=[call.sender])
        )  # fmt: skip
        if who is None or who.body != [int(uid)]:
            await bus.send(Message.new_error(call, "bench.Denied", "no"))
            return
        port = os.open(devices[int(call.body[0][1:])], FLAGS)
        await bus.send(Message.new_method_return(call, "h", [0], unix_fds=[port]))
        os.close(port)

    def hear(message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL or message.member != "Open":
            return False
        task = asyncio.create_task(answer(message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return True

    bus.add_message_handler(hear)
    await bus.request_name("bench.Python")
    print("ready", flush=True)
    await bus.wait_for_disconnect()


async def ask(address: str, name: str) -> None:
    """Call for ports as standard input says."""
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        before = time.perf_counter()
        reply = await bus.call(
            Message(destination=name, path="/bench", interface="bench.Ports", member="Open",
                    signature="s", body=[f"p{int(line)}"])
        )  # fmt: skip
        spent = time.perf_counter() - before
        if reply is None or reply.message_type is not MessageType.METHOD_RETURN:
            raise SystemExit(f"the service {name} refused")
        for descriptor in reply.unix_fds:
            os.close(descriptor)
        print(spent, flush=True)


if __name__ == "__main__":
    asyncio.run((serve if sys.argv[1] == "service" else ask)(*sys.argv[2:]))
