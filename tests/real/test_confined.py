"""The running root side, daemon and forked backend, as the kernel tells of it to others; and that
nothing it has kept could be taken away too."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.children import Chat, as_user
from support.daemon import RUN_DAEMON
from support.processes import accounts, python_path
from support.rig import Rig
from support.users import ALICE, NOBODY
from support.waiting import TIMEOUT
from ttybroker import BrokerError, NotPermitted, client, open_fd

pytestmark = pytest.mark.root

SYS_ADMIN, DAC_OVERRIDE = 1 << 21, 1 << 1  # linux/capability.h


@pytest.fixture(params=["daemon", "forked"])
def root_side(request: pytest.FixtureRequest, rig: Rig) -> Iterator[int]:
    """The pid of a root side that serves."""
    rig.port("ttyS0")
    if request.param == "daemon":
        yield rig.daemon().pid
        return
    rig.write_policy()

    def run(chat: Chat) -> None:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)  # and no file of pytest's
        rig.backend()
        chat.say()
        chat.hear()

    child = rig.child(0, run)
    child.hear()
    backend = rig.orphan()
    yield backend.pid
    child.say()
    child.result()
    assert backend.wait() == 0


def test_every_thread_has_the_two_capabilities_of_the_job_and_gets_no_other(root_side: int) -> None:
    for account in accounts(root_side):
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(account[name], 16) == SYS_ADMIN | DAC_OVERRIDE, name
        for name in ("CapInh", "CapAmb"):
            assert int(account[name], 16) == 0, name
        assert account["NoNewPrivs"] == "1"
        assert account["Umask"] == "0077"


def test_its_limits_are_those_of_its_job(root_side: int) -> None:
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_FSIZE, 4096),
        (resource.RLIMIT_NOFILE, 16384),
    ):
        soft, hard = resource.prlimit(root_side, what)
        assert soft == hard, what
        assert soft == most or (what == resource.RLIMIT_NOFILE and 0 < soft < most)


def test_it_stands_nowhere(root_side: int) -> None:
    assert os.readlink(f"/proc/{root_side}/cwd") == "/"


def test_a_log_that_is_a_file_may_grow(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    log = rig.base / "log"
    log.write_bytes(b"x" * 5000)
    command = [sys.executable, RUN_DAEMON, "--hook=", "--", *rig.arguments]
    with (
        open(log, "ab") as file,
        subprocess.Popen(command, stderr=file, env={**os.environ, **python_path()}) as daemon,
    ):
        while b"start" not in log.read_bytes():
            assert daemon.poll() is None
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait() == 0
    assert b"ttybrokerd: stop" in log.read_bytes()
    log.unlink()


# each capability is one that the job needs

WITHOUT = """
import prctl
from ttybrokerd.root import confine
confine.CAPABILITIES = tuple(set(confine.CAPABILITIES) - {{prctl.{0}}})
"""


@pytest.mark.parametrize("kept", [True, False])
def test_hanging_up_needs_cap_sys_admin(rig: Rig, kept: bool) -> None:
    pty = rig.port("ttyS0")
    rig.daemon(hook="" if kept else WITHOUT.format("CAP_SYS_ADMIN"))

    def hold(chat: Chat) -> object:
        descriptor = open_fd("ttyS0", broker=str(rig.socket))
        chat.say()
        chat.hear()
        try:
            return os.write(descriptor, b"still here")
        except OSError as error:
            return error.strerror

    holder = rig.child(NOBODY, hold)
    holder.hear()
    with client.connect(str(rig.socket)) as connection:
        connection.revoke("ttyS0")
    holder.say()
    assert holder.result() == ("Input/output error" if kept else 10)
    assert kept or pty.read(10) == b"still here"


@pytest.mark.parametrize("kept", [True, False])
def test_a_node_of_somebodys_needs_cap_dac_override(rig: Rig, kept: bool) -> None:
    pty = rig.port("ttyS0")
    os.chown(pty.path, ALICE, ALICE)
    os.chmod(pty.path, 0o600)
    rig.daemon(hook="" if kept else WITHOUT.format("CAP_DAC_OVERRIDE"))

    def take() -> None:
        os.close(open_fd("ttyS0", broker=str(rig.socket)))

    if kept:
        as_user(NOBODY, (), take)
    else:
        with pytest.raises(BrokerError, match="Permission denied"):
            as_user(NOBODY, (), take)


# what is outside of the places named at the start stays out of reach


BOUND = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for done in (
    libc.unshare(0x20000),  # CLONE_NEWNS
    libc.mount(None, b"/", None, 1 << 18 | 1 << 14, None),  # MS_PRIVATE, MS_REC
    libc.mount(b"{}", b"{}", None, 1 << 12, None),  # MS_BIND
):
    assert done == 0, ctypes.get_errno()
"""


def test_a_device_in_a_new_place_waits_for_a_restart_and_says_so(rig: Rig) -> None:
    pty = rig.port("ttyS0")
    elsewhere = rig.base / "elsewhere"
    elsewhere.mkdir()
    node = elsewhere / "tty"
    node.touch()
    hook = BOUND.format(pty.path, node)
    daemon = rig.daemon(hook=hook)
    rig.rules = [f'[[rule]]\nport = "ttyS0"\ndevice = "{node}"\nclass = "pty"\nallow = ["*"]\n']
    rig.write_policy()
    rig.reload(daemon)
    with pytest.raises(NotPermitted, match="restart the daemon"):
        as_user(NOBODY, (), lambda: open_fd("ttyS0", broker=str(rig.socket)))
    daemon.stop()
    rig.daemon(hook=hook)
    as_user(NOBODY, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket))))
    node.unlink()
    elsewhere.rmdir()


def test_a_policy_in_a_new_place_needs_no_restart(rig: Rig) -> None:
    """Who prepares the plan may read it; the daemon reads the plan alone."""
    rig.port("ttyS0")
    rig.write_policy()
    first, second = rig.base / "first", rig.base / "second"
    for directory in (first, second):
        directory.mkdir()
        (directory / "policy.toml").write_text(rig.policy.read_text())
    rig.policy.unlink()
    rig.policy.symlink_to(first / "policy.toml")
    daemon = rig.daemon(*rig.arguments)
    (first / "new").write_text((first / "policy.toml").read_text())
    (first / "new").rename(first / "policy.toml")  # as an editor does
    rig.reload(daemon)
    rig.policy.unlink()
    rig.policy.symlink_to(second / "policy.toml")
    rig.reload(daemon)
    for directory in (first, second):
        (directory / "policy.toml").unlink()
        directory.rmdir()


# As ttybroker.service does: no capability but those that are kept, so nothing can be cut or set,
# and uid 0 brings none, which is locked (include/uapi/linux/securebits.h). They came by the ambient
# set; and capset(2) is not there.
LOCKED = "from ttybrokerd.root import linux; linux.set_securebits(0x01 | 0x02 | 0x04 | 0x08 | 0x20)"
AMBIENT = """
prctl.set_caps((list(kept), (prctl.CAP_INHERITABLE,), True))
for number in kept:
    assert linux._libc.prctl(47, 2, number, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE, linux/prctl.h
prctl.set_caps = None
"""
CUT = """
import prctl
kept = (prctl.CAP_SYS_ADMIN, prctl.CAP_DAC_OVERRIDE)
dropped = [number for number in prctl.ALL_CAPS if number not in kept]
for number in dropped:
    prctl.capbset_drop(number)
prctl.set_caps((dropped, (prctl.CAP_EFFECTIVE, prctl.CAP_PERMITTED), False))
"""


def test_as_the_unit_starts_it_it_needs_no_capability_but_those_it_keeps(rig: Rig) -> None:
    rig.port("ttyS0")
    daemon = rig.daemon(hook=LOCKED + CUT + AMBIENT)
    for account in accounts(daemon.pid):
        for name in ("CapPrm", "CapEff", "CapBnd", "CapInh"):
            assert int(account[name], 16) == SYS_ADMIN | DAC_OVERRIDE, name
        assert int(account["CapAmb"], 16) == 0
    as_user(NOBODY, (), lambda: os.close(open_fd("ttyS0", broker=str(rig.socket))))


def test_where_uid_0_may_bring_capabilities_back_it_does_not_start_and_says_why(rig: Rig) -> None:
    rig.write_policy()
    command = [sys.executable, RUN_DAEMON, f"--hook={CUT}", "--", *rig.arguments]
    done = subprocess.run(
        command,
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert "the securebits are 0x0, not 0x2f; is CAP_SETPCAP missing?" in done.stderr
