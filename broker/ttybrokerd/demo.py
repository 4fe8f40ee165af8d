"""`ttybroker demo`: the whole idea on a pty, in some seconds, with nothing left behind.

A process plays a GPS receiver at the far end of a pty that the policy calls ttyS0. The program
starts as root, forks the backend, becomes `nobody`, and is an ordinary client from then on.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import tty
from collections.abc import Callable, Iterator

from serial import SerialException

import ttybroker
from ttybroker import client, listing
from ttybroker.wire import PortInfo
from ttybrokerd import init_backend

FIXES = 3
PERIOD = 0.4  # seconds between the receiver's sentences
USER = "nobody"


def main() -> int:
    """Run the demo. Exit status 0, or 1 without root."""
    if os.geteuid() != 0:
        print("the demo starts a root backend: run it as root, or with sudo", file=sys.stderr)
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # several processes write to it, in turns
    _say_if_hidden()
    print("The root side: a pty that the policy calls ttyS0, a GPS receiver at its far end.")
    with contextlib.redirect_stdout(io.StringIO()):  # loads what the table needs while it can
        listing.show([PortInfo("ttyS0", "/dev/null", "free", "")], pids=True)
    scene = tempfile.mkdtemp(prefix="ttybroker-demo-", dir="/run")
    try:
        return _wait_for(_as_child(lambda: _play(scene)))
    finally:
        shutil.rmtree(scene)


def _play(scene: str) -> None:
    with _receiver() as device:
        _start_backend(scene, device)
        _say(f"Backend started; this process is now uid {os.getuid()}, without a capability.")
        port = ttybroker.open_tty("ttyS0", baudrate=4800, timeout=2)
        _say("open_tty('ttyS0') gave us the port. Fixes from the receiver:")
        for _ in range(FIXES):
            print(f"    {_next_fix(port)}")
        _show_list()
        _second_is_refused()
        _third_waits_and_is_served(port)
        _revoked()
    _say("Done: no process, lock or file is left.")


def _start_backend(scene: str, device: str) -> None:
    os.chmod(scene, 0o755)
    lock_dir, policy = f"{scene}/lock", f"{scene}/policy.toml"
    os.mkdir(lock_dir)
    with open(policy, "w", encoding="utf-8") as file:
        file.write(
            f'[[rule]]\nport = "ttyS0"\ndevice = "{device}"\nclass = "pty"\nallow = ["{USER}"]\n'
        )
    # its log would stand between the lines of the play
    init_backend(policy=policy, lock_dir=lock_dir, user=USER, quiet=True)


def _show_list() -> None:
    _say("ttybroker list:")
    with client.connect() as broker:
        listing.show(broker.ports())


def _second_is_refused() -> None:
    def second() -> None:
        try:
            ttybroker.open_fd("ttyS0", broker=own)
        except ttybroker.PortBusy as refusal:
            print(f"    {refusal}")

    _say("A second client asks meanwhile:")
    with client.connection_for_child() as own:
        _must_succeed(_as_child(second))


def _third_waits_and_is_served(port: ttybroker.BrokeredSerial) -> None:
    def third() -> None:
        os.close(port.fileno())  # a fork has a copy, and the lease lives as long as any does
        asked = time.monotonic()
        descriptor = ttybroker.open_fd("ttyS0", broker=own, wait=10)
        print(f"    the third has it after {time.monotonic() - asked:.2f} s of waiting")
        os.close(descriptor)

    _say("A third one waits for it (wait=10) until we close the port:")
    with client.connection_for_child() as own:
        child = _as_child(third)
        with client.connect() as broker:
            while not broker.ports()[0].waiting:
                time.sleep(0.01)
        _show_list()
        print(f"    meanwhile we read on: {_next_fix(port)}")
        port.close()
        _must_succeed(child)


def _revoked() -> None:
    _say("We open it again, and take it back from ourselves (ttybroker revoke ttyS0):")
    with ttybroker.open_tty("ttyS0", timeout=5, wait=5) as port:
        with client.connect() as broker:
            broker.revoke("ttyS0")
        try:
            port.read(1000)
        except SerialException as error:
            print(f"    our next read: {error}")


@contextlib.contextmanager
def _receiver() -> Iterator[str]:
    """Play the GPS receiver in a process of its own; yields the path of its port."""
    master, port = os.openpty()
    tty.setraw(port)
    device = os.ttyname(port)
    child = _as_child(lambda: _speak_nmea(master))
    os.close(master)
    try:
        yield device
    finally:
        os.close(port)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child, signal.SIGKILL)  # no longer ours after the change of user
        _wait_for(child)


def _speak_nmea(master: int) -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    start = time.time()
    while True:
        now = time.time()
        minutes = 7.038 + math.sin(now - start) / 1000
        clock = time.strftime("%H%M%S", time.gmtime(now))
        body = f"GPGGA,{clock},48{minutes:07.4f},N,01131.0000,E,1,08,0.9,545.4,M,46.9,M,,"
        with contextlib.suppress(BlockingIOError):
            os.write(master, f"${body}*{_checksum(body):02X}\r\n".encode())
        time.sleep(PERIOD)


def _next_fix(port: ttybroker.BrokeredSerial) -> str:
    """Return the next whole sentence, decoded: NMEA 0183, GGA."""
    while True:
        line = port.readline().decode("ascii", "replace").strip()
        body, _, checksum = line.removeprefix("$").partition("*")
        fields = body.split(",")
        if line.startswith("$GPGGA") and checksum == f"{_checksum(body):02X}":
            clock = f"{fields[1][:2]}:{fields[1][2:4]}:{fields[1][4:6]}"
            north = int(fields[2][:2]) + float(fields[2][2:]) / 60
            east = int(fields[4][:3]) + float(fields[4][3:]) / 60
            return f"{clock} UTC  {north:.5f} N  {east:.5f} E  {fields[7]} satellites"


def _checksum(body: str) -> int:
    value = 0
    for character in body:
        value ^= ord(character)
    return value


def _as_child(play: Callable[[], None]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        play()
        sys.stdout.flush()
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def _must_succeed(child: int) -> None:
    if status := _wait_for(child):
        raise RuntimeError(f"a client ended with status {status}")


def _wait_for(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _say_if_hidden() -> None:
    """Say so if the clone is in a home with mode 0700, which is a normal case."""
    path = os.path.dirname(os.path.abspath(ttybroker.__file__))
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            print(f"Note: {path} cannot be entered by {USER}; what the demo needs is loaded now.")
            return
        path = os.path.dirname(path)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
