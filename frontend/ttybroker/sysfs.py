"""What a serial port's device is, by sysfs(5). Both halves read it here, so they agree.

    usb        vendor and product of its USB device, such as 0403:6001
    serial     the serial number that the USB device reports, "" if it has none
    interface  the number of its USB interface
    driver     of the port, such as ftdi_sio
    path       where it is plugged in: a directory below /sys/devices

Each is there only if it is known.
"""

from __future__ import annotations

import os

TTYS = "/sys/class/tty"
UDEV = "/run/udev/data"  # beside it: a file for each device that udev(7) is done with
MOST = 512  # bytes of a file; a USB string has at most 126 characters


def facts(name: str, ttys: str = TTYS) -> dict[str, str]:
    """Return what the port with this kernel name is. Raises OSError if sysfs does not say."""
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
        return _start(path).decode("utf-8", "replace").strip()  # guard: unread-is-unknown
    except (FileNotFoundError, NotADirectoryError):  # any other error says nothing of the device
        return ""


def _start(path: str) -> bytes:
    """Return what one read(2) gives, which is all of a file in sysfs.

    open() would load all of Python's text and buffer machinery into the process that stays root.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, MOST)
    finally:
        os.close(descriptor)
