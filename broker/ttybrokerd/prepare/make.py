"""One plan, from the policy, the users, and what this system is."""

from __future__ import annotations

import contextlib
import os
import time
from binascii import crc32
from collections.abc import Mapping

from ttybroker.wire import Value
from ttybrokerd.prepare import accounts, filter
from ttybrokerd.prepare.encode import Origin, encode
from ttybrokerd.prepare.policy import MAX_BYTES, NAMES, NO_POLICY, Policy, Subjects, parse
from ttybrokerd.root import linux, plan, trust
from ttybrokerd.root.plan import PolicyError

YOUNG = 1_000_000_000  # ns: a clock's tick, and the granularity of old file systems
LIBRARIES = ("libc.", "libc-", "libseccomp.", "libpython")
HERE = os.path.dirname(os.path.abspath(__file__))
INSTALL = f"install it as {plan.POLICY}, owned by root and writable by nobody else"


class Made(Value):
    """A plan, and what people are to be told of it. With mistakes it has no rules; also of one
    that has rules `policy.unknown` may be mistakes."""

    data: bytes
    mistakes: tuple[str, ...]
    policy: Policy


class Stamps(dict[str, tuple[int, ...]]):
    """What each path was before it was read, so that a change during that is one as well."""

    def take(self, path: str) -> None:
        """Note how this path is now."""
        directory = os.path.isdir(path) and not os.path.islink(path)
        self[path] = plan.stamp(path, plan.PLACE if directory else plan.FILE)

    def was_read(self, path: str, data: bytes) -> None:
        """Note the checksum of what was read, if the file is so young that another change
        might leave its times as they are."""
        kind, *values, _ = self[path]
        # guard: young-text
        if kind == plan.FILE and time.time_ns() - max(values[3], values[4]) < YOUNG:
            self[path] = (plan.TEXT, *values, crc32(data))


def make(path: str, last: Mapping[str, Subjects] = NAMES) -> Made:
    """The plan for the policy at `path`. A policy that is bad, or at a place that others could
    change, gives a plan with that mistake and no rules. `last` as in policy.parse.

    Raises filter.NoFilter.
    """
    stamps, names = Stamps(), accounts.Accounts()
    people = [os.path.realpath(file) for file in accounts.FILES]
    number, code = filter.tried()
    for library in (*_libraries(), *_own_files()):
        stamps.take(library)
    if path == plan.SHIPPED:  # as long as there is no other
        stamps.take(plan.POLICY)
    for file in people:
        stamps.take(file)
        with contextlib.suppress(OSError):  # absent, as its stamp says
            stamps.was_read(file, linux.read_file(file))
    policy, mistakes = NO_POLICY, tuple[str, ...]()
    try:
        policy = parse(_read(path, stamps), names, path, last)
    except PolicyError as error:
        mistakes = error.mistakes
    if not names.asked:
        for file in people:
            del stamps[file]
    origin = Origin(
        names.asked and accounts.elsewhere(accounts.SWITCH),
        time.time(),
        plan.made_for(),
        path,
        "".join(mistakes[:1]),
        stamps,
    )
    return Made(encode(origin, number, code, policy), mistakes, policy)


def read_draft(path: str) -> bytes:
    """The text of a policy, whoever may change it. Raises PolicyError."""
    try:
        if not os.path.isfile(path) and os.path.exists(path):  # before it is opened
            raise ValueError("not a regular file")
        data = linux.read_file(path, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
    except OSError as error:
        raise PolicyError(f"{path}:1: file: {error.strerror}") from None
    except ValueError as error:
        raise PolicyError(f"{path}:1: file: {error}") from None
    return data


def why_untrusted(path: str) -> str | None:
    """Why the daemon would not read a policy there, and where to put it; None if it would."""
    try:
        trust.resolve(path)
    except trust.Untrusted as error:
        return f"{path}:1: file: {error}; {INSTALL}"
    except (OSError, ValueError):  # which reading it will tell
        pass
    return None


def _read(path: str, stamps: Stamps) -> bytes:
    """The policy's text, with every component on its way stamped. Raises PolicyError."""
    if path == plan.SHIPPED:
        stamps.take(path)
        return read_draft(path)
    why, way = why_untrusted(path), list[str]()
    try:
        path_read = trust.resolve(path, way)
    except (OSError, ValueError):
        path_read = path
    for component in way:
        stamps.take(component)
    if why is not None:  # guard: trusted-policy-path
        raise PolicyError(why)
    data = read_draft(path)
    if path_read in stamps:
        stamps.was_read(path_read, data)
    return data


def _own_files() -> list[str]:
    """The code that makes plans, and the one that reads them."""
    mine = [f"{HERE}/{name}" for name in sorted(os.listdir(HERE)) if name.endswith(".py")]
    return [*mine, plan.__file__]


def _libraries() -> list[str]:
    """The interpreter and the libraries whose system calls the filter is for, as they are
    loaded here: proc_pid_maps(5)."""
    lines = linux.read_file("/proc/self/maps").decode("utf-8", "surrogateescape").splitlines()
    loaded = {line.partition("/")[2] for line in lines}
    found = {f"/{path}" for path in loaded if os.path.basename(path).startswith(LIBRARIES)}
    return [os.readlink("/proc/self/exe"), *sorted(found)]
