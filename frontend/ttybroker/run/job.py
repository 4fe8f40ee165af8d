"""What to run, and the error that says why it could not be."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ttybroker.run.broker import Connect

NOT_FOUND, NOT_EXECUTABLE, REFUSED = 127, 126, 1  # exit statuses: POSIX sh 2.8.2, and ours
DEFAULT_PATH = "/bin:/usr/bin"  # confstr(3) _CS_PATH


class Failure(Exception):
    """The program was not started: a line to show, and the exit status."""

    def __init__(self, line: str, status: int = REFUSED) -> None:
        super().__init__(line)
        self.status = status


class LaunchJob:
    """What to run and how.

    ports: names to broker, none for all that the user may use. direct: (descriptors, name) of the
    ports that the program finds open. hold: whether all these ports are kept from the start to the
    end. wait: seconds to queue for a busy port, or None. yields: lend the ports to other programs
    of the user. quiet: do not show who has the port. before_exec: called last in the process that
    becomes the program.
    """

    def __init__(
        self,
        argv: Sequence[str],
        connect: Connect,
        *,
        ports: Sequence[str] = (),
        direct: Sequence[tuple[tuple[int, ...], str]] = (),
        hold: bool = False,
        wait: float | None = None,
        yields: bool = False,
        quiet: bool = False,
        env: Mapping[str, str] | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self.argv = list(argv)
        self.connect = connect
        self.ports = tuple(ports)
        self.direct = tuple(direct)
        self.wait = wait
        self.yields = yields
        self.quiet = quiet
        self.env = our_environment() if env is None else dict(env)
        self.before_exec = before_exec
        # whose opens are answered: the ports that are named in any way
        self.brokered = tuple(dict.fromkeys([*ports, *(name for _, name in direct)]))
        self.held = self.brokered if hold else ()
        # what is opened before the program begins: `direct`, and in the same form what is held
        found = {name for _, name in direct}
        held_besides = tuple(((), name) for name in self.held if name not in found)
        self.at_start: tuple[tuple[tuple[int, ...], str], ...] = self.direct + held_besides
        self.program = find_program(self.argv[0], self.env.get("PATH", DEFAULT_PATH))


def our_environment() -> dict[str, str]:
    """Return the environment with which this process was started.

    In the C locale Python adds LC_CTYPE to it (PEP 538), which would change the program's.
    """
    env = dict(os.environ)
    if env.get("LC_CTYPE") == "C.UTF-8":
        with open("/proc/self/environ", "rb") as block:
            if b"\0LC_CTYPE=" not in b"\0" + block.read():
                del env["LC_CTYPE"]
    return env


def find_program(name: str, path: str) -> str:
    """Return the file that a shell would run for `name`. Raises Failure with 127 or 126."""
    if not name:
        raise Failure("the name of the program is empty", NOT_FOUND)
    candidates = [name] if "/" in name else [f"{part or '.'}/{name}" for part in path.split(":")]
    found = ""
    for candidate in candidates:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
        if os.path.exists(candidate):
            found = found or candidate
    if not found:
        where = "no such file" if "/" in name else "not found in $PATH; is it installed?"
        raise Failure(f"{name}: {where}", NOT_FOUND)
    what = "is a directory" if os.path.isdir(found) else "may not be executed; see its mode"
    where = name if found == name else f"{name}: {found}"
    raise Failure(f"{where}: {what}", NOT_EXECUTABLE)


def is_program(word: str, path: str) -> bool:
    """Return whether a shell would run something for this word."""
    try:
        return bool(find_program(word, path))
    except Failure:
        return False
