"""Send a file by ZMODEM. sz(1) of lrzsz has the line meanwhile, because no library does as well."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess

from ttybroker.say import say


class Sender:
    """sz and a file for it.

    Raises OSError if one of them does not exist, or the file cannot be read.
    """

    def __init__(self, path: str) -> None:
        what = os.stat(path)  # which tells what is not there
        if stat.S_ISDIR(what.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        program = shutil.which("sz") or shutil.which("lsz")
        if program is None:
            raise OSError("--send needs sz; write: apt install lrzsz")
        self._command = [program, "--", path]
        self._path = path

    def send(self, port: int) -> int:
        """Send the file over the port's descriptor, and return the exit status of sz.

        A status other than 0 is reported. sz starts rz at the other end, if a shell is there. It
        gives up by itself if nobody answers.
        """
        os.set_blocking(port, True)  # as sz expects it; the description is leased to us alone
        try:
            status = subprocess.run(self._command, stdin=port, stdout=port).returncode
        finally:
            os.set_blocking(port, False)
        if status != 0:
            what = f"not sent: sz ended with status {status}"
            say(f"{self._path}: {what}; is rz running at the far end?")
        return status
