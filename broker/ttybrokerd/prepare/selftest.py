"""Try the filter on this interpreter before it is written into a plan.

A child under the filter does what a root side does: threads, sockets, files, time, memory. Where
the filter would end the process, the kernel asks this process instead (SECCOMP_RET_USER_NOTIF). So
the name of the call is known. If a new interpreter or C library makes another call, that is an
error at `--prepare`, and not a dead daemon.
"""

from __future__ import annotations

import _thread
import array
import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import select
import struct
import termios
import time

import prctl

from ttybrokerd.root import linux, settings
from ttybrokerd.root.linux import signal, socket

NEW_LISTENER = 8  # include/uapi/linux/seccomp.h: SECCOMP_FILTER_FLAG_NEW_LISTENER
NOTIF_RECV = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV, struct seccomp_notif of 80 bytes
NR_AT = 16  # where data.nr is in it
RETURN, KILL_PROCESS, USER_NOTIF = 6, 0x80000000, 0x7FC00000  # BPF_RET | BPF_K, and what it returns
INSTRUCTION = struct.Struct("=HBBI")
PATIENCE = 10.0  # seconds


def refused(number: int, code: bytes) -> int | None:
    """Return the number of the first call for which the filter would end the process, or None.

    `number` is that of seccomp(2). Raises OSError if it cannot be tried.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        _child(theirs, number, _asking(code))
    theirs.close()
    try:
        return _watch(ours)
    finally:
        ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        linux.reap(child)


def _asking(code: bytes) -> bytes:
    """Return the program with a question in place of each end of the process."""
    asked = INSTRUCTION.pack(RETURN, 0, 0, USER_NOTIF)
    kill = INSTRUCTION.pack(RETURN, 0, 0, KILL_PROCESS)
    steps = [code[at : at + INSTRUCTION.size] for at in range(0, len(code), INSTRUCTION.size)]
    return b"".join(asked if step == kill else step for step in steps)


def _watch(child: socket.socket) -> int | None:
    child.settimeout(PATIENCE)
    try:
        word, ancillary, _, _ = child.recvmsg(256, socket.CMSG_SPACE(4))
    except TimeoutError:  # the call by which the child would pass on its listener
        raise OSError("the filter cannot be tried: no word comes by sendmsg") from None
    if not ancillary:
        what = word.decode("utf-8", "replace") or "the process that tries it has ended"
        raise OSError(f"the filter cannot be tried: {what}")
    listener = array.array("i", ancillary[0][2])[0]
    try:
        if (number := _call(listener, child)) is not None:
            return number
        if (said := _word(child)) != "done":
            raise OSError(f"the filter cannot be tried: {said}")
        return _call(listener)  # the end of the process is a call too
    finally:
        os.close(listener)


def _word(child: socket.socket) -> str:
    """Return what the child says."""
    try:
        return child.recv(256).decode("utf-8", "replace") or "the process that tries it has ended"
    except TimeoutError:
        return "it does not end"


def _call(listener: int, child: socket.socket | None = None) -> int | None:
    """Return the number of the next call that the filter does not permit.

    Return None if the process has ended, or has said something to `child`, or if PATIENCE is over.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)  # hung up when the process has ended
    if child is not None:
        poll.register(child, select.POLLIN)
    if (listener, select.POLLIN) not in poll.poll(PATIENCE * 1000):
        return None
    notification = fcntl.ioctl(listener, NOTIF_RECV, bytes(80))
    return int(struct.unpack_from("=i", notification, NR_AT)[0])


def _child(parent: socket.socket, number: int, code: bytes) -> None:
    """Load the filter, do all of it, and say so. Does not return."""
    try:
        file, inotify, listening = os.memfd_create("file"), linux.inotify(), _listening()
        try:
            far, tty = os.openpty()
        except OSError:  # no /dev/ptmx here: then the calls of a port are not tried
            far = tty = -1
        listener = _load(number, code)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))]
        parent.sendmsg([b"filter"], rights)
        for act in (_threads, _sockets, _time, _memory, _itself):
            act()
        linux.accept(listening).close()
        _files(file)
        _lock(file)
        _waiting(inotify, file)
        if tty >= 0:
            _port(tty, far)
        parent.send(b"done")
    except BaseException as error:
        told = error.strerror if isinstance(error, OSError) else None
        parent.send((told or f"{type(error).__name__}: {error}").encode()[:256])
    finally:
        os._exit(0)


def _load(number: int, code: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs")
    program = linux.FilterProgram(len(code) // 8, code)
    mode = ctypes.c_long(linux.SECCOMP_SET_MODE_FILTER)
    listener = libc.syscall(
        ctypes.c_long(number), mode, ctypes.c_long(NEW_LISTENER), ctypes.byref(program)
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")
    return int(listener)


def _threads() -> None:
    ended = _thread.allocate_lock()
    for size in (64 << 20, 0):  # bytes of stack; for the first the C library has none left over
        _thread.stack_size(size)
        ended.acquire()
        _thread.start_new_thread(ended.release, ())
        ended.acquire()
        ended.release()


def _listening() -> socket.socket:
    """Return a socket at which a client waits."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind("")  # a name that the kernel chooses: unix(7), Autobind feature
    listening.listen(1)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(listening.getsockname())
    return listening


def _sockets() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.setblocking(False)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    linux.peer_credentials(one)
    linux.refuse_descriptors(other)
    one.sendmsg([b"x"])
    one.send(b"x")
    other.recvmsg(16, linux.CREDENTIALS_SPACE)
    one.close()
    other.close()


def _time() -> None:
    time.time()
    time.monotonic()
    time.thread_time()
    time.sleep(0.0001)
    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)  # again, if one came before the pause
    signal.pause()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signal.sigtimedwait([signal.SIGUSR1], 0)


def _memory() -> None:
    # By mmap(2) itself: a process that has grown gets the same from malloc(3) without a call.
    with mmap.mmap(-1, 1 << 19, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.resize(1 << 20)


def _waiting(inotify: int, file: int) -> None:
    with select.epoll() as loop:
        loop.register(inotify, select.EPOLLIN)
        loop.poll(0)
    linux.still_open(linux.weak_reference(inotify))
    linux.unwatch(inotify, linux.watch_closes(inotify, file))
    linux.read_watches(inotify)
    pidfd = os.pidfd_open(os.getpid())
    linux.ended(pidfd)
    os.close(pidfd)


def _files(file: int) -> None:
    os.fstat(file)
    os.stat("/")
    os.lstat("/proc/self/exe")
    os.readlink("/proc/self/exe")
    os.listdir("/proc/self/task")
    linux.read_file("/proc/self/status")
    os.write(file, b"x")
    os.fchmod(file, 0o600)
    os.getrandom(8)
    os.close(linux.sealed_memory("ttybroker", b"x", 0))


def _lock(file: int) -> None:
    """Make the calls of a lock file. A file is no directory, so each fails; none is refused."""
    with contextlib.suppress(NotADirectoryError):
        os.link("a", "b", src_dir_fd=file, dst_dir_fd=file, follow_symlinks=False)
    with contextlib.suppress(NotADirectoryError):
        os.rename("a", "b", src_dir_fd=file, dst_dir_fd=file)
    with contextlib.suppress(NotADirectoryError):
        os.unlink("a", dir_fd=file)
    with contextlib.suppress(FileNotFoundError):
        os.unlink("")


def _itself() -> None:
    os.kill(os.getpid(), 0)
    os.geteuid()
    prctl.get_dumpable()
    resource.getrlimit(resource.RLIMIT_NOFILE)


def _port(tty: int, far: int) -> None:
    os.write(far, b"x")
    settings.put_back(tty, settings.read(tty))
    termios.tcflush(tty, termios.TCIOFLUSH)
    linux.is_exclusive(tty)
    linux.unsent(tty)
    fcntl.ioctl(tty, linux.TIOCEXCL)
    fcntl.ioctl(tty, linux.TIOCNXCL)
    fcntl.flock(tty, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fcntl.fcntl(tty, fcntl.F_DUPFD_CLOEXEC, 3))
    fcntl.ioctl(tty, termios.TIOCSETD, struct.pack("i", settings.N_TTY))
    for number in (linux.TIOCGICOUNT, linux.TIOCSERGETLSR, linux.TIOCVHANGUP):
        with contextlib.suppress(OSError):  # a pty has no counts and no chip
            fcntl.ioctl(tty, number, bytes(80))
