"""A program that was started as root and forked its own backend: what is left of root, and when."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.children import Chat, Child, Orphan, as_user
from support.processes import prctl
from support.rig import Rig, lock_text
from support.users import ALICE, NOBODY
from support.waiting import Watch
from ttybroker import BrokerUnavailable, PortBusy, open_fd
from ttybrokerd import init_backend
from ttybrokerd.prepare.policy import PolicyError

pytestmark = pytest.mark.root

PR_SET_KEEPCAPS = 8  # linux/prctl.h


def status() -> dict[str, str]:
    """What the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def powerless() -> None:
    """Fail if this process can do anything that nobody cannot."""
    now = status()
    assert now["Uid"].split() == [str(NOBODY)] * 4
    assert now["Gid"].split() == [str(NOBODY)] * 4
    assert now["Groups"].split() in ([], [str(NOBODY)])
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(now[name], 16) == 0, name
    assert now["NoNewPrivs"] == "1"
    ways: list[Callable[[], None]] = [
        lambda: os.setuid(0),
        lambda: os.setgroups([]),
        lambda: os.setgid(0),
    ]
    for way in ways:
        with pytest.raises(PermissionError):
            way()


def test_the_frontend_keeps_nothing_of_root(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()

    def run(chat: Chat) -> None:
        rig.backend()
        powerless()
        with pytest.raises(ChildProcessError):  # the backend is nobody's child to wait for
            os.waitpid(-1, os.WNOHANG)
        os.close(open_fd("ttyS0"))
        chat.say("done")
        chat.hear()

    child = rig.child(0, run, groups=[4, 20])
    child.hear()
    backend = rig.orphan()
    said = Path(f"/proc/{backend.pid}/status").read_text()
    assert "NoNewPrivs:\t1\n" in said and "Groups:\t \n" in said
    assert os.readlink(f"/proc/{backend.pid}/cwd") == "/"
    assert os.getsid(backend.pid) != os.getsid(0)
    child.say()
    child.result()
    assert backend.wait() == 0


def test_what_a_setuid_does_not_take_is_taken_too(rig: Rig) -> None:
    """Under PR_SET_KEEPCAPS the capabilities outlive the change of uid: capabilities(7)."""
    rig.port("ttyS0")
    rig.write_policy()

    def run(_chat: Chat) -> None:
        prctl(PR_SET_KEEPCAPS, 1)
        rig.backend()
        powerless()

    rig.child(0, run).result()
    rig.orphan().wait()


def started(rig: Rig, then: Callable[[Chat], None] = lambda _: None) -> tuple[Child, Orphan]:
    """A program with a backend, for ttyS0, and that backend. At a word the program does `then`."""
    rig.port("ttyS0")
    rig.write_policy()

    def run(chat: Chat) -> None:
        rig.backend()
        chat.say()
        chat.hear()
        then(chat)

    child = rig.child(0, run)
    child.hear()
    return child, rig.orphan()


def test_the_backend_holds_only_the_capabilities_of_its_job(rig: Rig) -> None:
    child, backend = started(rig)
    lines = Path(f"/proc/{backend.pid}/status").read_text().splitlines()
    fields = {key: value for key, _, value in (line.partition(":") for line in lines)}
    wanted = 1 << 21 | 1 << 1  # CAP_SYS_ADMIN, CAP_DAC_OVERRIDE
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[name], 16) == wanted, name
    child.say()
    child.result()
    assert backend.wait() == 0


def leave_by_exit(_chat: Chat) -> None:
    os._exit(0)


def leave_by_exec(_chat: Chat) -> None:
    os.execv("/bin/true", ["true"])


def leave_by_signal(_chat: Chat) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("leave", [leave_by_exit, leave_by_exec, leave_by_signal])
@pytest.mark.parametrize("holding", [False, True])
def test_the_backend_ends_with_its_frontend(
    rig: Rig, leave: Callable[[Chat], None], holding: bool
) -> None:
    rig.port("ttyS0")
    rig.write_policy()

    def run(chat: Chat) -> None:
        rig.backend()
        if holding:
            open_fd("ttyS0")
        chat.say()
        chat.hear()
        leave(chat)

    child = rig.child(0, run)
    child.hear()
    backend = rig.orphan()
    assert rig.lock_files() == (["LCK..ttyS0"] if holding else [])
    child.say()
    child.wait()
    assert backend.wait(timeout=1) == 0
    assert rig.lock_files() == []
    assert rig.orphans() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_ends_a_service_does_not_end_the_backend_before_the_program(
    rig: Rig, number: signal.Signals
) -> None:
    """systemd sends SIGTERM to every process of a unit at once (KillMode=control-group)."""

    def use_the_port(chat: Chat) -> None:
        os.close(open_fd("ttyS0"))
        chat.say()
        chat.hear()

    child, backend = started(rig, use_the_port)
    os.kill(backend.pid, number)
    child.say()
    child.hear()
    child.say()
    child.wait()
    assert backend.wait(timeout=1) == 0


def test_the_backend_lives_until_the_last_copy_of_its_socket_is_closed(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()
    reading, writing = os.pipe()

    def run(_chat: Chat) -> int:
        rig.backend()
        if (pid := os.fork()) == 0:
            os.read(reading, 1)
            os._exit(0)
        return pid

    child = rig.child(0, run, keep=[reading])
    os.close(reading)
    grandchild = child.result()
    (pid,) = rig.orphans() - {grandchild}
    assert Path(f"/proc/{pid}/status").read_text().split("State:\t")[1][0] != "Z"
    os.close(writing)
    os.waitpid(grandchild, 0)
    assert rig.orphan().wait(timeout=1) == 0


def test_a_forked_child_has_no_part_in_the_backend_and_disturbs_nothing(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.write_policy()

    def run(_chat: Chat) -> None:
        rig.backend()
        if (pid := os.fork()) == 0:
            try:
                open_fd("ttyS0")
            except BrokerUnavailable as error:
                os._exit(7 if "forked child" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        os.close(open_fd("ttyS0"))

    rig.child(0, run).result()
    rig.orphan().wait()


def test_threads_wait_for_one_port_and_open_another_at_once(rig: Rig) -> None:
    rig.port("ttyS0")
    rig.port("ttyS1")
    rig.write_policy()

    def run(chat: Chat) -> None:
        rig.backend()
        first = open_fd("ttyS0")
        got: list[int] = []
        waiting = threading.Thread(target=lambda: got.append(open_fd("ttyS0", wait=20)))
        waiting.start()
        for _ in range(20):
            os.close(open_fd("ttyS1"))
        assert not got
        with pytest.raises(PortBusy) as caught:
            open_fd("ttyS0")
        holder = caught.value.holder
        assert holder is not None and (holder.uid, holder.pid) == (NOBODY, os.getpid())
        assert rig.lock().read_bytes() == lock_text(os.getpid())
        os.close(first)
        waiting.join()
        assert len(got) == 1
        chat.say("served")
        chat.hear()

    child = rig.child(0, run)
    assert child.hear() == "served"
    backend = rig.orphan()
    with Watch(rig.locks) as watch:
        child.kill()
        watch.gone("LCK..ttyS0")
    backend.wait()


def test_it_comes_too_late_when_threads_run(rig: Rig) -> None:
    rig.write_policy()

    def run(_chat: Chat) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        try:
            with pytest.raises(RuntimeError, match="too late"):
                rig.backend()
        finally:
            stop.set()
            thread.join()

    rig.child(0, run).result()
    assert rig.orphans() == set()


def test_without_root_it_says_so() -> None:
    def run() -> None:
        with pytest.raises(PermissionError, match="needs root"):
            init_backend()

    as_user(ALICE, (), run)


@pytest.mark.parametrize("user", [None, "root", 0, "no-such-user"])
def test_it_must_know_whom_to_become(rig: Rig, user: object) -> None:
    rig.write_policy()

    def run(_chat: Chat) -> None:
        with pytest.raises(ValueError):
            rig.backend(user=user)

    rig.child(0, run).result()


@pytest.mark.parametrize("broken", ["policy", "lock directory"])
def test_a_backend_that_cannot_start_is_an_error_and_privilege_is_gone_all_the_same(
    rig: Rig, broken: str
) -> None:
    rig.write_policy("[[rule]]\nport = 1\n" if broken == "policy" else None)

    def run(_chat: Chat) -> None:
        if broken == "policy":
            with pytest.raises(PolicyError, match=r"policy\.toml:2: port"):
                rig.backend()
        else:
            with pytest.raises(OSError, match="missing"):
                rig.backend(lock_dir=str(rig.base / "missing"))
        powerless()
        with pytest.raises(BrokerUnavailable):
            open_fd("ttyS0", broker=str(rig.socket))

    rig.child(0, run).result()
    for pid in rig.orphans():  # it may still be on its way out
        os.waitpid(pid, 0)


def test_a_setuid_program_becomes_its_real_user(rig: Rig) -> None:
    rig.port("ttyS0", f"allow = [{ALICE}]")
    rig.write_policy()

    def run(_chat: Chat) -> None:
        os.setgroups([ALICE])
        os.setresgid(ALICE, ALICE, ALICE)
        os.setresuid(ALICE, 0, 0)  # as the kernel starts a setuid program of root's
        rig.backend(user=None)
        assert os.getresuid() == (ALICE,) * 3
        assert int(status()["CapPrm"], 16) == 0
        os.close(open_fd("ttyS0"))

    rig.child(0, run).result()
    rig.orphan().wait()
