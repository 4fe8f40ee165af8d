"""What people would use instead, side by side: other ways to start a program on a port, other
ways to have one open, and services that pass a descriptor as the broker does.

It needs programs of others, so it runs only where it is named: make bench TOPICS=peers.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import figures
from bench.build import HERE, Bench, Build, children, end_children, run
from bench.figures import MICROSECONDS, Row
from bench.memory import private
from bench.rig import USER, Rig, Talk, end, rigs, wait_until

STARTS = 25
OPENS = 200
TURNS = 20
BOOTS = 10
PORTS = 8
DAEMON = Path("/run/ttybroker/socket")
MILLISECONDS = 1e3
# What they may cost over plain, by what they cost when the round began: 45 of 57 ms, 60 of 100.
LAUNCHERS = {"ttybroker run": 0.79, "ttyrun": 0.60}
PYTHON_PEERS = 1.5  # times as long as the broker: at least
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/>
<allow receive_sender="*"/></policy></busconfig>
"""


def rows(bench: Bench) -> list[Row]:
    """Return the rows: starts over plain, opens and services in turn, revoke, memory."""
    with rigs(bench.builds, PORTS) as each, contextlib.ExitStack() as stack:
        for rig in each.values():
            rig.socket = DAEMON  # where ttyrun looks for it, in the namespace of this build
            rig.build.install_policy(rig.policy.read_text())  # the old ttyrun asks no daemon
            rig.start()
        rig = each["new"]
        services = _Services(bench, rig.build, rig, stack)
        return [*_starts(each), *_opens(rig), *_services(rig, services), *_hand_over(rig),
                *_memory(rig, services), *_first_grants(rig, services)]  # fmt: skip


def _talk(
    build: Build, stack: contextlib.ExitStack, *words: str, uid: int = 0, ready: bool = False
) -> Talk:
    """Start a process that ends with the stack. ready: wait until it says so."""
    talk = Talk(build, *words, uid=uid)
    stack.callback(talk.close)
    if ready:
        talk.expect_ready()
    return talk


class _Services:
    """A bus with two services that pass descriptors, and a client of each."""

    def __init__(self, bench: Bench, build: Build, rig: Rig, stack: contextlib.ExitStack) -> None:
        path, settings = rig.base / "bus", rig.base / "bus.conf"
        settings.write_text(BUS.format(path=path))
        program = rig.base / "bus_service"
        flags = run(["pkg-config", "--cflags", "--libs", "libsystemd"], "pkg-config").split()
        run(["gcc", "-O2", "-o", program, HERE / "bus_service.c", *flags], "bus_service")
        daemon = build.start("dbus-daemon", "--nofork", f"--config-file={settings}")
        stack.callback(end, daemon)
        wait_until(path.exists, "the bus")
        address = f"unix:path={path}"
        devices = [device for _, device in rig.ptys]

        python = (sys.executable, "-I", str(HERE / "bus.py"))
        arguments = (address, "0", *devices)
        self._build = build
        self._running: dict[str, Talk] = {}
        self._words = {"C": (str(program), *arguments), "Python": (*python, "service", *arguments)}
        for name in self._words:
            self.start(name)
            stack.callback(self.stop, name)
        self.clients = {
            name: _talk(build, stack, *python, "client", address, f"bench.{name}", ready=True)
            for name in self._words
        }

    def start(self, name: str) -> None:
        """Start a service and wait until it is ready."""
        talk = self._running[name] = Talk(self._build, *self._words[name])
        talk.expect_ready()

    def stop(self, name: str) -> None:
        """End a service."""
        self._running.pop(name).close()

    def pid(self, name: str) -> int:
        """Return the process of a service."""
        return self._running[name].process.pid


def _starts(each: dict[str, Rig]) -> list[Row]:
    """picocom from its start to its end, which comes as soon as it has set up the port."""
    new = each["new"]
    words = _picocom(new)
    jobs = {
        "plain": _start(new, words, 0),
        "sudo": _start(new, ["sudo", "-n", *words], 0),
        "sg dialout": _start(new, ["sg", "dialout", "-c", " ".join(words)], 0),
    }
    for name, rig in each.items():
        ours = ["p0", "--", *_picocom(rig)]
        commands = rig.build.commands
        jobs[f"ttybroker run {name}"] = _start(
            rig, [str(commands / "ttybroker"), "run", *ours], USER
        )
        jobs[f"ttyrun {name}"] = _start(rig, [str(commands / "ttyrun"), *ours], USER)
    figures.interleave(1, jobs)  # warm
    spent = figures.interleave(STARTS, jobs)
    plain = spent["plain"]
    found = [Row("picocom, plain", figures.median(plain) * MILLISECONDS, unit="ms")]
    for name in ("sudo", "sg dialout"):
        found.append(
            figures.middle(f"{name} over plain", _over(plain, spent[name]), None, unit="ms")
        )
    for name, limit in LAUNCHERS.items():
        more, *old = (_over(plain, spent[f"{name} {build}"]) for build in each)
        before = figures.median(old[0]) if old else None
        found.append(figures.middle(f"{name} over plain", more, None, unit="ms", old=before))
        if old:
            found.append(figures.ratio(f"{name} over plain: new/old", more, old[0], limit))
    return found


def _picocom(rig: Rig) -> list[str]:
    return ["picocom", "-q", "--exit", rig.ptys[0][1]]


def _over(plain: list[float], spent: list[float]) -> list[float]:
    """By how many milliseconds these are longer, pair by pair."""
    return [(a - b) * MILLISECONDS for a, b in zip(spent, plain, strict=True)]


def _start(rig: Rig, command: list[str], uid: int) -> Callable[[], float]:
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(rig.base),
        "LANG": "C.UTF-8",
        "TTYBROKER_SOCKET": str(rig.socket),
    }

    def start() -> float:
        known, before = children(), time.perf_counter()
        process = rig.build.start(*command, uid=uid, env=environment, stdout=subprocess.DEVNULL)
        status = process.wait()
        spent = time.perf_counter() - before
        end_children(known)
        rig.settled()
        if status != 0:
            raise RuntimeError(f"{command} ended with {status}")
        return spent

    return start


def _opens(rig: Rig) -> list[Row]:
    """A port as an object of pyserial's, opened and closed: by the broker and by its path."""
    with contextlib.ExitStack() as stack:
        openers = {kind: _opener(rig, stack, kind) for kind in ("open_tty", "serial")}
        names = {"open_tty": "p1", "serial": rig.ptys[2][1]}

        def job(kind: str) -> Callable[[], float]:
            return lambda: _open_and_close(rig, openers[kind], names[kind])

        jobs = {kind: job(kind) for kind in openers}
        figures.interleave(3, jobs)
        spent = figures.interleave(OPENS // 4, jobs)
    micros = {kind: figures.median(times) * MICROSECONDS for kind, times in spent.items()}
    return [
        Row("open_tty, its connection included", micros["open_tty"], unit="µs"),
        Row("serial.Serial, which checks and locks nothing", micros["serial"], unit="µs"),
    ]


def _opener(rig: Rig, stack: contextlib.ExitStack, kind: str, uid: int = 0) -> Talk:
    words = (str(HERE / "opener.py"), str(rig.build.code), kind, str(rig.socket))
    # pyserial is in the environment, which is root's.
    python = rig.build.python() if kind == "open_fd" else [sys.executable, "-I"]
    return _talk(rig.build, stack, *python, *words, uid=uid)


def _open_and_close(rig: Rig, opener: Talk, name: str) -> float:
    _, spent = json.loads(opener.answer(name))
    opener.answer("")
    rig.settled()
    return float(spent)


def _services(rig: Rig, services: _Services) -> list[Row]:
    """A descriptor from a service that is connected, one call at a time."""
    with contextlib.ExitStack() as stack:
        ours = _opener(rig, stack, "open_fd")
        jobs: dict[str, Callable[[], float]] = {
            "ours": lambda: _open_and_close(rig, ours, "p3"),
            "C": lambda: float(services.clients["C"].answer(4)),
            "Python": lambda: float(services.clients["Python"].answer(5)),
        }
        figures.interleave(3, jobs)
        spent = figures.interleave(OPENS, jobs)
    ours_us = figures.median(spent["ours"]) * MICROSECONDS
    python, c = "a D-Bus service in Python (dbus-fast)", "a D-Bus service in C (sd-bus)"
    return [
        Row("a descriptor from the broker, connected", ours_us, unit="µs"),
        figures.ratio(f"{python} / the broker", spent["Python"], spent["ours"], PYTHON_PEERS,
                      at_least=True),
        figures.ratio(f"{c} / the broker", spent["C"], spent["ours"], None),
    ]  # fmt: skip


def _hand_over(rig: Rig) -> list[Row]:
    """From one holder to the next, who waits: the first closes it, or root revokes it."""
    with contextlib.ExitStack() as stack:
        # Of two users: what is revoked is revoked for all that its user asks for just then.
        holders = [_opener(rig, stack, "open_fd", uid) for uid in (USER, USER + 1)]
        found: dict[str, list[float]] = {"closed": [], "revoked": []}
        for how in [*found] * TURNS:
            first, second = holders
            first.answer("p6")
            with _waiting(rig, second, "p6"):
                closed = how == "closed"
                began = json.loads(first.answer(""))[0] if closed else _revoke(rig, "p6")
                had = json.loads(second.hear())[0]
            found[how].append((had - began) * MILLISECONDS)
            for holder in holders:
                holder.answer("")
            rig.settled()
    return [
        figures.middle(f"{how} until the next in the queue has it", times, None, unit="ms")
        for how, times in found.items()
    ]


@contextlib.contextmanager
def _waiting(rig: Rig, opener: Talk, name: str) -> Iterator[None]:
    """Have it wait for the port: it does once the list says so."""
    opener.say(name)
    wait_until(lambda: rig.row(name)["waiting"] > 0, "the queue")
    yield


def _revoke(rig: Rig, name: str) -> float:
    """Revoke it as root; when that was asked for."""
    script = ("import sys, time; sys.path.append(sys.argv[1])\n"
              "from ttybroker.client import connect\nbroker = connect(sys.argv[2])\n"
              "print(time.monotonic()); broker.revoke(sys.argv[3])")  # fmt: skip
    arguments = (str(rig.build.code), str(rig.socket), name)
    return float(rig.build.call(sys.executable, "-I", "-c", script, *arguments))


def _memory(rig: Rig, services: _Services) -> list[Row]:
    """Private to each process that goes on."""
    pids = {"the broker": rig.pid, "the D-Bus service in Python": services.pid("Python"),
            "the D-Bus service in C": services.pid("C")}  # fmt: skip
    return [Row(f"memory, private: {name}", private(pid) / 1024, unit="MB")
            for name, pid in pids.items()]  # fmt: skip


def _first_grants(rig: Rig, services: _Services) -> list[Row]:
    """From the start of a service until it has given a port, as it is after a boot."""
    client = rig.client()

    def ours() -> float:
        rig.kill()
        for plan in DAEMON.parent.glob("plan.*"):  # /run is empty after a boot
            plan.unlink()
        began = time.perf_counter()
        rig.start()
        client.ask("first", "p7")
        spent = time.perf_counter() - began
        client.ask("let_go")
        rig.settled()
        return spent

    def bus(name: str) -> Callable[[], float]:
        def start() -> float:
            services.stop(name)
            began = time.perf_counter()
            services.start(name)
            services.clients[name].answer(7)
            return time.perf_counter() - began

        return start

    jobs = {"the broker": ours} | {
        f"the D-Bus service in {name}": bus(name) for name in services.clients
    }
    spent = figures.interleave(BOOTS, jobs)
    return [
        figures.middle(f"the first start until a port is given: {name}",
                       [seconds * MILLISECONDS for seconds in times], None, unit="ms")
        for name, times in spent.items()
    ]  # fmt: skip
