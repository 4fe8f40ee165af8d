"""A mount namespace in which a pty is /dev/ttyS7 and belongs to root.

Its /dev, /etc and /run/lock are its own; the machine's are neither written nor in reach.
/etc/ttybroker/policy.toml is the rig's, so that `ttyrun` runs as it is installed.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from support.children import Chat
from support.rig import Rig

PORT = "ttyS7"
INSTALLED = Path(__file__).parents[2] / ".venv" / "matrix"  # by `make matrix`
NAMED, USER = 60202, "matrix"  # a user of /etc/passwd there
CLONE_NEWNS = 0x20000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18  # linux/mount.h
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """Lives as long as it is held open here, or somebody is in it."""

    def __init__(self, rig: Rig, root: Path, device: str, ptrace_scope: int | None) -> None:
        """root: where what is mounted there has its place. device: the pty's own name."""
        self._rig, self._root, self._device = rig, root, device
        self._ptrace_scope = ptrace_scope
        self._home = root / "home"
        for name in ("dev", "etc", "real-etc"):
            (root / name).mkdir()
        builder = rig.child(0, self._build)
        builder.hear()
        self._fd = os.open(f"/proc/{builder.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        builder.say()
        builder.result()

    def enter(self) -> None:
        """Move this process there; needs root."""
        if _libc.setns(self._fd, CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def _build(self, chat: Chat) -> None:
        """Runs in a child: make the namespace, and stay until it is held."""
        os.umask(0)
        if _libc.unshare(CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        mount("none", "/", MS_REC | MS_PRIVATE)
        self._build_dev(self._root / "dev")
        self._build_etc(self._root / "etc", self._root / "real-etc")
        mount(str(self._rig.locks), "/run/lock", MS_BIND)
        if INSTALLED.exists():  # where every user can read it
            (self._root / "programs").mkdir(0o755)
            mount(str(INSTALLED), str(self._root / "programs"), MS_BIND)
        if self._ptrace_scope is not None:
            self._build_sys(Path("/proc/sys/kernel"))
        chat.say()
        chat.hear()

    def _build_dev(self, dev: Path) -> None:
        """No console and no serial port of the machine's in it."""
        mount("tmpfs", str(dev), kind="tmpfs")
        for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx"):
            info = os.stat(f"/dev/{name}")
            os.mknod(dev / name, stat.S_IFCHR | 0o666, info.st_rdev)
        for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1")):
            (dev / name).symlink_to(target)
        (dev / "pts").mkdir(0o755)
        mount("/dev/pts", str(dev / "pts"), MS_BIND)
        (dev / PORT).touch()
        mount(self._device, str(dev / PORT), MS_BIND)
        os.chmod(dev, 0o755)
        mount(str(dev), "/dev", MS_BIND | MS_REC)

    def _build_etc(self, etc: Path, real: Path) -> None:
        """The machine's, but for who is in it and for our policy."""
        mount("/etc", str(real), MS_BIND)
        mount("tmpfs", str(etc), kind="tmpfs")
        for name in set(os.listdir("/etc")) - {"passwd", "group", "ttybroker"}:
            (etc / name).symlink_to(real / name)
        line = f"{USER}:x:{NAMED}:{NAMED}::{self._home}:/bin/sh\n"
        (etc / "passwd").write_text(Path("/etc/passwd").read_text() + line)
        (etc / "group").write_text(Path("/etc/group").read_text() + f"{USER}:x:{NAMED}:\n")
        (etc / "ttybroker").mkdir(0o755)
        (etc / "ttybroker/policy.toml").touch(0o644)
        for path in (etc, etc / "passwd", etc / "group", etc / "ttybroker/policy.toml"):
            os.chmod(path, 0o755 if path.is_dir() else 0o644)
        mount(str(self._rig.policy), str(etc / "ttybroker/policy.toml"), MS_BIND)
        mount(str(etc), "/etc", MS_BIND | MS_REC)

    def _build_sys(self, kernel: Path) -> None:
        """What our programs read there, and Yama's setting."""
        kept = {name: (kernel / name).read_text() for name in ("cap_last_cap", "ngroups_max")}
        mount("tmpfs", str(kernel), kind="tmpfs")
        (kernel / "yama").mkdir()
        for name, text in {**kept, "yama/ptrace_scope": f"{self._ptrace_scope}\n"}.items():
            (kernel / name).write_text(text)


def mount(source: str, target: str, flags: int = 0, kind: str = "none") -> None:
    """mount(2)."""
    words = [word.encode() for word in (source, target, kind)]
    if _libc.mount(*words, flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} {target}: {os.strerror(number)}")
