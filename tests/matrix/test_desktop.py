"""The sandbox of a desktop's programs, as flatpak sets it up: the user's own uid, namespaces, no
device, the broker's socket bound, and a filter of system calls that knows no tracing."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator

import pyseccomp
import pytest

from matrix.namespace import PORT
from matrix.stage import NAMELESS, NODE, Ended, Installation, Stage
from support.logind import HOOK, Logind
from support.waiting import TIMEOUT

pytestmark = pytest.mark.root

# flatpak-run(1), "--filesystem" and "--device"; common/flatpak-run.c has the calls that it refuses.
BWRAP = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session",
         "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
         "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc",
         "--dev", "/dev", "--tmpfs", "/tmp", "--unsetenv", "TTYBROKER_SOCKET"]  # fmt: skip
REFUSED = ("ptrace", "perf_event_open", "mount", "umount2", "unshare", "setns", "pivot_root",
           "keyctl", "add_key", "request_key", "userfaultfd", "quotactl", "syslog", "acct",
           "mbind", "move_pages")  # fmt: skip
OTHER = 60203  # a user who does not sit there
OPEN = f"""
import os, sys
sys.path.append(sys.argv[1])
from ttybroker import open_fd
descriptor = open_fd("{PORT}")
os.write(descriptor, b"from the sandbox")
print(os.getuid(), os.path.exists("{NODE}"))
"""


@pytest.fixture
def filtered() -> Iterator[int]:
    """Such a filter, as bwrap --seccomp takes it."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in REFUSED:
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        yield file.fileno()


@pytest.fixture
def logind(stage: Stage) -> Logind:
    """The user of the sandbox sits at the machine, and the port is for who does."""
    rig = stage.rig
    rig.rules = [rule.replace('allow = ["*"]', 'allow = ["%active"]') for rule in rig.rules]
    rig.write_policy()
    os.chmod(rig.locks, 0o755)
    rig.expected_locks.add("systemd")
    made = Logind(rig.locks / "systemd")
    made.start()
    made.sits(NAMELESS)
    rig.daemon(*rig.arguments, hook=HOOK.format(str(made.top)))
    return made


def inside(stage: Stage, installation: Installation, filtered: int, *words: str) -> list[str]:
    """The command line that starts this in the sandbox."""
    base = str(installation.base)
    bound = ["--ro-bind", base, base, "--seccomp", str(filtered),
             "--ro-bind", str(stage.rig.socket), "/run/ttybroker/socket"]  # fmt: skip
    return [*BWRAP, *bound, *words]


def python(stage: Stage, installation: Installation, filtered: int, *options: str,
           uid: int = NAMELESS) -> Ended:  # fmt: skip
    """How a Python program fares that opens the port there."""
    code = [*options, "/usr/bin/python3", "-c", OPEN, f"{installation.base}/lib/ttybroker"]
    words = inside(stage, installation, filtered, *code)
    return stage.run(*words, pass_fds=(filtered,), uid=uid)


@pytest.mark.parametrize("options", [(), ("--uid", "0"), ("--uid", "1234")],
                         ids=["own uid", "root there", "another uid there"])  # fmt: skip
def test_who_sits_at_the_machine_has_the_port_in_a_sandbox(
    stage: Stage, installation: Installation, filtered: int, logind: Logind,
    options: tuple[str, ...],
) -> None:  # fmt: skip
    """The kernel tells the broker the uid outside, whatever it is inside."""
    done = python(stage, installation, filtered, *options)
    there = options[-1] if options else str(NAMELESS)
    assert (done.status, done.out.split()) == (0, [there, "False"]), done.err
    stage.hear(b"from the sandbox")
    stage.demand_free(2)


@pytest.mark.parametrize("options", [(), ("--uid", str(NAMELESS))], ids=["own uid", "claims his"])
def test_nobody_else_has_it_by_a_uid_of_the_sandbox(
    stage: Stage, installation: Installation, filtered: int, logind: Logind,
    options: tuple[str, ...],
) -> None:  # fmt: skip
    done = python(stage, installation, filtered, *options, uid=OTHER)
    assert done.status == 1 and "NotPermitted" in done.err, done.err


def test_who_sits_there_no_more_is_refused_in_his_sandbox_too(
    stage: Stage, installation: Installation, filtered: int, logind: Logind
) -> None:
    logind.sits(OTHER, "2")
    daemon = stage.rig.daemons[0]
    stage.rig.reload(daemon)  # the change was heard before this was
    assert "NotPermitted" in python(stage, installation, filtered).err


def test_this_sandbox_knows_no_tracing(
    stage: Stage, installation: Installation, filtered: int
) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    words = inside(stage, installation, filtered, "strace", "true")
    assert "Operation not permitted" in stage.run(*words, pass_fds=(filtered,)).err


@pytest.mark.parametrize(
    "how",
    [("--fd", "3", PORT), ("--via", "notify"), ("--via", "pty"), ()],
    ids=["fd", "notify", "pty", "auto"],
)
def test_run_in_it(
    stage: Stage, installation: Installation, filtered: int, logind: Logind,
    how: tuple[str, ...],
) -> None:  # fmt: skip
    """It talks with the far end. When its last program ends, so does the sandbox, and with it the
    process that copies for a pty."""
    run = [word for word in installation.launcher("ttybroker run") if word != "--"]
    opens = "" if "--fd" in how else f"exec 3<>{NODE}; "
    talks = f"{opens}printf 'from the sandbox' >&3; head -c 1 <&3"
    words = inside(stage, installation, filtered, *run, *how, "--", "sh", "-c", talks)
    with stage.start(*words, pass_fds=(filtered,)) as process:
        stage.hear(b"from the sandbox")
        stage.say(b"\n")
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (0, b"\n"), err.decode()
    stage.demand_free(2)
