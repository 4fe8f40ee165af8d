"""python -m lab.boot IMAGE PACKAGES: from the kernel's start to the first grant, by systemd's
socket. A figure, no test.

The packages are installed in a guest that has booted already. What that changed goes into the
initramfs of another, which boots as a machine does on which they were installed before.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lab.machine import Machine, MachineError, directory

ROOT = Path(__file__).parents[2]
LIMIT = 240.0  # seconds, for either guest
INSTALL = """\
touch stamp
sh /project/tests/lab/guest/install.sh || exit
find / -xdev -cnewer stamp ! -path '/tmp*' ! -path '/var/cache/*' ! -path '/var/log/*' >changed
tar -c --no-recursion -f changed.tar -T changed 2>/dev/null
"""
ASK = """\
[ "$(systemctl show --value -p MainPID ttybroker.service)" = 0 ] || exit 1
runuser -u alice -- python3 - <<'END'
import os, time
from ttybroker import open_fd
start = time.clock_gettime(time.CLOCK_BOOTTIME)
os.close(open_fd("ttyS1"))
now = time.clock_gettime(time.CLOCK_BOOTTIME)
print(f"{now:.1f} s from the kernel's start to the first grant, {now - start:.1f} s of that for it")
END
"""


def main(image: Path, packages: Path) -> int:
    """Exit status: 0, or 1 if there is no figure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or QEMU would live on
    try:
        with directory() as run:
            for package in packages.glob("*.deb"):
                shutil.copy(package, run)
            with Machine(image, "bare", run, ROOT, incoming=image / "state.bare") as machine:
                _do(machine, INSTALL)
            initramfs = _initramfs(image, run)
            with directory() as other:
                with Machine(image, "systemd", other, ROOT, initramfs=initramfs) as machine:
                    _do(machine, ASK)
    except (MachineError, subprocess.CalledProcessError) as error:
        print(f"lab: no boot to a first grant: {error}", flush=True)
        return 1
    return 0


def _do(machine: Machine, script: str) -> None:
    said = bytearray()
    status = machine.do(script, said.extend, LIMIT)
    sys.stdout.write(said.decode("utf-8", "replace"))
    if status != 0:
        raise MachineError(f"status {status}")


def _initramfs(image: Path, run: Path) -> Path:
    """The image's, and another archive behind it, as the kernel takes them: what the tar file in
    `run` holds, in /more."""
    more, both = run / "archive" / "more", run / "initramfs"
    more.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-p", "-f", run / "changed.tar", "-C", more], check=True)
    with both.open("wb") as file:
        file.write((image / "initramfs").read_bytes())
        file.flush()
        pack = "find more | cpio --quiet -o -H newc"
        subprocess.run(pack, shell=True, cwd=more.parent, stdout=file, check=True)
    return both


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
