"""`ttybroker list`: ports and their holders, as a table for people or as JSON for programs."""

from __future__ import annotations

import os
import stat
import sys
import time

from ttybroker import suggest
from ttybroker.say import printable
from ttybroker.users import name_of, named
from ttybroker.width import columns, cut
from ttybroker.wire import KEPT, Holder, PortInfo

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybroker.copies import Copy
    from ttybroker.facts import Line

_TITLES = ("PORT", "STATE", "HOLDER", "SINCE", "DEVICE", "DESCRIPTION")
_COPIES = ("PORT", "USER", "PID", "PROGRAM", "DESCRIPTORS")
_COPIES_SHOWN = 3
_BOLD = "1"
# ISO 6429, "select graphic rendition"; every other state is somebody else's: red
_COLOURS = {"free": "32", "busy": "33", "opening": "33", "closing": "36"}
_GAP = 2
_CONSOLES = "/sys/class/tty/console/active"


def show(
    ports: list[PortInfo],
    lines: dict[str, Line] | None = None,
    *,
    details: bool = False,
    pids: bool = False,
    height: int | None = None,
) -> None:
    """Print the table to standard output; on a terminal in colour, and cut at its edge.

    lines: the line of each port by its name, to be printed below it. details: below that, also what
    each device is. pids: whether the pids are of this process's namespace. Then those of processes
    that have ended are marked. height: print no more lines than that.
    """
    if not ports:
        from ttybroker.login import too_old

        print(f"no ports: the policy allows you none, or none is there{too_old()}")
        return
    gone = frozenset[int]()
    if pids:
        from ttybroker.holding import ended

        gone = ended(one for port in ports for one in (port.holder, port.lent, *port.copies))
    below = {port.name: _below(port, lines or {}, details, gone) for port in ports}
    rows = [_row(port, gone) for port in ports]
    table(_TITLES, rows, lambda row: (_BOLD, _colour(row[1])), below, height)


def show_copies(found: dict[str, list[Copy]], broker: int) -> None:
    """Print who has a descriptor of each port; broker: its pid."""
    rows = [
        _masked(port, _user(copy.uid), str(copy.pid),
                copy.program + (" [broker]" if copy.pid == broker else ""),
                " ".join(map(str, copy.descriptors)))
        for port, copies in found.items()
        for copy in copies
    ]  # fmt: skip
    if rows:
        table(_COPIES, rows, lambda _: (_BOLD,))
    for port in (port for port, copies in found.items() if not copies):
        print(f"{port}: no process that you can see has it open")


def show_copies_json(found: dict[str, list[Copy]], broker: int) -> None:
    """Print a JSON array, one object a port and process."""
    import json

    records = [
        {
            "port": port,
            "uid": copy.uid,
            "user": name_of(copy.uid) or None,
            "pid": copy.pid,
            "program": copy.program,
            "descriptors": copy.descriptors,
            "broker": copy.pid == broker,
        }
        for port, copies in found.items()
        for copy in copies
    ]
    print(json.dumps(records, indent=2))


def table(
    titles: tuple[str, ...],
    rows: list[tuple[str, ...]],
    styles: Callable[[tuple[str, ...]], tuple[str, ...]],
    below: dict[str, list[str]] | None = None,
    height: int | None = None,
) -> None:
    """Print rows below their titles.

    `styles` has the styles of the first cells of a row. `below` has, by a row's first cell, the
    lines that follow the row. `height`: if there are more lines, the last says how many are left
    out.
    """
    widths = [max(map(columns, cells)) + _GAP for cells in zip(titles, *rows, strict=True)]
    room, colour = _terminal()
    lines = []
    for row in (titles, *rows):
        drawn = (_BOLD,) * 2 if row is titles else styles(row)
        lines.append(_line(row, widths, room, drawn if colour else ()))
        for more in (below or {}).get(row[0], ()):
            lines.append(_line((f"{' ' * _GAP}{more}",), [0], room, ()))
    if height and len(lines) > height:
        left_out = f"{len(lines) - height + 1} more lines; to see some ports alone, name them"
        lines[height - 1 :] = [_line((left_out,), [0], room, ())]
    for line in lines:
        write(line)


def write(line: str) -> None:
    """Print it, with ? for what standard output cannot take."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding))


def _below(
    port: PortInfo, lines: dict[str, Line], details: bool, gone: frozenset[int]
) -> list[str]:
    """Return the lines below a port.

    They say until when it is kept from the caller, the state of its line, what it is, and who keeps
    a copy.
    """
    told = []
    if (until := _kept_until(port)) is not None:
        told.append(f"kept from you until {_moment(until)}: it was taken back with revoke --hold")
    if port.name in lines:
        told.append(lines[port.name].words())
    if details:
        told += suggest.lines(suggest.words(port.device))
    for copy in port.copies[:_COPIES_SHOWN]:
        told += _masked(f"still open after its lease ended: {_holder(copy, gone)}")
    if len(port.copies) > _COPIES_SHOWN:
        told.append(f"and {len(port.copies) - _COPIES_SHOWN} more still open")
    return [text for text in told if text]


def _row(port: PortInfo, gone: frozenset[int]) -> tuple[str, ...]:
    waiting = f", {port.waiting} waiting" if port.waiting else ""
    return _masked(
        port.name,
        port.state + waiting,
        _holder(port.holder, gone) if port.lent is None else _lent(port.holder, port.lent, gone),
        _ago(port.holder),
        port.device,
        describe(port),
    )


def _masked(*cells: str) -> tuple[str, ...]:
    """Mask each text: programs and USB devices name themselves, and could control the terminal."""
    return tuple(map(printable, cells))


def _line(
    row: tuple[str, ...], widths: list[int], room: int | None, styles: tuple[str, ...]
) -> str:
    """Return the cells side by side, with an ellipsis if the line is longer than `room`."""
    cells = [cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)]
    text = "".join(cells).rstrip()
    if room is not None and columns(text) > room:
        text = cut(text, room - 1) + "\u2026"
    line, start = "", 0
    for style, cell in zip(styles, cells, strict=False):
        line += f"\x1b[{style}m{text[start : start + len(cell)]}\x1b[0m"
        start += len(cell)
    return line + text[start:]


def _colour(state: str) -> str:
    """Return the colour of a cell such as "busy, 2 waiting"."""
    return _COLOURS.get(state.replace(",", " ").split()[0], "31")


def _terminal() -> tuple[int | None, bool]:
    """Return the number of columns, None for no limit, and whether to use colour."""
    if not sys.stdout.isatty():
        return None, False
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return os.get_terminal_size(sys.stdout.fileno()).columns or None, colour


def show_json(
    ports: list[PortInfo], lines: dict[str, Line] | None = None, *, details: bool = False
) -> None:
    """Print a JSON array, one object a port; an unknown value is null. lines: as for `show`."""
    import json

    print(json.dumps([record(port, lines, details=details) for port in ports], indent=2))


def describe(port: PortInfo) -> str:
    """Return what kind of device it is, from sysfs; "" if sysfs does not say."""
    device = port.device
    if device.startswith("/dev/pts/"):
        return "pseudo-terminal"
    if port.state in ("refused", "gone") and (why := _why_not(device)):
        return why
    from serial.tools.list_ports_linux import SysFS

    description = SysFS(device).description
    return "" if description in (None, "n/a") else str(description)


def _why_not(device: str) -> str:
    """Return why nobody gets this device, as far as anybody can see: an alias may lead to anything.

    "" if that is not known. An earlier broker calls such a port gone.
    """
    try:
        status = os.stat(device)
        if not stat.S_ISCHR(status.st_mode):
            return "not a serial port"
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        name = os.path.basename(os.readlink(f"/sys/dev/char/{number}"))
        with open(_CONSOLES) as file:
            consoles = file.read().split()
    except OSError:  # it has gone, or sysfs does not know it
        return ""
    if not suggest.is_port(name):
        return "not a serial port"
    return "the active console" if name in consoles else ""


def _lent(holder: Holder | None, lender: Holder, gone: frozenset[int]) -> str:
    """Return a cell like "lent to alice sz (42), back to alice with term"."""
    user = named(lender).user or ("?" if lender.uid is None else f"uid {lender.uid}")
    program = f" with {lender.program}" if lender.program else ""
    return f"lent to {_holder(holder, gone) or '?'}, back to {user}{program}"


def _holder(holder: Holder | None, gone: frozenset[int]) -> str:
    """Return a cell like "alice picocom (42)"; of the pids in `gone` it says so."""
    if holder is None:
        return ""
    if holder.how == "exclusive":  # the kernel does not tell who
        return "unknown: the last open found it exclusive"
    who = named(holder).user or ("?" if holder.uid is None else f"uid {holder.uid}")
    pid = f"({holder.pid}{', has ended' if holder.pid in gone else ''})" if holder.pid else ""
    what = " ".join(filter(None, (holder.program, pid)))
    how = "" if holder.how == "lease" else f"[{holder.how}]"
    label = f"for {holder.label!r}" if holder.label else ""
    return " ".join(filter(None, (who, what, how, label)))


def _user(uid: int) -> str:
    return name_of(uid) or f"uid {uid}"


def _ago(holder: Holder | None) -> str:
    if holder is None or holder.since is None:
        return ""
    seconds = max(0, int(time.time() - holder.since))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _kept_until(port: PortInfo) -> int | None:
    return dict(port.facts).get(KEPT)


def _moment(seconds: float) -> str:
    """Return a moment of the epoch as a clock shows it, with the day if that is not today."""
    day, clock = "%Y-%m-%d", "%H:%M:%S"
    moment, now = time.localtime(seconds), time.localtime(time.time())
    today = time.strftime(day, moment) == time.strftime(day, now)
    return time.strftime(clock if today else f"{day} {clock}", moment)


def record(
    port: PortInfo, lines: dict[str, Line] | None = None, *, details: bool = False
) -> dict[str, object]:
    """Return the fields of a port for a program; lines, details: as for `show`."""
    line = (lines or {}).get(port.name)
    known: dict[str, object] = {
        "port": port.name,
        "state": port.state,
        "device": port.device,
        "description": describe(port) or None,
        "rule": port.rule or None,
        "waiting": port.waiting,
        "holder": None if port.holder is None else _fields(port.holder),
        "lent": None if port.lent is None else _fields(port.lent),
        "copies": [_fields(copy) for copy in port.copies],
        "kept_until": _kept_until(port),
        "line": None if line is None else line.record(),
    }
    if details:
        known["is"] = suggest.words(port.device)
    return known


def _fields(holder: Holder) -> dict[str, object]:
    return {
        "uid": holder.uid,
        "user": named(holder).user or None,
        "pid": holder.pid,
        "program": holder.program or None,
        "since": holder.since,
        "how": holder.how,
        "label": holder.label or None,
    }
