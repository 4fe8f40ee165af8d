"""Wait for a port, and show who has it."""

from __future__ import annotations

import select
import time

from ttybroker import client
from ttybroker.waiting import LOOK, WaitingLine

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybroker.wire import PortInfo

_KEYBOARD = 0


def acquire(
    name: str,
    wait: float | None,
    *,
    quiet: bool,
    typed: Callable[[], None] | None = None,
    endless: bool = False,
    flags: int = 0,
    label: str = "",
) -> tuple[int, client.Client]:
    """Return a descriptor of the port, as `client.Client.open` does, and its connection.

    The caller must close both. wait: seconds to queue, None: do not. quiet: do not show the wait.
    typed: is called when a key waits on standard input. endless: do not show how long it will wait.
    flags: of ttybroker.wire. label: as for `client.connect`. Raises BrokerError, and what `typed`
    raises; both withdraw the request.
    """
    line = WaitingLine(name, quiet or not wait, None if endless else wait)
    broker = client.connect(label=label)
    try:
        return _ask(broker, name, wait, line, typed, flags), broker
    except BaseException:
        broker.close()
        raise
    finally:
        line.erase()


def _ask(
    broker: client.Client,
    name: str,
    wait: float | None,
    line: WaitingLine,
    typed: Callable[[], None] | None,
    flags: int,
) -> int:
    def ports() -> list[PortInfo]:
        with client.connect() as another:
            return another.ports((name,))

    budget = client.RetryBudget(wait)
    while True:
        broker.ask_open(name, wait=wait, flags=flags, tell=line.hear if wait else None)
        try:
            descriptor = None
            while descriptor is None:
                while not _readable(broker, typed):
                    line.draw(ports)
                descriptor = broker.take_answer()  # which raises when the time is up
            return descriptor
        except client.BrokenOff:  # the daemon is being started again
            for pause in broker.come_back(budget):
                time.sleep(pause)
            wait = budget.left()


def _readable(broker: client.Client, typed: Callable[[], None] | None) -> bool:
    """Wait for the answer, at most until the next look is due. Return whether it is there."""
    if not broker.time_left():
        return True
    poll = select.poll()
    poll.register(broker.fileno(), select.POLLIN)
    if typed is not None:
        poll.register(_KEYBOARD, select.POLLIN)
    ready = dict(poll.poll(min(LOOK, broker.time_left()) * 1000))
    if _KEYBOARD in ready and typed is not None:
        typed()
    return broker.fileno() in ready
