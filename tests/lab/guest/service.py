"""The installed broker as a machine runs it: by systemd, or by hand where there is none."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from support.children import Chat, Child
from support.processes import descriptors
from support.waiting import TIMEOUT
from ttybroker import client, wire

PATIENT = 60.0  # seconds before a test gives up: it is a slow machine, and the host may be busy
SOCKET = Path(wire.SOCKET)
LOCKS = Path("/run/lock")
POLICY = Path("/etc/ttybroker/policy.toml")
BOB = pwd.getpwnam("bob").pw_uid  # in no group but his own: no node of a port is his
ALICE = pwd.getpwnam("alice").pw_uid  # in dialout
LAB_POLICY = """\
[[rule]]
port = "ttyS*"
allow = ["bob", "alice"]

[[rule]]
port = "ttyUSB*"
allow = ["bob", "alice"]

[[rule]]
port = "ttyAMA*"
allow = ["bob", "alice"]
"""


def flavour() -> str:
    """Return what the host wrote on the kernel's command line: bare or systemd."""
    words = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
    return words["lab"]


class Service:
    """A running broker.

    At `begin` and at `end` of a test, no port is held and no lock file exists.
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._policy = ""
        self._open: dict[int, str] = {}
        self.write_policy(LAB_POLICY)

    @property
    def pid(self) -> int:
        """Return the daemon's pid, or 0."""
        raise NotImplementedError

    def start(self) -> None:
        """Make it serve."""
        raise NotImplementedError

    def awake(self) -> None:
        """Wait until it answers. Its start may take longer than a client waits for an answer."""
        until("the daemon to answer", self._answers, told=self.log)

    def _answers(self) -> bool:
        try:
            with client.connect() as connection:
                connection.ports()
        except client.BrokerUnavailable:
            return False
        return True

    def kill(self) -> None:
        """Kill it without a warning."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End it, and whatever would start it."""
        raise NotImplementedError

    def log(self) -> str:
        """Return its log."""
        raise NotImplementedError

    def write_policy(self, text: str) -> None:
        """Write the policy where the daemon looks for it.

        If the daemon runs, call `reload` as well.
        """
        POLICY.parent.mkdir(exist_ok=True)
        POLICY.write_text(text)
        self._policy = text

    def policy(self, text: str) -> None:
        """Put the test's own rules in force, before the lab's."""
        self.write_policy(f"{text}\n{LAB_POLICY}")
        self.reload()

    def reload(self) -> None:
        """Reload the policy, and wait until it is in force."""
        before = self.log().count("reload reason=")
        self.ask_to_reload()
        until("the policy to be read", lambda: self.log().count("reload reason=") > before,
              told=self.log)  # fmt: skip

    def ask_to_reload(self) -> None:
        """Prepare the policy's plan, and have the daemon take it."""
        run("ttybrokerd", "--prepare")
        os.kill(self.pid, signal.SIGHUP)

    def begin(self) -> None:
        """Note what exists now. The same must exist at the end, and no more."""
        if not self.pid:
            self.awake()
        self._open = descriptors(self.pid)

    def end(self) -> None:
        """End the test's children. Raises AssertionError if a lease or a lock is left."""
        for child in self.children:
            child.kill()
        self.children.clear()
        if self._policy != LAB_POLICY:
            self.write_policy(LAB_POLICY)
            if self.pid:
                self.reload()
        until("all ports to be free", lambda: not self.held(), told=self.log)
        until("all locks to go", lambda: not locks(), told=lambda: f"{locks()}\n{self.log()}")

    def held(self) -> list[wire.PortInfo]:
        """Return the ports that somebody has, according to the broker."""
        with client.connect() as connection:
            return [port for port in connection.ports() if port.holder is not None]

    def port(self, name: str) -> wire.PortInfo:
        """Return one port's row of the table."""
        with client.connect() as connection:
            (row,) = [port for port in connection.ports() if port.name == name]
        return row

    def waiting(self, name: str) -> int:
        """Return how many clients wait for a port."""
        return self.port(name).waiting

    def child(self, uid: int, body: Callable[[Chat], object]) -> Child:
        """Start a process of this user, with the user's groups, that is gone when the test is."""
        user = pwd.getpwuid(uid)
        child = Child(body, uid, os.getgrouplist(user.pw_name, user.pw_gid), user.pw_gid)
        self.children.append(child)
        return child

    def holder(self, uid: int, name: str, wait: float | None = None) -> Child:
        """Start a child that has the port and says so.

        At any word it closes the port, and says how many milliseconds that took.
        """

        def hold(chat: Chat) -> None:
            with client.connect() as connection:
                descriptor = connection.open(name, wait=wait)
            chat.say(time.monotonic())
            chat.hear(600)
            before = time.monotonic()
            os.close(descriptor)
            chat.say(1000 * (time.monotonic() - before))

        child = self.child(uid, hold)
        if wait is None:
            child.hear()
        return child


class BareService(Service):
    """A broker that was started by hand, on a socket of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._log = Path("/run/ttybrokerd.log")
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["ttybrokerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.awake()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(TIMEOUT) == 0

    def log(self) -> str:
        return self._log.read_text()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log()
        try:
            client.connect().close()
        except client.BrokerUnavailable:
            return False
        return True


class SystemdService(Service):
    """A broker by its units: the socket is there, and the first client starts the daemon."""

    def __init__(self) -> None:
        super().__init__()
        run("systemctl", "daemon-reload")
        self.start()

    @property
    def pid(self) -> int:
        return int(run("systemctl", "show", "--value", "-p", "MainPID", "ttybroker.service"))

    def start(self) -> None:
        run("systemctl", "start", "ttybroker.socket")

    def stop(self) -> None:
        run("systemctl", "stop", "ttybroker.socket", "ttybroker.service")

    def ask_to_reload(self) -> None:
        """As an administrator does it."""
        run("systemctl", "reload", "ttybroker.service")

    def log(self) -> str:
        return run("journalctl", "--no-pager", "-o", "cat", "-u", "ttybroker.service")


def run(*words: str, timeout: float = PATIENT) -> str:
    """Return a command's output, without the last newline. Raises AssertionError with all of it."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{words}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.rstrip("\n")


def heard(chat: Chat) -> bool:
    """Return whether the test has said something, in a child that continues meanwhile."""
    try:
        return bool(chat.sock.recv(4096))
    except BlockingIOError:
        return False


def locks() -> list[str]:
    """Return the lock files of ports, and any temporary files of the broker."""
    return [name for name in os.listdir(LOCKS) if name.startswith(("LCK..", ".ttybroker"))]


def until(
    what: str,
    true: Callable[[], object],
    timeout: float = PATIENT,
    told: Callable[[], object] = str,
) -> float:
    """Ask until it is so, and return the seconds that took. On failure, `told` explains."""
    start = asked = time.monotonic()
    while not true():
        if time.monotonic() - start > timeout:
            more = f"; there is:\n{told()}" if told is not str else ""
            raise AssertionError(f"waited {timeout} s for {what}{more}")
        time.sleep(max(0.002, time.monotonic() - asked))  # others need the one processor, too
        asked = time.monotonic()
    return time.monotonic() - start
