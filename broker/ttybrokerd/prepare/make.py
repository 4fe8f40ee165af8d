"""Make one plan, from the policy, the users, and this system."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

from ttybroker.wire import Value
from ttybrokerd.prepare import accounts, files, filter
from ttybrokerd.prepare.encode import Origin, encode
from ttybrokerd.prepare.files import Stamps
from ttybrokerd.prepare.policy import NAMES, NO_POLICY, Policy, PolicyError, Subjects, parse
from ttybrokerd.root import fresh, linux, plan

LIBRARIES = ("libc.", "libc-", "libseccomp.", "libpython")
HERE = os.path.dirname(os.path.abspath(__file__))


class Made(Value):
    """A plan, and what to tell people about it.

    With mistakes it has no rules. With rules, `policy.unknown` may still have mistakes.
    """

    data: bytes
    mistakes: tuple[str, ...]
    policy: Policy


def make(path: str, last: Mapping[str, Subjects] = NAMES) -> Made:
    """Make the plan for the policy at `path`.

    A policy that is bad, or that others could change, gives a plan with that mistake and no rules.
    `last` is as in policy.parse. Raises filter.NoFilter.
    """
    stamps, names = Stamps(), accounts.Accounts()
    people = [os.path.realpath(file) for file in accounts.FILES]
    number, code = filter.tried()
    for library in (*_libraries(), *_own_files()):
        stamps.take(library)
    for file in people:
        stamps.take(file)
        with contextlib.suppress(OSError):  # absent, as its stamp says
            stamps.was_read(file, linux.read_file(file))
    policy, mistakes = judge(path, stamps, names, last)
    if not names.asked:
        for file in people:
            del stamps[file]
    origin = Origin(
        names.asked and accounts.elsewhere(accounts.SWITCH),
        time.time(),
        fresh.made_for(),
        path,
        "".join(mistakes[:1]),
        stamps,
    )
    data = encode(origin, number, code, policy)
    if len(data) > plan.MAX_BYTES:  # guard: plan-of-a-size
        why = f"{path}: its plan has more than {plan.MAX_BYTES} bytes; name fewer users"
        mistakes, policy = (f"{why} in deny, or smaller groups",), NO_POLICY
        data = encode(origin.replace(mistake=mistakes[0]), number, code, policy)
    return Made(data, mistakes, policy)


def judge(
    path: str,
    stamps: Stamps,
    names: accounts.Accounts,
    last: Mapping[str, Subjects] = NAMES,
    *,
    draft: bool = False,
) -> tuple[Policy, tuple[str, ...]]:
    """Return the policy at `path` with its drop-ins, and its mistakes.

    With mistakes the policy is empty.
    """
    mistakes = list[str]()
    texts = files.read(path, stamps, mistakes, draft=draft)
    if not mistakes:
        try:
            return parse(texts, names, last), ()
        except PolicyError as error:
            mistakes += error.mistakes
    return NO_POLICY, tuple(mistakes)


def _own_files() -> list[str]:
    """Return the files of the code that makes plans, and of the code that reads them."""
    mine = [f"{HERE}/{name}" for name in sorted(os.listdir(HERE)) if name.endswith(".py")]
    return [*mine, plan.__file__]


def _libraries() -> list[str]:
    """Return the interpreter and the libraries that the filter is for: proc_pid_maps(5).

    They are those that are loaded in this process.
    """
    lines = linux.read_file("/proc/self/maps").decode("utf-8", "surrogateescape").splitlines()
    loaded = {line.partition("/")[2] for line in lines}
    found = {f"/{path}" for path in loaded if os.path.basename(path).startswith(LIBRARIES)}
    return [os.readlink("/proc/self/exe"), *sorted(found)]
