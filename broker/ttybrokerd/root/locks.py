"""The locks that other programs know: UUCP lock files, flock on the node, and who holds them.

FHS 3.0, 5.9 /var/lock: `LCK..` and the device's base name; the pid as ten characters, right
aligned, and a newline. Made by writing a temporary file and link(2), which is atomic. Some
programs write the pid as a binary int; some create the file first and write later.

The directory may be writable by everybody (1777): nothing in it is believed beyond a number,
and no link in it is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time

from ttybroker.wire import Holder
from ttybrokerd.root import linux
from ttybrokerd.root.refusal import Refusal, busy

DIRECTORY = "/run/lock"
_PREFIX = ".ttybroker."  # of temporary files
YOUNG = 10.0  # seconds; an empty or garbled file may still be being written for so long


def process(pid: int) -> Holder | None:
    """What the kernel tells of a live process: real uid and name; None if there is none.

    The name is the process's own choice (PR_SET_NAME), so whatever is not plain ASCII is
    masked. Its command line is not read: a hostile process can make that block.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    try:
        lines = linux.read_file(f"/proc/{pid}/status").splitlines()
        fields = dict(line.partition(b":")[::2] for line in lines)
        uid = int(fields[b"Uid"].split()[0])
        return Holder(uid, "", pid, printable(fields[b"Name"].strip()))
    except (OSError, KeyError):  # ended meanwhile, or a /proc that hides it
        return Holder(None, "", pid)


def program(pid: int) -> str:
    """The name of a process, masked as in `process`; "" if it cannot be told."""
    try:
        return printable(linux.read_file(f"/proc/{pid}/comm").rstrip(b"\n"))
    except OSError:
        return ""


def printable(raw: bytes) -> str:
    """`raw` with everything but printable ASCII replaced by a question mark."""
    # guard: printable-process-name
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in raw)


class LockFiles:
    """One lock directory, held open. Raises OSError if it cannot be."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self.path = directory
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # by device, the other name of its lock, and whom it names
        self._unfinished: dict[str, tuple[str, int]] = {}
        self._found = os.listdir(self._fd)  # now, for later that may be forbidden

    def fileno(self) -> int:
        """The directory's descriptor."""
        return self._fd

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._fd)

    def take(self, device: str, pid: int) -> bool:
        """Lock `device` for the process `pid`; False if that process holds the lock already.
        Until `finish` a broker that comes after us will know that nobody got the port.

        Raises Refusal: EBUSY if another live process holds it or it is no lock file at all;
        EIO if the directory is read-only or full.
        """
        name = f"LCK..{device}"
        for _ in range(8):  # as often as others may win the race for a stale lock
            if (temporary := self._create(name, pid)) is not None:
                self._unfinished[device] = temporary, pid
                return True
            holder = self._judge(name)
            if holder is None:
                self._remove_stale(name)
            elif holder.pid == pid:
                return False
            else:
                raise busy(holder)
        raise Refusal(errno.EBUSY, f"busy: others keep taking {self.path}/{name}; try again")

    def finish(self, device: str) -> None:
        """The lock is for good: whoever it names has the port, whatever becomes of us."""
        temporary, _ = self._unfinished.pop(device, (None, 0))
        if temporary is not None:
            self._forget(temporary)

    def abandon(self) -> None:
        """Remove the locks that are not finished, for we end and nobody will get those ports."""
        for device, (_, pid) in list(self._unfinished.items()):
            self.release(device, pid)

    def sweep(self) -> None:
        """Remove what brokers left that were killed before us: their temporary files, and locks
        with such a name as well, which they had not finished."""
        for temporary in self._found:
            maker = _maker(temporary)
            if maker is not None and (maker == os.getpid() or process(maker) is None):
                self._sweep_one(temporary)
        self._found = []

    def _sweep_one(self, temporary: str) -> None:
        left = self._status(temporary)
        if left is None or left.st_uid != os.geteuid() or not stat.S_ISREG(left.st_mode):
            return  # anybody may call a file so
        for name in self._found:
            if name.startswith("LCK..") and left.st_nlink == 2:
                status = self._status(name)
                # guard: sweep-unfinished-lock
                if status is not None and status.st_ino == left.st_ino:
                    self._unlink(name)
        self._unlink(temporary)

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def sign(self, device: str, pid: int, instead_of: int) -> None:
        """Put `pid` into the lock that names `instead_of`, whose process has ended.

        Raises Refusal EIO as `take`.
        """
        name = f"LCK..{device}"
        if self._pid(name) == instead_of:
            temporary = self._temporary(pid)
            try:
                os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except OSError as error:
                self._forget(temporary)
                raise self._failed(error) from None

    def left_behind(self, device: str, pid: int) -> bool:
        """Whether the lock that names the process `pid` was made by a broker that is no more:
        it is root's, and the process is not."""
        found, holder = self._read(f"LCK..{device}"), process(pid)
        return found is not None and found[1].st_uid == 0 and holder is not None and holder.uid != 0

    def named(self, device: str) -> int | None:
        """The pid in the lock of `device`, whatever has become of it; None if there is none."""
        return self._pid(f"LCK..{device}")

    def release(self, device: str, pid: int) -> None:
        """Remove the lock of `device` if it is still the one that names `pid`.

        Raises Refusal EIO if that cannot be done.
        """
        self.finish(device)
        name = f"LCK..{device}"
        if self._pid(name) == pid:  # guard: remove-own-lock-only
            try:
                self._unlink(name)
            except OSError as error:
                raise self._failed(error) from None

    def holder(self, device: str) -> Holder | None:
        """Who holds the lock file of `device`, without touching it; None if it is free."""
        try:
            return self._judge(f"LCK..{device}")
        except Refusal as refusal:
            return refusal.holder or Holder(how="lock file")

    def _create(self, name: str, pid: int) -> str | None:
        """Make the lock; its other name, None if there is a lock."""
        temporary = self._temporary(pid)
        try:
            self._link(temporary, name)  # guard: link-replaces-nothing
            return temporary
        except FileExistsError:
            self._forget(temporary)
            return None
        except OSError as error:
            self._forget(temporary)
            raise self._failed(error) from None

    def _forget(self, temporary: str) -> None:
        """Remove a file of our own. Where that cannot be done it is no lock, and means nothing."""
        try:
            self._unlink(temporary)
        except OSError:
            pass

    def _link(self, source: str, name: str) -> None:
        """link(2), which does not replace; a link that somebody put in our file's place is not
        followed."""
        # guard: do-not-follow-a-temporary-link
        os.link(source, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)

    def _temporary(self, pid: int) -> str:
        name = _unique()
        # guard: new-temporary-lock
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, 0o644, dir_fd=self._fd)
        except OSError as error:
            raise self._failed(error) from None
        try:
            os.fchmod(descriptor, 0o644)  # our umask is 077, and a lock is for others to read
            os.write(descriptor, b"%10d\n" % pid)
        except OSError as error:
            self._forget(name)
            raise self._failed(error) from None
        finally:
            os.close(descriptor)
        return name

    def _failed(self, error: OSError) -> Refusal:
        what = f"cannot be locked: {self.path}: {error.strerror}; the administrator must mend that"
        return Refusal(errno.EIO, what)

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._fd)
        except (FileNotFoundError, IsADirectoryError):
            pass

    def _read(self, name: str) -> tuple[bytes, os.stat_result] | None:
        """The lock's first bytes and its status; None if there is none.

        Raises Refusal EBUSY if the name is no regular file: nobody who locks made that.
        """
        # guard: do-not-read-a-linked-lock
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._no_lock(name, os.strerror(error.errno or 0)) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):  # guard: lock-is-a-regular-file
                raise self._no_lock(name, "not a regular file")
            return os.read(descriptor, 64), status
        finally:
            os.close(descriptor)

    def _no_lock(self, name: str, what: str) -> Refusal:
        advice = "not a lock file; the administrator must remove it"
        return Refusal(errno.EBUSY, f"busy: {self.path}/{name}: {what}: {advice}")

    def _pid(self, name: str) -> int | None:
        try:
            found = self._read(name)
        except Refusal:
            return None
        except OSError as error:
            raise self._failed(error) from None
        return None if found is None else parse_pid(found[0])

    def _judge(self, name: str) -> Holder | None:
        """Who holds the lock; None if nobody does any more."""
        found = self._read(name)
        if found is None:
            return None
        content, status = found
        pid = parse_pid(content)
        if pid is None:
            young = abs(time.time() - status.st_mtime) < YOUNG
            return Holder(status.st_uid, how="lock file") if young else None
        holder = None if pid == os.getpid() else process(pid)
        if holder is not None:
            holder.how = "lock file"
            holder.since = status.st_mtime
        return holder

    def _remove_stale(self, name: str) -> None:
        """Remove a lock found stale. It is renamed first and looked at again, because another
        program may have removed it and taken the lock between our look and now; then it is put
        back. Raises Refusal EBUSY if what came instead is no lock file, EIO as `take`."""
        aside = _unique()
        try:
            os.rename(name, aside, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error) from None
        try:
            if self._judge(aside) is not None:  # guard: judge-the-lock-moved-aside
                self._link(aside, name)
        except Refusal:
            self._put_back(aside, name)
            raise self._no_lock(name, "not a regular file") from None
        except FileExistsError:  # a third one has it already, and will find us refusing
            pass
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self._forget(aside)

    def _put_back(self, aside: str, name: str) -> None:
        """Not ours to remove, whatever it is. Neither way replaces another's lock."""
        try:
            if stat.S_ISDIR(os.stat(aside, dir_fd=self._fd, follow_symlinks=False).st_mode):
                os.rename(aside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            else:
                self._link(aside, name)
        except OSError:
            pass


def _unique() -> str:
    return f"{_PREFIX}{os.getpid()}.{os.urandom(8).hex()}"


def _maker(name: str) -> int | None:
    """The pid in a name that `_unique` made; None for any other."""
    if not name.startswith(_PREFIX):
        return None
    pid, _, chance = name.removeprefix(_PREFIX).partition(".")
    decimal = pid.isascii() and pid.isdigit() and len(pid) <= 10
    if not decimal or len(chance) != 16 or set(chance) - set("0123456789abcdef"):
        return None
    return int(pid)


def parse_pid(content: bytes) -> int | None:
    """The pid in a lock file's first bytes, decimal, a binary int or a binary long (microcom's);
    None if there is none."""
    if len(content) == 4 and not content.strip().isdigit():
        pid = int(struct.unpack("i", content)[0])
    elif len(content) == struct.calcsize("l") and b"\0" in content:
        pid = int(struct.unpack("l", content)[0])
    else:
        text = content.lstrip()
        word = text.split(maxsplit=1)[0] if text else b""
        aligned = len(content) - len(text) <= 10
        pid = int(word) if aligned and word.isdigit() and len(word) <= 10 else 0
    return pid if 0 < pid <= 0x7FFFFFFF else None


def flocks() -> dict[str, int]:
    """Who took each flock that there is, by inode: proc_locks(5). That can take the kernel 20 ms
    (fs/locks.c, locks_start: it keeps every processor from locking meanwhile)."""
    taken: dict[str, int] = {}
    for line in linux.read_file("/proc/locks").decode("ascii", "replace").splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK":
            taken.setdefault(fields[5], int(fields[4]))
    return taken


def flock_holder(node: int, taken: dict[str, int] | None = None) -> Holder | None:
    """Who has an flock on the inode behind the O_PATH descriptor `node`; `taken` is what flocks()
    said, for who asks about many.

    The kernel names the process that took it. That may have ended since (as a broker that was
    started again), and then nobody can be named.
    """
    status = os.fstat(node)
    device, inode = status.st_dev, status.st_ino
    taken = flocks() if taken is None else taken
    pid = taken.get(f"{os.major(device):02x}:{os.minor(device):02x}:{inode}")
    if pid is None:
        return None
    found = (process(pid) if pid > 0 else None) or Holder()
    found.how = "flock"
    return found
