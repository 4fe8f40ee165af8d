"""`make lab`: build a guest with real serial drivers, install ttybroker in it, test it there.

    make lab                                              everything, in both flavours
    make lab LAB_TESTS=tests/lab/guest/test_uart.py       one file (or several, or FILE::TEST)
    make lab LAB_TESTS="-k revoke" LAB_FLAVOURS=bare      pytest's options; one flavour
    make lab LAB_SUITE=trixie                             a guest of another release of Debian
    make lab LAB_MACHINE=aarch64                          a guest of another machine
    make lab LAB_FLAVOURS=bare LAB_TESTS=tests/run        other tests, which then run in the guest
    make lab LAB_TESTS=tests/lab/guest/test_labgrid.py LAB_FLAVOURS=systemd

In the flavour `bare`, process 1 is a shell script, and the kernel makes the nodes. The flavour
`systemd` has systemd, udev, logind and dbus. Each guest has one processor, and they run one after
the other. The guest's tests are ordinary pytest files, in guest/.

The guest is of this machine's release, and our packages are built here. For another release they
are built in its root (`make distro`). So are those of 0.1.0, from which the guest upgrades. For
another machine they are cross-built, without those of 0.1.0, and the guest is built by qemu-user.

labgrid is not in Debian, and to install it in the guest takes minutes. So its test runs only if it
is named, and its wheels are fetched then. They are for this machine's Python.

Everything that is kept in .lab comes from the package registries: the guest, and its booted state
in either flavour, from which a run starts in some seconds. Its name has the release, the machine
and a digest of the recipe, so a change of the recipe builds it again. So does `make lab-clean`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from lab.machine import ARCH, FLAVOURS, MACHINE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".lab"
THIS_SUITE = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
SUITE = os.environ.get("LAB_SUITE") or THIS_SUITE
NATIVE = MACHINE == "x86_64"
GUEST = SUITE if NATIVE else f"{MACHINE}-{SUITE}"
CLONE = ROOT if SUITE == THIS_SUITE else ROOT / f".distro/{SUITE}/root/ttybroker"
PACKAGES = CLONE / "dist" if NATIVE else CLONE / "dist" / ARCH
OLD_PACKAGES = CLONE / "build/old" if NATIVE else CLONE / "build/old" / ARCH  # of 0.1.0
SAID = CACHE / "packages.log"  # by what builds the packages
NO_HISTORY = 3  # of old-packages.sh; then the guest's test of it is skipped, and says so
LABGRID = "test_labgrid.py"
WHEELS = CACHE / "wheels"  # of labgrid
RECIPE = ("image.sh", "vmlinux.py", "initramfs-init", "machine.py", "rootfs")


def main(arguments: list[str]) -> int:
    """Run the lab. Exit status: 0, or 1 if anything failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    flavours = os.environ.get("LAB_FLAVOURS", " ".join(FLAVOURS)).split()
    started = time.monotonic()
    counts: Counter[str] = Counter()
    try:
        with _build_packages() as packages:
            image = _image()
        if packages.returncode != 0:
            print(SAID.read_text())
            raise subprocess.CalledProcessError(packages.returncode, "make deb")
        _build_old_packages()
        if any(LABGRID in word for word in arguments):
            _fetch_wheels()
        counts = _test(image, flavours, arguments)
    except subprocess.CalledProcessError as error:
        print(f"lab: {error}", flush=True)
        counts["failed"] += 1
    words = ", ".join(f"{number} {what}" for what, number in counts.items())
    closing = f" {words} in {time.monotonic() - started:.2f}s ({' and '.join(flavours)}) "
    print(f"{closing:=^100}")
    return 1 if counts["failed"] or counts["error"] or counts["errors"] else 0


def _say(what: str) -> None:
    print(f"lab: {what}", flush=True)


def _build_packages() -> subprocess.Popen[bytes]:
    """Build ttybroker as people install it, while the guest is built."""
    _say("building its packages (half a minute)")
    words = ["deb"] if SUITE == THIS_SUITE else ["distro", f"D={SUITE}", "STEPS=deb"]
    words += [] if NATIVE else [f"FOR={ARCH}"]
    SAID.parent.mkdir(exist_ok=True)
    with SAID.open("wb") as said:
        return subprocess.Popen(["make", "-s", *words], cwd=ROOT, stdout=said)


def _build_old_packages() -> None:
    """Build the packages of 0.1.0, unless they exist.

    In the root of another release, packages.sh leaves them behind.
    """
    if SUITE == THIS_SUITE and NATIVE and not any(OLD_PACKAGES.glob("*.deb")):
        _say("building the packages of 0.1.0 (half a minute)")
        words = [ROOT / "tests/distro/old-packages.sh", OLD_PACKAGES]
        if subprocess.run(words, cwd=ROOT).returncode not in (0, NO_HISTORY):
            raise subprocess.CalledProcessError(1, "old-packages.sh")


def _fetch_wheels() -> None:
    """Fetch labgrid and what it needs, which the guest sees as a part of the project."""
    _say("fetching labgrid")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    words += ["--no-deps", "--only-binary=:all:"]
    words += ["--requirement", ROOT / "tests/matrix/labgrid.txt"]
    subprocess.run([*words, "--dest", WHEELS], check=True)


def _image() -> Path:
    digest = hashlib.sha256()
    files = [path for name in RECIPE for path in [HERE / name, *sorted((HERE / name).rglob("*"))]]
    for path in files:
        if path.is_file():
            digest.update(f"{path.relative_to(HERE)}\n".encode() + path.read_bytes())
    image = CACHE / f"{GUEST}-{digest.hexdigest()[:16]}"
    if image.exists():
        return image
    _say("building the guest (a minute)")
    part = CACHE / f"{GUEST}-part"
    for old in CACHE.glob(f"{GUEST}-*"):
        shutil.rmtree(old)
    subprocess.run([HERE / "image.sh", part, SUITE, ARCH], check=True)
    return part.rename(image)


def _test(image: Path, flavours: list[str], arguments: list[str]) -> Counter[str]:
    """Run the tests in one flavour after the other, and return how many passed, failed, and so on.

    The flavours do not run at the same time, because some tests measure times.
    """
    _say(f"testing in it: {' and '.join(flavours)}")
    counts: Counter[str] = Counter()
    for flavour in flavours:
        words = [sys.executable, "-m", "lab.flavour", flavour, image, PACKAGES, OLD_PACKAGES]
        with subprocess.Popen([*words, *arguments], stdout=subprocess.PIPE, text=True,
                              encoding="utf-8", errors="replace") as guest:  # fmt: skip
            try:
                counts += _follow(flavour, guest)
            finally:
                guest.terminate()
        if flavour == "bare" and not arguments and not _boot(image):
            counts["failed"] += 1
    return counts


def _boot(image: Path) -> bool:
    """Print the time from the kernel's start to a grant; return whether there was a grant.

    This must not run beside two other guests, which would slow it down.
    """
    _say("booting one in which it is installed (a minute)")
    with subprocess.Popen([sys.executable, "-m", "lab.boot", image, PACKAGES]) as boot:
        try:
            return boot.wait() == 0
        finally:
            boot.terminate()


def _follow(flavour: str, guest: subprocess.Popen[str]) -> Counter[str]:
    """Pass on a guest's output, line by line; return its counts, from pytest's own closing line."""
    assert guest.stdout is not None
    line = ""
    for line in guest.stdout:
        print(f"{flavour:8}{line}", end="", flush=True)
    counts: Counter[str] = Counter()
    for number, what in re.findall(r"(\d+) ([a-z]+)", line.partition(" in ")[0]):
        counts[what] = int(number)
    if guest.wait() != 0 and not counts["failed"] + counts["error"] + counts["errors"]:
        _say(f"flavour {flavour} ended with status {guest.returncode}")
        counts["failed"] += 1
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
