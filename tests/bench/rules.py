"""What a long policy costs the decision and the list."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from bench import figures
from bench.build import Bench, Build
from bench.figures import Row
from bench.rig import Client, Rig

ROUNDS = 40
PORTS = 128
MANY, FEW = 1000, 10
NAMES = 50  # asked about in one timing


def rows(bench: Bench) -> list[Row]:
    """Return the rows. In each the many rules and the few run in turn."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in bench.builds}
    for name, build in bench.builds.items():
        with contextlib.ExitStack() as stack:
            each = {what: stack.enter_context(rig).start() for what, rig in _rigs(build).items()}
            jobs = {what: _job(what, rig.client()) for what, rig in each.items()}
            figures.interleave(1, jobs)  # warm
            times = figures.interleave(ROUNDS, jobs)
        found[name]["check"] = _pairs(times["check, many"], times["check, few"])
        found[name]["list"] = _pairs(times["list, many"], times["list, few"])
    old = {what: figures.median(pairs) for what, pairs in found.get("old", {}).items()}
    return [
        figures.middle(f"{title}, {MANY:,} rules / {few}", found["new"][what], limit,
                       old=old.get(what))
        for what, title, few, limit in (
            ("check", "a decision, asked and answered (check)", FEW, 1.3),
            ("list", f"list of {PORTS} ports", PORTS, 1.5),
        )
    ]  # fmt: skip


def _rigs(build: Build) -> dict[str, Rig]:
    """A daemon for each timing."""
    other = _rules(MANY - PORTS)
    return {
        "check, many": Rig(build, 1, _rules(MANY - 1)),
        "check, few": Rig(build, 1, _rules(FEW - 1)),
        "list, many": Rig(build, PORTS, other),
        "list, few": Rig(build, PORTS),
    }


def _rules(count: int) -> str:
    """So many rules of names that the kernel may give: most exact, each tenth a pattern. The last
    is the one that is asked about."""
    text = ""
    for number in range(count - 1):
        name = f"ttyN{number}" if number % 10 else f"ttyP{number}x*"
        text += f'[[rule]]\nport = "{name}"\nallow = [{70000 + number}]\n'
    return text + '[[rule]]\nport = "ttyLast*"\nallow = ["*"]\n'


def _job(what: str, client: Client) -> Callable[[], float]:
    if what.startswith("list"):
        return lambda: float(client.ask("ports", PORTS))
    names = [f"ttyLast{number}" for number in range(NAMES)]
    return lambda: float(client.ask("check", names))


def _pairs(many: list[float], few: list[float]) -> list[float]:
    return [a / b for a, b in zip(many, few, strict=True)]
