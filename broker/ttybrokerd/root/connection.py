"""One connection: its socket, its peer by the kernel's word, and the request under way.

Until a request is answered, the socket is not read again. What a client piles up lies in its own
socket buffer and nowhere else.
"""

from __future__ import annotations

import errno
import sys
import time

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, linux, processes
from ttybrokerd.root.ask import Ask
from ttybrokerd.root.device import unresolved
from ttybrokerd.root.linux import socket
from ttybrokerd.root.loop import NOTHING, ONCE, READ, Loop
from ttybrokerd.root.peer import Identity, groups_now
from ttybrokerd.root.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybrokerd.root.plan import Decision

# Plain numbers: an operation on socket's enum flags costs more than the system call it is for.
SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
PEEK = int(socket.MSG_DONTWAIT | socket.MSG_PEEK)
GROUPS_LAST = 1.0  # seconds after which a client's groups are looked up again
TRUNCATED = int(socket.MSG_CTRUNC)


class BrokenPeer(Exception):
    """This client does not keep the protocol; the text says how."""


class Gone(Exception):
    """The client has left."""


class Connection:
    """A client that is connected.

    `busy`: a request of it is under way. `paused`: it has sent the next one already, which must
    wait. `forked`: it is one end of a pair, whose sender's pid is learnt from its first message.
    `sessions`: those that it has named or was given. `request`: its request for a port that is not
    answered yet. `gone`: it is closed. `version`: the protocol version of its last request, in
    which it is answered. `asked`: the port's name in that request, in a form that can be shown; an
    answer of version 1 repeats it. `in_line`: it has news and is to be looked at. `stranger`: when
    it connected, the policy had no place for its user.
    """

    __slots__ = ("_ended", "_groups_until", "_loop", "asked", "busy", "fd", "forked", "gone",
                 "identity", "in_line", "paused", "program", "request", "sessions", "sock",
                 "stranger", "version")  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        identity: Identity,
        forked: bool,
        loop: Loop,
        ended: Callable[[Connection, str], None],
    ) -> None:
        """Make the connection of an accepted socket.

        `ended` is called once, with how the client broke the protocol, or "" if it left.
        """
        self.sock = sock
        self.fd = sock.fileno()
        self.identity = identity
        self.forked = forked
        self.program = processes.program(identity.pid) if identity.pid else ""
        self.busy = False
        self.paused = False
        self.gone = False
        self.sessions: list[Session] = []
        self.request: OpenRequest | None = None
        self.version = 1
        self.asked = ""
        self.in_line = False
        self.stranger = False
        self._loop = loop
        self._ended = ended
        self._groups_until = time.monotonic() + GROUPS_LAST

    @property
    def idle(self) -> bool:
        """Whether it may be closed without loss.

        Nothing is under way then, and no session of it has a lease. Root's connections never are
        idle, nor is the one way to a forked backend.
        """
        # guard: a-lease-keeps-its-connection
        if any(session.leases for session in self.sessions):
            return False
        # guard: a-wait-keeps-its-connection, root-keeps-its-connections
        return not (self.busy or self.forked or self.identity.uid == 0)

    def quiet(self) -> bool:
        """Return whether nothing that it sent lies unread."""
        try:
            return not self.sock.recvmsg(1, 0, PEEK)[0]  # its end counts as nothing
        except BlockingIOError:
            return True
        except OSError:
            return False

    def listen(self, on_news: Callable[[], None]) -> None:
        """Begin to hear of its news. Raises OSError, and then nothing has begun."""
        self.sock.setblocking(False)
        # guard: ask-for-credentials
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        linux.refuse_descriptors(self.sock)
        self._loop.add(self.fd, READ | ONCE, on_news)

    def listen_on(self) -> None:
        """Hear of the next news.

        Each news is told once. Else a connection that waits for its turn would be told of in every
        turn of the loop.
        """
        news = NOTHING if self.paused else READ  # but a hang-up is always told
        try:
            self._loop.change(self.fd, news | ONCE)
        except OSError:  # guard: an-unheard-connection-ends
            self._ended(self, "")

    def answer(
        self, reply: wire.Reply, descriptor: int | None = None, *, patient: bool = False
    ) -> bool:
        """Send a reply to the request under way; return whether it was sent.

        A client that does not read is cut off, unless `patient`. Such a client has one request at a
        time, so it has filled its buffer on purpose. `descriptor` goes with the reply.
        """
        if self.gone:
            return False
        rights: list[tuple[int, int, bytes]] = []
        if descriptor is not None:
            packed = descriptor.to_bytes(4, sys.byteorder)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
        try:
            data = wire.encode_reply(reply, self.version, self.asked)
            self.sock.sendmsg([data], rights, SEND)
        except BlockingIOError:
            if not patient:
                # guard: cut-off-a-stuck-reader
                self._ended(self, "it does not read its answers")
            return False
        except OSError:
            self._ended(self, "")
            return False
        return True

    def has_room(self) -> bool:
        """Return whether less than half of the room for its unread answers is taken."""
        if self.gone:
            return False
        most = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        return 2 * linux.unsent(self.fd) < most

    def done(self) -> None:
        """Listen to the client again: the request under way is answered."""
        self.busy = False
        if self.paused and not self.gone:
            self.paused = False
            self.listen_on()

    def join(self, session: Session) -> None:
        """Count as one of the session's connections from now on."""
        if session not in self.sessions:
            self.sessions.append(session)
            session.connections += 1

    def who(self) -> wire.Holder:
        """Return the client as records name it."""
        return wire.Holder(self.identity.uid, "", self.identity.pid, self.program)

    def look_up_groups(self) -> None:
        """Learn the groups that the client has now, because it may be connected for days."""
        now = time.monotonic()
        if not self.forked and self.identity.pid and now >= self._groups_until:
            self.identity = groups_now(self.sock, self.identity)
            self._groups_until = now + GROUPS_LAST

    def finish(self, reply: wire.Reply) -> None:
        """Send the last reply to the request under way, and listen again."""
        if self.answer(reply):
            self.done()

    def receive(self) -> wire.Request | None:
        """Return the next request, None if there is none. Raises BrokenPeer or Gone.

        The control buffer has room for credentials and for nothing else. So the kernel installs no
        descriptor here, and says MSG_CTRUNC: net/core/scm.c, scm_detach_fds().
        """
        try:
            data, ancillary, got, _ = self.sock.recvmsg(
                wire.MAX_REQUEST + 1, linux.CREDENTIALS_SPACE, RECEIVE
            )
        except BlockingIOError:
            return None
        except OSError:
            raise Gone from None
        if not data and not ancillary:
            raise Gone
        if data and data[0] in wire.VERSIONS:
            self.version = data[0]
        if got & TRUNCATED:  # guard: message-with-descriptors
            raise BrokenPeer("it sent descriptors along")
        self._check_sender(linux.message_credentials(ancillary))
        try:
            request = wire.decode_request(data)
        except wire.Malformed as malformed:
            raise BrokenPeer(str(malformed)) from None
        name = getattr(request, "name", "")
        self.asked = name if not name or wire.valid_name(name) else repr(name[:80])
        return request

    def peek(self) -> None:
        """Look at news while a request is under way. Raises BrokenPeer or Gone.

        An empty message has credentials. The end of the connection has none.
        """
        try:
            data, ancillary, got, _ = self.sock.recvmsg(1, linux.CREDENTIALS_SPACE, PEEK)
        except BlockingIOError:
            return
        except OSError:
            raise Gone from None
        if got & TRUNCATED:  # guard: waiting-client-with-descriptors
            raise BrokenPeer("it sent descriptors along")
        if self.paused or not (data or ancillary):  # guard: gone-behind-a-request
            raise Gone
        self.paused = True

    def _check_sender(self, sender: tuple[int, int, int] | None) -> None:
        if sender is None:
            raise BrokenPeer("a message without credentials")
        if self.forked and self.identity.pid == 0 != sender[0]:
            self.identity = self.identity.replace(pid=sender[0])
            self.program = processes.program(sender[0])
        if not self.identity.sent(sender):  # guard: message-credentials
            pid, uid, gid = sender
            raise BrokenPeer(f"its identity changed to pid {pid}, uid {uid}, gid {gid}")

    def close(self, last_word: str = "") -> None:
        """Close it. Where the client broke the protocol, `last_word` tells it how."""
        if last_word:
            refused = wire.Refused(errno.EPROTO, f"cut off: {last_word}")
            told = wire.encode_reply(refused, self.version)
            try:
                self.sock.send(told, SEND)
            except OSError:
                pass
        self.gone = True
        self._loop.remove(self.fd)
        self.sock.close()


class OpenRequest(Ask):
    """A client's request for the port `name`.

    `pid`: the process that the lock file names, 0 for none. `key`: the number of the device that it
    waits for, once that is known. `judged`: the version of the policy that gave it `rule`, `target`
    and its limits. `session`: the one that asks, None for a client of protocol version 1.

    A request that yields is under way as long as its lease and its claim. So what comes on its
    connection meanwhile is about that port.
    """

    __slots__ = ("client", "judged", "key", "name", "pid", "rule", "target")

    def __init__(
        self,
        client: Connection,
        holder: wire.Holder,
        name: str,
        wait: float,
    ) -> None:
        super().__init__(client.identity.uid, holder, now=time.monotonic(), wait=wait)
        self.client = client
        self.name = name
        self.key = 0
        self.pid = holder.pid or 0

    def go_by(self, decision: Decision, version: int) -> None:
        """Take the device and the limits from the rule that allows the request.

        `version` is that of the policy which decided.
        """
        rule = decision.rule
        assert rule is not None
        self.rule, self.max_lease, self.active = str(rule), rule.max_lease, rule.active
        self.target = unresolved(self.name, decision)
        self.judged = version
