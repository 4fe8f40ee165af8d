"""`broker://NAME?wait=SECONDS&broker=PATH&yields=user` for serial.serial_for_url()."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybroker.port import BrokeredSerial

_FORM = "broker://NAME, with ?wait=SECONDS, broker=PATH or yields=user|all after it"


# Where serial.serial_for_url() looks for the handler of broker://, whichever is imported first.
sys.modules["serial.urlhandler.protocol_broker"] = sys.modules[__name__]


def serial_class_for_url(url: str) -> tuple[str, Callable[..., BrokeredSerial]]:
    """Return the port's name and what makes an instance for it: pyserial's hook.

    Raises ValueError if the URL has anything but NAME, `wait`, `broker` and `yields`.
    """
    from functools import partial
    from urllib.parse import parse_qs, urlsplit

    from ttybroker.port import BrokeredSerial

    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    name = url.partition("://")[2].partition("?")[0]  # hostname would lose its capitals
    if (
        parts.fragment
        or set(query) - {"wait", "broker", "yields"}
        or any(len(v) > 1 for v in query.values())
    ):
        raise ValueError(f"{url}: the form is {_FORM}")
    wait = float(query["wait"][0]) if "wait" in query else None
    broker = query["broker"][0] if "broker" in query else None
    if "yields" in query:
        from ttybroker.lending import YieldingSerial
        from ttybroker.loan import flags

        flags(query["yields"][0])
        return name, partial(YieldingSerial, broker=broker, wait=wait, yields=query["yields"][0])
    return name, partial(BrokeredSerial, broker=broker, wait=wait)
