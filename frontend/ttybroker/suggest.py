"""What a port's device is, in the words of the policy, and a rule that goes by them.

pyserial reads sysfs(5) for it: it knows more kinds of adapters than a reader of ours would.
"""

from __future__ import annotations

import json
import os

from ttybroker.say import printable

_TOP = "/sys/devices/"


def words(device: str) -> dict[str, str | int]:
    """Return the words of a rule that say what this device is: usb, serial, interface, driver,
    path. Each stands only where sysfs says it."""
    from serial.tools.list_ports_linux import SysFS

    found = SysFS(device)
    said: dict[str, str | int] = {}
    if found.vid is not None and found.pid is not None:
        said["usb"] = f"{found.vid:04x}:{found.pid:04x}"
        if found.serial_number:
            said["serial"] = _as_glob(found.serial_number)
    if found.usb_interface_path:
        number = found.read_line(found.usb_interface_path, "bInterfaceNumber")
        said |= {"interface": int(number, 16)} if number else {}
    if found.device_path:
        if driver := _driver(found.device_path):
            said["driver"] = driver
        place = found.usb_interface_path or found.device_path
        said |= {"path": place.removeprefix(_TOP)} if place.startswith(_TOP) else {}
    return said


def _driver(at: str) -> str:
    """Return the driver of the device in this directory of sysfs; "" if it has none. It is the one
    by which the broker goes (root/words.py): since Linux 6.5 the serial core has a device of its
    own in between, whose driver is "port"."""
    while "/serial-base/" in (driver := os.path.realpath(f"{at}/driver")):
        at = os.path.dirname(at)
    return os.path.basename(driver) if os.path.exists(driver) else ""


def rule(name: str, device: str, allow: str | int) -> str:
    """Return a rule of the policy for this port, as TOML.

    A USB adapter gets an alias, because its kernel name changes. One without a serial number is
    known by where it is plugged in.
    """
    said, lines = words(device), list[str]()
    if "usb" in said:
        kept = ("usb", "serial" if "serial" in said else "path", "interface")
        lines = ['port = "board"        # a name of your own']
        lines += [f"{key} = {json.dumps(said[key])}" for key in kept if key in said]
    else:
        lines = [f"port = {json.dumps(name)}"]
    return "\n".join(["[[rule]]", *lines, f"allow = [{json.dumps(allow)}]"]) + "\n"


def line(said: dict[str, str | int]) -> str:
    """Return the words in one line, to be copied from."""
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in said.items())


def _as_glob(text: str) -> str:
    """Return a glob of printable ASCII without a blank that this text fits: a device says of itself
    what it likes."""
    plain = printable(text)
    return "".join(c if c.isascii() and c not in " *?[" else "?" for c in plain)
