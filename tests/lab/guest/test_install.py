"""The packages: their files, when they run, an upgrade under a holder, and a purge.

Also a service that has no rights of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pexpect
import pytest

from adapters import Adapters
from lines import FAR, NEAR, PAIR, raw
from seat import activate, login
from service import ALICE, BOB, LAB_POLICY, PATIENT, POLICY, Service, run, until
from support.children import Chat
from ttybroker import NotPermitted, PortBusy, open_fd, open_tty

pytestmark = pytest.mark.systemd

PACKAGES = Path(os.environ.get("PACKAGES", "."))
EXAMPLES = Path("/project/packaging/examples")
SHIPPED = Path("/project/broker/ttybrokerd/prepare/policy.toml")
DESK = Path("/etc/ttybroker/policy.d/90-desk.toml")
NAMES = ("ttybroker", "python3-ttybroker")
PLACES = ("/etc/ttybroker", "/run/ttybroker", "/usr/lib/ttybroker",
          "/usr/lib/python3/dist-packages/ttybroker",
          "/usr/lib/python3/dist-packages/ttybrokerd")  # fmt: skip
SLOW = 300.0  # seconds for dpkg, on a busy machine that emulates another
POSITION = b"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"  # NMEA 0183


def install(which: str = "*.deb") -> None:
    run("dpkg", "--force-confold", "-i", *map(str, sorted(PACKAGES.glob(which))), timeout=SLOW)


def installed() -> list[Path]:
    """Return every file of ours that dpkg knows."""
    paths = [Path(line) for name in NAMES for line in run("dpkg", "-L", name).splitlines()]
    return [path for path in paths if not path.is_dir()]


@pytest.fixture
def purged(broker: Service) -> Iterator[list[Path]]:
    """Return what the packages had installed before they were purged. Restore all at the end."""
    had = installed()
    try:
        run("dpkg", "--purge", *NAMES, timeout=SLOW)
        yield had
    finally:
        if not POLICY.exists():
            install()
        broker.write_policy(LAB_POLICY)
        run("systemctl", "restart", "ttybroker.service")
        broker.begin()


@pytest.mark.timeout(2 * SLOW)
def test_a_purge_leaves_nothing_and_an_install_is_ready(
    broker: Service, purged: list[Path]
) -> None:
    assert len(purged) > 50
    assert [path for path in purged if os.path.lexists(path)] == []
    assert [place for place in PLACES if os.path.exists(place)] == []
    units = run("systemctl", "list-units", "--plain", "--no-legend", "ttybroker*")
    assert units == ""
    assert not has("ttybrokerd")

    install()
    assert sorted(installed()) == sorted(purged)
    assert POLICY.read_bytes() == SHIPPED.read_bytes()
    assert DESK.read_bytes() == Path("/usr/share/ttybroker/desk.toml").read_bytes()
    assert state("ttybroker.socket") == "active"
    assert run("systemctl", "is-enabled", "ttybroker.socket") == "enabled"
    assert broker.pid == 0  # until somebody asks
    launcher = os.stat("/usr/bin/ttyrun")
    assert stat.S_IMODE(launcher.st_mode) == 0o4755 and launcher.st_uid == 0
    assert broker.child(ALICE, ask).hear(60) == "granted"  # she is in dialout
    assert "no rule of the policy allows you this port" in broker.child(BOB, ask).hear(60)
    assert broker.pid != 0


@pytest.mark.timeout(2 * SLOW)
@pytest.mark.usefixtures("purged")
def test_the_person_at_a_new_machine_has_what_he_plugs_in(
    broker: Service, adapters: Adapters
) -> None:
    """He is only in his own group, and was logged in before the package came."""
    with login(BOB, 2) as bobs, login(ALICE, 3):
        activate(bobs)
        install()
        broker.awake()
        name = adapters.plug(0)  # wired to ttyS3
        far = os.open("/dev/ttyS3", os.O_RDWR | os.O_NOCTTY)
        raw(far)
        words = ["-u", "bob", "--", "ttybroker", "term", name, "9600"]
        screen = pexpect.spawn("runuser", words, timeout=PATIENT, cwd="/")
        try:
            until("the port", lambda: any(port.name == name for port in broker.held()))
            holder = broker.port(name).holder
            assert holder is not None and holder.uid == BOB
            os.write(far, b"here I am\r\n")
            screen.expect_exact("here I am")
        finally:
            screen.close(force=True)
            os.close(far)
        until("the port to be free", lambda: not broker.held(), told=broker.log)
    told = broker.child(BOB, lambda chat: ask(chat, name)).hear(60)
    assert "no rule of the policy allows you this port" in told


def state(unit: str) -> str:
    return run("systemctl", "show", "--value", "-p", "ActiveState", unit)


def ask(chat: Chat, name: str = "ttyS1") -> None:
    """Ask for the port, and say the broker's answer to the test."""
    try:
        os.close(open_fd(name))
        chat.say("granted")
    except (NotPermitted, PortBusy) as refusal:
        chat.say(str(refusal))


def has(name: str) -> bool:
    return any((entry / "comm").read_text() == f"{name[:15]}\n" for entry in Path("/proc").iterdir()
               if entry.name.isdigit() and (entry / "comm").exists())  # fmt: skip


@pytest.mark.timeout(2 * SLOW)
def test_an_upgrade_keeps_what_people_hold(broker: Service) -> None:
    def carry(chat: Chat) -> None:
        source, sink = map(open_fd, PAIR)
        for descriptor in (source, sink):
            raw(descriptor)
            os.set_blocking(descriptor, True)
        for word in (b"before", b"afterwards"):
            chat.say()
            chat.hear(300)
            os.write(source, word)
            got = b""
            while len(got) < len(word):
                got += os.read(sink, 64)
            chat.say(got)

    holder = broker.child(BOB, carry)
    holder.hear()
    holder.say()
    assert holder.hear() == b"before"
    holder.hear()
    before, was = broker.port(NEAR).holder, broker.pid
    assert before is not None and before.pid == holder.pid
    install()
    until("another daemon", lambda: broker.pid not in (0, was), told=broker.log)
    assert broker.port(NEAR).holder == before
    holder.say()
    assert holder.hear() == b"afterwards"
    holder.wait()
    until("the port to be free", lambda: not broker.held(), told=broker.log)


@pytest.fixture
def old(purged: list[Path]) -> Iterator[None]:
    """Install the packages of 0.1.0, and put ours back, whatever the test does."""
    install("old/*.deb")
    try:
        yield
    finally:
        if Path("/run/ttybroker/names").exists():
            install()


# A program of that time, which has loaded that module.
HOLD = """\
import sys
from ttybroker import open_tty
source, sink = (open_tty(name, baudrate=19200, timeout=60) for name in ("ttyS4", "ttyS5"))
print("held", flush=True)
for line in sys.stdin:
    source.write(line.encode())
    print(sink.readline().decode(), end="", flush=True)
"""


def lease(broker: Service) -> tuple[str, int | None, int, float]:
    """Return what daemons of both versions say about the holder: 0.1.0 adds the user's name."""
    holder = broker.port("ttyS4").holder
    assert holder is not None
    return holder.how, holder.uid, holder.pid, holder.since


@pytest.mark.timeout(3 * SLOW)
@pytest.mark.skipif(not any(PACKAGES.glob("old/*.deb")), reason="the clone has no commit of 0.1.0")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="0.1.0 is killed by its own filter there")
@pytest.mark.usefixtures("old")
def test_an_upgrade_from_0_1_0_keeps_leases_and_ends_its_name_service(broker: Service) -> None:
    broker.write_policy(LAB_POLICY)
    run("stty", "-F", "/dev/ttyS4", "57600")
    found = run("stty", "-F", "/dev/ttyS4", "-g")
    with subprocess.Popen(
        ["python3", "-I", "-c", HOLD], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, user=BOB, group=pwd.getpwuid(BOB).pw_gid, extra_groups=[],
    ) as holder:  # fmt: skip
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert state("ttybroker-names.socket") == "active"
        before, was = lease(broker), broker.pid
        assert before[:3] == ("lease", BOB, holder.pid)

        install()
        until("another daemon", lambda: broker.pid not in (0, was), told=broker.log)
        assert lease(broker) == before
        assert "busy" in broker.child(ALICE, lambda chat: ask(chat, "ttyS4")).hear(60)
        holder.stdin.write("afterwards\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "afterwards\n"
        assert state("ttybroker-names.socket") == "inactive"
        assert not os.path.lexists("/run/ttybroker/names")
        holder.stdin.close()
        assert holder.wait(PATIENT) == 0
    until("the ports to be free", lambda: not broker.held(), told=broker.log)
    assert run("stty", "-F", "/dev/ttyS4", "-g") == found  # which a record of 0.1.0 told


def test_without_a_policy_nobody_gets_a_port_and_an_upgrade_from_0_1_0_brings_the_shipped_one(
    broker: Service,
) -> None:
    POLICY.unlink()
    try:
        run("systemctl", "restart", "ttybroker.service")
        told = broker.child(ALICE, ask).hear(60)
        assert f"{POLICY}: No such file or directory" in told
        run("/var/lib/dpkg/info/ttybroker.postinst", "configure", "0.1.0", timeout=SLOW)
        assert POLICY.read_bytes() == SHIPPED.read_bytes()
        assert broker.child(ALICE, ask).hear(60) == "granted"
    finally:
        broker.write_policy(LAB_POLICY)
        run("systemctl", "restart", "ttybroker.service")
        broker.begin()


def test_rules_of_another_package_are_taken_by_the_trigger(broker: Service) -> None:
    drop_in = Path("/usr/lib/ttybroker/policy.d/50-lab.toml")

    def trigger() -> None:
        before = broker.log().count("reload reason=")
        run("/var/lib/dpkg/info/ttybroker.postinst", "triggered", str(drop_in.parent), timeout=SLOW)
        until("the rules to be taken", lambda: broker.log().count("reload reason=") > before,
              told=broker.log)  # fmt: skip

    drop_in.parent.mkdir()
    try:
        drop_in.write_text('[[rule]]\nport = "lab"\ndevice = "/dev/ttyS1"\nallow = ["bob"]\n')
        trigger()
        holder = broker.holder(BOB, "lab")
        assert broker.port("lab").holder is not None
        holder.say()
        holder.hear()
        holder.wait()
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
        trigger()


def checked(body: bytes) -> bytes:
    """Return an NMEA sentence with its checksum."""
    return b"$%s*%02X\r\n" % (body, reduce(int.__xor__, body, 0))


@pytest.fixture
def gps() -> Iterator[None]:
    """Install the example as its own comments say."""
    program = Path("/usr/local/bin/gps-reader")
    unit = Path("/etc/systemd/system/gps-reader.service")
    run("groupadd", "--system", "gps")
    try:
        shutil.copy(EXAMPLES / "gps-reader.py", program)
        program.chmod(0o755)
        shutil.copy(EXAMPLES / "gps-reader.service", unit)
        run("systemctl", "daemon-reload")
        yield
    finally:
        run("systemctl", "stop", "gps-reader")
        program.unlink()
        unit.unlink()
        run("systemctl", "daemon-reload")
        run("groupdel", "gps")


def test_a_service_of_a_dynamic_user_reads_its_receiver(broker: Service, gps: None) -> None:
    rule = f'[[rule]]\nport = "gps"\ndevice = "/dev/{NEAR}"\nallow = ["@gps"]\n'
    broker.write_policy(rule + LAB_POLICY)
    run("systemctl", "restart", "ttybroker.service")  # a running daemon looks up no new name
    broker.begin()
    run("systemctl", "start", "gps-reader")
    try:
        until("it to have the port", lambda: broker.held(), 60, broker.log)
        holder = broker.port("gps").holder
        assert holder is not None
        status = Path(f"/proc/{holder.pid}/status").read_text().splitlines()
        fields = dict(line.partition(":\t")[::2] for line in status)
        assert int(fields["Uid"].split()[0]) == holder.uid and 61184 <= holder.uid <= 65519
        assert os.stat(f"/dev/{NEAR}").st_gid not in map(int, fields["Groups"].split())

        def receiver(chat: Chat) -> None:
            with open_tty(FAR, baudrate=4800) as port:
                port.write(checked(POSITION) + checked(POSITION)[:-4] + b"00\r\n")
                port.flush()
                chat.say()
                chat.hear(300)

        broker.child(BOB, receiver).hear()

        def log() -> str:
            return run("journalctl", "--no-pager", "-o", "cat", "-u", "gps-reader.service")

        until("a position", lambda: "4807.038 N 01131.000 E" in log(), 60, log)
        assert log().count("4807.038") == 1  # the other's checksum is wrong
    finally:
        run("systemctl", "stop", "gps-reader")
    until("the port to be free", lambda: not [p for p in broker.held() if p.name == "gps"])
