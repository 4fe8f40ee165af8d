"""`ttybroker list`: ports and their holders, as a table for people or as JSON for programs."""

from __future__ import annotations

import sys
import time

from ttybroker.wire import Holder, Port

_COLOURS = {"free": "green", "busy": "yellow", "opening": "yellow", "closing": "cyan"}
_WIDTH_OF_A_FILE = 250  # columns when nobody's terminal sets them: nothing is to be cut


def show(ports: list[Port]) -> None:
    """Print the table to standard output; on a terminal in colour and as wide as that."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _WIDTH_OF_A_FILE, highlight=False)
    if not ports:
        console.print("no ports: the policy allows you none, or none is there")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("PORT", "STATE", "HOLDER", "SINCE", "DEVICE", "DESCRIPTION"):
        table.add_column(title, no_wrap=title != "DESCRIPTION")
    for port in ports:
        state = port.state + (f", {port.waiting} waiting" if port.waiting else "")
        table.add_row(
            Text(port.name, "bold"),
            Text(state, _COLOURS.get(port.state.split()[0], "red")),
            Text(_holder(port.holder)),
            Text(_ago(port.holder)),
            Text(port.device),
            Text(describe(port.device)),
        )
    console.print(table)


def show_json(ports: list[Port]) -> None:
    """Print a JSON array, one object a port; what is not known is null."""
    import json

    print(json.dumps([_record(port) for port in ports], indent=2))


def describe(device: str) -> str:
    """What kind of device it is, from sysfs; "" if that does not say."""
    if device.startswith("/dev/pts/"):
        return "pseudo-terminal"
    from serial.tools.list_ports_linux import SysFS

    description = SysFS(device).description
    return "" if description in (None, "n/a") else str(description)


def _holder(holder: Holder | None) -> str:
    if holder is None:
        return ""
    who = holder.user or ("?" if holder.uid is None else f"uid {holder.uid}")
    what = " ".join(filter(None, (holder.program, f"({holder.pid})" if holder.pid else "")))
    how = "" if holder.how == "lease" else f"[{holder.how}]"
    return " ".join(filter(None, (who, what, how)))


def _ago(holder: Holder | None) -> str:
    if holder is None or holder.since is None:
        return ""
    seconds = max(0, int(time.time() - holder.since))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _record(port: Port) -> dict[str, object]:
    holder = port.holder
    return {
        "port": port.name,
        "state": port.state,
        "device": port.device,
        "description": describe(port.device) or None,
        "rule": port.rule or None,
        "waiting": port.waiting,
        "holder": None
        if holder is None
        else {
            "uid": holder.uid,
            "user": holder.user or None,
            "pid": holder.pid,
            "program": holder.program or None,
            "since": holder.since,
            "how": holder.how,
        },
    }
