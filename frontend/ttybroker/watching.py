"""`ttybroker list --watch`: the table drawn again at each change, or a line of JSON for each."""

from __future__ import annotations

import json
import os
import sys
import time

from ttybroker import listing
from ttybroker.facts import Line

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.client import Client
    from ttybroker.wire import PortInfo

_AGAIN = 1.0  # seconds after which what has grown older is drawn again
_AFRESH = "\x1b[H\x1b[J"  # ECMA-48: CUP, to the top; ED, and nothing below


class Lines:
    """The lines of ports, with what is new in each second."""

    def __init__(self) -> None:
        self._looks: dict[str, tuple[dict[int, int], float]] = {}
        self._lines: dict[str, Line] = {}

    def of(self, ports: list[PortInfo]) -> dict[str, Line]:
        """Return the line of each port that has facts now, by its name."""
        now, facts = time.monotonic(), {port.name: dict(port.facts) for port in ports}
        for name, found in facts.items():
            before, at = self._looks.get(name, (None, now))
            if not found:
                self._looks.pop(name, None)
                self._lines.pop(name, None)
            elif before is None or now - at >= _AGAIN / 2:
                self._lines[name] = Line(found, before, now - at)
                self._looks[name] = found, now
        return {name: line for name, line in self._lines.items() if name in facts}


def watch(broker: Client, names: tuple[str, ...], *, details: bool, as_json: bool) -> None:
    """Show the ports with their lines until there is an error or a signal.

    Every second what is on a screen is drawn again, because it has grown older. It does not scroll.
    What goes elsewhere is written again only if it says something else: also that no more bytes
    came.
    """
    on_screen = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not as_json
    lines, between, shown = Lines(), "", None
    for ports in broker.watch(names, details=True, again=_AGAIN, reader=sys.stdout.fileno()):
        known = lines.of(ports)
        told = ports, [(line.words(), line.rates()) for line in known.values()]
        if not on_screen and told == shown:
            continue
        shown = told
        if as_json:
            print(json.dumps([listing.record(port, known, details=details) for port in ports]))
        else:
            print(end=_AFRESH if on_screen else between)
            height = (
                max(0, os.get_terminal_size(sys.stdout.fileno()).lines - 1) if on_screen else None
            )
            pids = broker.shares_pids()
            listing.show(ports, known, details=details, pids=pids, height=height)
            between = "\n"
        sys.stdout.flush()
