"""The example of ser2net as systemd runs it: RFC 2217 carries what a port has beside its bytes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import serial
import serial.rfc2217

from devices import direct
from figures import note
from lines import lines, loop
from service import ALICE, BOB, PATIENT, Service, run, until
from support.children import Chat, Child
from usbip import CTS, DCD, DSR, DTR, RI, RTS, SET_BREAK, Chip

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(240)]

EXAMPLE = Path("/project/packaging/examples/ser2net")
UNIT = "ser2net-board.service"
POLICY = Path("/etc/ttybroker/policy.d/ser2net.toml")
DEVICE = "/dev/serial/by-id/usb-ttybroker_USB_IP_FT232R_EMULATED1-if00-port0"
URL = f"rfc2217://localhost:2217?timeout={PATIENT:.0f}"
LABEL = "TCP port 2217"
UART = "ttyS1"
SAID = "dev read error for device on port board: Remote end closed connection"
FREE = 1.0  # seconds from the end of the service until the port is free
# What the driver tells the chip: its divisors, as in ftdi_sio.h; data bits and parity.
SPEEDS = {9600: 0x4138, 19200: 0x809C, 115200: 0x001A}
SEVEN_EVEN, EIGHT_NONE = 0x0207, 0x0008
INPUTS = {"cts": CTS, "dsr": DSR, "ri": RI, "cd": DCD}


@pytest.fixture(scope="module")
def _installed(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the example as its own comments say, for the adapter that a test answers for."""
    place = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, place, dirs_exist_ok=True)
    policy = place / "policy.toml"
    policy.write_text(policy.read_text().replace("/dev/serial/by-id/...", DEVICE))
    steps = re.findall(r"^#   (.*)$", (place / UNIT).read_text(), re.MULTILINE)
    assert "disable" in steps[0] and f"systemctl enable --now {UNIT[:-8]}" in steps
    for step in steps[1:]:  # the image has disabled Debian's own, which takes long
        run("sh", "-c", f"cd {place} && {step}")
    yield
    run("systemctl", "disable", "--now", UNIT)
    state = run("systemctl", "show", "--value", "-p", "ActiveState", UNIT)
    Path("/etc/systemd/system", UNIT).unlink()
    POLICY.unlink()
    run("systemctl", "daemon-reload")
    run("groupdel", "ser2net")
    service.reload()
    assert state == "inactive"  # and not "failed"


@pytest.fixture
def example(broker: Service, _installed: None) -> None:
    """The example is installed, and serves."""


@pytest.fixture
def uart(broker: Service, example: None) -> Iterator[None]:
    """The example has a UART in place of the adapter."""
    before = POLICY.read_text()
    POLICY.write_text(before.replace(DEVICE, f"/dev/{UART}"))
    broker.reload()
    try:
        yield
    finally:
        POLICY.write_text(before)
        broker.reload()


def log() -> str:
    """Return what the service has said."""
    return run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT)


def taken(broker: Service) -> bool:
    return broker.port("board").holder is not None


def let_go(broker: Service) -> bool:
    return not any(port.name == "board" for port in broker.held())


@contextmanager
def remote(broker: Service) -> Iterator[Child]:
    """Start a client at the other end of the network, who has no right to anything here.

    Say what to set, and hear when that is done: a dict of pyserial's properties. Say their names,
    and hear them. Say bytes to write, or a number of bytes to read. It says what ended it.
    """

    def talk(chat: Chat) -> None:
        with connected() as port:
            chat.say("connected")
            while (word := chat.hear()) is not None:
                if isinstance(word, dict):
                    port.apply_settings(word)
                    for name in word.keys() & {"dtr", "rts", "break_condition"}:
                        # ser2net 4.3.11 answers the end of a break with the word for its start.
                        with suppress(ValueError):
                            setattr(port, name, word[name])
                    chat.say()
                elif isinstance(word, tuple):
                    chat.say(tuple(getattr(port, name) for name in word))
                elif isinstance(word, bytes):
                    port.write(word)
                else:
                    chat.say(port.read(word))

    child = broker.child(BOB, talk)
    assert child.hear(PATIENT) == "connected"
    try:
        yield child
    finally:
        child.kill()


def connected() -> serial.SerialBase:
    """Return a connection, when the service listens."""
    end = time.monotonic() + PATIENT
    while True:
        try:
            return serial.serial_for_url(URL, 115200, timeout=PATIENT)
        except serial.SerialException:
            assert time.monotonic() < end, log()
            time.sleep(0.1)


def told(client: Child, **what: object) -> None:
    """Have the client set this."""
    client.say(what)
    client.hear(PATIENT)


def asked(client: Child, *names: str) -> tuple[object, ...]:
    """Return these of the client's properties."""
    client.say(names)
    values: tuple[object, ...] = client.hear(PATIENT)
    return values


def sees(client: Child, **wanted: bool) -> None:
    """Wait until these of the client's properties are so."""
    until(f"{wanted}", lambda: asked(client, *wanted) == tuple(wanted.values()))


def hears(chip: Chip, kind: str, value: int) -> None:
    until(f"{kind} {value:#x}", lambda: chip.told()[kind][0] == value, told=chip.told)


@pytest.mark.usefixtures("example")
def test_what_a_remote_client_sets_arrives_and_what_the_device_reports_too(
    broker: Service, chip: Chip
) -> None:
    with remote(broker) as client:
        holder = broker.port("board").holder
        assert holder is not None and holder.label == LABEL and 61184 <= holder.uid <= 65519
        hears(chip, "lines", DTR | RTS)
        for dtr, rts in ((False, True), (False, False), (True, False), (True, True)):
            told(client, dtr=dtr, rts=rts)
            hears(chip, "lines", DTR * dtr | RTS * rts)
        for names in (("cts",), ("dsr",), ("ri",), ("cd",), ("cts", "cd"), ()):
            chip.report(sum(INPUTS[name] for name in names))
            sees(client, **{name: name in names for name in INPUTS})
        for speed, divisor in SPEEDS.items():
            told(client, baudrate=speed)
            hears(chip, "speed", divisor)
        told(client, bytesize=7, parity="E")
        hears(chip, "data", SEVEN_EVEN)
        told(client, bytesize=8, parity="N")
        hears(chip, "data", EIGHT_NONE)
        told(client, break_condition=True)
        hears(chip, "data", EIGHT_NONE | SET_BREAK)
        told(client, break_condition=False)
        hears(chip, "data", EIGHT_NONE)
        client.say(b"to the device\xff\0")
        until("the bytes", lambda: chip.written() == b"to the device\xff\0", told=chip.written)
        chip.send(b"from the device\xff\0")
        client.say(17)
        assert client.hear(PATIENT) == b"from the device\xff\0"
    until("the port to be free", lambda: let_go(broker))
    hears(chip, "lines", 0)
    trace = Path("/var/log/ser2net/board.log").read_bytes()
    assert b"to the device" in trace and b"from the device" in trace


@pytest.mark.usefixtures("uart")
def test_the_lines_of_a_uart_that_is_looped(broker: Service) -> None:
    """Its driver's own: RTS is CTS there, and DTR is DSR."""
    with remote(broker) as client, direct(UART) as fd:
        loop(fd)
        for dtr, rts in ((False, True), (True, False), (False, False), (True, True)):
            told(client, dtr=dtr, rts=rts)
            sees(client, dsr=dtr, cts=rts)
            assert ("DTR" in lines(UART), "RTS" in lines(UART)) == (dtr, rts)
    until("the port to be free", lambda: let_go(broker))


@pytest.mark.usefixtures("example", "chip")
def test_a_local_user_reads_for_whom_it_is_held(broker: Service) -> None:
    term = ["runuser", "-u", "alice", "--", "ttybroker", "term", "board"]
    with remote(broker):
        refused = subprocess.run(term, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
                                 text=True, timeout=PATIENT)  # fmt: skip
        assert refused.returncode == 1
        assert re.search(rf"with ser2net \(pid \d+\) for '{LABEL}'", refused.stderr), refused
    until("the port to be free", lambda: let_go(broker))
    holder = broker.holder(ALICE, "board")
    holder.say()
    holder.hear()


@pytest.mark.usefixtures("example", "chip")
@pytest.mark.parametrize("whom", ["main", "all"])
def test_a_service_that_is_killed_leaves_its_port_free(broker: Service, whom: str) -> None:
    with remote(broker):
        assert taken(broker)
        run("systemctl", "kill", f"--kill-who={whom}", "--signal=KILL", UNIT)
        took = until("the port to be free", lambda: let_go(broker))
        assert note(f"s from the kill of ser2net's service ({whom}) to its port free", took) < FREE
    with remote(broker):  # as Restart= does
        assert taken(broker)


@pytest.mark.usefixtures("example", "chip")
def test_a_revoke_ends_the_clients_connection_and_the_service_says_so(broker: Service) -> None:
    with remote(broker) as client:
        was = run("systemctl", "show", "--value", "-p", "MainPID", UNIT)
        run("ttybroker", "revoke", "board")
        client.say(1)
        with pytest.raises(serial.SerialException):
            client.hear(PATIENT)
        until("the port to be free", lambda: let_go(broker))
        until("the service to say so", lambda: SAID in log(), told=log)
    with remote(broker):
        assert run("systemctl", "show", "--value", "-p", "MainPID", UNIT) == was


@pytest.mark.usefixtures("example")
def test_an_adapter_that_is_unplugged_is_let_go_and_serves_again(
    broker: Service, chip: Chip
) -> None:
    with remote(broker) as client:
        chip.pull()
        until("the port to be free", lambda: let_go(broker))
        client.say(1)
        with pytest.raises(serial.SerialException):
            client.hear(PATIENT)
    chip.plug()
    until("its name", lambda: os.path.exists(DEVICE))
    with remote(broker) as client:
        hears(chip, "lines", DTR | RTS)
