"""Standard input and output as miniterm's console: a terminal, or anything else."""

from __future__ import annotations

import codecs
import os
import select
import signal
import sys
import termios

from serial.tools import miniterm

_IN, _OUT = 0, 1
_DELETE, _BACKSPACE = "\x7f", "\x08"


class Console(miniterm.Console):
    """Read and write descriptors 0 and 1 without a buffer, so that poll(2) is right.

    is_terminal: whether there are keys; otherwise input is data.
    """

    def __init__(self) -> None:
        self.is_terminal = os.isatty(_IN)
        self._found = termios.tcgetattr(_IN) if self.is_terminal else None
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._decoder = codecs.getincrementaldecoder(self._encoding)("replace")
        self._pending = ""
        self.in_line = False  # whether the cursor is behind an unfinished line

    def setup(self) -> None:
        """Get each key at once, without echo and without signals."""
        if self._found is None:
            return
        iflag, oflag, cflag, lflag, ispeed, ospeed, characters = termios.tcgetattr(_IN)
        lflag &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        mode = [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]
        termios.tcsetattr(_IN, termios.TCSANOW, mode)

    def cleanup(self) -> None:
        """Put the terminal back as it was found, if it is still there.

        A process in the background would be stopped by that, and could not end: SIGTTOU in
        termios(3).
        """
        if self._found is not None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            try:
                termios.tcsetattr(_IN, termios.TCSAFLUSH, self._found)
            except termios.error:
                pass

    def data(self) -> bytes:
        """Return what is there on standard input; b"" at its end."""
        try:
            return os.read(_IN, 4096)
        except BlockingIOError:  # somebody else read it, or poll(2) erred
            select.select([_IN], [], [])
            return os.read(_IN, 4096)
        except OSError:  # EIO: the terminal hung up
            return b""

    def keys(self) -> str:
        """Return what was typed; "" when the terminal is gone."""
        if self._pending:
            text, self._pending = self._pending, ""
            return text
        data = self.data()
        while data and not (text := self._decoder.decode(data)):
            data = self.data()  # the rest of a character
        return text.replace(_DELETE, _BACKSPACE) if data else ""

    def getkey(self) -> str:  # type: ignore[override]
        """Return the next key, for miniterm's own menu; "" when the terminal is gone."""
        text = self.keys()
        self._pending = text[1:]
        return text[:1]

    def write(self, text: str) -> None:
        """Write text. Raises OSError."""
        self.write_bytes(text.encode(self._encoding, "replace"))

    def write_bytes(self, data: bytes) -> None:
        """Write all of it. Raises OSError."""
        if data:
            self.in_line = not data.endswith(b"\n")
        while data:
            try:
                data = data[os.write(_OUT, data) :]
            except BlockingIOError:  # another program on this terminal made it non-blocking
                select.select([], [_OUT], [])
