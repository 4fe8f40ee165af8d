"""What a device is: the words of a rule that say so, and what sysfs(5) says of a port.

    usb        vendor and product of its USB device, such as 0403:6001
    serial     the serial number that the USB device says it has
    interface  the number of its USB interface
    driver     of the port, such as ftdi_sio
    path       where it is plugged in: a directory below /sys/devices

An alias means a path, or such words: `usb=0403:6001 serial=A1*`, with globs as in names of ports.
"""

from __future__ import annotations

import os

from ttybrokerd.root import linux, portname

TTYS = "/sys/class/tty"
MOST = 512  # bytes of a file; a USB string has at most 126 characters


def are(device: str) -> bool:
    """Return whether an alias's device is words, and no path."""
    return not device.startswith("/")


def fit(wanted: str, facts: dict[str, str]) -> bool:
    """Return whether all the words are true of a port."""
    for word in wanted.split(" "):
        key, _, glob = word.partition("=")
        if not portname.matches(facts.get(key, ""), glob):  # guard: every-word-fits
            return False
    return True


def facts(name: str, ttys: str = TTYS) -> dict[str, str]:
    """Return what the port with this kernel name is. Raises OSError if sysfs does not tell."""
    link = os.readlink(f"{ttys}/{name}")
    at = os.path.normpath(f"{ttys}/{link}").rpartition("/tty/")[0]
    place = at.removesuffix(f"/{name}")  # drivers/usb/serial has a device of this name in between
    top, _, below = place.partition("/devices/")
    found = {"path": below}
    while len(at) > len(f"{top}/devices") and "usb" not in found:
        driver = _link(f"{at}/driver")
        if driver and "/serial-base/" not in driver:  # the 8250's own port since Linux 6.5
            found.setdefault("driver", driver.rpartition("/")[2])
        if "/usb" in below and (interface := _read(f"{at}/bInterfaceNumber")):
            found.setdefault("interface", str(int(interface, 16)))
        if "/usb" in below and (vendor := _read(f"{at}/idVendor")):
            found["usb"] = f"{vendor}:{_read(f'{at}/idProduct')}"
            found["serial"] = _read(f"{at}/serial")
        at = at.rpartition("/")[0]
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _read(path: str) -> str:
    try:
        # guard: unread-is-unknown
        return linux.read_file(path, MOST).decode("utf-8", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):  # any other error says nothing of the device
        return ""
