"""A launcher built for the test, set-user-ID root, in a directory of its own that only root writes.

Its callers are a uid and gid that no account has. `Launcher.run` starts it as one of them and
returns what happened; what the root half saw is in `Launcher.report()`.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.place import PLACE

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "packaging" / "launcher"
UID, GID, GROUP = 60123, 60123, 60124


class Launcher:
    """One installed `ttyrun`: `program`, with its code directory `code`, both in `base`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.code = base / "lib"
        self.program = base / "ttyrun"
        self.uid, self.gid, self.group = UID, GID, GROUP

    def build(self, *variables: str) -> None:
        """Compile ttyrun.c with the project's own Makefile; set-user-ID, owned by root."""
        build = self.base / "-".join(["build", *variables]).replace("/", "-")
        if not build.exists():
            command = ["make", "-s", "-C", SOURCE, f"BUILD={build}", f"CODE={self.code}"]
            subprocess.run([*command, *variables], check=True, stdout=subprocess.PIPE)
        self.program.unlink(missing_ok=True)
        shutil.copyfile(build / "ttyrun", self.program)
        os.chmod(self.program, 0o4755)

    def reset(self) -> None:
        """Everything as on the first day, but for what is compiled."""
        for path in self.base.iterdir():
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif not path.name.startswith("build"):
                shutil.rmtree(path)
        os.chown(self.base, 0, 0)
        os.chmod(self.base, 0o755)

    def install(self, main: Path) -> None:
        """Make `main` the only code in the code directory, as ttyrun_main.py."""
        self.code.mkdir(mode=0o755)
        shutil.copyfile(main, self.code / "ttyrun_main.py")
        os.chmod(self.code / "ttyrun_main.py", 0o644)

    def popen(
        self,
        *args: str | bytes,
        program: Path | None = None,
        before: Callable[[], None] | None = None,
        user: bool = True,
        uid: int = UID,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start it as the caller's uid, gid and group (or as root); `before` runs as that uid,
        the last thing before execve(2)."""
        (self.base / "report").unlink(missing_ok=True)
        if user:
            options.update(user=uid, group=self.gid, extra_groups=[self.group])
        return subprocess.Popen(
            ["ttyrun", *args],
            executable=program or self.program,
            preexec_fn=before,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            env=options.pop("env", {}),
            **options,
        )

    def run(self, *args: str | bytes, **options: Any) -> subprocess.CompletedProcess[str]:
        """Start it and wait for its end."""
        with self.popen(*args, **options) as process:
            out, err = process.communicate()
        text = [(part or b"").decode(errors="replace") for part in (out, err)]
        return subprocess.CompletedProcess(args, process.returncode, *text)

    def report(self) -> Any:
        """What the last root half saw (probe.py); None: there was none."""
        path = self.base / "report"
        return json.loads(path.read_text()) if path.exists() else None

    def seen(self, *args: str | bytes, **options: Any) -> Any:
        """Run it, demand that the root half was reached, return its report."""
        done = self.run(*args, **options)
        assert done.returncode == 0, done
        report = self.report()
        assert report is not None
        return report

    def refused(self, *args: str | bytes, status: int = 1, **options: Any) -> str:
        """Run it, demand a refusal in one line before any Python; return the line."""
        done = self.run(*args, **options)
        assert done.returncode == status, done
        assert self.report() is None
        assert done.stdout == ""
        assert done.stderr.startswith("ttyrun: ") and done.stderr.count("\n") == 1, done
        return done.stderr


def make_base() -> Path:
    """A directory that every uid can enter, only root can write, and no mount makes nosuid."""
    base = Path(tempfile.mkdtemp(prefix="ttyrun-test-", dir=PLACE))
    os.chmod(base, 0o755)
    return base


@pytest.fixture(scope="session")
def bases() -> Iterator[list[Path]]:
    """Where launchers can live; all removed at the end."""
    made = [make_base(), make_base()]
    try:
        nosuid = os.statvfs(made[0]).f_flag & os.ST_NOSUID
        assert not nosuid, f"{made[0]} is mounted nosuid: no set-user-ID program works there"
        yield made
    finally:
        for base in made:
            shutil.rmtree(base)


@pytest.fixture(scope="session")
def built(bases: list[Path]) -> Launcher:
    launcher = Launcher(bases[0])
    launcher.install(HERE / "probe.py")
    launcher.build()
    return launcher


@pytest.fixture
def launcher(built: Launcher) -> Launcher:
    """The launcher on the probe, for tests that change nothing in its directory."""
    (built.base / "report").unlink(missing_ok=True)
    return built


@pytest.fixture
def own(bases: list[Path]) -> Launcher:
    """Another one that a test may spoil."""
    launcher = Launcher(bases[1])
    launcher.reset()
    launcher.install(HERE / "probe.py")
    launcher.build()
    return launcher


@pytest.fixture
def mine(built: Launcher) -> Iterator[Path]:
    """A directory that belongs to the caller, on the launcher's file system."""
    path = built.base / "mine"
    path.mkdir()
    os.chown(path, UID, GID)
    try:
        yield path
    finally:
        os.chmod(path, stat.S_IRWXU)
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that the Makefile picks."""
    return os.path.realpath("/usr/bin/python3" if sys.platform == "linux" else sys.executable)
