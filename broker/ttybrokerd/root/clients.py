"""All connections: who may connect, and the end of those that do not keep the rules.

A broken message is the end of its client; an ordinary refusal is an answer.
"""

from __future__ import annotations

import errno
import resource

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING, linux, peer
from ttybrokerd.root.connection import SEND, BrokenPeer, Connection, Gone
from ttybrokerd.root.counts import Counts
from ttybrokerd.root.linux import socket
from ttybrokerd.root.log import NOTICE, WARNING, Log
from ttybrokerd.root.loop import READ, Loop
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = 4096
CLIENTS_PER_UID = 256  # guard: clients-per-user
BACKLOG = 128


class Clients:
    """All connections. `serve` gets each request, `lost` each client that is gone."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        serve: Callable[[Connection, wire.Request], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._log = log
        self._serve = serve
        self._lost = lost
        self._all: dict[int, Connection] = {}
        self._per_uid = Counts()

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

    def accept(self, listener: socket.socket) -> None:
        """Serve the next client that waits at `listener`, if one does."""
        try:
            sock = linux.accept(listener)
        except OSError as error:  # the peer is gone already, or we are out of something
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                self._log("accept-failed", WARNING, reason=error.strerror)
            return
        try:
            identity = peer.at_connect(sock)
            refusal = self._full(identity.uid)
            if refusal is None:
                self._welcome(sock, identity, forked=False)
                return
        except OSError as error:  # guard: failed-setup-ends-one-client
            self._log("cut-off", WARNING, reason=f"cannot be served: {error.strerror}")
            sock.close()
            return
        message = wire.encode_reply(refusal.answer(), version=1)
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
        if self._per_uid.of(uid) >= CLIENTS_PER_UID:
            what = f"{CLIENTS_PER_UID} clients of uid {uid} are connected already; end some first"
            return Refusal(errno.EDQUOT, what)
        return None

    def _welcome(self, sock: socket.socket, identity: Identity, *, forked: bool) -> Connection:
        """Serve a new client. Raises OSError, and then nothing has begun."""
        client = Connection(sock, identity, forked, self._loop, self._end)
        client.listen(lambda: self._on_news(client))
        self._all[client.fd] = client  # from here on nothing fails
        self._per_uid.up(identity.uid)
        return client

    def _on_news(self, client: Connection) -> None:
        try:
            if client.busy:
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
                self._take(client, request)

    def _take(self, client: Connection, request: wire.Request) -> None:
        """Deal with what is about the connection itself; the rest is for `serve`."""
        if not isinstance(request, wire.Connect):
            self._serve(client, request)
            return
        try:
            refusal = self._connect(client)
        except OSError as error:
            refusal = Refusal.out_of_means(error)
        if refusal is None:
            client.done()
            return
        who = client.identity
        self._log("refuse", NOTICE, uid=who.uid, pid=who.pid, program=client.program,
                  reason=refusal.reason)  # fmt: skip
        client.finish(refusal.answer())

    def _connect(self, client: Connection) -> Refusal | None:
        """Give a forked frontend a further connection, or return why not. Raises OSError."""
        if not client.forked:  # guard: only-forked-clients-connect-again
            return Refusal(errno.EPROTO, "connect to the socket again instead")
        if (refusal := self._full(client.identity.uid)) is not None:
            return refusal
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Before the other end can be used: what is sent earlier has no credentials, and reads
        # as pid 0 of the overflow uid, which is nobody's: net/unix/af_unix.c, maybe_add_creds().
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

    def _end(self, client: Connection, broken: str = "") -> None:
        """Close a connection: the client left, or broke the protocol as the text says."""
        if client.gone:
            return
        who = client.identity
        if broken:
            self._log("cut-off", WARNING, uid=who.uid, pid=who.pid, program=client.program,
                      reason=broken)  # fmt: skip
        client.close(broken)
        del self._all[client.fd]
        self._per_uid.down(who.uid)
        self._lost(client)
