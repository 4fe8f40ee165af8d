"""`ttybroker check --broker`: how the running broker is confined, seen from outside.

/proc shows most of it, for every thread: proc_pid_status(5), proc_pid_limits(5). The process is the
one that the kernel names as the sender of the answer. Landlock and the dumpable flag are not in
/proc. For these we rely on what the broker says.
"""

from __future__ import annotations

import errno
import os

from ttybroker import client, landlock, wire
from ttybroker.errors import BrokerUnavailable

# linux/capability.h; what the root side keeps, and why, is in ttybrokerd/root/confine.py
_CAPABILITIES = {1: "CAP_DAC_OVERRIDE", 21: "CAP_SYS_ADMIN"}
_KEPT = sum(1 << number for number in _CAPABILITIES)
_SETS = (("CapPrm", "permitted"), ("CapEff", "effective"), ("CapBnd", "bounding"),
         ("CapInh", "inheritable"), ("CapAmb", "ambient"))  # fmt: skip
_SECCOMP = {"0": "none", "1": "strict", "2": "filter"}


class Fact:
    """One thing that is promised about the broker: what was found, and whether it is kept."""

    __slots__ = ("found", "name", "promised")

    def __init__(self, name: str, found: str, promised: str) -> None:
        self.name = name
        self.found = found
        self.promised = promised

    @property
    def kept(self) -> bool:
        """Return whether it is as promised."""
        return self.found == self.promised


def inspect(broker: client.Broker = None) -> tuple[int, list[Fact]]:
    """Return the broker's pid, and what is in force there.

    Raises BrokerError; BrokerUnavailable if its process cannot be seen from here.
    """
    with client.connect(broker) as connection:
        pid, word = connection.status()
        try:
            threads = [_fields(f"/proc/{pid}/task/{thread}/status")
                       for thread in os.listdir(f"/proc/{pid}/task")]  # fmt: skip
            limits = _read(f"/proc/{pid}/limits")
        except OSError as error:
            what = f"the broker's process {pid} cannot be seen from here: {error.strerror}"
            raise BrokerUnavailable(errno.ECONNREFUSED, f"{what}; ask as root") from None
    return pid, judge(threads, limits, word, landlock.abi())


def judge(
    threads: list[dict[str, str]], limits: str, word: wire.Running, kernel: int
) -> list[Fact]:
    """Compare what was found with what is promised. `kernel` is its Landlock ABI, 0 for none."""
    facts = []
    for field, name in _SETS:
        kept = _KEPT if name in ("permitted", "effective", "bounding") else 0
        found = _found([_capabilities(int(thread[field], 16)) for thread in threads])
        if name == "inheritable" and found == _capabilities(_KEPT):  # systemd gave them by it
            kept = _KEPT
        facts.append(Fact(f"capabilities, {name}", found, _capabilities(kept)))
    seccomp = _found([_SECCOMP.get(thread["Seccomp"], "?") for thread in threads])
    privileges = _found([_yes(thread["NoNewPrivs"] == "1") for thread in threads])
    level = min(kernel, landlock.KNOWN)
    core = next((line.split()[4] for line in limits.splitlines() if "core file" in line), "?")
    return [
        *facts,
        Fact("seccomp", seccomp, "filter"),
        Fact("Landlock", _abi(word.landlock), _abi(level)),
        Fact("no_new_privs", privileges, "yes"),
        Fact("dumpable", _yes(word.dumpable), "no"),
        Fact("limit of core files", core, "0"),
    ]


def show(pid: int, facts: list[Fact]) -> None:
    """Print the page for people."""
    print(f"the broker is process {pid}")
    width = max(len(fact.name) for fact in facts)
    for fact in facts:
        missing = "" if fact.kept else f"   MISSING: promised is {fact.promised}"
        print(f"{fact.name:{width}}  {fact.found}{missing}")


def show_json(pid: int, facts: list[Fact]) -> None:
    """Print one object; `kept` is whether everything promised is in force."""
    import json

    rows = [{"name": f.name, "found": f.found, "promised": f.promised, "kept": f.kept}
            for f in facts]  # fmt: skip
    print(json.dumps({"pid": pid, "kept": all(f.kept for f in facts), "facts": rows}, indent=2))


def _found(values: list[str]) -> str:
    """Return what holds for every thread. Where threads differ, return all values."""
    return " or ".join(sorted(set(values)))


def _capabilities(bits: int) -> str:
    numbers = [number for number in range(64) if bits >> number & 1]
    if len(numbers) > 8:
        return f"{len(numbers)} of them"
    return " ".join(_CAPABILITIES.get(n, f"number {n}") for n in numbers) or "none"


def _abi(level: int) -> str:
    return f"ABI {level}" if level else "none"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _fields(path: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(path).splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
