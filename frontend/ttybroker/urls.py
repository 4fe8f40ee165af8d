"""`broker://NAME?wait=SECONDS&broker=PATH&yields=user` for serial.serial_for_url()."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

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

    name, how = leased_as(url)
    if "yields" in how:
        from ttybroker.lending import YieldingSerial

        return name, partial(YieldingSerial, **how)
    return name, partial(BrokeredSerial, **how)


def leased_as(url: str) -> tuple[str, dict[str, Any]]:
    """Return the port's name, and `broker`, `wait` and `yields` as the URL has them.

    Raises ValueError.
    """
    name = url.partition("://")[2].partition("?")[0]  # hostname would lose its capitals
    try:
        how: dict[str, Any] = {**_query(url)}
        if "wait" in how:
            how["wait"] = float(how["wait"])
    except ValueError:
        raise ValueError(f"{url}: the form is {_FORM}") from None
    if "yields" in how:
        from ttybroker.loan import flags

        flags(how["yields"])
    return name, how


def _query(url: str) -> dict[str, str]:
    """Return what stands behind the name in the URL, by key. Raises ValueError."""
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    twice = any(len(values) > 1 for values in query.values())
    if parts.fragment or twice or set(query) - {"wait", "broker", "yields"}:
        raise ValueError(url)
    return {key: values[0] for key, values in query.items()}
