"""What a reload of a long policy does to the opens that happen meanwhile."""

from __future__ import annotations

import signal
import subprocess
import time

from bench import figures
from bench.build import Bench
from bench.figures import Row
from bench.rig import Rig, rigs

ROUNDS = 5
PORTS = 60
RULES = 1000
USERS = 5000
FIRST_UID = 100000
QUIET = 2.0  # seconds of opens without a reload
TIMEOUT = 60.0


def rows(bench: Bench) -> list[Row]:
    """Return the row."""
    users = [f"bench{number}" for number in range(USERS)]
    ids = range(FIRST_UID, FIRST_UID + USERS)
    passwd = "".join(f"{user}:x:{n}:{n}::/:/bin/sh\n" for user, n in zip(users, ids, strict=True))
    for build in bench.builds.values():
        build.add_users(passwd)
    with rigs(bench.builds, PORTS, _rules(users)) as each:
        for rig in each.values():
            rig.start().client()
        jobs = {name: lambda rig=rig: _round(rig) for name, rig in each.items()}
        ratios = figures.interleave(ROUNDS, jobs)
    old = figures.median(ratios["old"]) if "old" in ratios else None
    what = f"p95 of opens during a reload, {RULES:,} rules, {USERS:,} users / quiet"
    return [figures.middle(what, ratios["new"], 1.5, old=old)]


def _rules(users: list[str]) -> str:
    """Rules that name all these users between them, beside those of the ports."""
    text = ""
    count = RULES - PORTS
    for number in range(count):
        who = ", ".join(f'"{user}"' for user in users[number::count])
        text += f'[[rule]]\nport = "ttyN{number}"\nallow = [{who}]\n'
    return text


def _round(rig: Rig) -> float:
    """Open all the time: quiet, then during a reload. The ratio of the two p95."""
    client = rig.clients[0]
    client.send("until_told", PORTS)
    time.sleep(QUIET)
    began = time.monotonic()
    _reload(rig)
    ended = time.monotonic()
    opens = client.interrupt()
    rig.settled()
    quiet = [spent for at, spent in opens if at + spent < began]
    during = [spent for at, spent in opens if at + spent >= began and at < ended]
    return figures.percentile(during, 0.95) / figures.percentile(quiet, 0.95)


def _reload(rig: Rig) -> None:
    """Reload as the unit does: prepare, where this build knows that, then SIGHUP. Returns when
    the log says that it is done."""
    assert rig.daemon is not None
    # Another text, or there would be nothing to do.
    rig.write_policy(rig.policy.read_text() + f"# {time.time()}\n")
    with rig.build.start(
        *rig.build.daemon, "--prepare", *rig.places, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as prepare:  # fmt: skip
        _, error = prepare.communicate()
    usage = 2  # no such option: a build that prepares nothing
    if prepare.returncode not in (0, usage):
        raise RuntimeError(f"{rig.build.name}: --prepare failed: {error}")
    seen = len(rig.log.read_text())
    rig.daemon.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + TIMEOUT
    while not (told := rig.log.read_text()[seen:].find("ttybrokerd: reload")) >= 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{rig.build.name}: no word of the reload in the log")
        time.sleep(0.01)
    line = rig.log.read_text()[seen + told :].partition("\n")[0]
    if "reload-failed" in line:
        raise RuntimeError(f"{rig.build.name}: {line}")
