"""All connections: who may connect, and the end of those that do not keep the rules.

A client that sends a broken message is cut off. An ordinary refusal is an answer.

Nobody's connections keep others out. A turn of the loop accepts some connections and serves some
requests; users take turns. When all places are taken, idle connections give way: of the user with
the most, the oldest. Users without a place in the policy share one allowance. Some places are
root's.
"""

from __future__ import annotations

import errno
import resource
import time

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, linux, peer
from ttybrokerd.root.answers import Answers
from ttybrokerd.root.connection import PEEK, SEND, BrokenPeer, Connection, Gone
from ttybrokerd.root.linux import socket
from ttybrokerd.root.log import NOTICE, WARNING
from ttybrokerd.root.loop import NOTHING, READ, Loop
from ttybrokerd.root.paced import TURN
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = 4096
CLIENTS_PER_UID = 256  # guard: clients-per-user
STRANGERS = 256  # connections of all users together that no rule allows anything
RESERVE = 16  # connections that only root can have
ROOM = 16  # idle connections that give way at once, because the search for them takes its time
BACKLOG = 128
ACCEPTS = BACKLOG  # in a turn of the loop; a full backlog would keep others out of any line
REQUESTS = 16  # in a turn
PAUSE = 0.1  # seconds without accepting, or without looking for room, when there is none


class Clients:
    """All connections.

    `serve` gets each request, `lost` each client that is gone. `placed` says whether the policy has
    a place for a user, `room` whether there is memory for anything new.
    """

    def __init__(
        self,
        loop: Loop,
        answers: Answers,
        serve: Callable[[Connection, wire.Request], None],
        lost: Callable[[Connection], None],
        placed: Callable[[Identity], bool],
        room: Callable[[], bool],
    ) -> None:
        self._placed = placed
        self._room = room
        self._turns = Turns()
        self._strangers = 0
        self._pausing: dict[socket.socket, float] = {}  # listeners, until when
        self._loop = loop
        self._answers = answers
        self._fold = answers.fold
        self._serve = serve
        self._lost = lost
        self._all: dict[int, Connection] = {}
        self._of: dict[int, dict[int, Connection]] = {}  # by user, oldest first
        self._in_vain: dict[bool, float] = {}  # until when not to look for room again

    def __len__(self) -> int:
        return len(self._all)

    def listen(self, listener: socket.socket) -> None:
        """Accept connections on `listener`, a non-blocking SOCK_SEQPACKET socket."""
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        linux.refuse_descriptors(listener)
        self._loop.add(listener.fileno(), READ, lambda: self.accept(listener))

    def adopt(self, sock: socket.socket, identity: Identity) -> None:
        """Serve one end of a socket pair whose other end belongs to `identity`."""
        self._welcome(sock, identity, forked=True)

    @property
    def eager(self) -> bool:
        """Whether connections with news are left for the next turn."""
        return bool(self._turns)

    def serve(self) -> None:
        """Look at the connections with news, as many as fit into a turn of the loop."""
        began, used = time.monotonic(), time.thread_time()
        for _ in range(REQUESTS):  # guard: requests-in-a-turn
            client = self._turns.next()
            if client is None:
                return
            try:
                if not client.gone:
                    self._on_turn(client)
            except MemoryError:  # guard: no-memory-ends-one-client
                self._end(client, "no memory is left")
            if not client.gone:
                client.listen_on()
            now = time.monotonic()
            before, used = used, time.thread_time()  # without the time that others had
            # guard: others-time-is-not-theirs
            self._turns.took(client.identity.uid, used - before, now)
            if now - began >= TURN:  # guard: time-of-a-turn
                return

    def listen_again(self) -> None:
        """Hear of all connections again: who had no memory has lost the news of some."""
        for client in list(self._all.values()):
            if not client.in_line:
                client.listen_on()

    def tick(self) -> float | None:
        """Accept again where a pause is over; return the seconds until the next one is, if any."""
        now = time.monotonic()
        for listener in [one for one, until in self._pausing.items() if until <= now]:
            del self._pausing[listener]
            if listener.fileno() >= 0:
                self._loop.change(listener.fileno(), READ)
        return max(0.0, min(self._pausing.values()) - now) if self._pausing else None

    def accept(self, listener: socket.socket) -> None:
        """Serve the clients that wait at `listener`, as many as fit into a turn of the loop."""
        for _ in range(ACCEPTS):  # guard: accept-many
            if not self._accept(listener):
                return

    def _accept(self, listener: socket.socket) -> bool:
        """Serve the next client; return whether there may be another."""
        try:
            if not self._room():  # guard: no-client-without-memory
                raise OSError(errno.ENOMEM, "no memory is left")
            sock = linux.accept(listener)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            if error.errno == errno.ECONNABORTED:
                return True
            self._fold("accept-failed", WARNING, None, reason=error.strerror)
            # guard: pause-without-descriptors
            self._loop.change(listener.fileno(), NOTHING)
            self._pausing[listener] = time.monotonic() + PAUSE
            return False
        if _has_left(sock):  # guard: no-greeting-for-who-has-left
            sock.close()
        else:
            self._greet(sock)
        return True

    def _greet(self, sock: socket.socket) -> None:
        """Serve a new client, or refuse it."""
        try:
            identity = peer.at_connect(sock)
            stranger = not self._placed(identity)
            refusal = self._full(identity.uid, stranger, sock.fileno())
            if refusal is None:
                self._welcome(sock, identity, forked=False).stranger = stranger
                self._strangers += stranger
                return
        except (OSError, MemoryError) as error:  # guard: failed-setup-ends-one-client
            why = f"cannot be served: {Refusal.out_of_means(error).cause}"
            self._fold("cut-off", WARNING, None, reason=why)
            sock.close()
            return
        message = wire.encode_reply(refusal.answer(), version=1)
        try:
            sock.send(message, SEND)
        except OSError:
            pass
        sock.close()
        self._fold("refuse", NOTICE, identity.uid, pid=identity.pid, reason=refusal.reason)

    def _full(self, uid: int, stranger: bool = False, number: int = 0) -> Refusal | None:
        """Return why this user gets no place, None if there is one.

        `number` is the descriptor of the new connection. `stranger`: no rule allows the user
        anything. May close idle connections to make room.
        """
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # guard: descriptors-for-ports
        most = min(CLIENTS, descriptors // 2)  # the other half is for ports
        if uid != 0:  # guard: places-for-root
            most -= RESERVE
        if len(self._of.get(uid, ())) >= CLIENTS_PER_UID and uid != 0:
            what = f"uid {uid} has {CLIENTS_PER_UID} connections already; end some first"
            return Refusal(errno.EDQUOT, what)
        # guard: strangers-share
        if stranger and self._strangers >= STRANGERS and not self._make_room(strangers=True):
            what = f"{STRANGERS} clients that no rule allows anything are connected already"
            return Refusal(errno.EDQUOT, what, advice="try later")
        # guard: connections-leave-descriptors
        full = len(self._all) >= most or (uid != 0 and number >= descriptors - RESERVE)
        # guard: client-limit
        if full and not self._make_room(strangers=False):
            what = f"{most} clients are connected already"
            return Refusal(errno.EDQUOT, what, advice="try later")
        return None

    def _make_room(self, *, strangers: bool) -> bool:
        """Close the oldest idle connections of the user with the most; return whether any were.

        With `strangers`, only those of users whom no rule allows anything.
        """
        now = time.monotonic()
        # guard: no-second-search-in-vain
        if now < self._in_vain.get(strangers, 0.0):
            return False
        # guard: who-has-most-gives-way
        for connections in sorted(self._of.values(), key=len, reverse=True):
            if ended := self._idle(list(connections.values()), strangers):
                for one in ended:  # a client would take a word for the answer to its next request
                    self._end(one, "it was idle and all places were taken", told=False)
                return True
        self._in_vain[strangers] = now + PAUSE
        return False

    def _idle(self, connections: list[Connection], strangers: bool) -> list[Connection]:
        """Return the first of these connections that may give way, ROOM at most."""
        found: list[Connection] = []
        for one in connections:
            # guard: only-idle-ones-give-way
            if one.idle and (one.stranger or not strangers) and one.quiet():
                found.append(one)
                if len(found) == ROOM:  # guard: few-give-way
                    break
        return found

    def _welcome(self, sock: socket.socket, identity: Identity, *, forked: bool) -> Connection:
        """Serve a new client. Raises OSError, and then nothing has begun."""
        client = Connection(sock, identity, forked, self._loop, self._end)
        client.listen(lambda: self._turns.add(client))
        self._all[client.fd] = client  # from here on nothing fails
        self._of.setdefault(identity.uid, {})[client.fd] = client
        return client

    def _on_turn(self, client: Connection) -> None:
        try:
            if client.busy:  # guard: one-request-at-a-time
                client.peek()
                return
            request = client.receive()
        except BrokenPeer as broken:
            self._end(client, str(broken))
        except Gone:
            self._end(client)
        else:
            if request is not None:
                client.busy = True
                if self._room():  # guard: no-request-without-memory
                    self._take(client, request)
                else:
                    no = Refusal.out_of_means(MemoryError())
                    self._answers.refuse(client, getattr(request, "name", ""), no)

    def _take(self, client: Connection, request: wire.Request) -> None:
        """Deal with a request about the connection itself; give any other to `serve`."""
        if not isinstance(request, wire.Connect):
            self._serve(client, request)
            return
        try:
            refusal = self._connect(client)
        except OSError as error:
            refusal = Refusal.out_of_means(error)
        if refusal is None:
            client.done()
        else:
            self._answers.refuse(client, "", refusal)

    def _connect(self, client: Connection) -> Refusal | None:
        """Give a forked frontend a further connection; return why not, None if it has one.

        Raises OSError.
        """
        if not client.forked:  # guard: only-forked-clients-connect-again
            return Refusal(errno.EPROTO, "connect to the socket again instead")
        # guard: further-connections-are-bounded
        if (refusal := self._full(client.identity.uid)) is not None:
            return refusal
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Credentials are asked for before the other end can be used. What is sent earlier has
        # none, and reads as pid 0 of the overflow uid, which is nobody's: net/unix/af_unix.c,
        # maybe_add_creds().
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            linux.refuse_descriptors(ours)
            further = self._welcome(ours, client.identity.replace(pid=0), forked=True)
            if not client.answer(wire.Grant(), theirs.fileno()):
                self._end(further)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return None

    def _end(self, client: Connection, broken: str = "", *, told: bool = True) -> None:
        """Close a connection: the client left, or broke the protocol as `broken` says.

        If it is not `told`, it finds the connection ended, as it does after a restart of the
        daemon.
        """
        if client.gone:
            return
        who = client.identity
        if broken:
            self._fold("cut-off", WARNING, who.uid, pid=who.pid, program=client.program,
                       reason=broken)  # fmt: skip
        client.close(broken if told else "")
        del self._all[client.fd]
        self._strangers -= client.stranger
        of_user = self._of[who.uid]
        del of_user[client.fd]
        if not of_user:
            del self._of[who.uid]
        self._lost(client)


def _has_left(sock: socket.socket) -> bool:
    """Return whether this client has left already, without a word.

    To know that takes a fourth of the time of a greeting.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        data, ancillary, _, _ = sock.recvmsg(1, linux.CREDENTIALS_SPACE, PEEK)
    except OSError:  # nothing to read yet; or an error that the greeting will meet again
        return False
    return not data and not ancillary  # an empty message has credentials
