"""Stands in for ttyrun_main.py: what does the root half see? As JSON into `report` beside it.

It runs as `ttyrun` starts it, isolated and as root, and imports nothing of the project.
"""

import sys

MODULES = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}

import os  # noqa: E402


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def fds() -> dict[str, tuple[str, int]]:
    """Number: where it leads, and its open(2) flags; but for the one that lists them."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing itself
            continue
        info = read(f"/proc/self/fdinfo/{name}").decode()
        flags = next(line for line in info.splitlines() if line.startswith("flags:"))
        found[name] = (path, int(flags.split()[1], 8))
    return found


FDS = fds()  # before ctypes: libffi 3.8 keeps its own file open

import ctypes  # noqa: E402
import fcntl  # noqa: E402
import json  # noqa: E402
import locale  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import struct  # noqa: E402


def prctl_get(option: int) -> int:
    value = ctypes.c_int()
    result: int = ctypes.CDLL(None).prctl(option, ctypes.byref(value), 0, 0, 0)
    return value.value if option == 2 else result


umask = os.umask(0)
os.umask(umask)
try:
    cwd = os.getcwd()
except OSError as error:
    cwd = f"{error.strerror}"
report = {
    "argv": [os.fsencode(arg).hex() for arg in sys.argv[1:]],
    "cmdline": read("/proc/self/cmdline").hex(),
    "environ": read("/proc/self/environ").decode(),
    "fds": FDS,
    "kept": read("/proc/self/fd/3").hex(),
    "seals": fcntl.fcntl(3, fcntl.F_GET_SEALS),
    "status": dict(
        line.split(":\t", 1) for line in read("/proc/self/status").decode().splitlines()
    ),
    "limits": {
        name: resource.getrlimit(getattr(resource, name))
        for name in dir(resource)
        if name.startswith("RLIMIT_")
    },
    "timers": [signal.getitimer(which) for which in range(3)],
    "umask": umask,
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "policy": os.sched_getscheduler(0),
    "slack": int(read("/proc/self/timerslack_ns")),
    "pdeathsig": prctl_get(2),  # PR_GET_PDEATHSIG, linux/prctl.h
    "dumpable": prctl_get(3),  # PR_GET_DUMPABLE
    "secure": struct.unpack(f"{len(read('/proc/self/auxv')) // 8}N", read("/proc/self/auxv")),
    "cwd": cwd,
    "path": sys.path,
    "flags": str(sys.flags)[10:-1].split(", "),
    "modules": MODULES,
    "encoding": [sys.getfilesystemencoding(), sys.stdout.encoding, locale.setlocale(0)],
}
with open(os.path.join(os.path.dirname(__file__), "..", "report"), "w") as file:
    json.dump(report, file)
if sys.argv[1:] == ["hold"]:
    os.write(1, b"ready\n")
    os.read(0, 1)
