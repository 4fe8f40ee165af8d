"""Whether a running ModemManager may open a port and write to it.

It runs as root, so no lock and no exclusive flag keeps it out.
"""

from __future__ import annotations

import os

from ttybroker import sysfs

_PROC = "/proc"
_PROGRAM = "ModemManager\n"
# "Common udev tags" in ModemManager's reference. A candidate is what it looks at.
_CANDIDATE = "E:ID_MM_CANDIDATE=1"
_IGNORED = ("E:ID_MM_DEVICE_IGNORE=1", "E:ID_MM_PORT_IGNORE=1")


def probed(devices: list[str]) -> list[str]:
    """Return those of these devices that it may probe.

    They are USB adapters that udev's properties do not keep from it. Whether it does probe them
    depends on its filter policy and its plugins, which only ModemManager knows.
    """
    adapters = [device for device in devices if _may_be(os.path.basename(device))]
    return adapters if adapters and _runs() else []


def _runs() -> bool:
    return any(
        _text(f"{_PROC}/{pid}/comm") == _PROGRAM for pid in os.listdir(_PROC) if pid.isdigit()
    )


def _may_be(name: str) -> bool:
    """Return what udev says about the port and the devices that it is a part of."""
    at = os.path.realpath(f"{sysfs.TTYS}/{name}")
    said = list[str]()
    usb = "/usb" in at
    while usb and at.count("/") > 1:
        if number := _text(f"{at}/dev").strip():  # a USB device has one, too
            said += _text(f"{sysfs.UDEV}/c{number}").splitlines()
        at = os.path.dirname(at)
    return _CANDIDATE in said and not any(line in _IGNORED for line in said)


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:  # not there, or not for us
        return ""
