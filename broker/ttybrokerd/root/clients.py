"""Connections: who is there, what they say, and the end of those that do not keep the rules.

A connection has one request under way at a time: until that is answered its socket is not read
again, so what a client piles up lies in its own socket buffer and nowhere else. A broken message
is the end of its client; an ordinary refusal is an answer.
"""

from __future__ import annotations

import errno
import resource
import sys

from ttybroker import wire
from ttybrokerd.prepare.names import Unanswered
from ttybrokerd.root import linux, locks, peer
from ttybrokerd.root.lean import TYPE_CHECKING, Counter, defaultdict, partial, socket
from ttybrokerd.root.log import NOTICE, WARNING, Log
from ttybrokerd.root.loop import NOTHING, READ, Loop
from ttybrokerd.root.peer import Identity, Users
from ttybrokerd.root.refusal import Refusal
from ttybrokerd.root.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = 4096
CLIENTS_PER_UID = 256  # guard: clients-per-user
BACKLOG = 128

# Plain numbers: an operation on socket's enum flags costs more than the system call it is for.
SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
PEEK = int(socket.MSG_DONTWAIT | socket.MSG_PEEK)
TRUNCATED = int(socket.MSG_CTRUNC)


class Client:
    """One connection. `busy`: a request of it is under way; `paused`: it has sent the next one
    already, which must wait; `forked`: it is one end of a pair, whose sender's pid is learnt
    from its first message."""

    __slots__ = ("busy", "fd", "forked", "gone", "identity", "paused", "program", "sock")

    def __init__(self, sock: socket.socket, identity: Identity, forked: bool) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.identity = identity
        self.forked = forked
        self.program = locks.program(identity.pid) if identity.pid else ""
        self.busy = False
        self.paused = False
        self.gone = False


class BrokenPeer(Exception):
    """This client does not keep the protocol; the text says how."""


class Clients:
    """All connections. `serve` gets each request, `lost` each client that is gone."""

    def __init__(self, loop: Loop, workers: Workers, users: Users, log: Log) -> None:
        self._loop = loop
        self._workers = workers
        self._users = users
        self._log = log
        self._all: dict[int, Client] = {}
        self._per_uid: Counter[int] = Counter()
        self._unnamed: defaultdict[int, list[Client]] = defaultdict(list)
        self.serve: Callable[[Client, wire.Request], None]
        self.lost: Callable[[Client], None]

    def __len__(self) -> int:
        return len(self._all)

    def listen(self, listener: socket.socket) -> None:
        """Accept connections on `listener`, a non-blocking SOCK_SEQPACKET socket."""
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        linux.refuse_descriptors(listener)
        self._loop.add(listener.fileno(), READ, partial(self._accept, listener))

    def greet(self, listener: socket.socket) -> None:
        """Accept who woke us and learn its name, which later takes a process and a thread; to be
        served in the first turn."""
        sock = self._next(listener)
        if sock is None:
            return
        try:
            self._users.look_up_early(linux.peer_credentials(sock)[1])
        except OSError:  # the first turn finds out, too, and deals with it
            pass
        self._workers.soon(lambda: None, lambda _: self._take(sock))

    def adopt(self, sock: socket.socket, identity: Identity) -> None:
        """Serve one end of a socket pair whose other end belongs to `identity`."""
        self._welcome(Client(sock, identity, forked=True))

    def answer(self, client: Client, reply: wire.Reply, descriptor: int | None = None) -> bool:
        """Send the reply to the request under way; False if the client is gone or does not read
        (then it is cut off: it has one request at a time, so its buffer is full on purpose)."""
        if client.gone:
            return False
        rights: list[tuple[int, int, bytes]] = []
        if descriptor is not None:
            packed = descriptor.to_bytes(4, sys.byteorder)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
        try:
            client.sock.sendmsg([wire.encode_reply(reply)], rights, SEND)
        except BlockingIOError:
            self._cut_off(client, "it does not read its answers")  # guard: cut-off-a-stuck-reader
            return False
        except OSError:
            self._drop(client)
            return False
        return True

    def done(self, client: Client) -> None:
        """The request under way is answered: listen to the client again."""
        client.busy = False
        if client.paused and not client.gone:
            client.paused = False
            self._loop.change(client.fd, READ)

    def connect(self, client: Client) -> Refusal | None:
        """Give a forked frontend a further connection. A refusal is returned."""
        refusal = self._full(client.identity.uid)
        if not client.forked:  # guard: only-forked-clients-connect-again
            refusal = Refusal(errno.EPROTO, "connect to the socket again instead")
        if refusal is not None:
            return refusal
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Before the other end can be used: what is sent earlier has no credentials, and reads
        # as pid 0 of the overflow uid, which is nobody's: net/unix/af_unix.c, maybe_add_creds().
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        linux.refuse_descriptors(ours)
        further = Client(ours, client.identity._replace(pid=0), forked=True)
        try:
            self._welcome(further)
            if not self.answer(client, wire.Grant(), theirs.fileno()):
                self._drop(further)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return None

    def _accept(self, listener: socket.socket) -> None:
        sock = self._next(listener)
        if sock is not None:
            self._take(sock)

    def _next(self, listener: socket.socket) -> socket.socket | None:
        try:
            return linux.accept(listener)
        except OSError as error:  # the peer is gone already, or we are out of something
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                self._log("accept-failed", WARNING, reason=error.strerror)
            return None

    def _take(self, sock: socket.socket) -> None:
        try:
            identity = peer.at_connect(sock)
            refusal = self._full(identity.uid)
            if refusal is None:
                self._welcome(Client(sock, identity, forked=False))
                return
        except OSError as error:  # guard: failed-setup-ends-one-client
            self._log("cut-off", WARNING, reason=f"cannot be served: {error.strerror}")
            sock.close()
            return
        message = wire.encode_reply(wire.Refused(refusal.number, refusal.reason))
        try:
            sock.send(message, SEND)
        except OSError:
            pass
        sock.close()
        self._log("refuse", NOTICE, uid=identity.uid, pid=identity.pid, reason=refusal.reason)

    def _full(self, uid: int) -> Refusal | None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # guard: descriptors-for-ports
        most = min(CLIENTS, descriptors // 2)  # the other half is for ports
        if len(self._all) >= most:  # guard: client-limit
            return Refusal(errno.EDQUOT, f"{most} clients are connected already; try later")
        if self._per_uid[uid] >= CLIENTS_PER_UID:
            what = f"{CLIENTS_PER_UID} clients of uid {uid} are connected already; end some first"
            return Refusal(errno.EDQUOT, what)
        return None

    def _welcome(self, client: Client) -> None:
        """Read the client once its user's name is known for the log. Raises OSError, and then
        nothing has begun."""
        client.sock.setblocking(False)
        # guard: ask-for-credentials
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        linux.refuse_descriptors(client.sock)
        self._loop.add(client.fd, READ, partial(self._on_news, client))
        self._all[client.fd] = client  # from here on nothing fails
        uid = client.identity.uid
        self._per_uid[uid] += 1
        if not self._users.known(uid):
            client.busy = True
            self._name(uid, client)

    def _name(self, uid: int, client: Client) -> None:
        """Have the user's name looked up, once for all who come meanwhile."""
        self._unnamed[uid].append(client)
        if len(self._unnamed[uid]) == 1:
            self._workers.submit(partial(self._users.look_up, uid), partial(self._named, uid))

    def _named(self, uid: int, unanswered: Unanswered | None) -> None:
        if unanswered is not None:
            self._log("no-name", WARNING, uid=uid, reason=str(unanswered))
        for client in self._unnamed.pop(uid):
            self.done(client)

    def _on_news(self, client: Client) -> None:
        if client.busy:
            self._on_impatience(client)
            return
        try:
            request = self._receive(client)
        except BrokenPeer as broken:
            self._cut_off(client, str(broken))
            return
        if request is None:
            return
        client.busy = True
        self.serve(client, request)

    def _on_impatience(self, client: Client) -> None:
        """News while a request is under way: the client left, or sent the next one."""
        try:
            # an empty message has credentials, the end of the connection has not
            data, ancillary, got, _ = client.sock.recvmsg(1, linux.CREDENTIALS_SPACE, PEEK)
            left = client.paused or not (data or ancillary)
        except BlockingIOError:
            return
        except OSError:
            left, got = True, 0
        if got & TRUNCATED:  # guard: waiting-client-with-descriptors
            self._cut_off(client, "it sent descriptors along")
            return
        if left:
            self._drop(client)
            return
        client.paused = True
        self._loop.change(client.fd, NOTHING)  # but a hang-up is always told

    def _receive(self, client: Client) -> wire.Request | None:
        """The next request; None if there is none or the client left. Raises BrokenPeer.

        The control buffer has room for credentials and for nothing else, so that the kernel
        installs no descriptor here and says MSG_CTRUNC: net/core/scm.c, scm_detach_fds().
        """
        try:
            data, ancillary, got, _ = client.sock.recvmsg(
                wire.MAX_REQUEST + 1, linux.CREDENTIALS_SPACE, RECEIVE
            )
        except BlockingIOError:
            return None
        except OSError:
            self._drop(client)
            return None
        if not data and not ancillary:
            self._drop(client)
            return None
        if got & TRUNCATED:  # guard: message-with-descriptors
            raise BrokenPeer("it sent descriptors along")
        self._check_sender(client, linux.message_credentials(ancillary))
        try:
            return wire.decode_request(data)
        except wire.Malformed as malformed:
            raise BrokenPeer(str(malformed)) from None

    def _check_sender(self, client: Client, sender: tuple[int, int, int] | None) -> None:
        if sender is None:
            raise BrokenPeer("a message without credentials")
        if client.forked and client.identity.pid == 0 != sender[0]:
            client.identity = client.identity._replace(pid=sender[0])
            client.program = locks.program(sender[0])
        if not client.identity.sent(sender):  # guard: message-credentials
            pid, uid, gid = sender
            raise BrokenPeer(f"its identity changed to pid {pid}, uid {uid}, gid {gid}")

    def _cut_off(self, client: Client, reason: str) -> None:
        who = client.identity
        self._log("cut-off", WARNING, uid=who.uid, user=self._users.name(who.uid), pid=who.pid,
                  program=client.program, reason=reason)  # fmt: skip
        last_word = wire.encode_reply(wire.Refused(errno.EPROTO, f"cut off: {reason}"))
        try:
            client.sock.send(last_word, SEND)
        except OSError:
            pass
        self._drop(client)

    def _drop(self, client: Client) -> None:
        if client.gone:
            return
        client.gone = True
        self._loop.remove(client.fd)
        del self._all[client.fd]
        uid = client.identity.uid
        self._per_uid[uid] -= 1
        if not self._per_uid[uid]:
            del self._per_uid[uid]
        client.sock.close()
        self.lost(client)
