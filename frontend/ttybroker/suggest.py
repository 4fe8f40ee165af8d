"""Describe a port's device in the words of the policy, and write a rule with them."""

from __future__ import annotations

import json
import os

from ttybroker import sysfs
from ttybroker.say import printable

_FAMILIES = ("tty", "gsmtty", "rfcomm", "noz")  # as in the broker's prepare/policy.py


def words(device: str) -> dict[str, str | int]:
    """Return the words of a rule that describe this device: usb, serial, interface, driver, path.

    A word is missing if sysfs does not have it.
    """
    try:
        found = sysfs.facts(os.path.basename(os.path.realpath(device)))
    except OSError:
        return {}
    said: dict[str, str | int] = {key: found[key] for key in ("usb",) if key in found}
    if found.get("serial"):
        said["serial"] = _as_glob(found["serial"])
    if "interface" in found:
        said["interface"] = int(found["interface"])
    return said | {key: found[key] for key in ("driver", "path") if key in found}


def rule(name: str, device: str, allow: str | int) -> str:
    """Return a policy rule for this port, as TOML.

    A USB adapter gets an alias, because its kernel name changes. An adapter without a serial number
    is identified by where it is plugged in.
    """
    said = words(device)
    if "usb" in said:
        kept = ("usb", "serial" if "serial" in said else "path", "interface")
        port = ['port = "board"        # a name of your own']
        port += lines({key: said[key] for key in kept if key in said})
    else:
        port = lines({"port": name})
    return "\n".join(["[[rule]]", *port, f"allow = [{json.dumps(allow)}]"]) + "\n"


def is_port(name: str) -> bool:
    """Whether the kernel calls serial ports so: a rule takes no other name without a device."""
    letters = name.rstrip("0123456789")
    return letters not in (name, "tty") and letters.startswith(_FAMILIES)


def lines(said: dict[str, str | int]) -> list[str]:
    """Return the words as lines of TOML, to be copied into a rule."""
    return [f"{key} = {json.dumps(value)}" for key, value in said.items()]


def _as_glob(text: str) -> str:
    """Return a glob that matches this text, of printable ASCII without a blank.

    A device can report any text.
    """
    plain = printable(text)
    return "".join(c if c.isascii() and c not in " *?[" else "?" for c in plain)
