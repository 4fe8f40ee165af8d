"""Programs that open and write to every port: `ttybrokerd --udev-rules` keeps them off."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters import Adapters
from lines import raw
from service import BOB, PATIENT, Service, run, until

pytestmark = pytest.mark.systemd

RULES = Path("/run/udev/rules.d")
OURS = RULES / "99-ttybroker.rules"
POLICY = """\
[[rule]]
port = "board"
serial = "BOARD1"
driver = "ftdi_sio"
interface = 0
allow = ["bob"]

[[rule]]
port = "meter"
device = "/dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_METER1-if00-port0"
allow = ["bob"]
"""
# As an administrator asks for a probe of an adapter that does not look like a modem.
PROBE = 'SUBSYSTEM=="tty", SUBSYSTEMS=="usb", ENV{ID_MM_DEVICE_PROCESS}="1"\n'
# As brltty's own, of a USB device.
BRLTTY = (
    'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ACTION=="add", ENV{PRODUCT}=="403/6001/*", '
    'ENV{BRLTTY_BRAILLE_DRIVER}="at", TAG+="systemd", ENV{SYSTEMD_WANTS}+="lab-brltty.service"\n'
)
SECONDS = 20  # without a byte, or thrice the time of the first that comes without the rules


@pytest.fixture
def rules(broker: Service) -> Iterator[None]:
    """Write rules of the test's own, and remove them at the end."""
    RULES.mkdir(exist_ok=True)
    (RULES / "70-lab.rules").write_text(PROBE)
    try:
        yield
    finally:
        for path in RULES.glob("*.rules"):
            path.unlink()
        reload()


def reload() -> None:
    run("udevadm", "control", "--reload")


def properties(name: str) -> str:
    run("udevadm", "settle")
    return run("udevadm", "info", "--query=property", f"/dev/{name}")


def test_what_the_policy_names_is_marked_and_nothing_else(
    broker: Service, adapters: Adapters, rules: None
) -> None:
    broker.policy(POLICY)
    OURS.write_text(run("ttybrokerd", "--udev-rules"))
    reload()
    board, meter = adapters.plug(0, "BOARD1"), adapters.plug(1, "METER1")
    other = adapters.plug(2, "OTHER1")
    for name in (board, meter):
        assert "ID_MM_DEVICE_IGNORE=1\nID_MM_PORT_IGNORE=1" in properties(name)
    assert "IGNORE" not in properties(other)
    log = run("journalctl", "--no-pager", "-o", "cat", "-u", "systemd-udevd.service")
    assert "99-ttybroker.rules" not in log, log


def test_udev_does_not_start_brltty_for_it(
    broker: Service, adapters: Adapters, rules: None
) -> None:
    unit = Path("/run/systemd/system/lab-brltty.service")
    unit.write_text("[Service]\nType=oneshot\nExecStart=/bin/true\nRemainAfterExit=yes\n")
    (RULES / "85-brltty.rules").write_text(BRLTTY)
    broker.policy(POLICY)
    run("systemctl", "daemon-reload")
    try:
        OURS.write_text(run("ttybrokerd", "--udev-rules"))
        reload()
        adapters.plug(0, "BOARD1")
        run("udevadm", "settle")
        assert started() == "inactive"
        adapters.plug(2, "OTHER1")
        until("the other's unit", lambda: started() == "active")
    finally:
        run("systemctl", "stop", unit.name)
        unit.unlink()
        run("systemctl", "daemon-reload")


def started() -> str:
    return run("systemctl", "show", "--value", "-p", "ActiveState", "lab-brltty.service")


def test_modemmanager_writes_not_a_byte_into_a_held_port(
    broker: Service, adapters: Adapters, rules: None
) -> None:
    """With the rules; without them it does, and list says that it may."""
    broker.policy(POLICY)
    reload()
    name = adapters.plug(0, "BOARD1")  # wired to ttyS3
    run("udevadm", "settle")
    far = os.open("/dev/ttyS3", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    raw(far)
    broker.holder(BOB, "board")
    try:
        run("systemctl", "start", "ModemManager")
        began = time.monotonic()
        assert readable(far, PATIENT), "ModemManager does not probe, so this test says nothing"
        took = time.monotonic() - began
        assert "may write to board" in told()

        run("systemctl", "stop", "ModemManager")
        OURS.write_text(run("ttybrokerd", "--udev-rules"))
        reload()
        run("udevadm", "trigger", "--settle", f"/dev/{name}")
        drain(far)
        run("systemctl", "start", "ModemManager")
        assert "may write" not in told()
        assert not readable(far, max(SECONDS, 3 * took))
    finally:
        run("systemctl", "stop", "ModemManager")
        os.close(far)


def readable(descriptor: int, seconds: float) -> bool:
    """Return whether something arrives within this many seconds."""
    return bool(select.select([descriptor], [], [], seconds)[0])


def told() -> str:
    done = subprocess.run(["ttybroker", "list"], capture_output=True, text=True,
                          timeout=PATIENT, check=True)  # fmt: skip
    return done.stderr


def drain(descriptor: int) -> None:
    """Read what was sent before, and what comes within a second of the last of it."""
    end = time.monotonic() + PATIENT
    while readable(descriptor, 1):
        assert time.monotonic() < end
        os.read(descriptor, 4096)
