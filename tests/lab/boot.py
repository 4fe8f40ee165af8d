"""python -m lab.boot IMAGE PACKAGES: measure from the kernel's start to the first grant.

systemd's socket starts the daemon. A second figure is the first grant with all files in memory,
which takes at most LIMIT times as long as starting Python itself. The clock counts instructions, so
the figures are the same on any host: see machine.py.

The packages are installed in a guest that has booted. The files that this changed go into the
initramfs of another guest, which boots like a machine on which they were installed before.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lab.machine import Machine, MachineError, directory

ROOT = Path(__file__).parents[2]
LIMIT = 6.0
PATIENCE = 400.0  # seconds, for either guest
INSTALL = """\
touch stamp
sh /project/tests/lab/guest/install.sh || exit
find / -xdev -cnewer stamp ! -path '/tmp*' ! -path '/var/cache/*' ! -path '/var/log/*' >changed
tar -c --no-recursion -f changed.tar -T changed 2>/dev/null
"""
ASK = """\
[ "$(systemctl show --value -p MainPID ttybroker.service)" = 0 ] || exit 1
cat >grant.py <<'END'
import os, time
from ttybroker import open_fd
start = time.clock_gettime(time.CLOCK_BOOTTIME)
os.close(open_fd("ttyS1"))
now = time.clock_gettime(time.CLOCK_BOOTTIME)
print(start, now)
END
cat >ratio.py <<'END'
import subprocess, time
def grant():
    words = ["runuser", "-u", "alice", "--", "python3", "grant.py"]
    return map(float, subprocess.check_output(words, text=True).split())
def python():
    start = time.monotonic()
    subprocess.run(["python3", "-I", "-c", "pass"], check=True)
    return time.monotonic() - start
def again():
    subprocess.run(["ttybroker", "list"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["systemctl", "-q", "stop", "ttybroker.service"], check=True)
    subprocess.run(["systemctl", "start", "ttybroker.socket"], check=True)
start, now = grant()
print(f"{now:.1f} s from the kernel's start to the first grant, {now - start:.1f} s of that for it")
pythons, grants = [], []
for _ in range(3):
    again()
    pythons.append(python())
    start, now = grant()
    grants.append(now - start)
ratio = sorted(grants)[1] / sorted(pythons)[1]
print(f"{ratio:.2f} = first grant ({1000 * sorted(grants)[1]:.0f} ms) / python3 -I -c pass")
raise SystemExit(ratio > LIMIT)
END
chmod 644 grant.py
python3 ratio.py
""".replace("LIMIT", str(LIMIT))


def main(image: Path, packages: Path) -> int:
    """Run the measurement. Exit status: 0, or 1 if there is no figure or it is above its limit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or QEMU would live on
    try:
        with directory() as run:
            for package in packages.glob("*.deb"):
                shutil.copy(package, run)
            with Machine(image, "bare", run, ROOT, incoming=image / "state.bare") as machine:
                _do(machine, INSTALL)
            initramfs = _initramfs(image, run)
            with directory() as other:
                with Machine(
                    image, "systemd", other, ROOT, initramfs=initramfs, count=True
                ) as machine:
                    _do(machine, ASK)
    except (MachineError, subprocess.CalledProcessError) as error:
        print(f"lab: no boot to a first grant: {error}", flush=True)
        return 1
    return 0


def _do(machine: Machine, script: str) -> None:
    said = bytearray()
    status = machine.do(script, said.extend, PATIENCE)
    sys.stdout.write(said.decode("utf-8", "replace"))
    if status != 0:
        raise MachineError(f"status {status}")


def _initramfs(image: Path, run: Path) -> Path:
    """Return the image's initramfs with another archive behind it, as the kernel accepts.

    The archive has the content of the tar file in `run`, in /more.
    """
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
