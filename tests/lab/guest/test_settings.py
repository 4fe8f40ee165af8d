"""The settings of a lease do not outlive it.

Whatever a holder sets, and however the lease ends, the next holder and everybody else find the port
as it was before: on a UART and on an FTDI. A pty hides half of this.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters import Adapters
from devices import (
    EVERYTHING,
    FOUND,
    LOW_LATENCY,
    N_NULL,
    N_PPP,
    TIOCVHANGUP,
    Act,
    all_of,
    broken,
    by_lines,
    cases,
    direct,
    discipline,
    exclusive,
    look,
    nothing,
    odd,
    output,
    sends,
    serial_flags,
    set_anew,
    state,
    without_hupcl,
)
from figures import note
from lines import LONE, TIOCM_LOOP, far, raw, swallow
from service import ALICE, BOB, Service, run, until
from support.children import Chat, Child
from ttybroker import PortBusy, client, open_fd
from usbip import SET_BREAK, Chip

UART = LONE
PL011 = "ttyAMA0"
BOARDS = ["PL011"] if os.uname().machine == "aarch64" else []
ADAPTER = 2
LIMITED = """\
[[rule]]
port = "ttyS*"
allow = ["bob"]
max_lease = 2

[[rule]]
port = "ttyUSB*"
allow = ["bob"]
max_lease = 2

[[rule]]
port = "ttyAMA*"
allow = ["bob"]
max_lease = 2
"""


@pytest.fixture(params=["UART", "FTDI", *BOARDS])
def port(request: pytest.FixtureRequest, adapters: Adapters) -> Iterator[tuple[str, str]]:
    """Return a port's kind and its name."""
    if request.param == "FTDI":
        yield "FTDI", adapters.plug(ADAPTER)
    else:
        name = {"UART": UART, "PL011": PL011}[request.param]
        before = state(name)
        yield request.param, name
        set_anew(name, before, nothing)


def holder(broker: Service, name: str, act: Act, uid: int = BOB) -> Child:
    """Have the port, do `act`, and say so. A word makes it close the port and live on."""

    def hold(chat: Chat) -> None:
        with client.connect() as connection:
            fd = connection.open(name, wait=30)
        act(fd)
        chat.say()
        chat.hear(600)
        os.close(fd)
        chat.say()
        chat.hear(600)

    child = broker.child(uid, hold)
    child.hear(60)
    return child


def in_order(broker: Service, name: str) -> None:
    """Wait until the last lease has ended completely: its lock goes last."""
    lock = Path(f"/run/lock/LCK..{name}")
    until(f"{name} to be in order", lambda: not lock.exists(), told=broker.log)


def close(broker: Service, child: Child, _name: str) -> None:
    child.say()
    child.hear()


def kill(broker: Service, child: Child, _name: str) -> None:
    child.kill()


def revoke(broker: Service, child: Child, name: str) -> None:
    keep(broker, child, name)
    close(broker, child, name)


def keep(_broker: Service, _child: Child, name: str) -> None:
    """Revoke it; the dead descriptor stays open."""
    with client.connect() as connection:
        connection.revoke(name)


def limit(broker: Service, _child: Child, name: str) -> None:
    """Let the rule's time pass; the dead descriptor stays open."""
    until("the limit", lambda: not broker.held(), told=broker.log)


def hang_up(_broker: Service, _child: Child, name: str) -> None:
    """Let somebody else hang it up, as a getty would; the dead descriptor stays open."""
    with direct(name) as fd:
        fcntl.ioctl(fd, TIOCVHANGUP)


@pytest.mark.bare  # the drivers are the same in the other flavour, and this takes minutes
@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", [close, kill, revoke, keep, limit, hang_up])
def test_a_port_is_found_as_it_was_before_the_last_lease(
    broker: Service, port: tuple[str, str], end: Callable[[Service, Child, str], None]
) -> None:
    """Root finds it so, without the broker, and so does the next holder."""
    kind, name = port
    if end is limit:
        broker.policy(LIMITED)
    booted = state(name)
    said = len(broker.log())
    wrong = []
    for how, prepare, what, act in cases(kind):
        set_anew(name, booted, prepare)
        with direct(name) as fd:
            before = look(fd)
        child = holder(broker, name, act)
        end(broker, child, name)
        in_order(broker, name)
        with direct(name) as fd:
            after = {"root": look(fd)}
        after["alice"] = broker.child(ALICE, lambda _chat: next_holders(name)).result(60)
        if after["alice"].pop("sends") is not True:
            wrong.append(f"{how}, {what}: stopped")
        for who, sees in after.items():
            wrong += [
                f"{how}, {what}, {who}: {key} {before[key]} -> {sees[key]}"
                for key in before
                if before[key] != sees[key]
            ]
        child.kill()
        in_order(broker, name)
    note(f"states of a {kind} by {end.__name__}", len(cases(kind)))
    set_anew(name, booted, nothing)
    assert not wrong, "\n".join(wrong)
    assert "settings-failed" not in broker.log()[said:]


@pytest.mark.bare  # the driver is the same in both
@pytest.mark.parametrize("end", [close, kill, keep, hang_up])
def test_an_adapter_is_told_again_what_it_was_told_before_the_lease(
    broker: Service, chip: Chip, end: Callable[[Service, Child, str], None]
) -> None:
    """By the adapter's word: the driver keeps what it was set to, told or not."""
    usual, unusual = FOUND["FTDI"].values()
    everything = all_of(odd, by_lines)
    for prepare, act in (
        (usual, all_of(everything, serial_flags(LOW_LATENCY))),
        (unusual, all_of(everything, serial_flags(0))),
        (nothing, broken),
    ):
        with direct(chip.name) as fd:
            prepare(fd)
        before = chip.told()
        child = holder(broker, chip.name, act)
        during = chip.told()
        if act is broken:
            assert during["data"][0] == before["data"][0] | SET_BREAK
        else:
            assert not during.items() & before.items()
        end(broker, child, chip.name)
        in_order(broker, chip.name)
        assert chip.told() == before
        child.kill()
        # Of a dead copy's calls one may come late: so the next grant puts it back once more.
        broker.child(ALICE, lambda _chat: os.close(open_fd(chip.name, wait=20))).result(60)
        in_order(broker, chip.name)
        assert chip.told() == before


def next_holders(name: str) -> dict[str, object]:
    fd = open_fd(name, wait=20)
    seen = look(fd)
    seen["sends"] = sends(fd)
    os.close(fd)
    return seen


def setting(what: list[Act], times: int = 1) -> Act:
    """Change settings in this many processes beside this one, until the descriptor is dead."""

    def act(fd: int) -> None:
        for _ in range(times):
            if os.fork() == 0:
                try:
                    while True:
                        for one in what:
                            one(fd)
                except BaseException:
                    os._exit(0)

    return act


def odd_at_once(fd: int) -> None:
    """Do as `odd`, without reading anything first."""
    fcntl.ioctl(fd, 0x402C542B, _ODD)


_ODD = struct.pack("4Ix19sII", termios.IGNBRK, 0,
                   termios.CS5 | termios.PARENB | termios.CREAD | termios.B300, 0,
                   bytes(range(19)), 300, 300)  # fmt: skip


@pytest.mark.bare
@pytest.mark.timeout(1800)  # for many races; so long may a guest run
@pytest.mark.parametrize(
    "kind",
    [
        setting([odd_at_once]),
        setting([output(TIOCM_LOOP)]),
        setting([exclusive]),
        setting([odd_at_once, output(TIOCM_LOOP), exclusive], times=4),
    ],
    ids=["termios", "loop", "exclusive", "all by four"],
)
def test_who_goes_on_setting_while_it_is_revoked_leaves_nothing(
    broker: Service, kind: Act, races: int
) -> None:
    booted = state(UART)
    left = []
    for _ in range(races):
        set_anew(UART, booted, nothing)
        with direct(UART) as fd:
            before = look(fd)
        child = holder(broker, UART, kind)
        time.sleep(0.05)
        keep(broker, child, UART)
        seen = broker.child(ALICE, lambda _chat: next_holders(UART)).result(60)
        seen.pop("sends")
        left += [] if seen == before else [seen]
        child.kill()
        in_order(broker, UART)
    note("races of a holder that goes on setting against the revoke", races)
    note("of them have left a thing behind", len(left))
    assert not left, f"{len(left)} of {races}: {left[0]}, and not {before}"
    set_anew(UART, booted, nothing)


@pytest.mark.parametrize("line", [N_NULL, N_PPP])
@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.systemd)])
def test_a_hang_up_is_heard_under_every_discipline(broker: Service, line: int, again: bool) -> None:
    """N_NULL and N_PPP have no poll. `again`: the daemon has been restarted by then."""
    child = holder(broker, UART, discipline(line))
    if again:
        broker.kill()
        until("the next daemon", lambda: broker.held())
        assert broker.log().count(f"adopt port={UART}") >= 1
    hang_up(broker, child, UART)
    took = until("the lease to end", lambda: not broker.held(), timeout=10, told=broker.log)
    note("s from a hang-up under a discipline without poll to a free port", took)


def test_an_outsiders_exclusive_use_beside_a_dead_copy_is_believed(broker: Service) -> None:
    child = holder(broker, UART, exclusive)
    keep(broker, child, UART)
    broker.holder(ALICE, UART, wait=10).kill()
    in_order(broker, UART)
    with direct(UART) as outsider:
        exclusive(outsider)

        def refused(_chat: Chat) -> str:
            with pytest.raises(PortBusy) as caught:
                open_fd(UART)
            return str(caught.value)

        assert "exclusive" in broker.child(ALICE, refused).result()
        fcntl.ioctl(outsider, termios.TIOCNXCL)
    broker.child(ALICE, lambda _chat: os.close(open_fd(UART, wait=5))).result()


def test_output_that_the_other_end_stopped_goes_on_for_the_next_holder(broker: Service) -> None:
    """It sent XOFF to the last holder, whose dead descriptor makes the kernel remember that."""
    end = far("ttyS2")

    def hold(chat: Chat) -> None:
        fd = open_fd("ttyS1")
        raw(fd, xon=True)
        chat.say()
        os.set_blocking(fd, True)
        assert os.read(fd, 1) == b"!"
        chat.say()
        chat.hear(600)

    with direct("ttyS1") as fd:
        raw(fd, xon=True)
    child = broker.child(BOB, hold)
    child.hear()
    os.write(end, b"\x13!")
    child.hear()
    keep(broker, child, "ttyS1")
    assert broker.child(ALICE, lambda _chat: next_holders("ttyS1")).result(60)["sends"] is True
    os.close(end)


@pytest.mark.systemd
def test_a_getty_that_took_over_keeps_its_settings_and_leaves_none(broker: Service) -> None:
    """The holder's serial flags go at once, because they would change the getty's speed."""
    booted = state("ttyS1")
    with direct("ttyS1") as fd:
        before = look(fd)
    child = holder(broker, "ttyS1", EVERYTHING)  # in N_NULL systemd would take it for no terminal
    ended = broker.log().count("hung up")
    end = far("ttyS2")
    run("systemctl", "start", "serial-getty@ttyS1.service")
    try:
        until("the end of it", lambda: broker.log().count("hung up") > ended, told=broker.log)
        swallow(end, b"login:")
        with direct("ttyS1") as fd:
            during = look(fd)
        assert during["serial"] == before["serial"] and during["discipline"] == 0
        assert during["termios"] != before["termios"]
    finally:
        run("systemctl", "stop", "serial-getty@ttyS1.service")
        os.close(end)
    time.sleep(1)
    seen = broker.child(ALICE, lambda _chat: next_holders("ttyS1")).result(60)
    seen.pop("sends")
    assert seen == before
    child.kill()
    set_anew("ttyS1", booted, nothing)


TRACE = Path("/sys/kernel/tracing")


@pytest.fixture
def movements() -> Iterator[Callable[[], list[int]]]:
    """Trace the driver, and yield what returns its changes of DTR (2) and RTS (4) for this port."""
    if not (TRACE / "kprobe_events").exists():
        run("mount", "-t", "tracefs", "tracefs", str(TRACE))
    (TRACE / "kprobe_events").write_text(
        "p:lab serial8250_do_set_mctrl port=$arg1:x64 mctrl=$arg2:x32\n"
    )
    (TRACE / "events/kprobes/lab/enable").write_text("1")
    (TRACE / "trace").write_text("")

    def calls() -> list[tuple[str, int]]:
        found = re.findall(r"port=(\w+) mctrl=(\w+)", (TRACE / "trace").read_text())
        (TRACE / "trace").write_text("")
        return [(port, int(value, 16) & BOTH) for port, value in found]

    with direct(UART):
        this = calls()[-1][0]
    calls()
    yield lambda: [value for port, value in calls() if port == this]
    (TRACE / "events/kprobes/lab/enable").write_text("0")
    (TRACE / "kprobe_events").write_text("")


def dropped(fd: int) -> None:
    """Drop DTR and RTS, as a flasher leaves them."""
    fcntl.ioctl(fd, termios.TIOCMBIC, struct.pack("I", 6))


BOTH = 6
# By how the lines are when the lease ends, whether HUPCL was found, and the end. To open a port
# raises both: that is seen where they are down, or have fallen at somebody else's hang-up.
MOVES = {
    ("up", True, "close"): [0],
    ("up", True, "revoke"): [0],
    ("up", True, "hang_up"): [0, BOTH, 0],
    ("up", False, "close"): [],
    ("up", False, "revoke"): [],
    ("up", False, "hang_up"): [],
    ("down", True, "close"): [],
    ("down", True, "revoke"): [BOTH, 0],
    ("down", True, "hang_up"): [BOTH, 0, BOTH, 0],  # the first is who hangs up: he opens it
    ("down", False, "close"): [],
    ("down", False, "revoke"): [BOTH],
    ("down", False, "hang_up"): [BOTH],
}


@pytest.mark.parametrize("end", [close, revoke, hang_up])
@pytest.mark.parametrize("hupcl", [True, False], ids=["hupcl", "-hupcl"])
@pytest.mark.parametrize(("lines", "act"), [("up", nothing), ("down", dropped)])
def test_the_lines_move_as_little_as_they_can(
    broker: Service,
    movements: Callable[[], list[int]],
    end: Callable[[Service, Child, str], None],
    hupcl: bool,
    lines: str,
    act: Act,
) -> None:
    """They move at a close and, where they are up, at a revoke, as at any last close."""
    booted = state(UART)
    set_anew(UART, booted, nothing if hupcl else without_hupcl)
    child = holder(broker, UART, act)
    movements()
    end(broker, child, UART)
    in_order(broker, UART)
    moves = movements()
    child.kill()
    broker.child(ALICE, lambda _chat: os.close(open_fd(UART, wait=5))).result()  # pays the debt
    in_order(broker, UART)
    set_anew(UART, booted, nothing)
    before = BOTH if lines == "up" else 0
    moved = [now for was, now in zip([before, *moves], moves, strict=False) if now != was]
    assert moved == MOVES[lines, hupcl, end.__name__], moves
