"""~/.config/ttybroker/term.toml: options of `ttybroker term`, for a port or under a name."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator


def path() -> str:
    """Return where the file is, if there is one: XDG Base Directory Specification."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(home, "ttybroker", "term.toml")


def words(port: str | None, name: str | None, keys: frozenset[str]) -> list[str]:
    """Return the options for this port, then those of profile `name`, as on a command line.

    keys: those that there are; "port" is one in a profile alone. Raises Usage; OSError.
    """
    from ttybroker.term.options import Usage

    where = path()
    if not os.path.lexists(where):
        if name is None:
            return []
        raise Usage(f"--profile {name}: there is no {where}")
    import tomllib  # here, for most people have no profile

    try:
        with open(where, "rb") as file:
            tables = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Usage(f"{where}: {error}") from None
    found: list[str] = []
    if name is not None:
        profiles = tables.get("profile")
        table = profiles.get(name) if isinstance(profiles, dict) else None
        if table is None:
            raise Usage(f"{where}: [profile.{name}]: there is none")
        found = list(_options(table, f"{where}: [profile.{name}]", keys))
        if port is None and isinstance(table, dict):
            port = table.get("port")
    if port is not None and port != "profile" and port in tables:
        found = [*_options(tables[port], f"{where}: [{port}]", keys - {"port"}), *found]
    return found


def _options(table: object, where: str, keys: frozenset[str]) -> Iterator[str]:
    from ttybroker.term.options import Usage

    if not isinstance(table, dict):
        raise Usage(f"{where}: it is no table")
    for key, value in table.items():
        if key not in keys:
            raise Usage(f"{where}: {key}: unknown key; known are {', '.join(sorted(keys))}")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bool):
                if one or key != "log":
                    yield f"--{key}" if one else f"--no-{key}"
            elif isinstance(one, int | float | str):
                yield f"--{key}={one}"
            else:
                raise Usage(f"{where}: {key}: it is a number, a text, true or false")
