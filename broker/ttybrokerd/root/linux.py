"""The Linux that Python does not have: constants by header, one thin function for each call.

Everything here is a fact of the kernel's interface. No decision is made in this file.

Private modules of CPython are imported for `socket` and `signal` here, and for threads and their
queue in workers.py. The public ones of the same names bring enum, which is never used here. CPU
time of the start and private memory were measured with Debian's Python 3.11: socket 6 ms and 0.9
MB; signal 4 ms and 0.7 MB; threading 3 ms and 0.7 MB; queue 4 ms and 0.7 MB; all of them together 8
ms and 0.7 MB, where a bare interpreter takes 10 ms.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import sys

from ttybrokerd.root import TYPE_CHECKING

if TYPE_CHECKING:
    import signal as signal
    import socket as socket
else:
    import _signal as signal  # noqa: F401
    import _socket as socket

# include/uapi/asm-generic/socket.h
SO_PEERGROUPS = 59  # Linux 4.13
SO_PEERPIDFD = 77  # Linux 6.5
SO_PASSRIGHTS = 83  # Linux 6.16

# include/uapi/asm-generic/ioctls.h. They are the same on every architecture we know of but alpha,
# mips, powerpc and sparc, where these programs have not been tried.
TIOCEXCL = 0x540C
TIOCNXCL = 0x540D
TIOCOUTQ = 0x5411
TIOCSERGETLSR = 0x5459  # serial drivers with a chip of their own; TIOCSER_TEMT: serial.h
TIOCSER_TEMT = 1
TIOCVHANGUP = 0x5437  # needs CAP_SYS_ADMIN
TIOCGEXCL = 0x80045440
TIOCCBRK = 0x5428
TIOCGICOUNT = 0x545D
TIOCGSERIAL, TIOCSSERIAL = 0x541E, 0x541F
TIOCGRS485, TIOCSRS485 = 0x542E, 0x542F
TCGETS2, TCSETS2 = 0x802C542A, 0x402C542B
TIOCM_OUT1, TIOCM_LOOP = 0x2000, 0x8000  # asm-generic/termios.h

M_ARENA_MAX = -8  # malloc.h, glibc

# include/uapi/linux/inotify.h
IN_ATTRIB = 0x4
IN_MOVED_TO = 0x80
IN_MOVE = 0xC0
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_CLOSE_WRITE = 0x8
IN_CLOSE_NOWRITE = 0x10
IN_Q_OVERFLOW = 0x4000

# include/uapi/linux/prctl.h; python-prctl refuses the securebits that are newer than itself
PR_GET_DUMPABLE = 3
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# include/uapi/linux/memfd.h; since Linux 6.3, whose log has a warning when it is not given
MFD_NOEXEC_SEAL = 0x8

# include/uapi/linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_LOG = 2

# major numbers of Unix98 pty slaves: Documentation/admin-guide/devices.txt
PTY_SLAVES = range(136, 144)

# what ENOSPC of inotify_add_watch(2) means, and what to do; its own text tells of a full disk
NO_WATCH = "root has no inotify watch left; raise fs.inotify.max_user_watches (sysctl)"

_UCRED = struct.Struct("iII")
_INT = struct.Struct("i")
_INOTIFY = struct.Struct("iIII")
CREDENTIALS_SPACE = socket.CMSG_SPACE(_UCRED.size)  # guard: control-buffer-size

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


class FilterProgram(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def seccomp(number: int, flags: int, code: bytes) -> None:
    """Filter the system calls by `code`. seccomp(2) has the number `number` on this machine.

    Raises OSError.
    """
    program = FilterProgram(len(code) // 8, code)
    operation = ctypes.c_long(SECCOMP_SET_MODE_FILTER)
    result = _libc.syscall(
        ctypes.c_long(number), operation, ctypes.c_long(flags), ctypes.byref(program)
    )
    if _check(result, "seccomp") != 0:
        raise OSError(errno.ESRCH, f"seccomp: thread {result} has another filter")


def read_file(path: str, most: int | None = None) -> bytes:
    """Return the whole of a small file of /proc or /sys, or `most` bytes of any.

    open() is not used. The backend would run all of Python's text and buffer machinery for some
    numbers, and so have it in its own memory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all(descriptor, most)
    finally:
        os.close(descriptor)


def read_start(path: str, most: int) -> bytes:
    """Return what one read(2) gives of a file of /proc, at most `most` bytes.

    That is enough for a file of a line or two.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def reap(child: int) -> None:
    """Wait for the end of a child. Where SIGCHLD is ignored, the kernel has reaped it by then."""
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass


def read_all(descriptor: int, most: int | None = None) -> bytes:
    """Return what can be read of `descriptor` until its end, or until there are `most` bytes."""
    parts, left = [], sys.maxsize if most is None else most
    while part := os.read(descriptor, min(left, 65536)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def set_securebits(bits: int) -> None:
    """Set what uid 0 means to this thread: capabilities(7). Needs CAP_SETPCAP."""
    _check(_libc.prctl(PR_SET_SECUREBITS, bits, 0, 0, 0), "securebits")


def get_securebits() -> int:
    """Return what uid 0 means to this thread now: capabilities(7)."""
    return _check(_libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0), "securebits")


def clear_ambient() -> None:
    """Have no capability go with what this thread executes: capabilities(7)."""
    _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities")


def one_arena() -> None:
    """Have all threads share one heap: mallopt(3), M_ARENA_MAX; malloc.h.

    Else a thread for each port that is put in order would get a heap of its own, up to eight for
    each processor. None is ever given back. This has no effect where the C library has no such
    thing.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_ARENA_MAX, 1)


def inotify() -> int:
    """Return a new inotify descriptor, non-blocking and close-on-exec: inotify_init1(2)."""
    return _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")


def watch_closes(inotify_fd: int, descriptor: int) -> int:
    """Watch the node behind `descriptor` for closes; return the watch's number.

    It goes by /proc/self/fd and not by path, so that the inode is the one that was opened.
    """
    return _watch(inotify_fd, f"/proc/self/fd/{descriptor}", IN_CLOSE_WRITE | IN_CLOSE_NOWRITE)


def watch_names(inotify_fd: int, directory: str) -> int:
    """Watch a directory for names that are made, changed and removed; return the watch's number."""
    return _watch(inotify_fd, directory, IN_CREATE | IN_DELETE | IN_MOVE | IN_ATTRIB)


def watch_arrivals(inotify_fd: int, directory: str) -> int:
    """Watch a directory for names that come; return the watch's number.

    For the same directory it is the same number each time, as long as the directory is there.
    Changes of names are not watched: whoever may write to /dev/null changes its times.
    """
    return _watch(inotify_fd, directory, IN_CREATE | IN_MOVED_TO)


def _watch(inotify_fd: int, path: str, mask: int) -> int:
    watch = _libc.inotify_add_watch(inotify_fd, path.encode(), mask)
    if watch < 0 and ctypes.get_errno() == errno.ENOSPC:
        raise OSError(errno.ENOSPC, NO_WATCH)
    return _check(watch, "inotify_add_watch")


def unwatch(inotify_fd: int, watch: int) -> None:
    """End a watch. It is no error if the kernel has ended it already: its node was deleted."""
    _libc.inotify_rm_watch(inotify_fd, watch)


def read_watches(inotify_fd: int) -> tuple[set[int], bool]:
    """Return the watches with news, and whether all must be looked at.

    All must be if the queue overflowed, or cannot be read.
    """
    try:
        data = os.read(inotify_fd, 65536)
    except BlockingIOError:
        return set(), False
    except OSError:  # guard: unreadable-queue
        return set(), True
    woken: set[int] = set()
    overflow = False
    at = 0
    while at < len(data):
        watch, mask, _cookie, size = _INOTIFY.unpack_from(data, at)
        overflow = overflow or bool(mask & IN_Q_OVERFLOW)
        woken.add(watch)
        at += _INOTIFY.size + size
    return woken, overflow


def accept(listener: socket.socket) -> socket.socket:
    """Return the next connection, a blocking socket: accept4(2).

    socket.accept() is in the public module alone.
    """
    descriptor: int = listener._accept()[0]  # type: ignore[attr-defined]
    try:
        kind = (listener.family, listener.type, listener.proto)  # else it asks the kernel for them
        return socket.socket(*kind, fileno=descriptor)
    except (OSError, MemoryError):
        os.close(descriptor)
        raise


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid, gid of the peer at connect time: unix(7), SO_PEERCRED."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return pid, uid, gid


def peer_pidfd(sock: socket.socket) -> int:
    """Return a pidfd of the peer's process at connect time: unix(7), SO_PEERPIDFD.

    Raises OSError if the kernel has no such thing, or if the process is reaped.
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, _INT.size)
    return int(_INT.unpack(raw)[0])


def peer_groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the peer's supplementary groups at connect time; at most NGROUPS_MAX (65536)."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * 64)
    except OSError:  # ERANGE: more than 64, which is rare; Python's own stops at 1024 bytes
        raw = _many_peer_groups(sock)
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _many_peer_groups(sock: socket.socket) -> bytes:
    buffer = ctypes.create_string_buffer(4 * 65536)
    size = ctypes.c_uint32(len(buffer))
    result = _libc.getsockopt(
        sock.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, buffer, ctypes.byref(size)
    )
    _check(result, "getsockopt SO_PEERGROUPS")
    return buffer.raw[: size.value]


def message_credentials(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int, int] | None:
    """Return pid, uid, gid of a message's sender, if SCM_CREDENTIALS is all that came with it."""
    if len(ancillary) != 1:
        return None
    level, kind, raw = ancillary[0]
    if (level, kind, len(raw)) != (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _UCRED.size):
        return None
    pid, uid, gid = _UCRED.unpack(raw)
    return pid, uid, gid


def refuse_descriptors(sock: socket.socket) -> None:
    """Have a peer who sends descriptors get EPERM, where the kernel can do that (Linux 6.16).

    Elsewhere the descriptors lie in the queue until it is read. One of them may be the connection
    itself, which then outlives all its processes. Sockets that are accepted later inherit this.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)  # guard: no-descriptors-to-the-broker
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise


def is_exclusive(tty: int) -> bool:
    """Return whether somebody set TIOCEXCL on the terminal: tty_ioctl(4)."""
    return bool(_INT.unpack(fcntl.ioctl(tty, TIOCGEXCL, bytes(_INT.size)))[0])


def unsent(descriptor: int) -> int:
    """Return how many bytes are in a terminal's output queue: tty_ioctl(4), TIOCOUTQ.

    Of a socket, return the memory of the messages that the peer has not read, in bytes. That is
    SIOCOUTQ, which has the same number: af_unix.c, unix_ioctl().
    """
    return int(_INT.unpack(fcntl.ioctl(descriptor, TIOCOUTQ, bytes(_INT.size)))[0])


def transmitting(tty: int) -> bool:
    """Return whether bytes that have left the queue are still in the chip.

    False if the driver cannot tell. ptys and most of USB cannot; ftdi_sio can.
    """
    try:
        state = _INT.unpack(fcntl.ioctl(tty, TIOCSERGETLSR, bytes(_INT.size)))[0]
    except OSError:
        return False
    return not state & TIOCSER_TEMT


def weak_reference(descriptor: int) -> select.epoll:
    """Return an epoll set that lists the open file description of `descriptor`.

    It does so until the last copy anywhere is closed: epoll(7), questions 6; fs/eventpoll.c,
    eventpoll_release().
    """
    watcher = select.epoll()
    try:
        watcher.register(descriptor, 0)
    except BaseException:
        watcher.close()
        raise
    return watcher


def still_open(watcher: select.epoll) -> bool:
    """Return whether any copy of the description given to `weak_reference` is open anywhere.

    It is True, too, if that cannot be told just now, for want of descriptors or memory.
    """
    try:
        return b"\ntfd:" in read_file(f"/proc/self/fdinfo/{watcher.fileno()}")
    except OSError:  # guard: unreadable-description
        return True


def hung_up(tty: int) -> bool:
    """Return whether the terminal of this descriptor was hung up: tty_io.c, hung_up_tty_poll().

    It is False if that cannot be told just now, for want of memory.
    """
    poll = select.poll()
    poll.register(tty, 0)
    try:
        return any(events & select.POLLHUP for _, events in poll.poll(0))
    except OSError:
        return False


def ended(pidfd: int) -> bool:
    """Return whether the process of a pidfd has ended: pidfd_open(2)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def is_epoll(descriptor: int) -> bool:
    """Return whether the descriptor is an epoll set: fs/eventpoll.c, do_epoll_create()."""
    return os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:[eventpoll]"


def listed(watcher: int) -> list[tuple[int, int]]:
    """Return device and inode (stat(2)) of all that an epoll set lists: proc_pid_fdinfo(5)."""
    found = []
    for line in read_file(f"/proc/self/fdinfo/{watcher}").splitlines():
        if line.startswith(b"tfd:"):
            _, _, numbers = line.partition(b" ino:")
            inode, _, device = numbers.partition(b" sdev:")
            number = int(device, 16)  # of which 20 bits are the minor: include/linux/kdev_t.h
            found.append((os.makedev(number >> 20, number & 0xFFFFF), int(inode, 16)))
    return found


def pidfd_process(descriptor: int) -> int | None:
    """Return the pid of a pidfd's process, -1 if that is reaped; None for what is no pidfd."""
    fields = read_file(f"/proc/self/fdinfo/{descriptor}").split()
    return int(fields[fields.index(b"Pid:") + 1]) if b"Pid:" in fields else None


def seals(descriptor: int) -> int:
    """Return the seals of a memfd, 0 for anything else: fcntl(2), F_GET_SEALS."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return 0


def sealed_memory(name: str, data: bytes, seals: int) -> int:
    """Return a new memfd with this content, and these seals on it: memfd_create(2)."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError:
        descriptor = os.memfd_create(name, flags)
    try:
        os.write(descriptor, data)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
