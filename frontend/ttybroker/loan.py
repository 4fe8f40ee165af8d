"""The connection of a session that yields: its port is lent, and comes back."""

from __future__ import annotations

import errno
import os
import select
import time

from ttybroker import asking, client, wire
from ttybroker.errors import GONE, BrokerError, DeviceGone

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

LOOK = 1.0  # seconds between two looks at who has a lent port now
_PAUSE = 0.5  # seconds until a port that is away, or a broker that is, is asked for again
# A board that is flashed may come back as another device; a broker may be started again.
_AWAY = (errno.ENOENT, errno.ENODEV, errno.EIO, errno.EDQUOT, errno.ETIMEDOUT, errno.ESTALE,
         *client.FULL)  # fmt: skip


class Loan:
    """The connection through which a session has a port and yields it.

    connect: makes another connection when the broker is restarted. `connection` is None while there
    is none. `lent` is the first borrower of a lent port. `look` calls `lend`, which must let go of
    the port; `take` with the port's new descriptor; and `warn` with a line that says that the lease
    ends soon.
    """

    def __init__(
        self,
        connection: client.Client,
        connect: Callable[[], client.Client],
        name: str,
        flags: int,
        lend: Callable[[wire.Holder], None],
        take: Callable[[int], None],
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.lent: wire.Holder | None = None
        self.connection: client.Client | None = connection
        self._connect, self._name, self._flags = connect, name, flags
        self._session = connection.session
        self._again_at: float | None = None  # when to ask again
        self._lend, self._take, self._warn = lend, take, warn
        self._lost: BrokerError | None = None
        self._has_path = connection.path is not None
        self._borrower: wire.Holder | None = None
        self._look_at = 0.0  # when to ask for it again

    def close(self) -> None:
        """Stop yielding, and give up the claim."""
        if self.connection is not None:
            self.connection.close()
        self.connection = self._again_at = None

    def ask(self) -> None:
        """Ask for one more descriptor, or for the port, at the next look."""
        self._again_at = time.monotonic()

    def wait_for(self) -> tuple[list[int], float | None]:
        """Return what to wait for until `look` has something to do.

        That is the descriptors that become readable, and the seconds after which to look anyway;
        None: no limit.
        """
        left = None if self._again_at is None else max(self._again_at - time.monotonic(), 0.0)
        return ([] if self.connection is None else [self.connection.fileno()]), left

    def borrower(self) -> wire.Holder | None:
        """Return who has the lent port now; None if it is not lent.

        The next in the queue may have it from the first borrower, and no message tells of that. So
        this looks at the broker's list, once in LOOK seconds at most. If the broker does not
        answer, the last answer stands. A socket that the program gave us takes no other request.
        """
        if self.lent is None:
            return None
        if self._has_path and time.monotonic() >= self._look_at:
            try:
                with self._connect() as another:
                    rows = another.ports((self._name,))
            except BrokerError:
                rows = []
            # while it is opened for the next one, the row does not say for certain who that is
            if rows and rows[0].lent is not None and rows[0].state == "busy":
                self._borrower = rows[0].holder or self._borrower
            self._look_at = time.monotonic() + LOOK
        return self._borrower

    def look(self) -> bool:
        """Do what the broker says, without waiting, until the port has gone or come.

        Returns whether that happened; then there may be more to do. Raises BrokerError if the port
        is lent and does not come back.
        """
        while True:
            if self._lost is not None:
                raise self._lost
            if self._again_at is not None and self._again_at <= time.monotonic():
                self._ask_again()
            if self.connection is None or not readable(self.connection.fileno()):
                return False
            lent = self.lent
            try:
                self._hear(self.connection.news())
                if self.lent is not lent:
                    return True
            except client.BrokenOff:
                self.close()
                self._again_at = time.monotonic()
            except BrokerError as error:
                self._refused(error)

    def _hear(self, news: wire.Lent | wire.Ending | int | None) -> None:
        if isinstance(news, wire.Lent):
            self.lent = self._borrower = news.holder or wire.Holder()
            self._look_at = time.monotonic() + LOOK
            self._lend(self.lent)
        elif isinstance(news, wire.Ending):
            self._warn(asking.warning(self._name, news))
        elif news is not None:
            assert self.connection is not None
            self._session = self.connection.session
            if self.lent is None and self.connection.joined:  # it was here all the time
                os.close(news)
                return
            self.lent = None
            self._take(news)

    def _ask_again(self) -> None:
        """Ask for the port, or for one more descriptor of it: docs/protocol.md, "Hand-over"."""
        self._again_at = None
        wait = None if self.lent is None else asking.MAX_WAIT
        try:
            if self.connection is None:
                self.connection = self._connect()
            os.close(os.dup(self.connection.fileno()))  # else the port is opened in vain
            self.connection.ask_open(
                self._name, wait=wait, flags=self._flags, session=self._session
            )
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, *client.FULL):
                raise
            self.close()
            self._again_at = time.monotonic() + _PAUSE

    def _refused(self, error: BrokerError) -> None:
        """Handle a refusal: the port does not come back, or not yet.

        A port that is here no longer yields.
        """
        if self.lent is None:
            self.close()
        elif error.errno in _AWAY:
            pause = 0.0 if error.errno == errno.ESTALE else _PAUSE
            self._again_at = time.monotonic() + pause
            self._session = wire.NO_SESSION
        else:
            self.close()
            self._lost = error


def flags(yields: bool | str | None) -> int:
    """Return the flags of `ttybroker.wire` for "user" (or True), "all", or "" (or False).

    A session that yields is told when its lease ends soon. Raises ValueError.
    """
    known = {True: "user", False: "", None: "", "no": ""}
    word = known.get(yields, yields)
    if word not in ("user", "all", ""):
        raise ValueError(f'yields must be "user" or "all", not {yields!r}')
    yielded = {"user": wire.YIELD_USER, "all": wire.YIELD_ALL}.get(str(word))
    return 0 if yielded is None else yielded | wire.PROGRESS


def readable(descriptor: int) -> bool:
    """Return whether a read of it would not wait."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def hung_up(descriptor: int) -> bool:
    """Return whether this descriptor's port was hung up."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def alive(descriptor: int, port: str) -> int:
    """Return the descriptor. If its port was hung up meanwhile, close it and raise DeviceGone."""
    if hung_up(descriptor):
        os.close(descriptor)
        raise DeviceGone(errno.EIO, f"{port}: {GONE}")
    return descriptor
