"""Where the fuzzer's stories play (conversation.py): devices, processes, policy, and the parts of
the broker that the story itself has to say, which are who runs its jobs and what time it is."""

from __future__ import annotations

import ctypes
import fcntl
import inspect
import os
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack.model import Rule
from support.processes import PR_SET_PDEATHSIG, prctl

# Users of this run alone, for a pid that is not as it was said may be a process of the run beside
# it, and then that must be a stranger's. CAT is an admin, OUT no client.
ANN, BEN, CAT, EVE, OUT = ((1 << 20) + 8 * os.getpid() + who for who in range(5))
USERS = (ANN, BEN, CAT, EVE)
RULES = {
    "p0": Rule(None),
    "p1": Rule(None),
    "p2": Rule(None),
    "limited": Rule(None, max_lease=20.0),
    "anns": Rule(frozenset((ANN, CAT))),
    "not-eves": Rule(None, deny=frozenset((EVE,))),
}
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
TIOCSPTLCK, TIOCGPTN = 0x40045431, 0x80045430  # asm-generic/ioctls.h


class Different(AssertionError):
    """The broker did not do what the model says."""


class Hands:
    """The broker's workers, whose jobs the fuzzer runs."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, object], tuple[Callable[[], Any], Callable[[Any], None]]] = {}
        self._lists = 0

    def submit(self, job: Any, then: Any) -> None:
        """Keep it until somebody says `run`."""
        calls, closed_over = job.__code__.co_names, inspect.getclosurevars(job).nonlocals
        if "_opener" in calls:
            tag: tuple[str, object] = ("open", closed_over["key"])
        elif "release" in calls:
            tag = ("release", closed_over["lease"].key)
        else:
            assert "_within_means" in calls, calls
            tag = ("list", self._lists)
        self._lists += 1
        if tag in self.jobs:
            raise Different(f"two jobs at a time: {tag}")
        self.jobs[tag] = job, then

    soon = submit

    def list_job(self, number: int) -> tuple[str, object]:
        """The tag of so-manieth list under way."""
        return [tag for tag in self.jobs if tag[0] == "list"][number]

    def run(self, tag: tuple[str, object]) -> None:
        """Do it, and tell the broker."""
        job, then = self.jobs.pop(tag)
        then(job())


class Counted:
    """The loop's epoll set, which remembers whether it had news."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.news = False

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """As epoll.poll()."""
        events: list[tuple[int, int]] = self._inner.poll(timeout)
        self.news = bool(events)
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Body:
    """A live process of a user, for whom the fuzzer speaks."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.closerange(3, 4096)
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        while os.stat(f"/proc/{self.pid}").st_uid != uid:
            time.sleep(0.0001)

    def end(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Device:
    """A pty that can be unplugged and come back under its number."""

    def __init__(self, pts: Path) -> None:
        self._pts = pts
        self.master = -1
        self.plug()
        self.path = f"{pts}/{self.number}"
        self.rdev = os.stat(self.path).st_rdev

    def plug(self, wanted: int | None = None) -> bool:
        """Plug it in; False if the number is still taken by somebody's dead descriptor."""
        master = os.open(f"{self._pts}/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(master, TIOCSPTLCK, bytes(4))
        number = struct.unpack("I", fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]
        if wanted is not None and number != wanted:
            os.close(master)
            return False
        self.master, self.number = master, number
        return True

    def unplug(self) -> None:
        """The device is gone."""
        os.close(self.master)
        self.master = -1


class Stage:
    """Where the story plays: devices, lock directory, policy, processes."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.base = Path(tempfile.mkdtemp(dir="/run", prefix="ttybroker-storm-"))
        self.bodies = [Body(uid) for uid in (*USERS, *USERS, OUT)]
        os.chmod(self.base, 0o755)
        for directory in ("pts", "lock", "dev"):
            (self.base / directory).mkdir()
        pts = self.base / "pts"
        if (
            libc.unshare(CLONE_NEWNS) != 0
            or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0
            or libc.mount(b"devpts", str(pts).encode(), b"devpts", 0, b"newinstance") != 0
        ):
            raise OSError(ctypes.get_errno(), "a devpts of our own")
        os.chmod(pts, 0o755)
        self.devices = {name: Device(pts) for name in RULES}
        self.policy = self.base / "policy.toml"
        self.policy.write_text(f"admins = [{CAT}]\n" + "".join(map(self._rule, RULES)))
        os.chmod(self.policy, 0o644)

    def _rule(self, name: str) -> str:
        rule = RULES[name]
        head = f'[[rule]]\nport = "{name}"\ndevice = "{self.devices[name].path}"\nclass = "pty"\n'
        limit = "" if rule.max_lease is None else f"max_lease = {rule.max_lease}\n"
        who = '["*"]' if rule.allow is None else str(sorted(rule.allow))
        text = f"{head}{limit}allow = {who}\n"
        if rule.deny:
            text = f"{head}{limit}deny = {sorted(rule.deny)}\n{text}"
        return text

    def close(self) -> None:
        """Leave nothing."""
        for body in self.bodies:
            body.end()
        for device in self.devices.values():
            if device.master >= 0:
                device.unplug()
        ctypes.CDLL(None).umount2(str(self.base / "pts").encode(), 2)
        shutil.rmtree(self.base)
