"""From a policy to the plan in force: one that is kept, or one that a child makes now.

start:   plan fresh? -- yes --> read it
              `- no --> fork --> child: prepare/ -- pipe --> read that
"""

from __future__ import annotations

import errno
import gc
import os

from ttybrokerd.root import fresh, linux, trust
from ttybrokerd.root import plan as plans
from ttybrokerd.root.log import WARNING, Log
from ttybrokerd.root.plan import BadPlan, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

ADVICE = "run `ttybrokerd --prepare` first"


class NotPrepared(Exception):
    """There is no plan to use; the text says why, and what to do."""


def plan_for(policy: str | None, directory: str, log: Log, *, keep: bool) -> Plan:
    """Return the plan for this policy (None: the machine's), from `directory` if that is fresh.

    Otherwise a child makes a plan. If `keep` is set, the child keeps it there, if it may. No thread
    may run. The log says why an existing plan is not used. Raises OSError.
    """
    path = fresh.policy_path(policy)
    try:
        plan = plans.read(fresh.kept_at(directory, path))
        stale = fresh.why_stale(plan, path, fresh.made_for(), texts=True)
        if stale is None and not fresh.too_old(plan):  # guard: stale-plan, old-names
            return plan
    except trust.Untrusted as error:
        log("plan", WARNING, reason=f"no plan is read from {directory}: {error}")
    except (OSError, BadPlan):  # none, or torn: it is made anew
        pass
    return _make(path, directory, keep)


def read_again(policy: str | None, directory: str, old: Plan) -> Plan:
    """Return the plan that `ttybrokerd --prepare` has written since `old` was made.

    Raises NotPrepared.
    """
    path = fresh.policy_path(policy)
    kept = fresh.kept_at(directory, path)
    try:
        plan = plans.read(kept)
    except FileNotFoundError:
        raise NotPrepared(f"no plan at {kept}: {ADVICE}") from None
    except PermissionError as error:
        what = f"{kept}: {error.strerror or error}"
        raise NotPrepared(f"{what}; restart the daemon") from None
    except (OSError, BadPlan) as error:
        raise NotPrepared(f"{kept}: {error}: {ADVICE}") from None
    why = fresh.why_stale(plan, path, old.made_for, texts=False)
    if why is not None:  # guard: reload-of-a-stale-plan
        raise NotPrepared(f"{why}: {ADVICE}")
    return plan


def _make(path: str, directory: str, keep: bool) -> Plan:
    """Have a child make the plan. It comes through a pipe, whose other end nobody else has."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _prepare(path, directory, keep, writing)
    os.close(writing)
    made = linux.read_all(reading)
    os.close(reading)
    linux.reap(child)
    if not made.startswith(plans.MAGIC):
        why = made.decode("utf-8", "replace") or "the process that prepares has ended"
        raise OSError(errno.ENOSYS, f"no plan: {why}")
    try:
        return Plan(made)
    except BadPlan as error:  # the process that prepares was killed while it wrote
        raise OSError(errno.ENOSYS, f"no plan: {error}") from None


def in_words(error: BaseException) -> str:
    """Return what an error says, without the number that Python puts before our own words."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return str(error)


def _prepare(path: str, directory: str, keep: bool, writing: int) -> NoReturn:
    """Be the child: write the plan, or the mistakes."""
    gc.disable()  # a fifth of what the imports below take, in a process that ends
    try:
        from ttybrokerd.prepare.command import prepared

        made = prepared(path, directory, keep)
    except BaseException as error:
        made = in_words(error).encode("utf-8", "replace") or type(error).__name__.encode()
    try:
        while made:
            made = made[os.write(writing, made) :]
    finally:
        os._exit(0)
