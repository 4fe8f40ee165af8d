"""A file to which all input from the line is appended. It needs no file system once it is open."""

from __future__ import annotations

import os

from ttybroker.say import say


class Log:
    """Append at once, so that nothing is lost, however the process ends.

    Raises OSError if the file cannot be opened. A later failure is reported once, and ends only the
    log.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
        self._file = os.open(path, flags, 0o666)

    def write(self, data: bytes) -> None:
        """Append these bytes."""
        if self._file < 0:
            return
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            say(f"{self._path}: {error.strerror}; the log ends here")
            self.close()

    def close(self) -> None:
        """Close the file; do nothing a second time."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)
