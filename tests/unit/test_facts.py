"""What a line is like: as the kernel says it, over the wire, and in words."""

from __future__ import annotations

import errno
import os
import re
import struct
import termios
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from support.processes import ROOT
from ttybroker import listing, wire
from ttybroker.facts import Line
from ttybroker.wire import PortInfo
from ttybrokerd.root import facts
from ttybrokerd.root.facts import Facts
from ttybrokerd.root.report import Listed

CFLAG = termios.CS8 | termios.CREAD
CRTSCTS, CMSPAR = 0x80000000, 0x40000000


def attributes(speed: int, cflag: int, iflag: int = 0) -> bytes:
    """A struct termios2: asm-generic/termbits.h."""
    return struct.pack("4I20x2I", iflag, 0, cflag, 0, speed, speed)


def counters(*numbers: int) -> bytes:
    """A struct serial_icounter_struct from its member rx on: linux/serial.h."""
    return struct.pack("20i", 91, 92, 93, 94, *numbers, *[0] * (16 - len(numbers)))


def test_the_kernels_structures_become_facts() -> None:
    found = dict(facts.of_attributes(attributes(31250, CFLAG, termios.IXON)))
    assert found == {wire.SPEED: 31250, wire.CFLAG: CFLAG, wire.IFLAG: termios.IXON}
    assert dict(facts.of_lines(struct.pack("i", termios.TIOCM_RTS))) == {wire.LINES: 4}
    # rx, tx, frame, overrun, parity, brk, buf_overrun
    found = dict(facts.of_counters(counters(1, 2, 3, 4, 5, 6, 7)))
    assert found == {wire.RECEIVED: 1, wire.SENT: 2, wire.FRAME: 3, wire.OVERRUN: 4,
                     wire.PARITY: 5, wire.BREAK: 6, wire.BUFFER_OVERRUN: 7}  # fmt: skip
    assert dict(facts.of_counters(counters(-1)))[wire.RECEIVED] == 0xFFFFFFFF


@pytest.mark.parametrize(
    ("cflag", "frame"),
    [
        (CFLAG, "8N1"),
        (termios.CS7 | termios.PARENB, "7E1"),
        (CFLAG | termios.PARENB | termios.PARODD | termios.CSTOPB, "8O2"),
        (CFLAG | termios.PARENB | CMSPAR, "8S1"),
        (CFLAG | termios.PARENB | termios.PARODD | CMSPAR, "8M1"),
        (termios.CS5, "5N1"),
    ],
)
def test_a_frame_is_told_as_people_write_it(cflag: int, frame: str) -> None:
    assert Line({wire.CFLAG: cflag}).frame() == frame


def test_a_whole_line_is_told_with_what_is_new() -> None:
    bits = termios.TIOCM_RTS | termios.TIOCM_DTR | termios.TIOCM_CAR
    now = dict((*facts.of_attributes(attributes(115200, CFLAG | CRTSCTS, termios.IXOFF)),
                *facts.of_lines(struct.pack("i", bits)),
                *facts.of_counters(counters(1500, 300, 7, 0, 2, 1, 0))))  # fmt: skip
    before = {**now, wire.RECEIVED: 500, wire.SENT: 0xFFFFFFFE, wire.FRAME: 4}
    line = Line(now, before, 2.0)
    assert line.words() == (
        "115200 8N1, hard and soft flow control; on: RTS DTR CD; in 500 B/s, out 151 B/s; "
        "errors: 7 frame (3 new), 2 parity, 1 break"
    )
    assert line.record() == {
        "speed": 115200,
        "frame": "8N1",
        "flow": "hard and soft flow control",
        "lines": {"rts": True, "dtr": True, "cts": False, "dsr": False, "cd": True, "ri": False},
        "received": 1500,
        "sent": 300,
        "received_per_second": 500.0,
        "sent_per_second": 151.0,
        "errors": {"frame": 7, "parity": 2, "overrun": 0, "break": 1, "buffer overrun": 0},
    }


def test_what_a_device_does_not_tell_is_left_out() -> None:
    line = Line(dict(facts.of_attributes(attributes(9600, CFLAG))))
    assert line.words() == "9600 8N1, no flow control"
    record = line.record()
    assert record is not None and record["errors"] is record["lines"] is record["sent"] is None
    assert Line({}).words() == "" and Line({}).record() is None


class Workers:
    """Runs a job when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []

    def submit(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        self.jobs.append((job, then))

    def run(self, number: int) -> None:
        job, then = self.jobs.pop(number)
        then(job())


class Lease:
    """A port's device number and the broker's descriptor."""

    uid = 1001

    def __init__(self, key: int, own_fd: int) -> None:
        self.key, self.own_fd = key, own_fd


class Looks:
    """Facts, the leases that are held, the clock, and what lists were told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.workers = 10.0, Workers()
        self.leases: list[Lease] = []
        self.told: list[dict[int | None, Any]] = []
        monkeypatch.setattr(facts, "time", SimpleNamespace(monotonic=lambda: self.clock))
        place: Any = SimpleNamespace(submit=self.workers.submit, held=lambda: self.leases)
        self.facts = Facts(place, place)

    def ask(self, *leases: Lease) -> None:
        """List the ports of these leases, which are held now."""
        self.leases = list(leases)
        rows = [Listed(one.key, wire.PortInfo("p", "/dev/p", "busy", "")) for one in leases]

        def then() -> None:
            self.told.append({row.rdev: row.port.facts for row in rows if row.port.facts})

        self.facts.fill_in(rows, Lease.uid, False, then)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def test_a_line_that_does_not_answer_keeps_nobody(looks: Looks) -> None:
    """Neither the list that asks for it, nor the next one; and it costs one worker."""
    workers, told = looks.workers, looks.told
    master, slave = os.openpty()
    stuck, good = Lease(1, slave), Lease(2, slave)
    open_before = os.listdir("/proc/self/fd")
    for number in (1, 2):
        looks.ask(stuck, good)
        assert len(workers.jobs) == 2  # the stuck one's, and another
        workers.run(-1)
        assert len(told) == number - 1
        assert looks.facts.tick() == facts.PATIENCE
        looks.clock += facts.PATIENCE
        assert looks.facts.tick() is None
        assert set(told[-1]) == {2} and wire.SPEED in dict(told[-1][2])
    workers.run(0)  # at last
    assert len(told) == 2
    looks.ask(stuck)
    workers.run(0)
    assert set(told[-1]) == {1}
    assert os.listdir("/proc/self/fd") == open_before
    os.close(master)
    os.close(slave)


def test_a_device_is_looked_at_once_at_a_time_whosever_it_is_meanwhile(looks: Looks) -> None:
    workers, told = looks.workers, looks.told
    master, slave = os.openpty()
    looks.ask(Lease(1, slave))
    looks.ask(Lease(1, slave))
    assert len(workers.jobs) == 1 and told == [{}]  # the second lease gets nothing of the first
    workers.run(0)
    assert len(told) == 2 and told[1]
    os.close(master)
    os.close(slave)


def test_a_look_for_which_there_is_no_descriptor_ends_no_list(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dup(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(facts.os, "dup", dup)
    looks.ask(Lease(1, 0))
    assert looks.told == [{}] and not looks.workers.jobs


def test_of_a_port_that_is_hung_up_there_is_nothing_to_tell() -> None:
    master, slave = os.openpty()
    os.close(master)
    assert facts._read(slave) == ()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(slave)


def test_every_fact_is_on_the_page_of_the_protocol_and_is_shown() -> None:
    page = " ".join((ROOT / "docs" / "protocol.md").read_text().split())
    text = page.partition("The facts of a row: ")[2].partition(" A client gets")[0]
    assert [int(n) for n in re.findall(r"(?:^|, )(\d+) ", re.sub(r"\(.*?\)", "", text))] == [
        *wire.FACTS
    ], "docs/protocol.md, 'The facts of a row'"

    def shown(facts: dict[int, int]) -> dict[str, object]:
        port = PortInfo("ttyS0", "/dev/ttyS0", "busy", "", facts=tuple(facts.items()))
        return listing.record(port, {"ttyS0": Line(facts)})

    known = dict.fromkeys(wire.FACTS, 0xFFFFFFFF)
    for fact in wire.FACTS:
        without = {number: value for number, value in known.items() if number != fact}
        assert shown(without) != shown(known), f"`list --json` does not show fact {fact}"
