"""Rules for udev(7) that keep other programs from probing the policy's adapters.

ModemManager ignores a port that has ID_MM_PORT_IGNORE, under each of its filter policies. It
ignores a device that has ID_MM_DEVICE_IGNORE but not ID_MM_DEVICE_PROCESS ("Common udev tags" in
its reference; src/mm-filter.c). So a port gets both. brltty's rules make systemd start it for some
USB devices, by SYSTEMD_WANTS (Autostart/Udev in its sources). Our rules take that back. A brltty
that already runs looks for devices by itself, and no udev rule keeps it away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from ttybroker.say import printable
from ttybrokerd.prepare.policy import Policy
from ttybrokerd.root import words

HEAD = """\
# Made by ttybrokerd --udev-rules: ModemManager and brltty leave the policy's adapters alone.
# Save it as /etc/udev/rules.d/99-ttybroker.rules, so that it comes after the rules that it needs.
ACTION=="remove", GOTO="ttybroker_end"
"""
UDEVS_OWN = r'["|\\]'
END = 'LABEL="ttybroker_end"\n'
IGNORE = 'ENV{ID_MM_DEVICE_IGNORE}="1", ENV{ID_MM_PORT_IGNORE}="1"'
BRLTTY = 'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ENV{BRLTTY_BRAILLE_DRIVER}=="?*"'
NOT_BRLTTY = 'ENV{BRLTTY_BRAILLE_DRIVER}="", ENV{SYSTEMD_WANTS}=""'


def rules(policy: Policy) -> str:
    """Return a file of rules, for the device of each alias that is not a pty."""
    ptys = {rule.port for rule in policy.rules if rule.pty}
    aliases = ((name, device) for name, device in policy.aliases.items() if name not in ptys)
    lines = (line for name, device in aliases for line in _alias(name, device))
    return "".join([HEAD, *(f"{line}\n" for line in lines), END])


def _alias(name: str, device: str) -> Iterator[str]:
    yield f"\n# {name}"
    node = os.path.normpath(device)
    if words.are(device):
        yield from _by_words(name, device)
    elif node.startswith("/dev/"):
        for key in ("KERNEL", "SYMLINK"):
            there = _is(key, re.sub(r"([*?\[])", r"[\1]", node.removeprefix("/dev/")))
            yield f'SUBSYSTEM=="tty", {there}, {IGNORE}'
    else:
        yield f"# no rule: {device!a} is no name of udev's; name it below /dev, or by what it is"


def _by_words(name: str, device: str) -> Iterator[str]:
    """Return the lines for these words.

    udev demands that one parent fits all that a line says about parents. The words are about
    several parents. So each word has its own line, and a mark says how many words have fitted.
    """
    globs = dict(word.split("=", 1) for word in device.split(" "))
    said = list[str]()
    if "usb" in globs:
        vendor, _, product = globs["usb"].partition(":")
        said += [_is("ATTRS{idVendor}", vendor), _is("ATTRS{idProduct}", product)]
    if "serial" in globs:
        said.append(_is("ATTRS{serial}", globs["serial"]))
    adapter = ", ".join(said)
    parts = [adapter] if adapter else []
    if "interface" in globs:
        parts.append(_is("ATTRS{bInterfaceNumber}", f"{int(globs['interface']):02x}"))
    if "driver" in globs:
        parts.append(_is("DRIVERS", globs["driver"]))
    if "path" in globs:
        parts.append(_is("DEVPATH", f"/devices/{globs['path']}/*"))
    for number, part in enumerate(parts):
        before = f'ENV{{.TTYBROKER}}=="{name} {number}", ' if number else ""
        then = f'ENV{{.TTYBROKER}}="{name} {number + 1}"' if part is not parts[-1] else IGNORE
        yield f'SUBSYSTEM=="tty", {before}{part}, {then}'
    if adapter:
        yield f"{BRLTTY}, {adapter.replace('ATTRS{', 'ATTR{')}, {NOT_BRLTTY}"


def _is(key: str, glob: str) -> str:
    """Return a match for udev.

    Its globs are like ours, except that | means "or", and that a backslash is itself. A newline
    would end the rule, and a terminal obeys other control characters.
    """
    return f'{key}=="{re.sub(UDEVS_OWN, "?", printable(glob))}"'
