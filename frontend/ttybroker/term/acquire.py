"""Wait for a port, and show for whom."""

from __future__ import annotations

import os
import select
import time

from ttybroker import client
from ttybroker.errors import BrokerError, NoSuchPort, PortBusy
from ttybroker.holding import holding
from ttybroker.say import show

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK = 1.0  # seconds between looks at the holder, while somebody watches
_KEYBOARD = 0


class Wait:
    """One line on the terminal while a port is waited for: its holder, since when, how long yet."""

    def __init__(self, name: str, quiet: bool) -> None:
        self._name = name
        self._shown = not quiet and os.isatty(2) and os.environ.get("TERM") != "dumb"
        self._holder = ""
        self._drawn = False

    def about(self, error: BrokerError) -> None:
        """Take the holder from a refusal."""
        if self._shown and error.holder is not None:
            self._holder = holding(error.holder)

    def look(self) -> None:
        """While the line is shown, ask the broker for the holder, by a connection of its own."""
        if not self._shown:
            return
        try:
            with client.connect() as broker:
                ports = broker.ports((self._name,))
        except BrokerError:
            return
        # while it is being opened the list names whoever asked, which may be us
        if ports and ports[0].holder is not None and ports[0].state != "opening":
            self._holder = holding(ports[0].holder)

    def draw(self, left: float | None) -> None:
        """Show it; left: seconds that it goes on waiting, None: without an end."""
        if not self._shown:
            return
        wait = "waiting" if left is None else f"waiting, {left:.0f} s left"
        what = f"{wait}: {self._holder}" if self._holder else wait  # the end may be cut off
        line = f"ttybroker: {self._name}: {what}"
        try:
            columns = os.get_terminal_size(2).columns or 80
        except OSError:
            columns = 80
        show(f"\r\x1b[K{line[: columns - 1]}")  # ECMA-48 EL: erase in line
        self._drawn = True

    def erase(self) -> None:
        """Leave the line empty."""
        if self._drawn:
            show("\r\x1b[K")
            self._drawn = False


def acquire(
    name: str,
    wait: float | None,
    line: Wait,
    typed: Callable[[], None] | None = None,
    endless: bool = False,
    flags: int = 0,
    label: str = "",
) -> tuple[int, client.Client]:
    """Return a descriptor of the port, as `client.Client.open` does, and the connection through
    which it came; both are the caller's.

    wait: seconds to queue, None: do not. typed: is called when a key waits on standard input.
    endless: do not show how long it will wait. flags: of ttybroker.wire. label: of
    `client.connect`. Raises BrokerError, and
    what `typed` raises; that withdraws the request.
    """
    broker = client.connect(label=label)
    try:
        try:
            return _ask(broker, name, None, line, typed, endless, flags), broker
        except (PortBusy, NoSuchPort) as why:
            if not wait:
                raise
            line.about(why)
        try:
            return _ask(broker, name, wait, line, typed, endless, flags), broker
        finally:
            line.erase()
    except BaseException:
        broker.close()
        raise


def _ask(
    broker: client.Client,
    name: str,
    wait: float | None,
    line: Wait,
    typed: Callable[[], None] | None,
    endless: bool,
    flags: int,
) -> int:
    budget = client.RetryBudget(wait)
    end = time.monotonic() + (wait or 0)
    while True:
        broker.ask_open(name, wait=wait, flags=flags)
        try:
            descriptor = None
            while descriptor is None:
                if wait:
                    line.draw(None if endless else max(end - time.monotonic(), 0))
                while not _readable(broker, typed):
                    if wait:
                        line.look()
                        line.draw(None if endless else max(end - time.monotonic(), 0))
                descriptor = broker.take_answer()  # which raises when the time is up
            return descriptor
        except client.BrokenOff:  # the daemon is being started again
            for pause in broker.come_back(budget):
                time.sleep(pause)
            wait = budget.left()


def _readable(broker: client.Client, typed: Callable[[], None] | None) -> bool:
    """Wait for the answer, at most until it is time to look again. Return whether it is there."""
    if not broker.time_left():
        return True
    poll = select.poll()
    poll.register(broker.fileno(), select.POLLIN)
    if typed is not None:
        poll.register(_KEYBOARD, select.POLLIN)
    ready = dict(poll.poll(min(_LOOK, broker.time_left()) * 1000))
    if _KEYBOARD in ready and typed is not None:
        typed()
    return broker.fileno() in ready
