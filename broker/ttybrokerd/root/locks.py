"""The lock files that other programs know.

FHS 3.0, 5.9 /var/lock: a lock file's name is `LCK..` and the device's base name. It has the pid as
ten characters, right aligned, and a newline. It is made by writing a temporary file and link(2),
which is atomic. Some programs write the pid as a binary int. Some create the file first and write
later.

The directory may be writable by everybody (1777). Then a file is believed only if its maker could
have made it: root, or the user of the process that it names. No link in it is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time

from ttybroker.wire import Holder, Value
from ttybrokerd.root import processes
from ttybrokerd.root.clock import Clock
from ttybrokerd.root.processes import process
from ttybrokerd.root.refusal import Refusal, busy

DIRECTORY = "/run/lock"
_PREFIX = ".ttybroker."  # of temporary files
YOUNG = 10.0  # seconds for which an empty or garbled file may still be being written
LATER = 60.0  # seconds; a process that began so long after its lock was written is another one
MOST_NAMES = 20_000  # names of the directory that are looked at when a broker starts
NO_PROCESS = 0x7FFFFFFF  # above PID_MAX_LIMIT, linux/threads.h: a pid that none ever has


class Taken(Value):
    """How a lock was taken.

    `replaced` says what was there and was not believed, "" if nothing was. `root_stale`: what was
    there was root's. A broker that is gone may have made it, and the process that it was made for
    may still have the port.
    """

    ours: bool  # False: the process that asks has made one of its own
    replaced: str = ""
    root_stale: bool = False


class Judged(Value):
    """What a lock file means: who holds it, or why nobody does."""

    holder: Holder | None
    why: str = ""  # why nobody is believed to hold it
    root: bool = False  # nobody is believed to hold it, and root made it
    unsure: bool = False  # the holder is believed only because the clock was set since


class NoDirectory(OSError):
    """There is no lock directory. The text says what to do."""


class LockFiles:
    """One lock directory, held open.

    The default directory is made if it is missing. Raises OSError, with a text for a person, if the
    directory cannot be opened.
    """

    def __init__(self, directory: str = DIRECTORY) -> None:
        self.path = os.path.abspath(directory)  # it is shown to people who are elsewhere
        self._fd = _open_directory(directory)
        # by device: the lock's other (temporary) name, and the pid in it
        self._unconfirmed: dict[str, tuple[str, int]] = {}
        self._root_stale: set[str] = set()  # devices that are to be hung up before anybody has them
        self._clock = Clock()
        self._salt = ""
        self._counter = 0
        try:
            self._leftovers = self._find_leftovers()  # now, because it may be forbidden later
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """Return the directory's descriptor."""
        return self._fd

    def close(self) -> None:
        """Close the directory's descriptor."""
        os.close(self._fd)

    def take(self, device: str, pid: int) -> Taken:
        """Lock `device` for the process `pid`, unless that process has a lock already.

        If this broker dies before `confirm`, the next one will know that nobody got the port.

        Raises Refusal: EBUSY if another live process holds it or it is no lock file at all; ENOSPC,
        EROFS or EIO if the directory is full, read-only or broken.
        """
        name, replaced = f"LCK..{device}", ""
        for _ in range(8):  # others may win the race for a stale lock so often
            if (temporary := self._create(name, pid)) is not None:
                self._unconfirmed[device] = temporary, pid
                return Taken(True, replaced, device in self._root_stale)
            judged = self._judge(name)
            if judged.holder is None:
                if (removed := self._remove_stale(name)) is not None:
                    replaced = removed.why
                    if removed.root:
                        self._root_stale.add(device)
            elif judged.holder.pid == pid:
                return Taken(False, "", device in self._root_stale)
            else:
                raise self._busy(name, judged)
        what = f"busy: other programs keep making {self.path}/{name}"
        raise Refusal(errno.EBUSY, what, advice="try again")

    def confirm(self, device: str) -> None:
        """Make the lock one for good: whoever it names has the port, even if this broker dies."""
        temporary, _ = self._unconfirmed.pop(device, (None, 0))
        if temporary is not None:
            self._forget(temporary)

    def hung_up(self, device: str) -> None:
        """Note that whoever had the port by a stale lock of root's has it no more."""
        self._root_stale.discard(device)

    def drop_unconfirmed(self) -> None:
        """Remove the locks that are not confirmed.

        This broker ends, so nobody will get those ports.
        """
        for device, (_, pid) in list(self._unconfirmed.items()):
            try:
                self.release(device, pid)
            except Refusal:  # it names a process that will end
                pass

    def remove_leftovers(self) -> None:
        """Remove what killed brokers left: temporary files, and the locks that were not confirmed.

        Such a lock has a temporary name as well.
        """
        for temporary, lock in self._leftovers:  # each is looked at again: anybody may change it
            maker = _maker(temporary)
            if maker is not None and (maker == os.getpid() or process(maker) is None):
                self._remove_leftover(temporary, lock)
        self._leftovers = []

    def _find_leftovers(self) -> list[tuple[str, str | None]]:
        """Return the temporary files that a broker made, each with the lock that is the same file.

        In a directory with more names than MOST_NAMES not all are found. The others stay.
        """
        temporary, locks = [], {}
        with os.scandir(self._fd) as entries:
            # guard: bounded-look-at-the-directory
            for _, entry in zip(range(MOST_NAMES), entries, strict=False):
                if entry.name.startswith("LCK.."):
                    locks[entry.inode()] = entry.name
                elif _maker(entry.name) is not None:
                    temporary.append(entry)
        found = ((entry.name, self._ours(entry.name)) for entry in temporary)
        return [(name, locks.get(status.st_ino)) for name, status in found if status is not None]

    def _ours(self, name: str) -> os.stat_result | None:
        """Return the status of a file that a broker made, None for any other.

        Anybody may give a file such a name, and have the kernel refuse root a look at it: fuse(4).
        """
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:  # guard: survive-any-name
            return None
        return status if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode) else None

    def _remove_leftover(self, temporary: str, lock: str | None) -> None:
        left = self._ours(temporary)
        if left is None:
            return
        same = self._ours(lock) if lock is not None else None
        # guard: remove-unconfirmed-lock
        if lock is not None and same is not None and same.st_ino == left.st_ino:
            self._forget(lock)
        self._forget(temporary)

    def reassign(self, device: str, pid: int, instead_of: int) -> None:
        """Put `pid` into the lock that names `instead_of`, whose process has ended.

        Raises Refusal as `take` does for a directory that is full, read-only or broken.
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
        """Return whether a broker that is gone made the lock that names the process `pid`.

        The lock is root's then, and the process is not.
        """
        found, holder = self._read(f"LCK..{device}"), process(pid)
        return found is not None and found[1].st_uid == 0 and holder is not None and holder.uid != 0

    def named(self, device: str) -> int | None:
        """Return the pid in the lock of `device`, alive or not; None if there is none."""
        return self._pid(f"LCK..{device}")

    def release(self, device: str, pid: int) -> None:
        """Remove the lock of `device`, if it still names `pid`.

        If the port was to be hung up and was not, the lock is made what it was before: root's, and
        stale. Raises Refusal as `reassign` if that cannot be done.
        """
        self.confirm(device)
        name = f"LCK..{device}"
        if device in self._root_stale:  # guard: stale-until-hung-up
            self.reassign(device, NO_PROCESS, instead_of=pid)
        elif self._pid(name) == pid:  # guard: remove-own-lock-only
            try:
                os.unlink(name, dir_fd=self._fd)
            except (FileNotFoundError, IsADirectoryError):
                pass
            except OSError as error:
                raise self._failed(error) from None

    def holder(self, device: str) -> Holder | None:
        """Return who holds the lock file of `device`, without touching it; None if it is free."""
        try:
            return self._judge(f"LCK..{device}").holder
        except Refusal as refusal:
            return refusal.holder or Holder(how="lock file")

    def _create(self, name: str, pid: int) -> str | None:
        """Make the lock; return its temporary name, None if there is a lock already.

        Raises Refusal as `reassign`.
        """
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
        """Remove a file of our own. One that cannot be removed is no lock, and means nothing."""
        try:
            os.unlink(temporary, dir_fd=self._fd)
        except OSError:
            pass

    def _link(self, source: str, name: str) -> None:
        """Make a link by link(2), which replaces nothing.

        If somebody put a symbolic link in our file's place, that is not followed.
        """
        # guard: do-not-follow-a-temporary-link
        os.link(source, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)

    def _temporary(self, pid: int) -> str:
        # guard: new-temporary-lock
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for _ in range(8):
            name = self._unique()
            try:
                descriptor = os.open(name, flags, 0o644, dir_fd=self._fd)
                break
            # Somebody guessed this name from the last one, and made it.
            except FileExistsError:  # guard: guessed-temporary-names
                self._salt = ""
            except OSError as error:
                raise self._failed(error) from None
        else:
            what = f"other programs keep making the broker's temporary files in {self.path}"
            raise Refusal(errno.EBUSY, what, advice="try again")
        try:
            os.fchmod(descriptor, 0o644)  # our umask is 077, and a lock is for others to read
            os.write(descriptor, b"%10d\n" % pid)
        except OSError as error:
            self._forget(name)
            raise self._failed(error) from None
        finally:
            os.close(descriptor)
        return name

    def _unique(self) -> str:
        """Return a name for a temporary file, with another random part if the last was guessed."""
        if not self._salt:
            self._salt = f"{_PREFIX}{os.getpid()}.{os.urandom(4).hex()}"
        self._counter = self._counter + 1 & 0xFFFFFFFF
        return f"{self._salt}{self._counter:08x}"

    def _failed(self, error: OSError) -> Refusal:
        text = os.strerror(error.errno or 0)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"see df and df -i {self.path}, and ask your administrator to make room in it"
            what = f"the lock directory {self.path} is full ({text})"
            return Refusal(errno.ENOSPC, what, advice=advice)
        if error.errno == errno.EROFS:
            what = f"the lock directory {self.path} is read-only"
            return Refusal(errno.EROFS, what, advice="ask your administrator to make it writable")
        if os.fstat(self._fd).st_nlink == 0:
            what = f"the lock directory {self.path} was removed while the broker had it open"
            return Refusal(errno.EIO, what, advice="restart the broker")
        what = f"the lock directory {self.path} cannot be used: {text}"
        return Refusal(errno.EIO, what, advice="ask your administrator")

    def _busy(self, name: str, judged: Judged) -> Refusal:
        """Return EBUSY, with the file's name and how to see whether it is stale."""
        path, holder = f"{self.path}/{name}", judged.holder
        assert holder is not None
        if holder.pid is None:
            advice = f"{path} names no process yet: ask again in {YOUNG:.0f} seconds"
            return Refusal(errno.EBUSY, "busy", holder, advice=advice)
        remove = f"if that process (ps -fp {holder.pid}) does not use the port, remove {path}"
        if judged.unsure:
            remove += " (the clock was set, so the file may be older than the process)"
        return busy(holder, remove)

    def _read(self, name: str) -> tuple[bytes, os.stat_result] | None:
        """Return the lock's first bytes and its status, None if there is none.

        Raises Refusal EBUSY if the name is no regular file, because no program makes such a lock.
        Raises OSError if it cannot be read.
        """
        # guard: do-not-read-a-linked-lock
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
                raise self._no_lock(name, os.strerror(error.errno)) from None
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):  # guard: lock-is-a-regular-file
                raise self._no_lock(name, "not a regular file")
            return os.read(descriptor, 64), status
        finally:
            os.close(descriptor)

    def _no_lock(self, name: str, what: str) -> Refusal:
        """Return EBUSY, with the file's owner if that can be told."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):  # whatever the open of it says
                what = "not a regular file"
            what = f"{what}, made by uid {status.st_uid}"
        except OSError:
            pass
        what = f"busy: {self.path}/{name}: {what}: not a lock file"
        return Refusal(errno.EBUSY, what, advice="the administrator must remove it")

    def _pid(self, name: str) -> int | None:
        try:
            found = self._read(name)
        except Refusal:
            return None
        except OSError as error:
            raise self._failed(error) from None
        return None if found is None else parse_pid(found[0])

    def _judge(self, name: str) -> Judged:
        """Return who holds the lock, or why nobody does.

        Raises Refusal: EBUSY if it is no lock file or cannot be read, another if the broker is
        short of a resource.
        """
        try:
            found = self._read(name)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise Refusal.out_of_means(error) from None
            raise self._no_lock(name, os.strerror(error.errno or 0)) from None
        if found is None:
            return Judged(None)
        content, status = found
        pid, maker, written = parse_pid(content), status.st_uid, status.st_mtime
        nobody = f"of uid {maker}: pid {pid} has ended" if pid else f"of uid {maker}: names nobody"
        if pid is None:
            young = abs(time.time() - written) < YOUNG
            return Judged(Holder(maker, how="lock file") if young else None, nobody, maker == 0)
        holder = None if pid == os.getpid() else process(pid)
        if holder is None:
            return Judged(None, nobody, maker == 0)
        if self._open_to_others():
            uids = processes.uids(pid)
            if uids and maker not in (*uids, 0):  # guard: lock-of-its-own-user
                return Judged(None, f"forged by uid {maker}: names pid {pid} of uid {holder.uid}")
        unsure = False
        start = processes.began(pid)
        # guard: lock-older-than-its-process
        if start is not None and self._clock.offset() + start > written + LATER:
            if written >= self._clock.steady_since():  # guard: clock-set-since-the-lock
                late = f"of uid {maker}: stale, pid {pid} was started later"
                return Judged(None, late, maker == 0)
            unsure = True
        holder.how = "lock file"
        holder.since = written
        return Judged(holder, unsure=unsure)

    def _open_to_others(self) -> bool:
        """Return whether others than root may make files in the directory."""
        status = os.fstat(self._fd)
        return bool(status.st_mode & 0o022) or status.st_uid not in (0, os.geteuid())

    def _remove_stale(self, name: str) -> Judged | None:
        """Remove a lock that was found stale; return what was removed, None if nothing was.

        The lock is renamed first and looked at again, because another program may have removed it
        and taken the lock since. In that case it is put back. Raises Refusal EBUSY if what came
        instead is no lock file, else as `take`.
        """
        aside = f"{_PREFIX}{os.getpid()}.{os.urandom(8).hex()}"  # that nobody can guess
        try:
            os.rename(name, aside, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from None
        try:
            judged = self._judge(aside)
            if judged.holder is None:  # guard: judge-the-lock-moved-aside
                return judged
            self._link(aside, name)
            return None
        except Refusal as refusal:
            self._put_back(aside, name)
            wrong = refusal.number == errno.EBUSY
            raise (self._no_lock(name, "not a regular file") if wrong else refusal) from None
        except FileExistsError:  # a third program has locked it meanwhile
            return None
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self._forget(aside)

    def _put_back(self, aside: str, name: str) -> None:
        """Put back a file that is not ours to remove. It does not replace another's lock."""
        try:
            if stat.S_ISDIR(os.stat(aside, dir_fd=self._fd, follow_symlinks=False).st_mode):
                os.rename(aside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            else:
                self._link(aside, name)
        except OSError:
            pass


def _open_directory(directory: str) -> int:
    """Return a descriptor of the lock directory. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(directory, flags)
    except FileNotFoundError:
        if directory != DIRECTORY:
            what = f"the lock directory {directory} does not exist: create it, or name another "
            raise NoDirectory(f"{what}with --lock-dir") from None
    except NotADirectoryError:
        what = f"{directory} is no directory: name another lock directory with --lock-dir"
        raise NoDirectory(what) from None
    try:
        os.mkdir(directory, 0o755)
        os.chmod(directory, 0o755)  # whatever the umask
    except FileExistsError:
        pass
    except OSError as error:
        what = f"the lock directory {directory} does not exist and cannot be made"
        raise NoDirectory(f"{what} ({error.strerror}): create it, or see --lock-dir") from None
    return os.open(directory, flags)


def _maker(name: str) -> int | None:
    """Return the pid in a name that `_unique` made; None for any other name."""
    if not name.startswith(_PREFIX):
        return None
    pid, _, chance = name.removeprefix(_PREFIX).partition(".")
    decimal = pid.isascii() and pid.isdigit() and len(pid) <= 10
    if not decimal or len(chance) != 16 or set(chance) - set("0123456789abcdef"):
        return None
    return int(pid)


def parse_pid(content: bytes) -> int | None:
    """Return the pid in a lock file's first bytes, None if there is none.

    It is decimal, a binary int or a binary long (microcom's).
    """
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
