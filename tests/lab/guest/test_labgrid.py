"""The example of labgrid as systemd runs it: coordinator and exporter by their units, a client.

All three are on one machine here; tests/matrix/test_labgrid.py has four.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from figures import note
from service import PATIENT, Service, run, until
from usbip import Chip

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(900)]

EXAMPLE = Path("/project/packaging/examples/labgrid")
WHEELS = Path("/project/.lab/wheels")
PYTHON, CLIENT = "/opt/labgrid/bin/python", "/opt/labgrid/bin/labgrid-client"
COORDINATOR, EXPORTER = "labgrid-coordinator", "labgrid-exporter"
DEVICE = "/dev/serial/by-id/usb-ttybroker_USB_IP_FT232R_EMULATED1-if00-port0"
PLACE = "place-of-the-lab"
SLOW = 600.0  # seconds for pip, or for labgrid's programs, on a machine that emulates another
SIOCSIFADDR = 0x8916  # netdevice(7)
FREE = 1.0  # seconds from the end of what held the port until it is free
CONSOLE = """
import sys
from labgrid import Environment
console = Environment(sys.argv[1]).get_target("main").get_driver("ConsoleProtocol")
console.write(b"from the desk")
console.expect("from the board", timeout=60)
print("heard", flush=True)
sys.stdin.readline()
"""


def have_an_address() -> None:
    """Give the guest an address: with 127.0.0.1 alone, ser2net finds none to listen at.

    It asks getaddrinfo(3) with AI_ADDRCONFIG, which does not count that one.
    """
    request = struct.pack("16sH2x4s16x", b"lo:lab", socket.AF_INET, socket.inet_aton("10.77.0.1"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFADDR, request)


@pytest.fixture(scope="module")
def site(service: Service) -> Iterator[Path]:
    """Install what the README says, from wheels, for the adapter that a test answers for."""
    have_an_address()
    place = Path("/srv/site")  # where other users can read it
    shutil.copytree(EXAMPLE, place, copy_function=shutil.copyfile)
    for name, word, mine in (
        ("policy.toml", "/dev/serial/by-id/...", DEVICE),
        ("labgrid-exporter.service", "coordinator.example", "localhost"),
        ("env.yaml", "name: board1", f"name: {PLACE}"),
    ):
        text = (place / name).read_text()
        assert word in text
        (place / name).write_text(text.replace(word, mine))
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS), "PATH": "/usr/sbin:/usr/bin"}
    done = subprocess.run(
        ["sh", "-e"], cwd=place, env=environment, input=steps(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SLOW,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    yield place
    run("systemctl", "disable", "--now", EXPORTER, COORDINATOR)
    Path("/etc/ttybroker/policy.d/labgrid.toml").unlink()
    service.reload()


def steps() -> str:
    """Return the README's commands for both machines, each once.

    Those of apt are left out, because its packages are here, and Debian's own ser2net is disabled.
    """
    text, lines = (EXAMPLE / "README.md").read_text(), []
    for heading in ("The coordinator", "A machine with boards"):
        section = text.partition(f"\n## {heading}\n")[2]
        lines += section.split("```\n")[1].splitlines()
    kept = [line for line in lines if not line.startswith(("apt ", "systemctl disable "))]
    return "\n".join(dict.fromkeys(kept))


@pytest.fixture
def place(broker: Service, chip: Chip, site: Path) -> Iterator[Path]:
    """Have a place with the board, acquired by a desk; return its folder."""
    until("the exporter", lambda: "board1" in desk("resources"), SLOW, told)
    desk("-p", PLACE, "create")
    desk("-p", PLACE, "add-match", "lab/board1/*")
    desk("-p", PLACE, "acquire")
    try:
        yield site
    finally:
        desk("-p", PLACE, "release")
        desk("-p", PLACE, "delete")


def told() -> str:
    """Return what the services have said."""
    return run("journalctl", "--no-pager", "-o", "cat", "-u", EXPORTER, "-u", COORDINATOR)


def as_bob(*words: str) -> list[str]:
    user = ["runuser", "-u", "bob", "--", "env", "LG_COORDINATOR=localhost:20408"]
    return [*user, "LG_HOSTNAME=desk", "LG_USERNAME=bob", *words]


def desk(*words: str) -> str:
    """Run labgrid-client as a user without a right to any device; return what it prints."""
    return run(*as_bob(CLIENT, *words), timeout=SLOW)


@contextmanager
def console(broker: Service, chip: Chip, site: Path) -> Iterator[None]:
    """Somebody at the desk talks to the board."""
    words = as_bob(PYTHON, "-c", CONSOLE, str(site / "env.yaml"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    before = chip.written()
    with subprocess.Popen(words, cwd="/", text=True, **pipes) as process:
        try:
            heard_it = before + b"from the desk"
            until(
                "the board to hear it, or the console's end",
                lambda: chip.written() == heard_it or process.poll() is not None, SLOW, told,
            )  # fmt: skip
            chip.send(b"from the board")
            assert process.stdout is not None
            heard = ""
            while "heard\n" not in heard:
                heard += (line := process.stdout.readline())
                assert line, heard
            yield
        finally:
            process.kill()


def let_go(broker: Service) -> bool:
    return not any(port.name == "board1" for port in broker.held())


def test_a_desk_has_the_board_and_a_local_user_reads_for_which_place(
    broker: Service, chip: Chip, place: Path
) -> None:
    assert let_go(broker)  # until there is a console
    with console(broker, chip, place):
        holder = broker.port("board1").holder
        assert holder is not None and holder.label == f"labgrid place {PLACE}"
        assert 61184 <= holder.uid <= 65519  # systemd.exec(5), DynamicUser=
        status = Path(f"/proc/{holder.pid}/status").read_text()
        (groups,) = re.findall(r"^Groups:\t(.*)$", status, re.MULTILINE)
        assert str(Path(DEVICE).stat().st_gid) not in groups.split()
        term = ["runuser", "-u", "alice", "--", "ttybroker", "term", "board1"]
        refused = subprocess.run(term, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
                                 text=True, timeout=PATIENT)  # fmt: skip
        assert refused.returncode == 1
        told_of = rf"with ser2net \(pid \d+\) for 'labgrid place {PLACE}'"
        assert re.search(told_of, refused.stderr), refused
    until("the port to be free", lambda: let_go(broker))


def test_an_exporter_that_is_killed_leaves_its_port_free(
    broker: Service, chip: Chip, place: Path
) -> None:
    with console(broker, chip, place):
        run("systemctl", "kill", "--kill-who=main", "--signal=KILL", EXPORTER)
        took = until("the port to be free", lambda: let_go(broker))
        assert note("s from the kill of labgrid's exporter to its port free", took) < FREE
    until("the exporter", lambda: "board1" in desk("resources"), SLOW, told)
    desk("-p", PLACE, "release")  # by itself the coordinator gives it again within 15 s
    desk("-p", PLACE, "acquire")
    with console(broker, chip, place):
        pass


def test_a_coordinator_that_is_restarted_leaves_nothing_stuck(
    broker: Service, chip: Chip, place: Path
) -> None:
    with console(broker, chip, place):
        before = run("systemctl", "show", "--value", "-p", "NRestarts", EXPORTER)
        run("systemctl", "restart", COORDINATOR)
        until("the port to be free", lambda: let_go(broker), told=told)
    until("systemd to start the exporter again", lambda: before != run(
        "systemctl", "show", "--value", "-p", "NRestarts", EXPORTER), told=told)  # fmt: skip
    until("the exporter", lambda: "board1" in desk("resources"), SLOW, told)
    # It may have saved that the place was acquired, or not.
    subprocess.run(as_bob(CLIENT, "-p", PLACE, "release"), capture_output=True, timeout=SLOW)
    desk("-p", PLACE, "acquire")
    with console(broker, chip, place):
        pass
