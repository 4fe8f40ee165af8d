"""`broker://NAME?wait=SECONDS&broker=PATH` for serial.serial_for_url()."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybroker.port import BrokeredSerial

_FORM = "broker://NAME, broker://NAME?wait=SECONDS or broker://NAME?broker=PATH"


# Where serial.serial_for_url() looks for the handler of broker://, whichever is imported first.
sys.modules["serial.urlhandler.protocol_broker"] = sys.modules[__name__]


def serial_class_for_url(url: str) -> tuple[str, Callable[..., BrokeredSerial]]:
    """The port's name and what makes an instance for it: pyserial's hook.

    Raises ValueError if the URL has anything but NAME, `wait` and `broker`.
    """
    from functools import partial
    from urllib.parse import parse_qs, urlsplit

    from ttybroker.port import BrokeredSerial

    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    name = url.partition("://")[2].partition("?")[0]  # hostname would lose its capitals
    if parts.fragment or set(query) - {"wait", "broker"} or any(len(v) > 1 for v in query.values()):
        raise ValueError(f"{url}: the form is {_FORM}")
    wait = float(query["wait"][0]) if "wait" in query else None
    broker = query["broker"][0] if "broker" in query else None
    return name, partial(BrokeredSerial, broker=broker, wait=wait)
