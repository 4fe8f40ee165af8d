"""USB adapters come and go, and what the broker says is right within a fifth of a second."""

from __future__ import annotations

import errno
import os
import time

import pytest

from adapters import BY_ID, Adapters
from figures import note
from service import ALICE, BOB, LOCKS, PATIENT, Service, heard, locks, run, until
from support.children import Chat
from support.processes import descriptors, watches
from ttybroker import BrokerError, PortBusy, WaitTimeout, client, open_fd
from ttybrokerd.root.device import Devices, Target
from ttybrokerd.root.refusal import Refusal

RIGHT = 200.0  # ms
ADAPTER = 2  # wired to nothing
CYCLES = 100


def test_unplug_while_held(broker: Service, adapters: Adapters) -> None:
    """Measure from the moment at which the kernel hangs up.

    The holder's blocked read shows that moment. Measure until the lock file is gone, and until the
    list is right.
    """
    name = adapters.plug(ADAPTER)

    def hold(chat: Chat) -> None:
        descriptor = open_fd(name)
        os.set_blocking(descriptor, True)
        chat.say()
        data = os.read(descriptor, 1)
        chat.say((time.monotonic(), data))
        with pytest.raises(OSError) as caught:
            os.write(descriptor, b"x")
        chat.say(caught.value.errno)
        chat.hear(PATIENT)

    holder = broker.child(BOB, hold)
    holder.hear()
    until("the lock", lambda: locks() == [f"LCK..{name}"])
    with client.connect() as connection:
        adapters.pull(ADAPTER)
        until(f"{name} to go", lambda: not os.path.exists(f"/dev/{name}"))
        until("the lock to go", lambda: not locks())
        asked = time.monotonic()
        ports = connection.ports()
        note("ms for a list, while it is unplugged", 1000 * (time.monotonic() - asked))
    assert name not in {port.name for port in ports} and not [port for port in ports if port.holder]
    hung_up, data = holder.hear()
    assert data == b"" and holder.hear() == errno.EIO
    took = 1000 * (asked - hung_up)
    assert note("ms from unplugging until port, lock file and table are right", took) < RIGHT
    adapters.pulled(ADAPTER)


def test_unplug_while_waiting(broker: Service, adapters: Adapters) -> None:
    """The client waits on, and gets the port when it comes back."""
    name = adapters.plug(ADAPTER)
    first = broker.holder(BOB, name)
    waiting = broker.child(ALICE, lambda chat: hold_and_say(chat, name))
    until("alice to wait", lambda: broker.waiting(name))
    adapters.unplug(ADAPTER)
    until(f"{name} to go", lambda: not os.path.exists(f"/dev/{name}"))
    first.kill()  # whose dead descriptor would keep the number
    assert adapters.plug(ADAPTER) == name
    assert waiting.hear(PATIENT)
    waiting.kill()


def hold_and_say(chat: Chat, name: str) -> None:
    """Wait for the port, say when it was granted, and keep it."""
    descriptor = open_fd(name, wait=60)
    chat.say((time.monotonic(), os.ttyname(descriptor)))
    chat.hear(60)


@pytest.mark.systemd
@pytest.mark.parametrize(
    "rules",
    [
        'allow = ["alice"]\n[[rule]]\nport = "ttyUSB*"\nallow = ["bob"]\nunnamed = true\n',
        'deny = ["bob"]\n[[rule]]\nport = "ttyUSB*"\nallow = ["bob"]\n',
    ],
    ids=["unnamed", "denied"],
)
def test_who_waits_does_not_get_a_port_before_udev_has_named_it(
    broker: Service, adapters: Adapters, rules: str
) -> None:
    """The node comes first, and then the link by which the policy knows the device."""
    name = adapters.plug(ADAPTER, "LATE1")
    adapters.unplug(ADAPTER)
    until(f"{name} to go", lambda: not os.path.exists(f"/dev/{name}"))
    broker.write_policy(f'[[rule]]\nport = "gps"\ndevice = "{BY_ID.format("LATE1")}"\n{rules}')
    broker.reload()

    def ask(chat: Chat) -> None:
        try:
            os.close(open_fd(name, wait=60))
            chat.say("granted")
        except BrokerError as refusal:
            chat.say(str(refusal))

    waiting = broker.child(BOB, ask)
    time.sleep(0.5)  # it has asked by then; if not, it asks when the port is there
    assert adapters.plug(ADAPTER, "LATE1") == name
    assert "gps" in waiting.hear(PATIENT)
    adapters.unplug(ADAPTER)
    until(f"{name} to go", lambda: not os.path.exists(f"/dev/{name}"))
    waiting = broker.child(BOB, ask)
    time.sleep(0.5)
    assert adapters.plug(ADAPTER, "ANOTHER1") == name
    assert waiting.hear(PATIENT) == "granted"


@pytest.mark.parametrize(
    "kind", ["kernel", "words", pytest.param("link", marks=pytest.mark.systemd)]
)
def test_a_port_that_is_absent_is_granted_when_it_comes(
    broker: Service, adapters: Adapters, kind: str
) -> None:
    """It is asked for after it was unplugged, by its kernel name, by words, and by a udev link."""
    node = adapters.plug(ADAPTER, "LATE1")
    meant = {"words": 'serial = "LATE1"', "link": f'device = "{BY_ID.format("LATE1")}"'}
    if kind != "kernel":
        broker.policy(f'[[rule]]\nport = "late"\n{meant[kind]}\nallow = ["alice"]\n')
    name = node if kind == "kernel" else "late"
    adapters.unplug(ADAPTER)
    until(f"{node} to go", lambda: not os.path.exists(f"/dev/{node}"))

    def times_out(_: Chat) -> str:
        with pytest.raises(WaitTimeout) as caught:
            open_fd(name, wait=0.2)
        return str(caught.value)

    assert "absent" in str(broker.child(ALICE, times_out).result())
    waiting = broker.child(ALICE, lambda chat: hold_and_say(chat, name))
    time.sleep(0.5)  # it has asked by then; if not, the time below is too good, not too bad
    assert adapters.plug(ADAPTER, "LATE1") == node
    there = BY_ID.format("LATE1") if kind == "link" else f"/dev/{node}"
    until("the name", lambda: os.path.exists(there))
    came = os.lstat(there).st_ctime
    granted, path = waiting.hear(PATIENT)
    assert path == f"/dev/{node}"
    took = 1000 * (granted - time.monotonic() + time.time() - came)
    assert note(f"ms from the name to the grant, {kind}", took) < RIGHT
    waiting.kill()


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another"])
def test_unplug_between_look_and_open(broker: Service, adapters: Adapters, again: bool) -> None:
    """The open fails, even if another device has the name and number now."""
    name = adapters.plug(ADAPTER, "OLD")
    devices = Devices()
    seen = devices.look(Target(name, f"/dev/{name}", pty=False, console=False))
    try:
        adapters.unplug(ADAPTER)
        until(f"{name} to go", lambda: not os.path.exists(f"/dev/{name}"))
        if again:
            assert adapters.plug(ADAPTER, "NEW") == name
        with pytest.raises(Refusal) as caught:
            os.close(devices.open(seen))
        assert caught.value.number == errno.ENODEV
    finally:
        seen.close()


@pytest.mark.systemd
def test_an_alias_is_what_its_words_say(broker: Service, adapters: Adapters) -> None:
    rule = 'usb = "0403:6001"\nserial = "WORD*"\ninterface = 0\ndriver = "ftdi_sio"'
    broker.policy(f'[[rule]]\nport = "gps"\n{rule}\nallow = ["bob"]\n')

    def ask(chat: Chat) -> None:
        try:
            descriptor = open_fd("gps")
        except BrokerError as refusal:
            chat.say(str(refusal))
            return
        chat.say(os.ttyname(descriptor))

    def told() -> str:
        return str(broker.child(BOB, ask).hear(PATIENT))

    assert "no device is usb=0403:6001 serial=WORD*" in told()
    assert adapters.plug(3, "OTHER") == "ttyUSB0"
    assert adapters.plug(ADAPTER, "WORD1") == "ttyUSB1"
    assert told() == "/dev/ttyUSB1"
    until("the port to be free", lambda: not broker.held())
    adapters.unplug(3)
    assert adapters.plug(3, "WORD2") == "ttyUSB0"
    assert "ambiguous: ttyUSB0 and ttyUSB1 are usb=0403:6001" in told()
    adapters.unplug(ADAPTER)
    until("the kernel to see that", lambda: not os.path.exists("/dev/ttyUSB1"))
    assert told() == "/dev/ttyUSB0"


@pytest.mark.systemd
def test_an_alias_is_one_adapter_whatever_its_number(broker: Service, adapters: Adapters) -> None:
    link = BY_ID.format("GPS1")
    broker.policy(f'[[rule]]\nport = "gps"\ndevice = "{link}"\nallow = ["bob"]\n')

    def hold(chat: Chat) -> None:
        descriptor = open_fd("gps")
        chat.say(os.ttyname(descriptor))
        chat.hear(60)

    assert adapters.plug(ADAPTER, "GPS1") == "ttyUSB0"
    until("udev's link", lambda: os.path.exists(link))
    first = broker.child(BOB, hold)
    assert first.hear() == "/dev/ttyUSB0"
    adapters.unplug(ADAPTER)
    until("the kernel to see that", lambda: not os.path.exists(link))
    assert adapters.plug(ADAPTER, "GPS1") == "ttyUSB1"  # the dead descriptor keeps the number
    until("udev's link", lambda: os.path.exists(link))
    assert broker.port("gps").device == "/dev/ttyUSB1"
    second = broker.child(BOB, hold)
    assert second.hear() == "/dev/ttyUSB1"
    assert (LOCKS / "LCK..ttyUSB1").exists()
    first.kill()
    assert adapters.plug(3, "OTHER") == "ttyUSB0"
    second.kill()
    third = broker.child(BOB, hold)
    assert third.hear() == "/dev/ttyUSB1"
    third.kill()
    until("all to be given back", lambda: not broker.held())


@pytest.mark.bare
@pytest.mark.timeout(300)
def test_a_hundred_plug_cycles_under_load_leak_nothing(broker: Service, adapters: Adapters) -> None:
    """One user has the adapter whenever it is there; another opens a UART all the time."""

    def opens(chat: Chat) -> int:
        times = 0
        chat.sock.setblocking(False)
        while not heard(chat):
            os.close(open_fd("ttyS1", wait=10))
            times += 1
        return times

    def grabs(chat: Chat) -> None:
        """Hold each adapter that appears until it goes."""
        chat.sock.setblocking(False)
        while not heard(chat):
            try:
                descriptor = open_fd("ttyUSB0")
            except PortBusy:  # nobody else wants it
                raise
            except BrokerError:
                time.sleep(0.01)
                continue
            chat.say()
            os.set_blocking(descriptor, True)
            os.read(descriptor, 1)
            os.close(descriptor)

    before, watched = descriptors(broker.pid), watches(broker.pid)
    opener, grabber = broker.child(BOB, opens), broker.child(ALICE, grabs)
    start = time.monotonic()
    for _ in range(CYCLES):
        assert adapters.plug(ADAPTER) == "ttyUSB0"
        grabber.hear()
        assert (LOCKS / "LCK..ttyUSB0").exists()
        adapters.unplug(ADAPTER)
        until("it to be free", lambda: not (LOCKS / "LCK..ttyUSB0").exists())
    note("s for 100 plug cycles", time.monotonic() - start)
    opener.say(True)
    grabber.say(True)
    assert opener.result() > CYCLES
    assert grabber.result() is None
    until("all to be given back", lambda: not broker.held() and not locks())
    until("no descriptor more", lambda: len(descriptors(broker.pid)) <= len(before),
          told=lambda: set(descriptors(broker.pid).items()) - set(before.items()))  # fmt: skip
    assert watches(broker.pid) == watched


def test_a_suggested_rule_gives_the_port_under_its_alias(
    broker: Service, adapters: Adapters
) -> None:
    name = adapters.plug(0, "SUGGEST 1")
    rule = run("ttybroker", "suggest", name)
    broker.policy(rule.replace('"%active"', '"bob"'))
    assert broker.port("board").device == f"/dev/{name}"
    broker.holder(BOB, "board")
    assert 'serial = "SUGGEST?1"' in run("ttybroker", "list", "--details", name)
