"""What to say about a name that is wrong or unknown. Loaded only for such an error."""

from __future__ import annotations

import os

from ttybroker.wire import valid_name

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ttybroker.client import Client

_SHOWN = 80  # characters
_SAME_KIND = 0.8  # ttyUSB and ttyUBS are 0.83 alike, ttyUSB and ttyS 0.8


def not_a_name(text: str) -> str:
    """Return the line to show for a text that is not a port's name.

    A path below /dev is followed, so a link of /dev/serial/by-id leads to its port. Nothing is
    opened.
    """
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
    if text.startswith("/dev/serial/") and not _is_there(text):
        return f"{shown}: not a port's name, and no device has this link; see: ttybroker list"
    meant = _meant(text) if text.startswith("/dev/") else ""
    if meant:
        return f"{shown}: not a port's name; write {meant}"
    return f"{shown}: not a port's name: a letter, then up to 63 letters, digits, - or _"


def _meant(path: str) -> str:
    try:
        target = os.path.realpath(path)
    except (OSError, ValueError):  # such as a zero byte
        target = path
    for candidate in (target, path):
        name = os.path.basename(candidate)
        if candidate == f"/dev/{name}" and valid_name(name):
            return name
    return ""


def _is_there(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # such as a zero byte, before Python 3.14
        return False


def did_you_mean(name: str, known: Iterable[str], before: str = "") -> str:
    """Return "; did you mean NAME?" for the most similar of the known names, else "".

    before: text to put before the name, such as "--" for options.

    If the device exists, the user meant it. A port of another kind is not a typing mistake: nobody
    types ttyUSB0 for ttyS10.
    """
    from difflib import SequenceMatcher, get_close_matches

    def alike(other: str) -> bool:
        one, two = (text.rstrip("0123456789").lower() for text in (name, other))
        return SequenceMatcher(None, one, two).ratio() > _SAME_KIND

    if os.path.lexists(f"/dev/{name}"):
        return ""
    numbered = name.lower().startswith("tty") and name[-1].isdigit()
    meant = {other.lower(): other for other in known if not numbered or alike(other)}
    close = get_close_matches(name.lower(), meant, 1)
    return f"; did you mean {before}{meant[close[0]]}?" if close else ""


def similar(broker: Client, name: str) -> str:
    """Return `did_you_mean` among the ports that the caller may use.

    Returns "" if the name is one of them, or is not a port's name.
    """
    if not valid_name(name):
        return ""
    from ttybroker.errors import BrokerError

    try:
        known = [port.name for port in broker.ports()]
    except BrokerError:  # what the broker said first matters more
        return ""
    return "" if name in known else did_you_mean(name, known)


def meant(name: str, path: str) -> str:
    """Return `did_you_mean` for a port that no rule is about, "" for any other.

    path: of the socket of the broker, which is asked.
    """
    from ttybroker.client import connect
    from ttybroker.errors import BrokerError

    try:
        with connect(path) as broker:
            return "" if broker.check(name).known else similar(broker, name)
    except BrokerError:
        return ""
