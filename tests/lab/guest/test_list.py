"""`ttybroker list` with real drivers.

It shows the line of a held port, with the driver's counts, and adapters that come and go.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from adapters import BY_ID, Adapters
from devices import direct
from figures import note
from lines import FAR, NEAR, far, receive
from service import ALICE, BOB, PATIENT, Service, flavour, locks, run, until
from support.children import Chat, Child
from support.waiting import wait_readable
from ttybroker import client, open_fd, open_tty
from ttybroker.facts import Line
from usbip import BREAK, DTR, FRAME, OVERRUN, PARITY, RTS, Chip

Row = dict[str, Any]
ERRORS = ("frame", "parity", "overrun", "break", "buffer overrun")
# What is sent once, twice, and so on: a break is a zero byte.
SENT = {
    "break": (BREAK, b"\0"),
    "frame": (FRAME, b"fr"),
    "parity": (PARITY, b"par"),
    "overrun": (OVERRUN, b"over"),
}
CYCLES = 5
SOON = 3000  # ms, on a slow machine


def hold(chat: Chat, name: str) -> None:
    """Have the port. Words: a number: read that many bytes; bytes: write them; a dict: settings."""
    with open_tty(name, 57600, bytesize=7, parity="O", stopbits=2, timeout=PATIENT) as port:
        chat.say()
        while (word := chat.hear(PATIENT)) is not None:
            if isinstance(word, dict):
                port.apply_settings(word)
                port.rts = False
            elif isinstance(word, bytes):
                port.write(word)
                port.flush()
            else:
                assert len(port.read(word)) == word
            chat.say()


def told(child: Child, word: object) -> None:
    """Tell the child, and wait until it is done."""
    child.say(word)
    child.hear(PATIENT)


def line(name: str) -> Row:
    """Return the port's line as a program gets it from `list`.

    The list does not wait for a device that does not answer in half a second.
    """
    found: list[Row] = []

    def look() -> object:
        with client.connect() as connection:
            (port,) = connection.ports((name,), details=True)
        found.extend(filter(None, [Line(dict(port.facts)).record()]))
        return found

    until("the device to answer", look)
    return found[-1]


def count(name: str) -> tuple[int, int, Row]:
    """Return bytes received and sent, and errors."""
    found = line(name)
    return found["received"], found["sent"], found["errors"]


@pytest.mark.bare  # the driver is the same in both
def test_the_line_is_what_the_driver_says_and_counts(
    broker: Service, wire: tuple[str, str, int]
) -> None:
    _, name, end = wire
    holder = broker.child(BOB, lambda chat: hold(chat, name))
    holder.hear(PATIENT)
    received, sent, errors = count(name)
    os.write(end, b"r" * 700)
    told(holder, 700)
    told(holder, b"s" * 300)
    receive(end, 300)
    until("all that was sent to be counted", lambda: count(name)[1] >= sent + 300)
    assert count(name) == (received + 700, sent + 300, errors)
    assert (line(name)["speed"], line(name)["frame"]) == (57600, "7O2")
    assert line(name)["lines"]["rts"] and line(name)["lines"]["dtr"]
    assert "  57600 7O2, no flow control; on: RTS DTR" in run(
        "ttybroker", "list", "--details", name
    )
    told(holder, {"baudrate": 28800, "parity": "N", "xonxoff": True})  # a speed without a number
    found = line(name)
    assert (found["speed"], found["frame"]) == (28800, "7N2")
    assert found["flow"] == "soft flow control"
    assert found["lines"]["dtr"] and not found["lines"]["rts"]


def breaks(name: str) -> int:
    return int(line(name)["errors"]["break"])


@pytest.mark.bare  # the driver is the same in both
def test_a_break_is_counted(broker: Service, adapters: Adapters) -> None:
    holder = broker.child(BOB, lambda chat: hold(chat, NEAR))
    holder.hear(PATIENT)
    before = breaks(NEAR)
    adapters.send_break(NEAR)
    told(holder, 1)
    assert breaks(NEAR) == before + 1


@pytest.mark.bare  # the driver is the same in both
def test_each_error_that_an_adapter_tells_of_is_counted(broker: Service, chip: Chip) -> None:
    """By one of our own. QEMU's tells of a break without the zero byte that comes with it, and the
    driver counts none without a byte (ftdi_process_packet() in ftdi_sio.c). It makes no errors, and
    QEMU's UARTs make none: so those of the 16550A are in tests/unit/test_facts.py alone."""
    holder = broker.child(BOB, lambda chat: hold(chat, chip.name))
    holder.hear(PATIENT)
    assert count(chip.name) == (0, 0, dict.fromkeys(ERRORS, 0))
    for times, (error, data) in enumerate(SENT.values(), 1):
        for _ in range(times):
            chip.send(data, error)
    chip.send(b"r" * 700)
    told(holder, b"s" * 300)
    errors = {**dict.fromkeys(ERRORS, 0), **{what: n for n, what in enumerate(SENT, 1)}}
    expected = (700 + 1 + 2 * 2 + 3 * 3 + 4 * 4, 300, errors)
    until("all to be counted", lambda: count(chip.name) == expected, told=lambda: line(chip.name))
    assert chip.written() == b"s" * 300
    words = run("ttybroker", "list", "--details", chip.name)
    assert "errors: 2 frame, 3 parity, 4 overrun, 1 break" in words
    assert "57600 7O2, no flow control; on: RTS DTR CTS DSR" in words
    assert chip.told() == {
        "speed": (0xC034, 0),  # a divisor of 52 1/8: ftdi_232bm_baud_base_to_divisor()
        "data": (2 << 11 | 1 << 8 | 7, 0),  # 7O2
        "flow": (0, 0),
        "lines": (DTR | RTS, 0),
        "latency": (16, 0),
    }


@pytest.mark.bare  # the driver is the same in both
def test_an_adapter_that_stops_answering_keeps_nobody_waiting(broker: Service, chip: Chip) -> None:
    """The driver waits 5 s for each answer: to a look, and when the settings are put back."""
    with direct(chip.name):
        pass
    before = chip.told()
    holder = broker.child(BOB, lambda chat: hold(chat, chip.name))
    holder.hear(PATIENT)
    chip.answer(False)
    asked = time.monotonic()
    with client.connect() as connection:
        (port,) = connection.ports((chip.name,), details=True)
    assert note("ms for details of a stalled adapter", 1000 * (time.monotonic() - asked)) < SOON
    assert port.holder is not None and not port.facts
    holder.kill()
    asked = time.monotonic()
    broker.child(ALICE, lambda _chat: os.close(open_fd("ttyS1"))).result()
    assert note("ms for a grant beside it", 1000 * (time.monotonic() - asked)) < SOON
    chip.answer(True)
    until("its lease to end", lambda: not locks(), told=broker.log)
    assert chip.told() == before


@contextmanager
def watched(*words: str) -> Iterator[Callable[[], list[Row]]]:
    """Start `ttybroker list --watch --json`; yield a function that returns its next line."""
    command = ["ttybroker", "list", "--watch", "--json", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output, rest = process.stdout.fileno(), [b""]

        def following() -> list[Row]:
            while b"\n" not in rest[0]:
                wait_readable(output, "a line", PATIENT)
                rest[0] += os.read(output, 65536)
            first, rest[0] = rest[0].split(b"\n", 1)
            found: list[Row] = json.loads(first)
            return found

        try:
            yield following
        finally:
            process.kill()


def seen(following: Callable[[], list[Row]], holds: Callable[[dict[str, Row]], object]) -> float:
    """Read until it is so; return the time, in seconds of the epoch."""
    while not holds({row["port"]: row for row in following()}):
        pass
    return time.time()


@pytest.mark.bare  # the driver is the same in both
def test_who_watches_sees_bytes_and_breaks_as_they_come(
    broker: Service, adapters: Adapters
) -> None:
    end = far(FAR)
    holder = broker.child(BOB, lambda chat: hold(chat, NEAR))
    holder.hear(PATIENT)
    with watched("--details", NEAR) as following:
        while (before := following()[0]["line"]) is None:
            pass
        os.write(end, b"r" * 500)
        told(holder, 500)
        adapters.send_break(NEAR)
        told(holder, 1)
        rates = []

        def counted(rows: dict[str, Row]) -> object:
            if (now := rows[NEAR]["line"]) is None:
                return False
            rates.append(now["received_per_second"] or 0)
            return now["received"] >= before["received"] + 500 and (
                now["errors"]["break"] == before["errors"]["break"] + 1
            )

        seen(following, counted)
        assert max(rates) > 0
    os.close(end)


def test_who_watches_sees_an_adapter_come_and_go(broker: Service, adapters: Adapters) -> None:
    """The time from the name on is printed.

    tests/unit/test_watches.py shows that this is by events, and not by the look that there is every
    two seconds.
    """
    meant = "link" if flavour() == "systemd" else "kernel"
    link = BY_ID.format("WATCH1")
    if meant == "link":
        broker.policy(f'[[rule]]\nport = "board"\ndevice = "{link}"\nallow = ["alice"]\n')
    name = "board" if meant == "link" else "ttyUSB0"
    with watched() as following:
        following()
        for _ in range(CYCLES):
            node = adapters.plug(2, "WATCH1")
            at = seen(following, lambda rows: name in rows and rows[name]["state"] == "free")
            there = link if meant == "link" else f"/dev/{node}"
            took = 1000 * (at - os.lstat(there).st_ctime)
            note(f"ms from the name until it is in the watched list, {meant}", took)
            adapters.unplug(2)
            until("it to be gone", lambda there=there: not os.path.lexists(there))
            gone = time.time()
            at = seen(following, lambda rows: name not in rows or rows[name]["state"] == "gone")
            took = 1000 * (at - gone)
            note(f"ms from its end until it is not in the watched list, {meant}", took)
