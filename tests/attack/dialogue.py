"""Conversations with a real daemon, over its socket, against the oracle in model.py.

What conversation.py does in one process at full speed, here with another process that has its own
clock and its own threads: real users connect, and root speaks for them. Whatever depends on who
is faster is not asked: a port whose holder has just let go is asked for, and nothing else.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import time

from attack.answers import read_answer, receive, same
from attack.model import Answer, Connection, Lease, Limits, Model, Rule, Who
from attack.stage import Different
from support.children import Chat, Child
from support.rig import Rig
from support.users import ALICE, BOB, CAROL
from support.waiting import TIMEOUT, wait_readable
from ttybroker import asking, wire

RULES = {"p0": Rule(None), "p1": Rule(None), "p2": Rule(None), "p3": Rule(None),
         "alices": Rule(frozenset((ALICE, CAROL))),
         "not-bobs": Rule(None, deny=frozenset((BOB,)))}  # fmt: skip
LIMITS = Limits(waits=32, leases=64, clients=256, yielders=32)  # the broker's own
SENDER = struct.Struct("iII")
CREDENTIALS = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)


def connector(rig: Rig, chat: Chat) -> None:
    """In a child: connect as often as told, and give the sockets away."""
    while chat.hear() == "connect":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(rig.socket))
            socket.send_fds(chat.sock, [b"here"], [sock.fileno()])


class Dialogue:
    """One daemon, some users, and what is to come of it."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.dice = random.Random(seed)
        self.sent = self.granted = 0
        self.piled = False  # somebody's next message lies with the daemon already
        for name, rule in RULES.items():
            if rule.deny:
                rig.port(name, f"deny = {sorted(rule.deny)}")
            allowed = '["*"]' if rule.allow is None else str(sorted(rule.allow))
            rig.port(name, f"allow = {allowed}")
        rig.admins = f"[{CAROL}]"
        self.daemon = rig.daemon()
        self.model = Model(RULES, {0, CAROL}, LIMITS, self.daemon.pid)
        self.users = [rig.child(uid, lambda chat: connector(rig, chat))
                      for uid in (ALICE, BOB, CAROL, ALICE)]  # fmt: skip
        self.uids = dict(zip(self.users, (ALICE, BOB, CAROL, ALICE), strict=True))
        self.model.owners = {child.pid: uid for child, uid in self.uids.items()}
        self.socks: dict[Connection, socket.socket] = {}
        self.told: set[Connection] = set()  # those who asked why they wait
        self.copies: list[tuple[Lease, int]] = []
        self.control = self.connect(self.users[2])

    def play(self, messages: int) -> None:
        """Until so many messages are sent and answered, and everything is let go."""
        while self.sent < messages:
            dice = self.dice.random()
            if dice < 0.66:
                self.say()
            elif dice < 0.93:
                self.let_go()
            elif dice < 0.97:
                self.copy()
            else:
                self.leave()
            self.settle()
        for who in list(self.socks):
            if who is not self.control:
                self.hang_up(who)
        while self.copies:
            self.let_go()
        self.settle()
        self.hang_up(self.control)
        for child in self.users:
            child.say("enough")
            child.wait()
        self.granted = self.model.granted

    def connect(self, child: Child) -> Connection:
        """One more connection of that user."""
        child.say("connect")
        _, (descriptor,), _, _ = socket.recv_fds(child.chat.sock, 16, 1)
        uid = self.uids[child]
        who = Connection(uid, uid, child.pid, False)
        self.model.connect(who)
        sock = self.socks[who] = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        return who

    def others(self) -> list[Connection]:
        """Those connections that may do as they like."""
        return [who for who in self.model.connections if who is not self.control]

    def say(self) -> None:
        """A client speaks."""
        others = self.others()
        if len(others) < 12 and (not others or self.dice.random() < 0.1):
            self.connect(self.dice.choice(self.users))
            return
        who = self.dice.choice(others)
        if not who.inbox:
            self.ask(who)

    def ask(self, who: Connection) -> None:
        """One message. The daemon has read it when this returns: of two that lie there together
        epoll may tell in either order (fs/eventpoll.c, ep_done_scan)."""
        self.send(who, self.broken(self.message(who.busy)), self.dice.random() < 0.003)
        self.settle()
        if who.busy:
            self.barrier()

    def send(self, who: Connection, data: bytes, passes: bool = False) -> None:
        """One message, maybe with a descriptor beside it, maybe in another's name."""
        pid = who.pid or 0
        sender = (pid, who.uid, who.gid)
        if who is not self.control and self.dice.random() < 0.003:
            sender = self.dice.choice([(pid, who.uid + 1, who.gid), (pid, who.uid, 0),
                                       (os.getpid(), who.uid, who.gid)])  # fmt: skip
        rights = []
        if passes:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))]
        self.sent += 1
        if asks_why(data):
            self.told.add(who)
        try:
            self.socks[who].sendmsg([data], [(*CREDENTIALS, SENDER.pack(*sender)), *rights])
        except PermissionError:  # the kernel refuses descriptors: SO_PASSRIGHTS, Linux 6.16
            if not rights:
                raise
        else:
            self.model.send(who, data, sender, passes)

    def message(self, busy: bool) -> bytes:
        """A request of which the answer is certain."""
        dice, name = self.dice.random(), self.dice.choice([*RULES, "p9", "p0/"])
        if dice < 0.6 or (dice < 0.9 and (busy or self.settling(name))):
            pid = self.dice.choice([0, 0, 0, 1, *self.model.owners])
            return self.encoded(wire.Open(name, self.dice.choice((0, 0, 60_000)), pid))
        if dice < 0.75:
            return self.encoded(wire.Revoke(name))
        if dice < 0.9:
            uid = self.dice.choice((None, ALICE, BOB))
            return self.encoded(wire.Check(name, uid, (ALICE,)))
        if not busy and self.dice.random() < 0.5 and not any(map(self.settling, RULES)):
            return self.encoded(wire.List(self.dice.choice((0, 0, 2, 9))))
        return self.encoded(self.dice.choice((wire.Connect(), wire.Status())))

    def encoded(self, request: wire.Request) -> bytes:
        """The request in either version; in the second, now and then, with all its fields."""
        version = self.dice.choice(wire.VERSIONS)
        if version == 2 and isinstance(request, wire.Open) and self.dice.random() < 0.3:
            request.label = self.dice.choice(("", "a", "x" * 80, "\N{SNOWMAN}"))
            request.self_pid = self.dice.choice((0, request.pid, 1, 0xFFFFFFFF))
            request.flags = self.dice.choice((0, wire.KEEP, wire.PROGRESS))
        if version == 2 and isinstance(request, wire.List) and self.dice.random() < 0.3:
            request.names = tuple(self.dice.sample((*RULES, "other", "a/b"), 2))
        if version == 2 and isinstance(request, wire.Revoke) and self.dice.random() < 0.1:
            request.hold = 86_400_001
        return asking.encode_request(request, version)

    def broken(self, data: bytes) -> bytes:
        """Now and then not a message at all."""
        if self.dice.random() < 0.99:
            return data
        return self.dice.choice([data[:3], data + bytes(2048), b"", b"\3" + data[1:],
                                 self.dice.randbytes(20)])  # fmt: skip

    def settling(self, name: str) -> bool:
        """Whether the port's last lease may not quite be over for the daemon."""
        port = self.model.ports.get(name)
        return port is not None and port.stage == "free" and self.rig.lock(name).exists()

    def let_go(self) -> None:
        """A copy of a descriptor is closed."""
        if self.copies:
            lease, copy = self.copies.pop(self.dice.randrange(len(self.copies)))
            os.close(copy)
            self.model.close_copy(lease)
            self.barrier()

    def copy(self) -> None:
        """A copy more of a descriptor."""
        if self.copies and len(self.copies) < 40:
            lease, copy = self.dice.choice(self.copies)
            self.copies.append((lease, os.dup(copy)))
            lease.copies += 1

    def leave(self) -> None:
        """A client closes its connection."""
        if others := self.others():
            self.hang_up(self.dice.choice(others))
            self.model_turns()
            self.barrier()

    def hang_up(self, who: Connection) -> None:
        """Close our end; whatever was answered has been read."""
        if who.alive:
            self.model.leave(who, "all")
        self.socks.pop(who).close()

    def barrier(self) -> None:
        """When this is answered, the daemon has seen all that happened before."""
        self.model_turns()
        self.send(self.control, asking.encode_request(wire.Check("p0")))
        self.model_turns()
        self.expect(self.control, self.control.answers.popleft())

    def model_turns(self) -> None:
        """In the model everything is done at once."""
        while self.model.ready or self.model.jobs:
            self.model.turn()
            while self.model.jobs:
                self.model.run(0)

    def settle(self) -> None:
        """Whoever has to get an answer gets it, and what lay in its inbox is read then."""
        piled = any(who.inbox for who in self.model.connections)
        self.model_turns()
        for who in list(self.socks):
            while who.answers:
                self.expect(who, who.answers.popleft())
            if not who.alive:
                if (rest := self.hear(who))[0]:
                    raise Different(f"the end was due, not {rest}")
                self.socks.pop(who).close()
        for _ in range(3 if piled or self.piled else 0):
            self.barrier()
        self.piled = any(who.inbox for who in self.model.connections)

    def hear(self, who: Connection) -> tuple[bytes, int | None]:
        """The next message, when it comes. Not why it waits: the model's ports take no time."""
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                data, descriptor = receive(self.socks[who])
                if not (who in self.told and says_why(data)):
                    return data, descriptor
            except BlockingIOError:
                left = end - time.monotonic()
                wait_readable(self.socks[who].fileno(), f"an answer to uid {who.uid}", left)

    def expect(self, who: Connection, due: Answer) -> None:
        """The next message must be this one."""
        data, descriptor = self.hear(who)
        seen = read_answer(data, descriptor is not None)
        if isinstance(due.facts, Lease) and descriptor is not None:
            self.copies.append((due.facts, descriptor))
        elif descriptor is not None:
            os.close(descriptor)
        seen, due = timeless(seen), timeless(due)
        if not same(seen, due):
            raise Different(f"uid {who.uid} got {seen}, not {due}")


def asks_why(data: bytes) -> bool:
    """Whether it is an OPEN that asks why it waits, when it does."""
    try:
        request = wire.decode_request(data)
    except wire.Malformed:
        return False
    return isinstance(request, wire.Open) and request.flags & wire.PROGRESS != 0


def says_why(data: bytes) -> bool:
    """Whether it says why a request waits, but for a slow device."""
    reply = asking.decode_reply(data) if data else None
    return isinstance(reply, wire.Waiting) and reply.reason != wire.SLOW


def timeless(answer: Answer) -> Answer:
    """Without the moment since when, which is the daemon's clock's."""

    def undated(who: object) -> Who | None:
        return who._replace(since=None) if isinstance(who, Who) else None

    facts = answer.facts
    if answer.kind == "ports" and isinstance(facts, tuple):
        facts = tuple((*row[:3], undated(row[3])) for row in facts)
    return answer._replace(holder=undated(answer.holder), facts=facts)
