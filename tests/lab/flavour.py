"""python -m lab.flavour FLAVOUR IMAGE PACKAGES OLD PYTEST-ARGUMENT...: the tests in a guest.

Its standard output is that of pytest in the guest. The files of the directory PACKAGES are copied
into the guest first, and those of OLD into `old`.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from pathlib import Path

from lab.machine import FLAVOURS, Machine, MachineError, directory

ROOT = Path(__file__).parents[2]
LIMIT = 1800.0  # seconds for the tests


def main(flavour: str, image: Path, packages: Path, old: Path, arguments: list[str]) -> int:
    """Run the tests. Exit status: that of pytest, or 1 with a line that says what failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or QEMU would live on
    try:
        return _test(image, _state(image, flavour), flavour, (packages, old), arguments)
    except MachineError as error:
        print(f"lab: {error}", flush=True)
        return 1


def _state(image: Path, flavour: str) -> Path:
    state = image / f"state.{flavour}"
    if not state.exists():
        print("lab: booting it (half a minute)", flush=True)
        with directory() as run, Machine(image, flavour, run, ROOT) as machine:
            machine.save(state)
    return state


def _test(
    image: Path, state: Path, flavour: str, packages: tuple[Path, Path], arguments: list[str]
) -> int:
    (other,) = set(FLAVOURS) - {flavour}
    inside = [word.removeprefix("tests/lab/guest/") for word in arguments]
    words = ["sh", "/project/tests/lab/guest/run.sh", "-m", f"not {other}", *inside]

    def output(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    with directory() as run:
        for directory_of, place in zip(packages, (run, run / "old"), strict=True):
            place.mkdir(exist_ok=True)
            for package in directory_of.glob("*.deb"):
                shutil.copy(package, place)
        with Machine(image, flavour, run, ROOT, incoming=state) as machine:
            return machine.do(shlex.join(words), output, LIMIT)


if __name__ == "__main__":
    image, packages, old = map(Path, sys.argv[2:5])
    sys.exit(main(sys.argv[1], image, packages, old, sys.argv[5:]))
