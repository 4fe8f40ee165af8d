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

    from ttybroker.port import BrokeredSerial

    name = url.partition("://")[2].partition("?")[0]  # hostname would lose its capitals
    try:
        query = _query(url)
        wait = float(query["wait"]) if "wait" in query else None
    except ValueError:
        raise ValueError(f"{url}: the form is {_FORM}") from None
    broker = query.get("broker")
    if "yields" in query:
        from ttybroker.lending import YieldingSerial
        from ttybroker.loan import flags

        flags(query["yields"])
        return name, partial(YieldingSerial, broker=broker, wait=wait, yields=query["yields"])
    return name, partial(BrokeredSerial, broker=broker, wait=wait)


def _query(url: str) -> dict[str, str]:
    """Return what stands behind the name in the URL, by key. Raises ValueError."""
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    twice = any(len(values) > 1 for values in query.values())
    if parts.fragment or twice or set(query) - {"wait", "broker", "yields"}:
        raise ValueError(url)
    return {key: values[0] for key, values in query.items()}
