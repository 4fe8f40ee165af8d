"""A great many leases by clients that crash, and an independent witness who has each port.

    python -m attack.soak LEASES [SEED]

Fifty processes of five users take port after port, in whatever way ends a lease: they close, close
late, close a copy last, leave it to a child, exit, are killed, never read the answer, take the
port back from themselves. Each holder writes its own number, first and last and in between; at
the far end of every pty the witness reads who that was. Two numbers that alternate are two
holders. At the end the daemon has what it had at the start: descriptors, threads, memory, locks
and inotify watches.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import resource
import secrets
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

from support.daemon import Daemon
from support.processes import PR_SET_PDEATHSIG, descriptors, prctl, watches
from support.rig import Rig
from ttybroker import asking, client, wire
from ttybrokerd.root.workers import IDLE

CLIENTS, USERS, PORTS = 50, 5, 60
FIRST_UID = 60301
WARM = 0.1  # of all leases; until then the daemon's memory may still grow to its size
TOKEN = 10  # bytes: what, eight digits of who, a semicolon
GROWTH = 1024  # KiB of memory that all the leases may cost for good, in fragments
THREADS = IDLE + 3  # of the daemon at rest: its first, the one in the loop, the one that stands by
SLOT = struct.Struct("QQ")  # of each client in shared memory: leases so far, those that wrote
FORK, EXIT, KILL, IN_FLIGHT, REVOKE, COPY, LATE = range(7)
ODDS = {FORK: 0.004, EXIT: 0.001, KILL: 0.001, IN_FLIGHT: 0.01, REVOKE: 0.005, COPY: 0.1,
        LATE: 0.1}  # fmt: skip


class TwoHolders(AssertionError):
    """What must never be."""


class Client:
    """The life of one client process."""

    def __init__(self, rig: Rig, number: int, seed: str, counts: mmap.mmap) -> None:
        self.number = number
        self.dice = random.Random(seed)
        self.counts = counts
        self.address = str(rig.socket)
        self.names = list(rig.ports)
        self.patient, self.hasty = (
            {name: asking.encode_request(wire.Open(name, wait)) for name in rig.ports}
            for wait in (60_000, 0)
        )
        self.late: list[tuple[int, bytes]] = []
        self.leases, self.wrote = SLOT.unpack_from(counts, number * SLOT.size)

    def live(self) -> NoReturn:
        """Until it is killed."""
        self.connect()
        while True:
            ways, odds = list(ODDS), list(ODDS.values())
            way = self.dice.choices([None, *ways], [1 - sum(odds), *odds])[0]
            self.lease(self.dice.choice(self.names), way)

    def connect(self) -> None:
        """A new connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(self.address)

    def lease(self, name: str, way: int | None) -> None:
        """One lease, and its end. Who keeps one does not wait for another, or all would wait
        for one another."""
        self.sock.send(self.hasty[name] if self.late else self.patient[name])
        if way == IN_FLIGHT:
            if self.dice.random() < 0.5:
                select.select([self.sock], [], [])
            self.sock.close()
            self.connect()
            return
        descriptor = self.take(name)
        if descriptor < 0:
            if self.late:
                self.let_go()
            return
        self.leases += 1
        mark = b"%02x%06x" % (self.number, self.leases & 0xFFFFFF)
        os.write(descriptor, b"B%b;" % mark)
        self.wrote += 1
        self.save()
        if way == EXIT:
            os._exit(0)
        if way == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if way == REVOKE:
            self.revoke(name, descriptor)
        elif way == FORK:
            self.leave_to_child(descriptor, mark)
        elif way == LATE:
            self.late.append((descriptor, mark))
        else:
            os.write(descriptor, b"E%b;" % mark)
            if way == COPY:
                copy = os.dup(descriptor)
                os.close(descriptor)
                os.write(copy, b"E%b;" % mark)
                descriptor = copy
            os.close(descriptor)
        if self.late and (len(self.late) > 1 or way is None):
            self.let_go()

    def let_go(self) -> None:
        """Close one that was kept."""
        descriptor, mark = self.late.pop(0)
        os.write(descriptor, b"M%b;E%b;" % (mark, mark))
        os.close(descriptor)

    def take(self, name: str) -> int:
        """The descriptor, whenever it comes; -1 if the port is busy, or if another client of this
        user had it taken back: that withdraws what the user waits for."""
        data, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_LEN(4))
        if data[1] == wire.GRANT:
            return int.from_bytes(ancillary[0][2], sys.byteorder)
        reply = asking.decode_reply(data)
        if self.late and isinstance(reply, wire.Refused) and reply.errno == errno.EBUSY:
            return -1
        if isinstance(reply, wire.Refused) and reply.errno == errno.ECANCELED:
            return -1
        raise AssertionError(f"{name}: {reply}")

    def save(self) -> None:
        """Where the witness finds it, also when this process is dead."""
        SLOT.pack_into(self.counts, self.number * SLOT.size, self.leases, self.wrote)

    def revoke(self, name: str, descriptor: int) -> None:
        """Take it back from oneself: from then on nothing gets through."""
        self.sock.send(asking.encode_request(wire.Revoke(name)))
        reply = asking.decode_reply(self.sock.recv(65536))
        if not isinstance(reply, wire.Done):
            raise AssertionError(f"{name}: {reply}")
        try:
            os.write(descriptor, b"after the end")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        else:
            raise AssertionError(f"{name}: a revoked descriptor writes")
        os.close(descriptor)

    def leave_to_child(self, descriptor: int, mark: bytes) -> None:
        """The lease goes on in a child, which ends somehow."""
        if (pid := os.fork()) == 0:
            os.write(descriptor, b"M%b;" % mark)
            time.sleep(self.dice.random() * 0.01)
            os.write(descriptor, b"E%b;" % mark)
            os._exit(0)
        os.close(descriptor)
        os.waitpid(pid, 0)


class Witness:
    """Reads the far ends; sees who had each port, and nothing of the broker."""

    def __init__(self, rig: Rig) -> None:
        self.poll = select.epoll()
        self.names: dict[int, str] = {}
        self.holder: dict[str, bytes] = {}
        self.part: dict[str, bytes] = dict.fromkeys(rig.ports, b"")
        self.past: dict[str, list[bytes]] = {name: [] for name in rig.ports}
        self.seen: Counter[str] = Counter()
        for name, pty in rig.ports.items():
            os.set_blocking(pty.master, False)
            # edge-triggered: without a holder a pty's master is hung up all the time
            self.poll.register(pty.master, select.EPOLLIN | select.EPOLLET)
            self.names[pty.master] = name

    def look(self, timeout: float) -> None:
        """Read what was written, for a while."""
        for master, _events in self.poll.poll(timeout):
            self.read(master)

    def read(self, master: int) -> None:
        """All there is from one port."""
        name = self.names[master]
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: nobody has it open
            while data := os.read(master, 4096):
                self.judge(name, self.part[name] + data)

    def judge(self, name: str, data: bytes) -> None:
        """B begins a holder's time; M and E may come from the present holder alone."""
        whole = len(data) - len(data) % TOKEN
        self.part[name] = data[whole:]
        for at in range(0, whole, TOKEN):
            kind, mark, end = data[at : at + 1], data[at + 1 : at + 9], data[at + 9 : at + 10]
            if end != b";" or kind not in b"BME":
                raise TwoHolders(f"{name}: bytes of two: {data!r}")
            self.seen[kind.decode()] += 1
            if kind == b"B":
                self.holder[name] = mark
                self.past[name] = [*self.past[name][-5:], mark]
            elif self.holder.get(name) != mark:
                who = self.holder.get(name)
                raise TwoHolders(f"{name}: {mark!r} writes in the time of {who!r}, "
                                 f"after {self.past[name]}")  # fmt: skip


class Account:
    """What the daemon has at one moment."""

    def __init__(self, rig: Rig, daemon: Daemon) -> None:
        pid = daemon.pid
        self.descriptors = Counter(what.split(":[")[0] for what in descriptors(pid).values())
        self.watches = watches(pid)
        self.locks = rig.lock_files()
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        self.memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        self.threads = next(int(line.split()[1]) for line in status if line.startswith("Threads"))

    def as_at(self, begin: Account) -> bool:
        """Whether there is again what there was in the beginning, and no thread too many."""
        same = (self.descriptors, self.watches, self.locks) == (
            begin.descriptors, begin.watches, begin.locks)  # fmt: skip
        return same and self.threads <= THREADS

    def __str__(self) -> str:
        return (
            f"{self.descriptors.total()} descriptors, {self.watches} watches, "
            f"{len(self.locks)} locks, {self.threads} threads, {self.memory} KiB"
        )


class Soak:
    """The whole of it."""

    def __init__(self, rig: Rig, leases: int, seed: int) -> None:
        self.rig, self.leases, self.seed = rig, leases, seed
        for number in range(PORTS):
            rig.port(f"s{number}")
        self.daemon = rig.daemon()
        self.asker = client.connect(str(rig.socket))
        self.counts = mmap.mmap(-1, CLIENTS * SLOT.size)
        self.witness = Witness(rig)
        self.clients: dict[int, int] = {}  # by pid
        self.ends: Counter[int] = Counter()
        self.generation = 0
        self.begin = self.said = time.monotonic()

    def run(self) -> None:
        """Until there were enough leases."""
        os.close(self.asker.open("s0"))  # with its first lease it has done what it does once
        end = time.monotonic() + 30
        while any(port.state != "free" for port in self.asker.ports()) and time.monotonic() < end:
            pass
        begin, warm = Account(self.rig, self.daemon), None
        assert begin.locks == [] and begin.watches == 0, begin
        print(f"attack soak: at first {begin}", flush=True)
        for number in range(CLIENTS):
            self.spawn(number)
        while (done := self.done()) < self.leases:
            end = time.monotonic() + 0.25
            while time.monotonic() < end:
                self.witness.look(0.05)
            self.reap(respawn=True)
            if warm is None and done >= self.leases * WARM:
                warm = self.pause(begin)
                print(f"attack soak: after {done} leases {warm}", flush=True)
                for number in range(CLIENTS):
                    self.spawn(number)
            if time.monotonic() - self.said > 20:
                self.say()
                print(f"attack soak: now {Account(self.rig, self.daemon)}", flush=True)
        last = self.pause(begin)
        self.say()
        print(f"attack soak: in the end {last}", flush=True)
        assert warm is not None, "too few leases"
        assert last.memory - warm.memory <= GROWTH, f"{warm.memory} KiB to {last.memory}"
        wrote = sum(SLOT.unpack_from(self.counts, at * SLOT.size)[1] for at in range(CLIENTS))
        seen = self.witness.seen["B"]
        print(f"attack soak: the witness saw {seen} of them", flush=True)
        assert wrote / 2 < seen <= wrote + 2 * CLIENTS, (seen, wrote)

    def done(self) -> int:
        """Leases so far."""
        return sum(SLOT.unpack_from(self.counts, at * SLOT.size)[0] for at in range(CLIENTS))

    def say(self) -> None:
        """How far it is."""
        self.said = time.monotonic()
        seconds = self.said - self.begin
        print(f"attack soak: {self.done()} leases in {seconds:.0f} s "
              f"({self.done() / seconds:.0f}/s), {sum(self.ends.values())} crashes, "
              f"never two holders of a port", flush=True)  # fmt: skip

    def spawn(self, number: int) -> None:
        """A client, anew after a crash."""
        self.generation += 1
        seed = f"{self.seed}-{number}-{self.generation}"
        pid = os.fork()
        if pid == 0:
            try:
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                os.closerange(3, 256 + PORTS)
                uid = FIRST_UID + number % USERS
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                Client(self.rig, number, seed, self.counts).live()
            except BaseException as error:
                os.write(2, f"client {number}: {type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(70)
        self.clients[pid] = number

    def reap(self, *, respawn: bool) -> None:
        """See to those that ended; fails if one ended for a reason of its own."""
        for pid, number in list(self.clients.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _, status = os.waitpid(pid, 0)
            del self.clients[pid]
            how = os.waitstatus_to_exitcode(status)
            if how not in (0, -signal.SIGKILL):
                raise AssertionError(f"client {number} failed (its words are above)")
            self.ends[how] += respawn
            if respawn:
                self.spawn(number)

    def pause(self, begin: Account) -> Account:
        """Kill them all, wherever they are; read what they wrote; wait until the daemon has again
        what it had at the beginning, and fails if that does not come."""
        for pid in self.clients:
            os.kill(pid, signal.SIGKILL)
        while self.clients:
            self.reap(respawn=False)
            self.witness.look(0.01)
        end = time.monotonic() + 30
        while not (now := Account(self.rig, self.daemon)).as_at(begin) and time.monotonic() < end:
            self.witness.look(0.05)
            self.asker.ports()  # it looks after dead descriptors when it is asked something
        assert now.as_at(begin), (
            f"{begin}, and then {now}: the locks {now.locks}, "
            f"{begin.descriptors} and then {now.descriptors}"
        )
        return now


def main() -> int:
    """The command."""
    leases = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(1 << 31)
    print(f"attack soak: {leases} leases from seed {seed}, {CLIENTS} clients, {PORTS} ports",
          flush=True)  # fmt: skip
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    rig = Rig()
    soak = Soak(rig, leases, seed)
    try:
        soak.run()
    finally:
        for pid in soak.clients:
            os.kill(pid, signal.SIGKILL)
        for pid in soak.clients:
            os.waitpid(pid, 0)
        soak.asker.close()
        soak.counts.close()
        soak.witness.poll.close()
        rig.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
