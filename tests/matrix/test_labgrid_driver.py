"""BrokeredSerialPort and its driver, with what labgrid's own tests ask of SerialDriver."""

from __future__ import annotations

import os
import subprocess

import pytest

from matrix.fleet import BOARD, EXAMPLE, LABGRID, hear_line, until_waiting
from matrix.namespace import PORT
from matrix.stage import Installation, Stage
from support.users import BOB
from support.waiting import TIMEOUT
from ttybroker import open_fd

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not LABGRID.exists(), reason="`make matrix` installs labgrid"),
]

HEAD = """
import sys, pexpect, pytest, serial, ttybroker
from labgrid import Environment
from labgrid.exceptions import NoSupplierFoundError
assert serial.__version__.startswith("3.5.0."), "labgrid's fork is the one that serves"
target = Environment("env-local.yaml").get_target("main")
driver = target.get_driver("BrokeredSerialDriver", activate=False)
"""
TALK = """
for word in (b"one", b"two"):
    target.activate(driver)
    assert driver.write(word) == 3
    assert driver.read(size=3, timeout=15, max_size=3) == b"abc"
    driver.expect("> ", timeout=15)
    with pytest.raises(pexpect.TIMEOUT):
        driver.read(timeout=0.05)
    target.deactivate(driver)
    assert not driver.serial.is_open
assert driver.get_export_vars() == {"port": "ttyS7", "speed": "115200"}
target.activate(driver)
driver.sendline("three")
driver.close()
driver.close()
driver.open()
"""
BUSY = """
with pytest.raises(serial.SerialException, match="ttyS7: busy: held by") as caught:
    target.activate(driver)
print(caught.value)
"""
ALONE = """
from labgrid import Target
with pytest.raises(NoSupplierFoundError):
    type(driver)(Target("empty"), "serial")
with pytest.raises(ValueError, match="must be configured with a port"):
    type(driver.port)(Target("empty"), "port")
"""
LENDS = """
target.activate(driver)
driver.write(b"mine")
while driver.serial.lent is None:
    with pytest.raises(pexpect.TIMEOUT):
        driver.read(timeout=0.05)
with pytest.raises(ttybroker.PortLent):
    driver.write(b"lost")
print("lent", flush=True)
while driver.serial.lent is not None:
    with pytest.raises(pexpect.TIMEOUT):
        driver.read(timeout=0.05)
driver.write(b"again")
"""


def start(
    stage: Stage, installation: Installation, code: str, **settings: object
) -> subprocess.Popen[bytes]:
    """Start this with the example's environment, and these settings in place of its own."""
    (stage.home / "brokered_serial.py").write_text((EXAMPLE / "brokered_serial.py").read_text())
    text = (EXAMPLE / "env-local.yaml").read_text().replace(BOARD, PORT)
    wait = "        wait: 60   # seconds\n"
    assert wait in text
    own = "".join(f"        {name}: {value}\n" for name, value in settings.items())
    (stage.home / "env-local.yaml").write_text(text.replace(wait, own))
    path = f"{stage.programs / 'labgrid'}:{installation.base / 'lib/ttybroker'}"
    command = ("/usr/bin/python3", "-B", "-c", HEAD + code)
    return stage.start(*command, env={"PYTHONPATH": path}, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> str:
    """What it has printed; it must have ended well."""
    said = process.communicate(timeout=TIMEOUT)[0].decode()
    assert process.returncode == 0, said
    return said


def test_it_talks_and_leaves_the_port_free(stage: Stage, installation: Installation) -> None:
    daemon = stage.rig.daemon(*stage.rig.arguments)
    process = start(stage, installation, TALK)
    for word in (b"one", b"two"):
        daemon.record("grant", port=PORT, label="labgrid target main")
        stage.hear(word)
        stage.say(b"abc> ")
        daemon.record("release", port=PORT)
    stage.hear(b"three")
    finish(process)
    stage.demand_free()


def test_a_busy_port_is_an_error_that_names_the_holder(
    stage: Stage, installation: Installation
) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    descriptor = open_fd(PORT, broker=str(stage.rig.socket), label="nightly build")
    said = finish(start(stage, installation, BUSY))
    os.close(descriptor)
    assert "for 'nightly build'" in said and f"(pid {os.getpid()})" in said


def test_it_waits_as_the_environment_says(stage: Stage, installation: Installation) -> None:
    daemon = stage.rig.daemon(*stage.rig.arguments)
    descriptor = open_fd(PORT, broker=str(stage.rig.socket))
    process = start(stage, installation, "target.activate(driver)", wait=60, label="mine")
    until_waiting(str(stage.rig.socket), PORT)
    os.close(descriptor)
    daemon.record("grant", port=PORT, label="mine")
    finish(process)


def test_it_needs_a_resource_and_that_a_port(stage: Stage, installation: Installation) -> None:
    finish(start(stage, installation, ALONE))


def test_it_lends_its_port_and_has_it_again(stage: Stage, installation: Installation) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    process = start(stage, installation, LENDS, yields="all")
    stage.hear(b"mine")
    other = stage.rig.holder(BOB, PORT, wait=TIMEOUT)
    other.hear()
    hear_line(process, "lent")
    other.say()
    other.result()
    stage.hear(b"again")
    finish(process)
