"""The builds that are compared. Each is installed by its own Makefile, in a directory of its own
that only root writes, and runs in a mount namespace of its own:

    /run          its own: no journal, no daemon of the machine's; in it /run/lock
    /etc/ttybroker  empty, so the policy that is shipped is in force, until one is installed
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
import tty
from pathlib import Path
from typing import Any

from support.commit import GIT, this_commit

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PYTHON = os.environ.get("PYTHON", "/usr/bin/python3")
PRIORITY = -10  # setpriority(2)
CLONE_NEWNS = 0x20000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18  # linux/mount.h
MNT_DETACH = 2  # linux/fs.h
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


class CannotBuild(Exception):
    """Why there is nothing to measure, and what to do about it."""


class Build:
    """One installed build.

    commit: what it is built from, "+" behind it where the working tree differs. commands: where
    ttybroker, ttyrun are. code: the directory with its Python packages.
    """

    def __init__(self, base: Path, name: str, commit: str, tree: Path, venv: Path) -> None:
        self.name, self.commit = name, commit
        self.base = base / name
        self.commands, self.code = self.base / "bin", self.base / "lib/ttybroker"
        self.units = self.base / "lib/systemd/system"
        run(
            ["make", "-s", "-C", tree / "packaging/launcher", f"PREFIX={self.base}",
             f"VENV={venv}", f"BUILD={self.base}/build", f"PYTHON={PYTHON}", "install"],
            f"{name} build, {commit}",
        )  # fmt: skip
        self._namespace = _make_namespace(base, self.base / "run")

    @property
    def daemon(self) -> list[str]:
        """The daemon's command, without arguments."""
        return [str(self.base / "sbin/ttybrokerd")]

    def python(self, *arguments: str) -> list[str]:
        """Return the command that runs Python as the installed commands do."""
        return [PYTHON, "-ISB", *arguments]

    def start(self, *words: str | Path, uid: int = 0, **more: Any) -> subprocess.Popen[Any]:
        """Start a program in this build's namespace, as this user."""
        if uid:
            more.update(user=uid, group=uid, extra_groups=[])
        more.setdefault("stdin", subprocess.DEVNULL)
        enter(self._namespace)  # here, because a preexec_fn would make every start dearer
        return subprocess.Popen([str(word) for word in words], **more)

    def call(self, *words: str | Path, **more: Any) -> str:
        """Run a program to its end; its standard output. Raises if it fails."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(*words, text=True, **{**pipes, **more}) as process:
            out, error = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"{self.name}: {words} ended with {process.returncode}: {error}")
        return str(out or "")

    def add_users(self, lines: str) -> None:
        """Add these lines to the /etc/passwd that this build sees."""
        passwd = self.base / "passwd"
        passwd.write_text(Path("/etc/passwd").read_text() + lines)
        passwd.chmod(0o644)
        enter(self._namespace)
        _mount(str(passwd), "/etc/passwd", MS_BIND)

    def install_policy(self, text: str) -> None:
        """Make this the policy in the /etc/ttybroker that this build sees."""
        policy = self.base / "upper/ttybroker/policy.toml"
        policy.write_text(text)
        policy.chmod(0o644)

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self._namespace)


class Bench:
    """All that a run makes: a directory, builds, processes. At its end nothing is left."""

    def __init__(self, old: str | None) -> None:
        """Build this tree and, where `old` names a commit, that one. Raises CannotBuild."""
        if os.geteuid() != 0:
            raise CannotBuild("needs root: `make bench`, or sudo")
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with contextlib.suppress(PermissionError):  # what else runs is to disturb less
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        self._before = children()
        self.base = Path(tempfile.mkdtemp(dir="/run", prefix="ttybroker-bench-"))
        self._namespace = self._unshare()
        self.builds: dict[str, Build] = {}
        try:
            self.builds["new"] = Build(self.base, "new", this_commit(), ROOT, Path(sys.prefix))
            if old is not None:
                commit = _commit(old)
                tree = self._extract(commit)
                self.builds["old"] = Build(self.base, "old", commit, tree, tree / ".venv")
            self.yardstick = self.base / "yardstick"
            run(["gcc", "-O2", "-o", self.yardstick, HERE / "yardstick.c"], "yardstick")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        end_children(self._before)
        enter(self._namespace)
        os.close(self._namespace)
        for build in self.builds.values():
            build.close()
        _unmount(self.base)
        self.base.rmdir()

    @property
    def new(self) -> Build:
        """This tree."""
        return self.builds["new"]

    def _unshare(self) -> int:
        """Go into a mount namespace of our own, where our directory is in memory, as /run is on
        most machines: on a disk a lock file costs more than all of the rest. Returns the
        namespace."""
        _leave_namespace()
        _mount("none", str(self.base), 0, "tmpfs")
        self.base.chmod(0o755)
        return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def _extract(self, commit: str) -> Path:
        """Return a directory with that commit, and in it an environment with what it needs."""
        tree = self.base / "tree"
        tree.mkdir()
        archive = tree / "archive.tar"
        run([*GIT, "archive", "-o", archive, commit], f"archive of {commit}")
        run(["tar", "-x", "-C", tree, "-f", archive], f"archive of {commit}")
        run([PYTHON, "-m", "venv", tree / ".venv"], "environment of the old build")
        pip = [tree / ".venv/bin/python", "-m", "pip", "install", "--quiet", "--use-pep517"]
        what = "environment of the old build"
        run([*pip, "--disable-pip-version-check", f"{tree}[broker]"], what)
        return tree


# Under sudo the repository is somebody else's.


def run(words: list[str | Path], what: str) -> str:
    """Run a command to its end; its standard output. Raises CannotBuild."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise CannotBuild(f"{what}: {words[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _commit(name: str) -> str:
    found = run([*GIT, "rev-parse", "--verify", "--short", f"{name}^{{commit}}"], f"OLD={name}")
    return found.strip()


def _make_namespace(base: Path, own_run: Path) -> int:
    """Make a mount namespace in which `own_run` is /run, and `base` is where it is outside.

    Returns a descriptor of it (namespaces(7)).
    """
    (own_run / "lock").mkdir(parents=True)
    (own_run / "lock").chmod(0o1777)
    (own_run / "ttybroker").mkdir()
    (own_run / base.name).mkdir()
    (own_run.parent / "work").mkdir()
    own_etc = own_run.parent / "upper/ttybroker"
    own_etc.mkdir(parents=True)
    # Nothing of the machine's is to be seen in it: "overlay filesystem" in the kernel's documents.
    os.setxattr(own_etc, "trusted.overlay.opaque", b"y")
    ours, theirs = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _leave_namespace()
            _mount(str(base), str(own_run / base.name), MS_BIND)
            _mount(str(own_run), "/run", MS_BIND | MS_REC)
            own = f"{base}/{own_run.parent.name}"
            layers = f"lowerdir=/etc,upperdir={own}/upper,workdir={own}/work"
            _mount("overlay", "/etc", 0, "overlay", layers)
            os.write(ours[1], b"made")
            os.close(theirs[1])
            os.read(theirs[0], 1)  # until it is held
        except OSError as error:
            os.write(ours[1], str(error).encode())
        finally:
            os._exit(0)
    os.close(ours[1])
    try:
        told = os.read(ours[0], 1024)
        if told != b"made":
            raise CannotBuild(f"no mount namespace: {told.decode()}")
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (ours[0], *theirs):
            os.close(descriptor)
        os.waitpid(pid, 0)


def _leave_namespace() -> None:
    """Go on in a copy of this mount namespace, from which nothing gets out: unshare(2)."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("none", "/", MS_REC | MS_PRIVATE)


def _mount(source: str, target: str, flags: int, kind: str = "none", more: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode(), flags, more.encode())
    if _libc.mount(*words) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} {target}")


def _unmount(target: Path) -> None:
    if _libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), f"umount {target}")


def enter(namespace: int) -> None:
    """Move this process into a mount namespace: setns(2)."""
    if _libc.setns(namespace, CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def children() -> set[int]:
    """Return our children, those that we inherited as a subreaper too."""
    with open("/proc/thread-self/children") as file:
        return {int(pid) for pid in file.read().split()}


def end_children(known: set[int], patience: float = 5.0) -> None:
    """Reap all children of ours but those known, and what they leave us; kill what stays."""
    end = time.monotonic() + patience
    while pids := children() - known:
        for pid in pids:
            if not _ends(pid, max(0.0, end - time.monotonic())):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _ends(pid: int, timeout: float) -> bool:
    handle = os.pidfd_open(pid)
    try:
        return bool(select.select([handle], [], [], timeout)[0])
    finally:
        os.close(handle)


def open_pty() -> tuple[int, str]:
    """Return a raw pty's master and the path of its other end, which is the port."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    os.close(slave)
    return master, path
