"""`make lab`: build a guest with real serial drivers, install ttybroker in it, test it there.

    make lab                                              everything, in both flavours
    make lab LAB_TESTS=tests/lab/guest/test_usb.py        one file (or several, or FILE::TEST)
    make lab LAB_TESTS="-k revoke" LAB_FLAVOURS=bare      pytest's options; one flavour

In the flavour `bare` process 1 is a shell script and the kernel makes the nodes; in `systemd` there
are systemd, udev, logind and dbus. The guest's tests are ordinary pytest files, in guest/.

What is kept in .lab comes from the package registries alone: the guest, and its booted state in
either flavour, from which a run starts in some seconds. Its name is a digest of the recipe, so
that a change of that builds it anew; `make lab-clean` does as well.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.machine import FLAVOURS, Machine, MachineError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".lab"
RECIPE = ("image.sh", "vmlinux.py", "initramfs-init", "machine.py", "rootfs")
LIMIT = 900.0  # seconds for the tests of one flavour


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 1 if anything failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or QEMU would live on
    flavours = os.environ.get("LAB_FLAVOURS", " ".join(FLAVOURS)).split()
    started = time.monotonic()
    counts: Counter[str] = Counter()
    try:
        image = _image()
        states = {flavour: _state(image, flavour) for flavour in flavours}
        packages = _packages()
        for flavour in flavours:
            counts += _test(image, states[flavour], flavour, packages, arguments)
    except (MachineError, subprocess.CalledProcessError) as error:
        print(f"lab: {error}", flush=True)
        counts["failed"] += 1
    words = ", ".join(f"{number} {what}" for what, number in counts.items())
    closing = f" {words} in {time.monotonic() - started:.2f}s ({' and '.join(flavours)}) "
    print(f"{closing:=^100}")
    return 1 if counts["failed"] or counts["error"] or counts["errors"] else 0


def _say(what: str) -> None:
    print(f"lab: {what}", flush=True)


def _image() -> Path:
    digest = hashlib.sha256()
    files = [path for name in RECIPE for path in [HERE / name, *sorted((HERE / name).rglob("*"))]]
    for path in files:
        if path.is_file():
            digest.update(f"{path.relative_to(HERE)}\n".encode() + path.read_bytes())
    image = CACHE / digest.hexdigest()[:16]
    if image.exists():
        return image
    _say("building the guest (a minute)")
    shutil.rmtree(CACHE, ignore_errors=True)
    part = CACHE / "part"
    subprocess.run([HERE / "image.sh", part], check=True)
    return part.rename(image)


def _state(image: Path, flavour: str) -> Path:
    state = image / f"state.{flavour}"
    if not state.exists():
        _say(f"booting it, flavour {flavour} (half a minute)")
        with _directory() as run, Machine(image, flavour, run, ROOT) as machine:
            machine.save(state)
    return state


def _packages() -> list[Path]:
    """ttybroker, as people install it."""
    _say("building its packages (half a minute)")
    subprocess.run(["make", "-s", "deb"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return sorted((ROOT / "dist").glob("*.deb"))


def _test(
    image: Path, state: Path, flavour: str, packages: list[Path], arguments: list[str]
) -> Counter[str]:
    """Run the tests; how many passed, failed, and so on, by pytest's own closing line."""
    _say(f"testing in it, flavour {flavour}")
    (other,) = set(FLAVOURS) - {flavour}
    inside = [word.removeprefix("tests/lab/guest/") for word in arguments]
    words = ["sh", "/project/tests/lab/guest/run.sh", "-m", f"not {other}", *inside]
    printed = bytearray()

    def output(data: bytes) -> None:
        printed.extend(data)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    with _directory() as run:
        for package in packages:
            shutil.copy(package, run)
        with Machine(image, flavour, run, ROOT, state) as machine:
            status = machine.do(shlex.join(words), output, LIMIT)
    counts: Counter[str] = Counter()
    closing = printed.decode("utf-8", "replace").rstrip().rpartition("\n")[2]
    for number, what in re.findall(r"(\d+) ([a-z]+)", closing.partition(" in ")[0]):
        counts[what] = int(number)
    if status != 0 and not counts["failed"] + counts["error"] + counts["errors"]:
        raise MachineError(f"flavour {flavour}: pytest ended with status {status}")
    return counts


@contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ttybroker-lab-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
