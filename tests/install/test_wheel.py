"""The wheel and the sdist: `pip install ttybroker` is the user side, with pyserial alone."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import serial

from ttybroker.version import VERSION

TOP = Path(__file__).parents[2]


def build(source: Path, into: Path, what: str) -> Path:
    """Have hatchling build a "wheel" or an "sdist"; return its file."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", what, "-d", into],
        cwd=source,
        check=True,
        stdout=subprocess.PIPE,
    )
    (file,) = into.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(TOP, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, as somebody who downloaded it has it."""
    file = build(TOP, tmp_path_factory.mktemp("sdist"), "sdist")
    where = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(file) as archive:
        archive.extractall(where)
    return where / file.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module", params=["as pip leaves it", "as the Debian package has it"])
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An environment with the wheel and pyserial, and with nothing else at all: what the root side
    needs is not there. In the Debian package the root side's own code is not there either."""
    where = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", where], check=True)
    pip = [sys.executable, "-m", "pip", "-q", "--python", where / "bin/python"]
    options = ["--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *options, wheel], check=True)
    (site,) = where.glob("lib/*/site-packages")
    shutil.copytree(Path(serial.__file__).parent, site / "serial")
    if request.param != "as pip leaves it":
        shutil.rmtree(site / "ttybrokerd")
        (where / "bin/ttybrokerd").unlink()
    return where


def test_it_needs_pyserial_alone_and_the_broker_is_an_extra(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == VERSION
    needs = metadata.get_all("Requires-Dist", [])
    assert [need for need in needs if "extra ==" not in need] == ["pyserial<4,>=3.5"]
    assert any(need.startswith("python-prctl") and "'broker'" in need for need in needs)


def test_the_user_side_is_whole_without_the_root_side(installed: Path) -> None:
    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {"TTYBROKER_SOCKET": "/nonexistent/socket"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    code = "import ttybroker, ttybroker.aio; [getattr(ttybroker, n) for n in ttybroker.__all__]"
    done = run(installed / "bin/python", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(installed / "bin/ttybroker", "--help")
    assert (done.returncode, done.stderr) == (0, "") and "list" in done.stdout
    done = run(installed / "bin/ttybroker", "list")
    assert done.returncode == 1
    assert done.stderr.startswith("ttybroker: no broker at /nonexistent/socket: ")
    done = run(installed / "bin/ttybroker", "run", "ttyS0", "--", "true")
    assert done.returncode != 0 and "no broker" in done.stderr
    done = run(installed / "bin/ttybroker", "demo")
    assert done.returncode == 1 and "needs the root side" in done.stderr
    assert done.stderr.count("\n") == 1
    daemon = installed / "bin/ttybrokerd"
    if daemon.exists():
        done = run(daemon, "--check")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("ttybrokerd: the root side does not start: ")
        assert " is missing; install the Debian package " in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_package_that_is_there_and_broken_is_named_with_its_fault(tmp_path: Path) -> None:
    """As python-prctl is where its libcap is gone."""
    (tmp_path / "prctl.py").write_text("raise ImportError('libcap.so.2: not there', name='_prctl')")
    path = os.pathsep.join(map(str, (tmp_path, TOP / "broker", TOP / "frontend")))
    for module, why in (
        ("ttybrokerd.entry", "ttybrokerd: the root side does not start: _prctl "),
        ("ttybroker.cli", "ttybroker: the demo needs the root side too: _prctl "),
    ):
        code = f"import sys; from {module} import main; sys.argv[1:] = ['demo']; sys.exit(main())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=False, env={"PYTHONPATH": path})  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{why}cannot be loaded: libcap.so.2: not there; install ")
        assert done.stderr.count("\n") == 1


def test_the_sdist_builds_the_same_wheel(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    def content(file: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    assert content(build(unpacked, tmp_path, "wheel")) == content(wheel)


def test_the_sdist_has_what_make_needs(unpacked: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "packaging/apt-needs", "tests/conftest.py", "packaging/debian/rules"):
        assert (unpacked / name).exists()
    launcher = ["make", "-s", "-C", unpacked / "packaging/launcher", f"BUILD={tmp_path}/build"]
    subprocess.run(launcher, check=True, stdout=subprocess.PIPE)
    assert (tmp_path / "build/ttyrun").exists()
