"""~/.config/ttybroker/term.toml: options of `ttybroker term`, for a port or under a name."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator

    Setting = tuple[str, str, object]  # where it stands, key, value


def path() -> str:
    """Return the path of the file, whether or not it exists: XDG Base Directory Specification."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(home, "ttybroker", "term.toml")


def settings(port: str | None, name: str | None) -> tuple[list[Setting], list[str]]:
    """Return the settings for this port, and then those of profile `name`.

    If no port is given, that of the profile counts. If the port has no table, the second list has
    the tables whose names are so like its own that one may be meant for it.

    Raises Usage, also for a name anywhere in the file that means nothing, because what stands there
    would be ignored; OSError.
    """
    from ttybroker.term.options import Usage

    where = path()
    if not os.path.lexists(where):
        if name is None:
            return [], []
        raise Usage(f"--profile {name}: there is no {where}")
    ports, profiles = _read(where)
    found: list[Setting] = []
    if name is not None:
        if name not in profiles:
            from ttybroker.names import did_you_mean

            near = did_you_mean(name, profiles)
            raise Usage(f"{where}: there is no table [profile.{name}]{near}")
        found = profiles[name]
        port = port if port is not None else _port_in(found)
    if port is None or port in ports:
        return ports.get(port or "", []) + found, []
    return found, [table for table in ports if _alike(table, port)]


def port_of(name: str | None) -> str | None:
    """Return the port that profile `name` names, None if there is none. Raises as `settings`."""
    return None if name is None else _port_in(settings(None, name)[0])


def in_vain(tables: list[str], port: str) -> str:
    """Return the line to show for the first of the tables that is no port's, "" if there is none.

    Raises BrokerError.
    """
    from ttybroker.client import connect

    with connect() as broker:
        known = {info.name for info in broker.ports()}
    wrong = next((table for table in tables if table not in known), None)
    return f"{path()}: [{wrong}]: no port that you may use; did you mean {port}?" if wrong else ""


def _port_in(found: list[Setting]) -> str | None:
    return next((str(value) for _, key, value in found if key == "port"), None)


def _alike(table: str, port: str) -> bool:
    """Whether one may be the other with a mistake: not if only their numbers differ."""
    from ttybroker.names import did_you_mean

    one, two = (text.rstrip("0123456789").lower() for text in (table, port))
    return one != two and did_you_mean(table, [port]) != ""


def _read(where: str) -> tuple[dict[str, list[Setting]], dict[str, list[Setting]]]:
    """Return the settings of each port, and those of each profile. Raises Usage; OSError."""
    import tomllib  # here, for most people have no profile

    from ttybroker.term.options import Usage
    from ttybroker.wire import valid_name

    try:
        with open(where, "rb") as file:
            tables = tomllib.load(file)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise Usage(f"{where}: {error}") from None
    ports: dict[str, list[Setting]] = {}
    profiles: dict[str, list[Setting]] = {}
    for table, value in tables.items():
        if not isinstance(value, dict):
            what = "must stand below a table, such as [ttyS0] or [profile.NAME]"
            raise Usage(f"{where}: {table}: {what}")
        if table == "profile":
            profiles = {key: list(_of(one, f"{where}: [profile.{key}]", a_port=False))
                        for key, one in value.items()}  # fmt: skip
        elif valid_name(table):
            ports[table] = list(_of(value, f"{where}: [{table}]", a_port=True))
        else:
            from ttybroker.names import not_a_name

            raise Usage(f"{where}: the table {not_a_name(table)}")
    return ports, profiles


def _of(table: object, where: str, *, a_port: bool) -> Iterator[Setting]:
    from ttybroker.term.options import KEYS, Usage
    from ttybroker.wire import valid_name

    if not isinstance(table, dict):
        raise Usage(f"{where}: must be a table")
    known = KEYS if a_port else KEYS | {"port"}
    for key, value in table.items():
        if key not in known:
            from ttybroker.names import did_you_mean

            near = did_you_mean(key, known) or f"; known are {', '.join(sorted(known))}"
            raise Usage(f"{where}: {key}: unknown key{near}")
        if key == "port" and not (isinstance(value, str) and valid_name(value)):
            from ttybroker.names import not_a_name

            raise Usage(f"{where}: port: {not_a_name(str(value))}")
        yield where, key, value
