"""Whole conversations, generated, against the oracle in model.py.

    python -m attack.conversation MESSAGES [SEED]

The broker's own code runs in this process on real sockets, real ptys and real lock files;
only who runs its jobs and what time it is are the fuzzer's to say, so that a seed is a whole
story: jobs get stuck, overtake one another and end when it likes, and an hour is a number.
Every answer is compared with the model's, and from time to time the table, the locks and the
descriptors; after each episode everything is let go, and nothing may be left.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import resource
import secrets
import socket
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from attack import model
from attack.answers import read_answer, receive, same, whose
from attack.model import Answer, Connection, Lease, Model
from attack.stage import (
    ANN,
    BEN,
    CAT,
    EVE,
    OUT,
    RULES,
    USERS,
    Body,
    Counted,
    Different,
    Hands,
    Stage,
)
from support.processes import descriptors
from support.rig import lock_text
from ttybroker import asking, wire
from ttybrokerd.prepare.make import make
from ttybrokerd.root import arrivals as arrivals_module
from ttybrokerd.root import clients as clients_module
from ttybrokerd.root import connection as connection_module
from ttybrokerd.root import ends as ends_module
from ttybrokerd.root import holds as holds_module
from ttybrokerd.root import leases as leases_module
from ttybrokerd.root import linux
from ttybrokerd.root import port as port_module
from ttybrokerd.root import requests as requests_module
from ttybrokerd.root import table as table_module
from ttybrokerd.root.answers import Answers
from ttybrokerd.root.arrivals import Arrivals
from ttybrokerd.root.clients import Clients
from ttybrokerd.root.device import Devices
from ttybrokerd.root.inotify import Inotify
from ttybrokerd.root.judge import Judge
from ttybrokerd.root.leases import Leases
from ttybrokerd.root.locks import LockFiles
from ttybrokerd.root.log import Log
from ttybrokerd.root.loop import Loop
from ttybrokerd.root.others import Others
from ttybrokerd.root.peer import Identity
from ttybrokerd.root.plan import Plan
from ttybrokerd.root.requests import Requests
from ttybrokerd.root.store import Store

EPISODE = 20_000  # messages
VARIETY = 2000  # messages that an episode draws from, not counting the broken ones
CHECK = 500  # actions between two looks at table, locks and descriptors
LIMITS = model.Limits(
    waits=3, leases=5, clients=6, yielders=2
)  # fewer than the broker's, to be met often
CREDENTIALS = struct.Struct("iII")
REFUSE = linux.refuse_descriptors
DONT_WAIT = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class NoFacts:
    """Tells of no line, at once."""

    def __init__(self, *_: object) -> None:
        pass

    def fill_in(self, _: object, __: int, ___: bool, then: Callable[[], None]) -> None:
        then()


class Episode:
    """One broker from its first client to its last."""

    def __init__(self, stage: Stage, seed: str) -> None:
        self.stage = stage
        self.dice = random.Random(seed)
        self.before = len(os.listdir("/proc/self/fd"))
        self.sent = self.actions = 0
        self.stuck = self.dice.choice((0.0, 0.1, 0.5))  # how many jobs lie about
        self.old = self.dice.random() < 0.5  # a kernel without SO_PASSRIGHTS
        self._start()
        self.base = kinds(descriptors(os.getpid()))
        self.model = Model(RULES, {0, CAT}, LIMITS, os.getpid())
        self.model.now = self.clock.now
        self.model.owners = {body.pid: body.uid for body in stage.bodies}
        self.names = {device.rdev: name for name, device in stage.devices.items()}
        self.names[table_module.NOWHERE] = ""
        self.sayings = [self.message() for _ in range(VARIETY)]
        self.socks: dict[Connection, socket.socket] = {}
        self.copies: list[tuple[Lease, Any]] = []  # descriptors, and sockets with one in flight

    def _start(self) -> None:
        stage = self.stage
        self.clock = SimpleNamespace(now=1000.0)
        self.clock.monotonic = self.clock.time = lambda: self.clock.now
        self.clock.sleep = lambda _seconds: None
        refuse: Any = (lambda _sock: None) if self.old else REFUSE
        vars(linux)["refuse_descriptors"] = refuse
        vars(connection_module)["time"] = self.clock
        vars(leases_module)["time"] = self.clock
        vars(ends_module)["time"] = self.clock
        vars(arrivals_module)["time"] = self.clock
        vars(holds_module)["time"] = self.clock
        vars(requests_module)["Facts"] = NoFacts
        vars(port_module)["time"] = self.clock
        vars(table_module).update(WAITS_PER_UID=LIMITS.waits, LEASES_PER_UID=LIMITS.leases,
                                  YIELDERS_PER_UID=LIMITS.yielders)  # fmt: skip
        vars(clients_module)["CLIENTS_PER_UID"] = LIMITS.clients
        self.loop = Loop()
        self.epoll = Counted(self.loop._epoll)
        vars(self.loop)["_epoll"] = self.epoll
        self.hands = Hands()
        self.log = Log(journal="/nonexistent", quiet=True, syslog="/nonexistent")
        log: Any = self.log if self.dice.random() < 0.1 else lambda *_, **__: None  # it is slow
        self.locks = LockFiles(str(stage.base / "lock"))
        hands: Any = self.hands
        devices = Devices(directory=str(stage.base / "dev"))
        judge = Judge(Plan(make(str(stage.policy)).data), devices)
        answers = Answers(log)
        others = Others(self.locks, utmp="/dev/null")
        self.inotify = Inotify(self.loop)
        self.leases = Leases(self.loop, self.inotify, hands, devices, others,
                             Store(self.loop, log, ""), judge, answers)  # fmt: skip
        self.arrivals = Arrivals(self.loop, devices, judge, self.leases, answers)
        requests = Requests(judge, devices, others, self.leases, answers, hands,
                            self.inotify)  # fmt: skip
        self.clients = Clients(self.loop, answers, requests.serve, requests.lost,
                                judge.has_place, lambda: True)  # fmt: skip
        self.looked: list[int] = []  # at which connections, in order, since the model was told
        self.watch_looks()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.address = str(stage.base / "socket")
        self.listener.bind(self.address)
        self.listener.listen(16)
        self.clients.listen(self.listener)
        vars(clients_module)["peer"] = SimpleNamespace(at_connect=self._at_connect)

    def watch_looks(self) -> None:
        """Number the broker's connections as they are accepted, and see which it looks at."""
        numbers: dict[int, int] = {}
        welcome, look = self.clients._welcome, self.clients._on_turn
        count = itertools.count()

        def welcomed(*arguments: Any, **more: Any) -> Any:
            client = welcome(*arguments, **more)
            numbers[id(client)] = next(count)
            return client

        def looked(client: Any) -> None:
            self.looked.append(numbers[id(client)])
            look(client)

        vars(self.clients).update(_welcome=welcomed, _on_turn=looked)

    def _at_connect(self, _sock: socket.socket) -> Identity:
        """SO_PEERCRED of this process would always be root: here it is who the story says."""
        who = self.joining
        return Identity(who.uid, who.gid, frozenset((who.gid,)), who.pid or 0)

    # one action after the other

    def play(self, messages: int) -> None:
        """Until so many messages are sent."""
        while self.sent < messages:
            self.act()
            self.settle()
            self.actions += 1
            if self.actions % CHECK == 0:
                self.compare()

    def act(self) -> None:
        """Something happens."""
        dice = self.dice.random()
        if dice < 0.55:
            self.say()
        elif dice < 0.85:
            self.let_go()
        elif dice < 0.90:
            self.clock.now += self.dice.choice((0.001, 0.1, 0.25, 0.3, 1.0, 7.0, 25.0, 60.0))
        elif dice < 0.94:
            self.leave()
        elif dice < 0.97:
            self.copy()
        elif dice < 0.988:
            self.lock()
        elif dice < 0.999:
            self.replug()
        else:
            self.exit()

    def settle(self) -> None:
        """The broker turns until it has no news, and jobs run, or do not."""
        while True:
            self.turn()
            jobs = self.model.jobs
            if not jobs or self.dice.random() < self.stuck:
                break
            self.run(self.dice.randrange(len(jobs)))
        for who in list(self.socks):
            if who.answers or not who.alive:
                self.read(who)

    def turn(self) -> None:
        """As server.py turns. In which order the ports' clocks and the connections are looked at is
        the broker's own business, so the model is told."""
        self.epoll.news = True
        while self.epoll.news:
            looks = self.arrivals._due()
            self.arrivals.tick()
            if looks:
                self.model.arrive()
            first = [self.names[key] for key in self.leases.table._alarms]
            self.leases.tick()
            self.model.clock(self.clock.now, first)
            self.loop.turn(0)
            while self.clients.eager:
                self.clients.serve()
            self.model.follow(self.looked)
            self.looked.clear()
        if any(port.plugged for port, _ in self.model.absent):
            raise Different(f"nobody looked for {self.model.absent}")
        for _ in range(len(self.model.connections)):
            # Whom it answers in a turn it may read in the same or in the next: that is for the
            # order of epoll's news. What it has not read at all will be seen by what it answers.
            self.model.turn()
        if self.model.ready:
            raise Different(f"unread: {[self.state(who) for who in self.model.ready]}")

    def state(self, who: Connection) -> str:
        """What the model knows of a connection that has news, and what the broker has."""
        seen = [
            (client.identity.pid, client.busy, client.paused)
            for client in self.clients._all.values()
            if client.identity.uid == who.uid
        ]
        return (f"{told(who)}: inbox {list(who.inbox)}, shut {who.shut}, reset {who.reset}, "
                f"busy {who.busy}, paused {who.paused}; here are {seen}")  # fmt: skip

    def run(self, number: int) -> None:
        """One job, here and there."""
        job = self.model.jobs[number]
        if job.port is not None:
            tag: tuple[str, object] = (job.kind, self.stage.devices[job.port.name].rdev)
        else:
            tag = self.hands.list_job([job for job in self.model.jobs if job.by].index(job))
        if tag not in self.hands.jobs:
            raise Different(f"no job {tag}, but {list(self.hands.jobs)}")
        self.hands.run(tag)
        self.model.run(number)

    # clients

    def say(self) -> None:
        """A client says something; if there is none with time for it, one comes."""
        alive = self.model.connections
        if not alive or (len(alive) < 14 and self.dice.random() < 0.1):
            self.join()
            return
        for who in self.dice.choices(alive, k=self.dice.choice(BURSTS)):
            if who.shut in ("writing", "all") or len(who.inbox) > 8 or who not in self.socks:
                continue
            for _ in range(self.dice.choice((1, 1, 1, 2, 4))):
                self.send(who)

    def send(self, who: Connection) -> None:
        """One message, mostly as it should be."""
        data = self.dice.choice(self.sayings)
        sender = (who.pid or self.pids(who.uid)[0], who.uid, who.gid)
        rights: list[tuple[int, int, bytes]] = []
        dice = self.dice.random()
        if dice < 0.01:
            data = self.broken(data)
        elif dice < 0.013:
            sender = self.another(sender)
        elif dice < 0.016:
            count = self.dice.choice((1, 1, 3, 250))
            packed = struct.pack("i", self.listener.fileno()) * count
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
        credentials = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, CREDENTIALS.pack(*sender))
        self.sent += 1
        try:
            self.socks[who].sendmsg([data], [credentials, *rights], DONT_WAIT)
        except PermissionError:
            if not rights or self.old:
                raise
        else:
            self.model.send(who, data, sender, bool(rights))

    def message(self) -> bytes:
        """A request."""
        dice = self.dice.random()
        name = self.name()
        if dice < 0.50:
            pids = [0, *self.model.owners, 1, 0x7FFFFFFF] if dice < 0.1 else [0]
            wait = self.dice.choice((0, 0, 0, 1, 200, 1000, 5000, 60_000, 0xFFFFFFFF))
            return self.encoded(wire.Open(name, wait, self.dice.choice(pids)))
        if dice < 0.70:
            other = self.dice.choice((None, None, ANN, BEN, EVE, 0, 12345))
            groups = tuple(range(self.dice.choice((0, 0, 1, 16, 256))))
            return self.encoded(wire.Check(name, other, groups))
        if dice < 0.95:
            return self.encoded(wire.Revoke(name))
        if dice < 0.97:
            return self.encoded(wire.List(self.dice.choice((0, 0, 0, 1, 5, 6, 4096))))
        return self.encoded(self.dice.choice((wire.Connect(), wire.Status())))

    def encoded(self, request: wire.Request) -> bytes:
        """The request in either version; in the second, now and then, with all its fields."""
        version = self.dice.choice(wire.VERSIONS)
        if version == 2 and isinstance(request, wire.Open) and self.dice.random() < 0.3:
            request.label = self.dice.choice(("", "a", "x" * 80, "\N{SNOWMAN}"))
            request.self_pid = self.dice.choice((0, request.pid, 1, 0xFFFFFFFF))
            request.flags = self.dice.choice((0, wire.KEEP, wire.PROGRESS))
        if version == 2 and isinstance(request, wire.Open) and self.dice.random() < 0.3:
            request.flags |= self.dice.choice((wire.YIELD_USER, wire.YIELD_ALL))
        if version == 2 and isinstance(request, wire.List) and self.dice.random() < 0.3:
            request.names = tuple(self.dice.sample((*NAMES, "other", "a/b"), 2))
            request.flags = self.dice.choice((0, 0, wire.DETAILS, wire.DETAILS | wire.WATCH))
        if version == 2 and isinstance(request, wire.Revoke) and self.dice.random() < 0.1:
            request.hold = self.dice.choice((1, 60_000, 86_400_001))
        return asking.encode_request(request, version)

    def name(self) -> str:
        """A port's, or what somebody might try."""
        if self.dice.random() < 0.9:
            return self.dice.choice(NAMES)
        return self.dice.choice(ODD)

    def pids(self, uid: int) -> list[int]:
        """Live processes of this user."""
        return [body.pid for body in self.stage.bodies if body.uid == uid]

    def another(self, sender: tuple[int, int, int]) -> tuple[int, int, int]:
        """Somebody else's credentials, all of live processes."""
        pid, uid, gid = sender
        others = [body for body in self.stage.bodies if body.pid != pid]
        other = self.dice.choice(others)
        return self.dice.choice([(other.pid, uid, gid), (pid, other.uid + 7, gid), (pid, uid, 7)])

    def broken(self, data: bytes) -> bytes:
        """A message with something wrong with it, perhaps."""
        kind = self.dice.randrange(6)
        if kind == 0:
            return data[: self.dice.randrange(len(data))]
        if kind == 1:
            return self.dice.randbytes(self.dice.choice((0, 1, 3, 4, 12, 100, 2048)))
        if kind == 2:
            return data + self.dice.randbytes(self.dice.choice((1, 2, 70, 2100)))
        if kind == 3:
            return bytes([data[0], self.dice.randrange(256), 0, 0]) + data[4:]
        at = self.dice.randrange(8 * min(len(data), 4 if kind == 4 else 16))
        return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]

    def join(self) -> None:
        """A new connection, or one that is refused because its user has enough."""
        uid = self.dice.choice((*USERS, *USERS, 61000 + self.dice.randrange(200)))
        forked = self.dice.random() < 0.1 and uid in USERS
        bodies = self.pids(uid) or self.pids(OUT)
        pid = None if forked else self.dice.choice(bodies)
        who = Connection(uid, uid, pid, forked)
        many = sum(other.uid == uid for other in self.model.connections)
        if forked:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.clients.adopt(theirs, Identity(uid, uid, frozenset((uid,)), 0))
            self.welcome(who, ours)
            return
        self.joining = who
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.address)
        self.loop.turn(0)
        if many < LIMITS.clients:
            self.welcome(who, sock)
            return
        reply = asking.decode_reply(sock.recv(65536))
        if not isinstance(reply, wire.Refused) or sock.recv(1):
            raise Different(f"one too many of uid {uid} got {reply}")
        sock.close()

    def welcome(self, who: Connection, sock: socket.socket) -> None:
        """It is connected."""
        self.socks[who] = sock
        self.model.connect(who)

    def leave(self) -> None:
        """A client closes its end, with all that lies in it, or a half of it."""
        here = [who for who in self.model.connections if who in self.socks]
        if not here:
            return
        who = self.dice.choice(here)
        how = self.dice.choice(("all", "all", "all", "reading", "writing"))
        if how == "all":
            self.model.leave(who, how)
            self.hang_up(who)
            return
        half = socket.SHUT_RD if how == "reading" else socket.SHUT_WR
        with contextlib.suppress(OSError):
            self.socks[who].shutdown(half)
        self.model.leave(who, how)

    def hang_up(self, who: Connection) -> None:
        """Close our end; what was granted and not read is closed with it."""
        self.socks.pop(who).close()
        unread, who.answers = list(who.answers), type(who.answers)()
        for answer in unread:
            if isinstance(answer.facts, Lease):
                self.model.close_copy(answer.facts)
            elif isinstance(answer.facts, Connection):
                self.model.leave(answer.facts, "all")

    def read(self, who: Connection) -> None:
        """Take what came, and compare."""
        if who.alive and self.dice.random() < 0.05:
            return  # it reads later
        sock = self.socks[who]
        while who.answers:
            self.expect(who, sock, who.answers.popleft())
        try:
            rest = receive(sock)
        except BlockingIOError:
            rest = None
        if rest is None and who.alive:
            return
        if rest is None or rest[0]:
            raise Different(f"{told(who)} expected {'nothing' if who.alive else 'the end'}: {rest}")
        if who.alive and who.shut not in ("reading", "all"):
            raise Different(f"{told(who)} was cut off")
        if not who.alive:
            self.socks.pop(who).close()

    def expect(self, who: Connection, sock: socket.socket, due: Answer) -> None:
        """The next message must be this one."""
        try:
            data, descriptor = receive(sock)
        except BlockingIOError:
            raise Different(f"{told(who)} got nothing, and not {due}") from None
        seen = read_answer(data, descriptor is not None)
        if isinstance(due.facts, Lease) and descriptor is not None:
            self.copies.append((due.facts, descriptor))
        elif isinstance(due.facts, Connection) and descriptor is not None:
            self.socks[due.facts] = socket.socket(fileno=descriptor)
        elif descriptor is not None:
            os.close(descriptor)
        if not same(seen, due):
            raise Different(f"{told(who)} got {seen}, not {due}")

    # what holders do

    def let_go(self) -> None:
        """A copy of a descriptor is closed."""
        if not self.copies:
            return
        at = self.dice.randrange(len(self.copies))
        lease, copy = self.copies.pop(at)
        close(copy)
        self.model.close_copy(lease)

    def copy(self) -> None:
        """A descriptor is duplicated, or put into a socket and closed, or taken out again."""
        if not self.copies:
            return
        at = self.dice.randrange(len(self.copies))
        lease, copy = self.copies[at]
        if isinstance(copy, tuple):
            _, (descriptor,), _, _ = socket.recv_fds(copy[1], 1, 1)
            close(copy)
            self.copies[at] = lease, descriptor
        elif self.dice.random() < 0.5:
            if len(self.copies) < 60:
                self.copies.append((lease, os.dup(copy)))
                lease.copies += 1
        else:
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            socket.send_fds(pair[0], [b"x"], [copy])
            os.close(copy)
            self.copies[at] = lease, pair

    def lock(self) -> None:
        """A program that is no client makes a lock, or somebody removes one."""
        port = self.model.ports[self.dice.choice(list(RULES))]
        path = self.stage.base / "lock" / f"LCK..{port.name}"
        if port.lock == 0:
            path.rmdir()
            port.lock = None
        elif port.lock is not None:
            path.unlink()
            port.lock = None
        elif self.dice.random() < 0.2:
            path.mkdir()
            port.lock = 0
        else:
            pid = self.dice.choice([*self.model.owners, 0x7FFFFFFE])
            path.write_bytes(lock_text(pid))
            port.lock = pid

    def replug(self) -> None:
        """A device goes, or comes back; one is away at a time, or numbers would be swapped."""
        away = next((port for port in self.model.ports.values() if not port.plugged), None)
        if away is not None:
            device = self.stage.devices[away.name]
            away.plugged = device.plug(wanted=device.number)
            return
        port = self.model.ports[self.dice.choice(list(RULES))]
        self.stage.devices[port.name].unplug()
        self.model.unplug(port)

    def exit(self) -> None:
        """A client's process ends, its connections with it, and another comes."""
        at = self.dice.randrange(len(self.stage.bodies) - 1)
        body = self.stage.bodies[at]
        for who in [who for who in self.socks if who.pid == body.pid]:
            if who.alive:
                self.model.leave(who, "all")
            self.hang_up(who)
        self.turn()
        body.end()
        self.model.exit(body.pid)
        self.turn()
        self.stage.bodies[at] = fresh = Body(body.uid)
        self.model.owners[fresh.pid] = fresh.uid

    # comparing

    def compare(self) -> None:
        """Table, locks and descriptors are what the model says."""
        table = self.leases.table
        for name, port in self.model.ports.items():
            row = table.ports.get(self.stage.devices[name].rdev)
            seen = (
                None
                if row is None
                else (
                    row.state,
                    whose(row.holder()),
                    [whose(ask.holder) for ask in row.queue],
                    whose(row.lender()),
                )
            )
            due = (
                None
                if port.stage == "free"
                else (
                    model.STATES[port.stage],
                    port.shown(),
                    [want.who() for want in port.queue],
                    port.lender(),
                )
            )
            if seen != due:
                raise Different(f"{name}: the table has {seen}, not {due}")
        for what, has, due_ in (
            ("waiting", table._waiting._counts, self.model.asked),
            ("leases", table._leases._counts, self.model.had),
        ):
            if dict(has) != dict(+due_):
                raise Different(f"{what}: the table has {has}, not {due_}")
        missing = [whose(ask.holder) for ask in table.missing()]
        if missing != [want.who() for _, want in self.model.absent]:
            raise Different(f"{missing} wait for no device, not {self.model.absent}")
        self.compare_locks()
        here = [client.identity.uid for client in self.clients._all.values()]
        if here != [who.uid for who in self.model.connections]:
            raise Different(f"clients {here}, not {self.model.connections}")
        if len(self.hands.jobs) != len(self.model.jobs):
            raise Different(f"jobs {list(self.hands.jobs)}, not {self.model.jobs}")
        self.compare_descriptors()

    def compare_locks(self) -> None:
        """What lies in the lock directory."""
        directory = self.stage.base / "lock"
        due = {f"LCK..{name}": port.lock for name, port in self.model.ports.items()
               if port.lock is not None}  # fmt: skip
        unfinished = sum(port.stage == "closing" and port.lease is not None
                         and port.lease.want.given_up and port.signed is not None
                         for port in self.model.ports.values())  # fmt: skip
        names = set(os.listdir(directory))
        temporaries = {name for name in names if name.startswith(".ttybroker.")}
        if len(temporaries) > unfinished:  # of a port that nobody got, until it is put in order
            raise Different(f"{temporaries}, and {unfinished} ports that nobody got")
        for name in names - temporaries:
            pid = due.pop(name, None)
            path = directory / name
            if pid is None or (pid and path.read_bytes() != lock_text(pid)):
                raise Different(f"{name} is there, and should have {pid}")
        if due:
            raise Different(f"locks missing: {due}")

    def compare_descriptors(self) -> None:
        """As many of each kind as leases, connections and jobs explain, and no more."""
        self.leases.copies.forget_closed()
        self.model.forget_dead()
        ports = self.model.ports.values()
        leased = sum(port.stage in ("held", "closing") for port in ports)
        looks = sum(port.current.looked for port in ports
                    if port.stage == "opening" and port.current is not None)  # fmt: skip
        pairs = sum(isinstance(copy, tuple) for _, copy in self.copies)
        due = Counter({
            "guards and copies": leased + len(self.copies) - pairs + looks,
            "watchers": leased + len(self.model.dead),
            "sockets": len(self.model.connections) + len(self.socks) + 2 * pairs,
            "pidfds": sum(held.exit_fd >= 0 for held in self.leases._all.values()),
            "directories": looks,
            "masters": sum(port.plugged for port in ports) - len(ports),
        })  # fmt: skip
        seen = kinds(descriptors(os.getpid()))
        seen.subtract(self.base)
        if any(seen[kind] != due[kind] for kind in {*seen, *due}):
            raise Different(f"{seen} descriptors, not {due}: {descriptors(os.getpid())}")

    def finish(self) -> None:
        """Everybody leaves; nothing is left."""
        for who in list(self.socks):
            if who.alive:
                self.model.leave(who, "all")
            self.hang_up(who)
        while self.copies:
            self.let_go()
        self.stuck = 0.0
        self.settle()
        for port in self.model.ports.values():
            if not port.plugged:
                device = self.stage.devices[port.name]
                port.plugged = device.plug(wanted=device.number)
        self.compare()
        left = [self.leases._all, self.leases._ends._looks, self.leases.copies._all,
                self.inotify._closes, self.clients._all, self.clients._of,
                self.hands.jobs, self.leases.table._alarms]  # fmt: skip
        if any(left):
            raise Different(f"left over: {left}")
        watches = sum(Path(f"/proc/self/fdinfo/{part.fileno()}").read_text().count("inotify wd")
                      for part in (self.inotify, self.arrivals))  # fmt: skip
        if watches or len(self.loop._handlers) != 3:
            raise Different(f"{watches} watches, handlers {self.loop._handlers}")
        for part in (self.loop, self.locks, self.inotify, self.arrivals, self.listener, self.log):
            part.close()
        os.unlink(self.address)
        for entry in (self.stage.base / "lock").iterdir():  # the outsiders'
            entry.rmdir() if entry.is_dir() else entry.unlink()
        if len(os.listdir("/proc/self/fd")) != self.before:
            raise Different(f"descriptors left: {descriptors(os.getpid())}")


BURSTS = (1, 2, 5, 10, 20, 30)  # clients that speak before the broker turns
KINDS = {"sockets": "socket:", "watchers": "eventpoll", "pidfds": "pidfd", "masters": "ptmx",
         "guards and copies": "/pts/", "directories": "/pts"}  # fmt: skip
NAMES = [*RULES, "p0", "p1"]
ODD = ["", "p", "p9", "ttyS0", "P0", "p0\0", "../p0", "p0/", "limited ", "a" * 64, "a" * 65,
       "\u0430nns", "\udcff\udcfe", "0p", "-", "x" * 2000]  # fmt: skip


def kinds(open_ones: dict[int, str]) -> Counter[str]:
    """How many descriptors there are of each kind."""
    found: Counter[str] = Counter()
    for what in open_ones.values():
        name = what.removesuffix(" (deleted)")
        known = [kind for kind, part in KINDS.items() if part in name]
        found[known[0] if known else "others"] += 1
    return found


def close(copy: Any) -> None:
    """Close a descriptor, or both ends of the socket in which it lies."""
    if isinstance(copy, tuple):
        for end in copy:
            end.close()
    else:
        os.close(copy)


def told(who: Connection) -> str:
    """A client in a message of ours."""
    return f"a connection of uid {who.uid}, pid {who.pid}"


def run(messages: int, seed: int) -> int:
    """The whole run; the exit status."""
    print(f"attack conversation: {messages} messages from seed {seed}", flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    stage = Stage()
    begin = said = time.monotonic()
    sent = granted = number = 0
    episode = None
    gc.disable()
    try:
        while sent < messages:
            episode = Episode(stage, f"{seed}-{number}")
            episode.play(min(EPISODE, messages - sent))
            episode.finish()
            sent += episode.sent
            granted += episode.model.granted
            number += 1
            gc.collect()
            if time.monotonic() - said > 10 or sent >= messages:
                said = time.monotonic()
                print(f"attack conversation: {sent} messages, {granted} leases, {number} episodes "
                      f"in {said - begin:.0f} s ({sent / (said - begin):.0f}/s), no difference",
                      flush=True)  # fmt: skip
        return 0
    except Exception:
        traceback.print_exc()
        where = "" if episode is None else f", message {episode.sent}, action {episode.actions}"
        print(f"attack conversation: FAILED at seed {seed}, episode {number}{where}", flush=True)
        return 1
    finally:
        stage.close()


def main() -> int:
    """The command."""
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(1 << 31)
    return run(int(sys.argv[1]), seed)


if __name__ == "__main__":
    sys.exit(main())
