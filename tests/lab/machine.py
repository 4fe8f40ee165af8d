"""The guest as QEMU runs it, by software emulation: what is plugged in where, and its life.

    ttyS0                the console
    ttyS1 - ttyS2        wired back to back
    ttyS4 - ttyS5        wired back to back
    ttyS3 - adapter 0    by a relay on the host
    ttyS6 - adapter 1    by a relay on the host
    ttyS7                nothing
    adapters 0 to 3      FTDI, plugged and unplugged by the guest itself; 2 and 3 wired to nothing

One more is emulated in the guest: guest/usbip.py.
The last four UARTs are on a PCI board. An adapter must not be wired directly to a UART: it writes
to its back end until all bytes are taken, and QEMU stops entirely while nobody reads the UART.

On aarch64 Debian's kernel has room for four UARTs of this kind: the first four are on the board,
and in the place of ttyS6 there is the machine's own PL011, ttyAMA0.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.qmp import Qmp
from lab.relay import Relay

# What the guest is: Debian's name, and QEMU's words.
MACHINES = {
    "x86_64": ("amd64", ["qemu-system-x86_64", "-M", "pc,usb=off", "-cpu", "max"]),
    "aarch64": ("arm64", ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57"]),
}
MACHINE = os.environ.get("LAB_MACHINE") or "x86_64"
ARCH, _QEMU = MACHINES[MACHINE]
FLAVOURS = ("bare", "systemd")
ADAPTERS = 4
WIRED = {"s3.sock": "usb0.sock", "s6.sock": "usb1.sock"}
BOOT = 180.0  # seconds, with room: a quarter of that is usual
_KERNEL = (
    "console=ttyS0 quiet panic=-1 nokaslr mitigations=off 8250.nr_uarts=8 systemd.unit=lab.target"
)


class MachineError(RuntimeError):
    """The guest failed; the text has the messages of QEMU and of its console."""


def command(
    image: Path, flavour: str, project: Path, incoming: Path | None, initramfs: Path, count: bool
) -> list[str]:
    """Return QEMU's command line. Paths that are not absolute are in the run's own directory."""
    words = [*_QEMU, "-nodefaults", "-no-reboot", "-display", "none"]
    threads = "single" if count else "multi"
    words += ["-accel", f"tcg,thread={threads},tb-size=512"]
    words += ["-icount", "shift=3,sleep=off"] if count else []  # 8 ns each
    words += ["-smp", "1", "-m", "1024"]
    words += ["-kernel", f"{image}/vmlinux", "-initrd", str(initramfs)]
    words += ["-append", f"{_KERNEL} lab={flavour}"]
    words += ["-drive", f"file={image}/root.ext4,format=raw,if=virtio,readonly=on"]
    words += ["-device", "qemu-xhci,id=xhci"]
    words += _uarts()
    for number in range(ADAPTERS):
        socket_name = f"usb{number}.sock"
        wired = socket_name in WIRED.values()
        words += _listen(f"usb{number}", socket_name) if wired else _null(f"usb{number}")
    words += _channels()
    words += _share("job", ".", "off") + _share("project", str(project), "on")
    return words + (["-incoming", f"exec:cat {incoming}"] if incoming else [])


def _listen(name: str, path: str) -> list[str]:
    return ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]


def _connect(name: str, path: str) -> list[str]:
    return ["-chardev", f"socket,id={name},path={path}"]


def _null(name: str) -> list[str]:
    return ["-chardev", f"null,id={name}"]


def _uarts() -> list[str]:
    words = ["-chardev", "file,id=s0,path=console"]
    words += _listen("s1", "wire1.sock") + _connect("s2", "wire1.sock")
    words += _listen("s3", "s3.sock") + _listen("s6", "s6.sock")
    if MACHINE == "aarch64":
        return words + ["-serial", "chardev:s6"] + _board(0)
    words += _listen("s4", "wire4.sock") + _connect("s5", "wire4.sock") + _null("s7")
    for number in range(4):
        words += ["-device", f"isa-serial,index={number},chardev=s{number}"]
    return words + _board(4)


def _board(first: int) -> list[str]:
    """Return the words for a PCI board with ttyS<first> and the next three."""
    slots = ",".join(f"chardev{slot}=s{first + slot - 1}" for slot in (1, 2, 3, 4))
    return ["-device", f"pci-serial-4x,{slots}"]


def _channels() -> list[str]:
    """Return the words for /dev/vport0p1 (QMP), 2 (starts lab-job) and 3 (its output)."""
    words = ["-qmp", "unix:qmp.sock,server=on,wait=off"]
    words += ["-qmp", "unix:guest.sock,server=on,wait=off", *_connect("guest", "guest.sock")]
    words += _listen("word", "word.sock") + _listen("output", "output.sock")
    words += ["-device", "virtio-serial-pci"]
    for number, name in enumerate(("guest", "word", "output"), 1):
        words += ["-device", f"virtserialport,nr={number},chardev={name},name={name}"]
    return words


def _share(name: str, path: str, read_only: str) -> list[str]:
    options = f"path={path},security_model=none,multidevs=remap,readonly={read_only}"
    device = f"virtio-9p-pci,fsdev={name},mount_tag={name}"
    return ["-fsdev", f"local,id={name},{options}", "-device", device]


@contextmanager
def directory() -> Iterator[Path]:
    """Make a directory for a Machine to run in."""
    path = Path(tempfile.mkdtemp(prefix="ttybroker-lab-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Machine:
    """A guest that runs in the directory `run`, which is also its /job; `with` ends it.

    It continues from the saved state `incoming`. Without one it boots, with the image's initramfs
    or `initramfs`. With `count` its clocks count instructions, so measurements are the same on any
    host, however busy. (If the guest is idle, they jump to the next event.)
    """

    def __init__(
        self,
        image: Path,
        flavour: str,
        run: Path,
        project: Path,
        *,
        incoming: Path | None = None,
        initramfs: Path | None = None,
        count: bool = False,
    ) -> None:
        self.run = run
        self._log = (run / "qemu").open("wb")
        self._process = subprocess.Popen(
            command(image, flavour, project, incoming, initramfs or image / "initramfs", count),
            cwd=run, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self._relays: list[Relay] = []

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        for relay in self._relays:
            relay.close()

    def save(self, state: Path) -> None:
        """Wait until the guest has booted, store it in `state`, and end it."""
        word = self._socket("word.sock")
        self._until_ready(word)
        time.sleep(2)  # what systemd does last is not told
        with self._socket("qmp.sock") as control:
            qmp = Qmp(control.fileno())
            word.close()
            part = state.with_suffix(".part")
            qmp.command("migrate", uri=f"exec:cat >{part}")
            while (now := qmp.command("query-migrate"))["status"] != "completed":
                if now["status"] in ("failed", "cancelled"):
                    raise self._failure(f"cannot be saved: {now.get('error-desc', '')}")
                time.sleep(0.1)
            part.rename(state)

    def do(self, script: str, output: Callable[[bytes], None], timeout: float) -> int:
        """Run a shell script as root in the guest, and return its exit status.

        `output` gets what it prints, as it comes.
        """
        (self.run / "script").write_text(script)
        self._relays = [
            Relay(self._socket(one), self._socket(other)) for one, other in WIRED.items()
        ]
        printed = threading.Thread(target=_pump, args=(self._socket("output.sock"), output))
        printed.start()
        with self._socket("word.sock") as word:
            word.sendall(b"go\n%d\n" % time.time())
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise self._failure(f"not done after {timeout:.0f} s") from None
            finally:
                self._process.kill()
                printed.join()
        try:
            return int((self.run / "status").read_text())
        except (FileNotFoundError, ValueError):
            raise self._failure("it ended without a status") from None

    def _until_ready(self, word: socket.socket) -> None:
        word.settimeout(BOOT)
        got = b""
        try:
            while b"ready" not in got:
                data = word.recv(4096)
                if not data:
                    raise self._failure("it ended before it was up")
                got += data
        except TimeoutError:
            raise self._failure(f"not up after {BOOT:.0f} s") from None

    def _socket(self, name: str) -> socket.socket:
        """Connect to one of QEMU's sockets, as soon as it listens."""
        address = f"/proc/self/cwd/{os.path.relpath(self.run / name)}"
        end = time.monotonic() + 20
        while True:
            sock = socket.socket(socket.AF_UNIX)
            if sock.connect_ex(address) == 0:
                return sock
            sock.close()
            if self._process.poll() is not None or time.monotonic() > end:
                raise self._failure(f"QEMU does not listen at {name}")
            time.sleep(0.02)

    def _failure(self, what: str) -> MachineError:
        said = ""
        for name in ("qemu", "console"):
            if (path := self.run / name).exists():
                said += "".join(path.read_text("utf-8", "replace").splitlines(True)[-30:])
        return MachineError(f"the guest: {what}\n{said}")


def _pump(source: socket.socket, sink: Callable[[bytes], None]) -> None:
    with source:
        try:
            while data := source.recv(65536):
                sink(data)
        except ConnectionError:
            pass
