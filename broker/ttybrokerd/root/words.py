"""The words of a rule that say what a device is: `usb=0403:6001 serial=A1*`.

An alias means a path, or such words. `ttybroker.sysfs` has what is true of a port. The values are
globs, as in names of ports.
"""

from __future__ import annotations

from ttybrokerd.root import portname


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
