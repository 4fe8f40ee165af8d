"""The fallback: a pty for each port, and every byte copied between the two.

It is for kernels without seccomp notification, and for programs that nobody may look into. The
program is started with the pty's path in place of the port in its arguments, so they have to name
the port. The program keeps the launcher's pid here, too: the proxy is a daemonised process beside
it.

A pty carries only bytes and a speed. Whatever else the program sets reaches only the pty (`LOST`).
The proxy looks at the speed before each write to the port, and every `_LOOK` milliseconds for
programs that only read.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import struct
import termios
import time
import tty
from fcntl import ioctl
from functools import partial

from ttybroker.called import call_us
from ttybroker.run.aside import Talk, leave_terminal, start_aside
from ttybroker.run.become import NO_PATHS, exec_program, open_ports
from ttybroker.run.names import could_be_alias, is_serial_name
from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from ttybroker.client import Client
    from ttybroker.loan import Loan
    from ttybroker.run.broker import Broker, Connect
    from ttybroker.run.job import LaunchJob
    from ttybroker.waiting import WaitingLine
    from ttybroker.wire import Holder, PortInfo

LOST = (
    "bytes and speeds pass; parity, 7-bit characters, stop bits, flow control, modem lines, "
    "break, error counts (TIOCGICOUNT), low latency (TIOCSSERIAL) and RS-485 do not work; "
    "tcdrain() does not wait for the port, and tcflush() leaves what is on its way"
)

DROPPED = "what the program writes while its port is lent is thrown away"

_LOOK = 100  # milliseconds
_CHUNK = 65536  # bytes that wait for one side at most, before the other is not read any more
_DRAIN = 2.0  # seconds for the program's last bytes to leave, when it has ended

# How a port that was gone before it could be used is asked for again.
_TRIES = 5  # in all
_PAUSE = 1.0  # seconds before each: whoever took it back may want it
_AT_LEAST = 10.0  # seconds to wait for it then: its device may be on its way back

# asm-generic/ioctls.h and termbits.h. Python's termios cannot name a free speed (BOTHER).
_TCGETS2, _TCSETS2 = 0x802C542A, 0x402C542B
_TIOCGPTPEER = 0x5441  # 4.13
_TERMIOS2 = struct.Struct("=IIII20sII")  # iflag, oflag, cflag, lflag, line and cc, speeds
_SPEED_BITS = 0o010017 | 0o010017 << 16  # CBAUD, CIBAUD of cflag


def launch_with_ptys(job: LaunchJob, why: str) -> NoReturn:
    """Become the program, with ptys for the ports that it names.

    `why`: why notification is not used, "" if the user chose the pty. Raises Failure if the program
    names no port, or if one is refused.
    """
    launcher = os.getpid()
    call_us(os.path.basename(job.program))  # before the proxy asks in its name
    talk = start_aside(lambda its: _proxy(job, launcher, why, its))
    replaced = talk.answer().split(b"\0")
    opened = open_ports(job, job.direct)
    if opened and job.held:
        from ttybroker.run.hold import hold_beside

        hold_beside([fd for fd, _ in opened])
    for at, word in zip(replaced[::2], replaced[1::2], strict=True):
        job.argv[int(at)] = os.fsdecode(word)
    also = [DROPPED] * job.yields + [NO_PATHS] * bool(opened)
    lost = "; ".join([LOST, *also])
    say(f"copying through a pty{f' ({why})' if why else ''}: {lost}")
    talk.close()
    exec_program(job, opened)
    raise AssertionError("not reached")


def replace(word: str, paths: list[str], pty: str) -> str:
    """Return an argument with every mention of the port replaced.

    A mention is alone, after = or :, or before a comma: `-D/dev/ttyS0`, `--port=/dev/ttyS0` and
    `/dev/ttyS0,b9600`. A shell's script has mentions, too.
    """
    if word in paths:
        return pty
    for path in dict.fromkeys(paths):
        if path.startswith("/"):
            first, *rest = word.split(path)
            word = first + "".join(
                (path if part[:1].isalnum() or part[:1] in ("_", "-", "/") else pty) + part
                for part in rest
            )
    return word


def _names_of(name: str, port: PortInfo | None, argv: list[str]) -> list[str]:
    """Return every way in which these arguments name the port, links included."""
    device = port.device if port and port.device else f"/dev/{name}"
    links = [word for word in argv if "/" in word and os.path.realpath(word) == device]
    return [f"/dev/{name}", name, device, *links]


def _proxy(job: LaunchJob, program: int, why: str, talk: Talk) -> None:
    """Live the proxy's whole life."""
    from ttybroker.run.broker import Broker
    from ttybroker.run.kernel import outlive_signals

    call_us("ttybroker")
    leader = os.pidfd_open(program)
    client = job.connect()
    broker = Broker(job.connect, client)
    ports = {port.name: port for port in broker.ports()}
    words = list(job.argv)
    named = False
    lines = []
    direct = [name for _, name in job.direct]
    for name in job.ports or _every_name(broker, ports, words):
        if name in direct:
            continue  # the program has it open when it begins
        paths = _names_of(name, ports.get(name), words[1:])
        named_here = any(replace(word, paths, "") != word for word in words[1:])
        if not named_here and name not in job.held:
            continue
        named = named or named_here
        lines.append(_line(job, broker, name, program, leader))
        words[1:] = [replace(word, paths, lines[-1].path) for word in words[1:]]
    if not named:
        reason = f"{why}; " if why else ""
        what = "a pty cannot stand in, because no argument of the program is a port; name one there"
        raise OSError(errno.EINVAL, f"{job.argv[0]}: {reason}{what}")
    broker.close()
    outlive_signals()
    changed = [(at, word) for at, word in enumerate(words) if word != job.argv[at]]
    talk.send(b"\0".join(b"%d\0%b" % (at, os.fsencode(word)) for at, word in changed))
    talk.close()
    copy(lines, leader)


def _line(job: LaunchJob, broker: Broker, name: str, program: int, leader: int) -> Line:
    """Open a port, and a pty for it. Raises OSError."""
    from ttybroker.run.broker import Patience, line_for

    try:
        line = Line()
    except OSError as error:
        error.filename = name  # which the user is shown
        raise
    waiting = line_for(job, name, program)
    if job.yields:
        _begin_lending(line, job, name, program, leader, waiting)
    else:
        patience = Patience(partial(_ended, leader), waiting)
        line.begin(broker.open(name, job.wait, program, patience), name)
    return line


def _begin_lending(
    line: Line,
    job: LaunchJob,
    name: str,
    program: int,
    leader: int,
    waiting: WaitingLine | None,
) -> None:
    """Open a port that is lent when somebody asks for it; again if it is gone before it is used.

    Raises OSError, or Interrupted.
    """
    from ttybroker.errors import DeviceGone
    from ttybroker.loan import flags
    from ttybroker.run.broker import Broker, Interrupted, Patience
    from ttybroker.waiting import WaitingLine

    wait = job.wait
    for left in reversed(range(_TRIES)):
        own = Broker(job.connect, job.connect())
        patience = Patience(partial(_ended, leader), waiting)
        port = own.open(name, wait, program, patience, flags("user"))
        line.lends(own.take_connection(), job.connect, name)
        try:
            line.begin(port, name)
            return
        except DeviceGone:
            if not left:
                raise
        say(f"{name}: taken back, or hung up, before it could be used; asking for it again")
        if _ended(leader, _PAUSE):
            raise Interrupted
        wait = max(job.wait or 0.0, _AT_LEAST)
        waiting = WaitingLine(name, job.quiet, wait, program)


def _ended(leader: int, within: float = 0.0) -> bool:
    """Return whether the process with this pidfd has ended, or does so within some seconds."""
    poll = select.poll()
    poll.register(leader, select.POLLIN)
    return bool(poll.poll(within * 1000))


def _every_name(broker: Broker, ports: dict[str, PortInfo], words: list[str]) -> list[str]:
    """Return the ports of the list, and any others that the arguments name.

    The broker says why the user may not have the others.
    """
    named = [word[5:] for word in words if word.startswith("/dev/") and word[5:] not in ports]
    return [*ports, *(name for name in named if _is_port(broker, name))]


def _is_port(broker: Broker, name: str) -> bool:
    return is_serial_name(name) or (could_be_alias(name) and broker.check(name).known)


def _speeds(fd: int) -> tuple[int, int, int]:
    """Return (bits of cflag, input and output speed in baud) of a terminal."""
    _, _, cflag, _, _, ispeed, ospeed = _TERMIOS2.unpack(ioctl(fd, _TCGETS2, bytes(_TERMIOS2.size)))
    return cflag & _SPEED_BITS, ispeed, ospeed


def _set_speeds(fd: int, speeds: tuple[int, int, int]) -> None:
    """Give a terminal these speeds, and leave its other settings. Raises OSError."""
    iflag, oflag, cflag, lflag, rest, _, _ = _TERMIOS2.unpack(
        ioctl(fd, _TCGETS2, bytes(_TERMIOS2.size))
    )
    bits, ispeed, ospeed = speeds
    cflag = cflag & ~_SPEED_BITS | bits
    ioctl(fd, _TCSETS2, _TERMIOS2.pack(iflag, oflag, cflag, lflag, rest, ispeed, ospeed))


class Line:
    """One port and its pty, with a buffer for each direction. The pty's speed goes to the port.

    There is only the pty until `begin`.
    """

    def __init__(self) -> None:
        self.port = -1  # also while it is lent
        self._loan: Loan | None = None
        self.master, self._slave = os.openpty()
        self.path = os.ttyname(self._slave)
        _make_raw(self._slave)  # nothing is echoed before the program has set its end up
        os.set_blocking(self.master, False)
        self._wanted = self._new = _speeds(self.master)  # new: until it has those of the port
        self.to_port = b""
        self.to_program = b""
        self.port_open = self.program_open = True
        self._deadline = 0.0

    def begin(self, port: int, name: str) -> None:
        """Copy to and from this port from now on. If it is lent already, it comes back.

        Raises OSError: DeviceGone if it was hung up for another reason. Then it is closed, and
        `begin` may be called with another one.
        """
        from ttybroker.loan import hung_up

        self.port = port
        try:
            _make_raw(port)
            self._learn_speeds(port)
        except OSError:
            self._hear()
            if self.port < 0:
                return
            gone = hung_up(port)
            self._give_back()
            if not gone:
                raise
            from ttybroker.errors import GONE, DeviceGone  # here, for few ports are gone so soon

            raise DeviceGone(errno.EIO, f"{name}: {GONE}") from None

    def _learn_speeds(self, port: int) -> None:
        """Give the pty the port's speeds, if the program has set none. Later the pty's count."""
        self._wanted = (0, 0, 0)
        if _speeds(self.master) == self._new:
            self._wanted = _speeds(port)
            _set_speeds(self.master, self._wanted)
        self._new = (0, 0, 0)

    def follow_speed(self) -> bool:
        """Give the port the pty's speed.

        Returns False while bytes of the old speed are still leaving it. This never waits for them,
        because behind XOFF they would block the proxy for good.
        """
        try:
            speeds = _speeds(self.master)
            if speeds != self._wanted:
                if any(ioctl(self.port, termios.TIOCOUTQ, bytes(4))):
                    return False
                self._wanted = speeds
                _set_speeds(self.port, speeds)
        except OSError:
            pass  # a speed that the port does not have, or one of the two has hung up
        return True

    def lends(self, connection: Client, connect: Connect, name: str) -> None:
        """Lend the port, which came through this connection, when somebody asks for it."""
        from ttybroker.loan import Loan, flags

        new: Any = connect  # of the same kind
        self._loan = Loan(connection, new, name, flags("user"), self._lend, self._take, say)

    def _lend(self, _holder: Holder) -> None:
        """Let go of the port. What the program wrote before leaves now, if the port takes it."""
        self._copy_to_port()
        os.close(self.port)
        self.port, self.to_port = -1, b""
        self.port_open = True  # it comes back, even if it was hung up because we were late

    def _take(self, port: int) -> None:
        """Take the port back, with the speed that the program has by now."""
        try:
            _make_raw(port)
            self._learn_speeds(port)
        except OSError:  # it has just gone again: the next news says why
            os.close(port)
            return
        self._forget_written()
        self.port = port

    def _forget_written(self) -> None:
        """Throw away what the program has written and we have not read.

        First the bytes that are on their way through the pty, then those that have come.
        """
        end = ioctl(self.master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
        termios.tcflush(end, termios.TCOFLUSH)
        os.close(end)
        termios.tcflush(self.master, termios.TCIFLUSH)

    def _hear(self) -> None:
        """Handle the broker's messages about the loan. A port that does not come back is closed."""
        try:
            if self._loan is not None:
                self._loan.look()
        except OSError:
            self.port_open = False

    def let_go(self) -> None:
        """Close our end of the pty, because the program has ended.

        The pty ends with its last user.
        """
        os.close(self._slave)

    def wanted(self) -> list[tuple[int, int]]:
        """Return (descriptor, poll events) of what the copying waits for."""
        read = select.POLLIN
        port = (read if len(self.to_program) < _CHUNK and self.program_open else 0) | (
            select.POLLOUT if self.to_port else 0
        )
        program = (read if len(self.to_port) < _CHUNK else 0) | (
            select.POLLOUT if self.to_program else 0
        )
        wanted = [(self.port, port)] if self.port_open and self.port >= 0 else []
        if self._loan is not None:
            wanted += [(fd, read) for fd in self._loan.wait_for()[0]]
        return wanted + ([(self.master, program)] if self.program_open and program else [])

    def turn(self) -> None:
        """Copy what can be copied now."""
        self._hear()
        if self.port < 0:
            if self.program_open and self.to_program:
                self.program_open, self.to_program = _write(self.master, self.to_program)
            if self.program_open:
                self.program_open, _ = _read(self.master)
            return
        if self.port_open and self.program_open and len(self.to_program) < _CHUNK:
            self.port_open, data = _read(self.port)
            self.to_program += data
        self._copy_to_port()
        if self.to_program and self.program_open:
            self.program_open, self.to_program = _write(self.master, self.to_program)

    def _copy_to_port(self) -> None:
        if self.program_open and len(self.to_port) < _CHUNK:
            self.program_open, data = _read(self.master)
            self.to_port += data
        if self.follow_speed() and self.to_port and self.port_open:
            self.port_open, self.to_port = _write(self.port, self.to_port)

    def done(self) -> bool:
        """Return whether nothing is left to copy.

        Bytes that the port does not take in time are lost.
        """
        if self.port < 0:
            return not self.program_open or not self.port_open
        if self.program_open or not self.port_open:
            return not self.port_open
        self._deadline = self._deadline or time.monotonic() + _DRAIN
        return not self.to_port or time.monotonic() > self._deadline

    def close(self) -> None:
        """Give the port back; whoever still has the pty reads its end."""
        os.close(self.master)
        self._give_back()

    def _give_back(self) -> None:
        if self.port >= 0:
            os.close(self.port)
        self.port = -1
        if self._loan is not None:
            self._loan.close()


def _make_raw(fd: int) -> None:
    """Let bytes pass as they are. Bytes that already wait are kept.

    Raises OSError if the terminal was hung up.
    """
    try:
        tty.setraw(fd, termios.TCSANOW)
    except termios.error as error:
        raise OSError(*error.args) from None
    os.set_blocking(fd, False)


def _read(fd: int) -> tuple[bool, bytes]:
    """Return (still open, bytes)."""
    try:
        data = os.read(fd, _CHUNK)
    except BlockingIOError:
        return True, b""
    except OSError:
        return False, b""
    return bool(data), data


def _write(fd: int, data: bytes) -> tuple[bool, bytes]:
    """Return (still open, bytes that are left)."""
    try:
        return True, data[os.write(fd, data) :]
    except BlockingIOError:
        return True, data
    except OSError:
        return False, data


def copy(lines: list[Line], leader: int) -> None:
    """Copy until the program `leader` and all that have its ptys open are gone.

    A port that is taken away closes its pty. The program reads the end, as from the port itself.
    """
    gc.enable()  # as in `Supervisor.start`
    running = True
    while lines:
        poll = select.poll()
        for fd, events in [wanted for line in lines for wanted in line.wanted()]:
            poll.register(fd, events)
        if running:
            poll.register(leader, select.POLLIN)
        if running and any(fd == leader for fd, _ in poll.poll(_LOOK)):
            running = False
            leave_terminal()
            for line in lines:
                line.let_go()
        elif not running:
            poll.poll(_LOOK)
        for line in lines:
            line.turn()
        for line in [line for line in lines if line.done()]:
            lines.remove(line)
            line.close()
