"""A file to which all input from the line is appended. It needs no file system once it is open."""

from __future__ import annotations

import fcntl
import os

from ttybroker.say import say


class Log:
    """Append at once, so that nothing is lost, however the process ends.

    Raises OSError if the file cannot be opened. A later failure is reported once, and ends only the
    log. If it never begins, because the port is refused, no new file is left.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._file = os.open(path, flags | os.O_EXCL, 0o666)
            self._new = True
        except FileExistsError:
            self._file = os.open(path, flags, 0o666)
            self._new = False
        _lock(self._file, fcntl.LOCK_SH)  # so that no other terminal takes the file away

    def begin(self) -> None:
        """Keep the file from now on, even if nothing comes."""
        self._new = False

    def write(self, data: bytes) -> None:
        """Append these bytes."""
        if self._file < 0:
            return
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            say(f"{self.path}: {error.strerror}; the log ends here")
            self.close()

    def close(self) -> None:
        """Close the file; do nothing a second time."""
        if self._file >= 0:
            file, self._file = self._file, -1
            if self._new and _lock(file, fcntl.LOCK_EX):
                self._remove(file)
            os.close(file)

    def _remove(self, file: int) -> None:
        try:
            ours = os.fstat(file)
            if ours.st_size == 0 and os.path.samestat(ours, os.lstat(self.path)):
                os.unlink(self.path)
        except OSError:  # it was moved, or its directory is read-only now
            pass


def _lock(file: int, how: int) -> bool:
    """Lock it without a wait, and return whether that succeeds."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
