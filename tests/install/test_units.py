"""The systemd units, as far as they can be judged where no systemd runs; the lab runs them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ttybrokerd.prepare.files import SHARED
from ttybrokerd.root.copies import MOST_KEPT
from ttybrokerd.root.fresh import POLICY
from ttybrokerd.root.server import AGAIN

TOP = Path(__file__).parents[2]
UNITS = TOP / "packaging" / "systemd"
EXPOSURE = 1.4  # of 10; README.md says so too


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False
    )


def test_the_sandbox_is_as_narrow_as_the_readme_says() -> None:
    done = analyze("security", "--offline=true", UNITS / "ttybroker.service")
    assert f"Overall exposure level for ttybroker.service: {EXPOSURE} OK" in done.stdout
    readme = (TOP / "README.md").read_text()
    assert f"`systemd-analyze security` {EXPOSURE}" in readme


def lines(unit: str, key: str) -> list[str]:
    """What the unit says of this key."""
    listed = (UNITS / unit).read_text().splitlines()
    return [line.partition("=")[2] for line in listed if line.startswith(f"{key}=")]


def test_the_daemon_and_its_reload_name_the_same_policy() -> None:
    """A policy that is named and not there is a mistake, and no default comes in its place."""
    named = f"--policy {POLICY}"
    assert lines("ttybroker.service", "ExecStart") == [f"/usr/sbin/ttybrokerd {named}"]
    prepare, hang_up = lines("ttybroker.service", "ExecReload")
    assert prepare == f"/usr/sbin/ttybrokerd --prepare {named}"
    assert hang_up == "/bin/kill -HUP $MAINPID"


def test_the_daemon_starts_when_users_and_groups_can_be_looked_up() -> None:
    """systemd.special(7): ordered after that target, which it does not pull in."""
    assert "nss-user-lookup.target" in lines("ttybroker.service", "After")[0].split()
    for key in ("Wants", "Requires"):
        assert "nss-user-lookup.target" not in " ".join(lines("ttybroker.service", key))


def test_no_number_of_starts_is_too_many() -> None:
    """Else the socket fails with the service, and stays so: see daemon.PAUSE for its own limit."""
    assert lines("ttybroker.service", "StartLimitIntervalSec") == ["0"]
    assert lines("ttybroker.service", "Restart") == ["on-failure"]
    assert int(lines("ttybroker.service", "RestartForceExitStatus")[0]) == AGAIN


def test_dead_copies_and_the_order_take_no_place_of_a_lease() -> None:
    """A lease is four descriptors, a dead copy two. A new order comes before the old one goes."""
    most = 512 * 4 + MOST_KEPT * 2 + 2
    assert lines("ttybroker.service", "FileDescriptorStoreMax") == [str(most)]


def test_no_record_is_dropped_because_of_anothers() -> None:
    """journald.conf(5), RateLimitBurst=: what a unit writes too much of, whoever it is about."""
    assert lines("ttybroker.service", "LogRateLimitIntervalSec") == ["30s"]
    assert lines("ttybroker.service", "LogRateLimitBurst") == ["100000"]


# Run in a mount namespace of its own with an /etc and a package of the test's own.
SCRIPT = """
mount -t tmpfs -o mode=755 etc /etc
mount -t tmpfs -o mode=755 packages /usr/lib/python3/dist-packages
mount -t tmpfs -o mode=755 run /run
install -D -m 644 {shipped} /usr/lib/python3/dist-packages/ttybrokerd/prepare/policy.toml
mkdir /etc/ttybroker
{before}
sh {script} configure {version} >&2
stat -Lc %u:%g:%a /etc/ttybroker/policy.toml
cat /etc/ttybroker/policy.toml
"""
MINE = "echo mine >/etc/ttybroker/policy.toml; chmod 640 /etc/ttybroker/policy.toml"
NONE = "No such file or directory"
LINK = "ln -s nowhere /etc/ttybroker/policy.toml"


@pytest.mark.root
@pytest.mark.parametrize(
    ("version", "before", "policy"),
    [
        ("0.1.0", ":", "shipped"),
        ("0.1.0", MINE, "0:0:640\nmine\n"),
        ("0.1.0", LINK, ""),  # that was a mistake before, too
        ("0.2.0", ":", ""),  # whoever removes it now means it
        ("''", ":", ""),  # dpkg puts it there itself
    ],
    ids=["none of 0.1.0", "another", "a link", "none of 0.2.0", "installed anew"],
)
def test_an_upgrade_keeps_in_force_what_was(version: str, before: str, policy: str) -> None:
    shipped = TOP / "broker/ttybrokerd/prepare/policy.toml"
    script = TOP / "packaging/debian/ttybroker.postinst"
    text = SCRIPT.format(shipped=shipped, before=before, script=script, version=version)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", text], capture_output=True, text=True, check=False
    )
    if policy == "shipped":
        assert done.stdout == f"0:0:644\n{shipped.read_text()}", done.stderr
    else:
        assert done.stdout == policy, done.stderr
        assert (NONE in done.stderr) == (policy == "")


DESK = """
mount -t tmpfs -o mode=755 etc /etc
mount -t tmpfs -o mode=755 packages /usr/lib/python3/dist-packages
mount -t tmpfs -o mode=755 shared /usr/share
mount -t tmpfs -o mode=755 run /run
install -D -m 644 {shipped} /usr/lib/python3/dist-packages/ttybrokerd/prepare/policy.toml
install -D -m 644 {desk} /usr/share/ttybroker/desk.toml
install -D -m 644 {shipped} /etc/ttybroker/policy.toml
{before}
sh {script} configure {version} >&2
stat -c %F:%u:%g:%a /etc/ttybroker/policy.d/90-desk.toml
cat /etc/ttybroker/policy.d/90-desk.toml
sh {purge} purge >&2
ls /etc >&2
"""
MASK = "mkdir /etc/ttybroker/policy.d; ln -s /dev/null /etc/ttybroker/policy.d/90-desk.toml"

SITE = "mkdir /etc/ttybroker/policy.d; touch /etc/ttybroker/policy.d/10-site.toml"


@pytest.mark.root
@pytest.mark.parametrize(
    ("version", "before", "there"),
    [
        ("''", ":", "the rules"),
        ("''", "echo '[[rule]]' >>/etc/ttybroker/policy.toml", ""),
        ("''", MASK, "symbolic link:0:0:777\n"),
        ("''", SITE, ""),
        ("0.1.0", ":", ""),
        ("0.2.0", ":", ""),  # whoever removes them means it
    ],
    ids=["installed anew", "another policy", "masked", "a drop-in", "0.1.0", "0.2.0"],
)
def test_adapters_are_for_who_sits_there_where_the_package_is_new(
    version: str, before: str, there: str
) -> None:
    shipped = TOP / "broker/ttybrokerd/prepare/policy.toml"
    desk, debian = TOP / "packaging/desk.toml", TOP / "packaging/debian"
    text = DESK.format(shipped=shipped, desk=desk, before=before, version=version,
                       script=debian / "ttybroker.postinst",
                       purge=debian / "ttybroker.postrm")  # fmt: skip
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", text], capture_output=True, text=True, check=False
    )
    wanted = f"regular file:0:0:644\n{desk.read_text()}" if there == "the rules" else there
    assert done.stdout == wanted, done.stderr


TRIGGERED = """
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/systemd/system /run/bin
printf '#!/bin/sh\necho "p:1: bad" >&2\nexit {status}\n' >/run/bin/ttybrokerd
printf '#!/bin/sh\necho "$*" >>/run/invoked\n' >/run/bin/deb-systemd-invoke
chmod 755 /run/bin/*
PATH=/run/bin:$PATH sh {script} triggered /usr/lib/ttybroker/policy.d && cat /run/invoked
"""


@pytest.mark.root
@pytest.mark.parametrize("status", [0, 1])
def test_rules_of_another_package_are_checked_and_taken(status: int) -> None:
    script = TOP / "packaging/debian/ttybroker.postinst"
    text = TRIGGERED.format(status=status, script=script)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", text], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("p:1: bad\n")
    assert done.stdout == ("" if status else "try-reload-or-restart ttybroker.service\n")
    triggers = (TOP / "packaging/debian/ttybroker.triggers").read_text().splitlines()
    assert f"interest-noawait {SHARED}" in triggers


def test_systemd_knows_every_word_of_them(tmp_path: Path) -> None:
    """It warns about what it does not know, and then goes on without."""
    units = [tmp_path / unit.name for unit in UNITS.iterdir()]
    for unit in units:
        text = (UNITS / unit.name).read_text()
        unit.write_text(text.replace("/usr/sbin/ttybrokerd", "/bin/true"))  # not installed here
    done = analyze("verify", "--man=no", *units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_knows_every_word_of_the_examples(tmp_path: Path) -> None:
    examples = sorted((TOP / "packaging/examples").rglob("*.service"))
    assert len(examples) > 2
    units = [tmp_path / unit.name for unit in examples]
    for unit, example in zip(units, examples, strict=True):
        text = example.read_text()
        unit.write_text(re.sub("^ExecStart=[^ \n]+", "ExecStart=/bin/true", text, flags=re.M))
    done = analyze("verify", "--man=no", *units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
