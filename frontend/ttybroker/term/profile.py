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


def settings(port: str | None, name: str | None) -> list[Setting]:
    """Return the settings for this port, and then those of profile `name`.

    If no port is given, that of the profile counts. Raises Usage; OSError.
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
    found: list[Setting] = []
    if name is not None:
        profiles = tables.get("profile")
        if not isinstance(profiles, dict) or name not in profiles:
            raise Usage(f"{where}: there is no table [profile.{name}]")
        found = list(_of(profiles[name], f"{where}: [profile.{name}]"))
        named = next((value for _, key, value in found if key == "port"), None)
        port = port if port is not None or named is None else str(named)
    if port is not None and port != "profile" and port in tables:
        mine = list(_of(tables[port], f"{where}: [{port}]", a_port=True))
        found = mine + found
    return found


def _of(table: object, where: str, a_port: bool = False) -> Iterator[Setting]:
    from ttybroker.term.options import KEYS, Usage

    if not isinstance(table, dict):
        raise Usage(f"{where}: must be a table")
    known = KEYS if a_port else KEYS | {"port"}
    for key, value in table.items():
        if key not in known:
            raise Usage(f"{where}: {key}: unknown key; known are {', '.join(sorted(known))}")
        yield where, key, value
