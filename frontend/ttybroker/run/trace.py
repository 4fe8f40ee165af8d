"""The tracer: looks at each open before the kernel does, and lets go on what is no port.

Any signal can interrupt a notification that the supervisor has not received (seccomp_unotify(2)).
The program would then see EINTR from the open of a plain file. A stop for a tracer (RET_TRACE)
cannot be interrupted. So the tracer decides, and sends on only calls that mean a port. To do so, it
puts notify.MARK into the unused upper half of an int argument. The kernel runs the filter again
after the stop, and the filter then notifies the listener. When the call has ended, the tracer
restores the register.

The tracer attaches to the launcher before the launcher has its filter (PTRACE_SEIZE). The kernel
attaches it to what the program starts. The tracer never waits: if a path may lead over a dead file
server, a thread follows it, and the process stays stopped meanwhile. The price is that strace, gdb
and the like cannot trace inside. One line says so. If one of them is started as the program itself,
it gets only the listener (`choose`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct

from ttybroker.run import notify, target
from ttybroker.run.aside import leave_terminal
from ttybroker.run.kernel import Memory, fail, libc
from ttybroker.run.supervise import read_request
from ttybroker.say import say

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    from ttybroker.run.slow import Request, SlowFinder
    from ttybroker.run.supervise import Supervisor

# linux/ptrace.h
_CONT, _SYSCALL = 7, 24
_GETREGSET, _SETREGSET = 0x4204, 0x4205  # 2.6.34
_SEIZE, _LISTEN = 0x4206, 0x4208  # 3.4
_GET_SYSCALL_INFO = 0x420E  # 5.3
_EVENTS = {1, 2, 3}  # PTRACE_EVENT_FORK, _VFORK, _CLONE
_EVENT_SECCOMP, _EVENT_STOP = 7, 128
_OPTIONS = 1 | 2 | 4 | 8 | 0x80  # TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, TRACESECCOMP
_NT_PRSTATUS = 1  # linux/elf.h
_SYSCALL_STOP = 5 | 0x80  # SIGTRAP, with TRACESYSGOOD
_WALL = 0x40000000  # linux/wait.h
_STOPS = {19, 20, 21, 22}  # SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU: a group stop

# struct ptrace_syscall_info for a seccomp stop: op, arch, ip, sp, number, arguments, return data
_INFO = struct.Struct("=BxxxI16xQ6QI")
_LAUNCHER_LOOK = 20  # milliseconds between two looks at the launcher
_REGISTERS = 512  # bytes; more than any machine's struct user_regs_struct here

_TRACING, _WATCHING = -4, -5  # causes of complaints that are no errno
_NO_STRACE = (
    "strace, gdb and the like cannot trace inside: start them as the program itself "
    "(run -- strace ...), or give --via notify"
)


def seize(pid: int) -> bool:
    """Begin to trace this process and all that it starts. Returns whether that is allowed."""
    if libc.ptrace(_SEIZE, pid, None, _OPTIONS) != 0:
        return False
    return _has_syscall_info(pid)


def serve_until_readable(fd: int) -> None:
    """Pass signals on to the launcher until it has something to say. It has no filter yet."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    status = ctypes.c_int()
    while not poll.poll(_LAUNCHER_LOOK):
        while (pid := libc.waitpid(-1, ctypes.byref(status), _WALL | os.WNOHANG)) > 0:
            number, event = status.value >> 8 & 0xFF, status.value >> 16
            if status.value & 0xFF != 0x7F:
                continue
            if event == _EVENT_STOP and number in _STOPS:
                _ptrace(_LISTEN, pid, 0)
            else:
                _ptrace(_CONT, pid, 0 if event else number)


def _has_syscall_info(pid: int) -> bool:
    """Return whether the kernel has PTRACE_GET_SYSCALL_INFO (5.3).

    ESRCH means that it is known, and that the process is not stopped.
    """
    buffer = ctypes.create_string_buffer(_INFO.size)
    if libc.ptrace(_GET_SYSCALL_INFO, pid, _INFO.size, ctypes.addressof(buffer)) >= 0:
        return True
    return ctypes.get_errno() == errno.ESRCH


class Tracer:
    """Serve the stops of the processes that the main thread of this process traces.

    `leader` is the program's pid. Only the main thread may use it, because a tracer is a thread:
    ptrace(2).
    """

    def __init__(self, supervisor: Supervisor, leader: int) -> None:
        self._finder = supervisor.finder
        self._complaints = supervisor.complaints
        self._hidden = supervisor.hidden
        self._leased = supervisor.leased
        self._leader = leader
        self._memory = Memory()
        self._info = ctypes.create_string_buffer(_INFO.size)
        self._info_at = ctypes.addressof(self._info)
        self._views: dict[int, bool] = {}  # thread -> whether its paths lead where ours do
        self._views_change = False  # some process has asked for other mounts, or another root
        self._marked: dict[int, tuple[int, int]] = {}  # thread -> register, what was in it
        self._slow: SlowFinder | None = None  # loaded when a path needs it

    def run(self) -> None:
        """Serve until nobody is traced any more."""
        status = ctypes.c_int()
        at = ctypes.byref(status)
        while True:
            pid = libc.waitpid(-1, at, _WALL)
            if pid < 0 and ctypes.get_errno() != errno.EINTR:
                return  # ECHILD
            if self._slow is not None:
                self._serve_found(self._slow)
            if pid < 0:
                continue
            try:
                self._serve(pid, status.value)
            except Exception as error:
                say(f"could not serve process {pid}: {error!r}")
                self._go_on(pid)

    def _serve(self, pid: int, status: int) -> None:
        """Decide what a thread that has stopped or ended is to do next."""
        if status & 0xFF != 0x7F:  # it has ended
            self._forget(pid)
            return
        number, event = status >> 8 & 0xFF, status >> 16
        if event == _EVENT_SECCOMP:
            self._on_call(pid)
        elif event == _EVENT_STOP and number in _STOPS:
            _ptrace(_LISTEN, pid, 0)
        elif event:
            self._go_on(pid)
        elif number == _SYSCALL_STOP:
            self._put_back(pid)
            self._go_on(pid)
        else:
            self._go_on(pid, number)

    def _forget(self, pid: int) -> None:
        self._views.pop(pid, None)
        self._marked.pop(pid, None)
        if pid == self._leader:
            leave_terminal()

    def _on_call(self, pid: int) -> None:
        size = libc.ptrace(_GET_SYSCALL_INFO, pid, _INFO.size, self._info_at)
        if size < _INFO.size:
            self._go_on(pid)
            return
        _op, arch, _nr, *args, kind = _INFO.unpack(self._info)
        if kind == notify.PTRACE:
            self._complaints.say("", _TRACING, _NO_STRACE)
            self._go_on(pid)
        elif kind == notify.VIEW:
            self._views_change = True
            self._go_on(pid)
        elif kind == notify.INOTIFY:
            self._on_watch(pid, args)
        elif kind == notify.FLOCK:
            self._decide(pid, self._leased.has(pid, args[0] & 0xFFFFFFFF), arch, kind)
        else:
            self._on_open(pid, arch, kind, args)

    def _on_open(self, pid: int, arch: int, kind: int, args: list[int]) -> None:
        try:
            request = read_request(pid, kind, args, self._memory)
        except PermissionError:
            self._hidden(pid)
            request = None
        if request is None:
            self._go_on(pid)
            return
        try:
            dirfd, path, flags, _resolve = request
            name = self._finder.quick(pid, dirfd, path, flags, ours=self._ours(pid))
        except BlockingIOError:
            self._find_slowly(pid, request, (arch, kind))
            return
        self._decide(pid, name is not None, arch, kind)

    def _decide(self, pid: int, ours: bool, arch: int, kind: int) -> None:
        if ours:
            self._mark(pid, notify.ABI_OF[arch].registers[notify.MARKED[kind]])
        else:
            self._go_on(pid)

    def _find_slowly(self, pid: int, request: Request, rest: tuple[int, int]) -> None:
        if self._slow is None:
            from ttybroker.run.slow import SlowFinder

            self._slow = SlowFinder(self._finder.find)
        try:
            self._slow.find(pid, request, rest)
        except RuntimeError:  # no thread to be had: everybody waits for this path
            self._decide(pid, self._finder.find(pid, *request) is not None, *rest)

    def _serve_found(self, slow: SlowFinder) -> None:
        for pid, name, (arch, kind) in slow.found():
            self._decide(pid, name is not None, arch, kind)

    def _ours(self, pid: int) -> bool:
        ours = None if self._views_change else self._views.get(pid)
        if ours is None:
            ours = self._views[pid] = target.same_view(pid)
        return ours

    def _on_watch(self, pid: int, args: list[int]) -> None:
        """Complain about inotify_add_watch(2) on a port: it needs the right to read the node."""
        try:
            path = target.read_path(pid, args[1], self._memory)
            name = None if path is None else self._finder.by_name(path)
        except OSError:
            name = None
        if name is not None:
            self._complaints.say(name, _WATCHING, f"{name}: inotify on a port is not brokered")
        self._go_on(pid)

    # ---- the stopped thread ----

    def _go_on(self, pid: int, number: int = 0) -> None:
        """Let the thread continue; `number`: with this signal."""
        _ptrace(_SYSCALL if pid in self._marked else _CONT, pid, number)

    def _mark(self, pid: int, register: int) -> None:
        """Send the call on to the listener, and stop it once more at its end."""
        with_mark = _Registers(pid)
        if not with_mark.there:  # its path took so long that it was killed
            return
        before = with_mark.get(register)
        with_mark.set(register, before & 0xFFFFFFFF | notify.MARK << 32)
        with_mark.write()
        self._marked[pid] = register, before
        self._go_on(pid)

    def _put_back(self, pid: int) -> None:
        """Take the mark from the register, if it is still there.

        It is not if another thread called execve(2) meanwhile. That thread has the number of the
        process's first thread from then on, and nothing tells us of that one's end: ptrace(2).
        """
        register, before = self._marked.pop(pid, (0, -1))
        registers = _Registers(pid)
        if before >= 0 and registers.get(register) >> 32 == notify.MARK:
            registers.set(register, before)
            registers.write()


def _ptrace(request: int, pid: int, data: int) -> None:
    """Call ptrace(2) on a stopped thread. If the thread was killed meanwhile, that is no error."""
    if libc.ptrace(request, pid, None, data) < 0 and ctypes.get_errno() != errno.ESRCH:
        raise fail("ptrace")


class _Registers:
    """The struct user_regs_struct of a stopped thread, as 64-bit numbers.

    there: whether there is one.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._values = (ctypes.c_uint64 * (_REGISTERS // 8))()
        self._vector = (ctypes.c_uint64 * 2)(ctypes.addressof(self._values), _REGISTERS)
        self.there = self._transfer(_GETREGSET)

    def get(self, index: int) -> int:
        return self._values[index]

    def set(self, index: int, value: int) -> None:
        self._values[index] = value

    def write(self) -> None:
        """Write them to the thread. The kernel has written their size into the vector."""
        self._transfer(_SETREGSET)

    def _transfer(self, request: int) -> bool:
        """Return whether there is such a thread, and it is stopped."""
        at = ctypes.addressof(self._vector)
        failed = libc.ptrace(request, self._pid, _NT_PRSTATUS, at) < 0
        if failed and ctypes.get_errno() != errno.ESRCH:
            raise fail("ptrace")
        return not failed
