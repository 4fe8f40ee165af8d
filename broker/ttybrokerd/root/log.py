"""The log: one record for every grant, refusal, release, revoke and cut-off.

Records go to the journal in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL). Where there
is no journal, they are lines on standard error. If standard error is somebody's screen, they go to
syslog(3) instead.

Values that a client chose cannot forge a field or a line: everything but printable ASCII is
escaped, and quotes are. Writing never blocks. What cannot be written at once is dropped, and a
later record has the count.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys

from ttybrokerd.root.linux import socket

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
DAEMON = 3 << 3  # LOG_DAEMON, syslog.h
MAX_VALUE = 256  # characters
INFO, NOTICE, WARNING, ERROR = 6, 5, 4, 3  # syslog(3)


def escape(value: object) -> str:
    """Return `value` as at most MAX_VALUE characters of printable ASCII without quotes.

    Whatever else it has, backslashes too, is escaped as in Python. So no two values look alike.
    """
    text = str(value)[:MAX_VALUE]
    # guard: escape-log-values
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    shown = ""
    for part in map(_escaped, text):
        if len(shown) + len(part) > MAX_VALUE:
            break
        shown += part
    return shown


def _escaped(character: str) -> str:
    if character.isascii():
        plain = character.isprintable() and character not in '"\\'
        return character if plain else f"\\x{ord(character):02x}"
    return character.encode("ascii", "backslashreplace").decode()


def line(event: str, fields: dict[str, object]) -> str:
    """Return the record as one line: `grant port=ttyS0 uid=1000 program="pico com"`."""
    parts = [event]
    for key, value in fields.items():
        text = escape(value)
        plain = text and not set(text) & {" ", "="}
        parts.append(f"{key}={text}" if plain else f'{key}="{text}"')
    return " ".join(parts)


class Log:
    """Where records go; made once, before privilege shrinks.

    `quiet`: never standard error. Then records go nowhere where there is neither a journal nor a
    syslog.
    """

    def __init__(
        self,
        journal: str = JOURNAL,
        identifier: str = "ttybrokerd",
        *,
        quiet: bool = False,
        syslog: str = SYSLOG,
    ) -> None:
        self._identifier = identifier
        self._dropped = 0
        self._journal = connect(journal)
        self._syslog = connect(syslog) if quiet and self._journal is None else None
        self._stderr = -1 if quiet or self._journal is not None else _nonblocking_stderr()
        self._stderr_is_socket = _is_socket(self._stderr)

    @property
    def descriptors(self) -> set[int]:
        """The descriptors that must stay open for the log to work."""
        sockets = (self._journal, self._syslog)
        numbers = {self._stderr, *(sock.fileno() for sock in sockets if sock is not None)}
        return numbers - {-1}

    def close(self) -> None:
        """Close what was opened for the log."""
        for sock in (self._journal, self._syslog):
            if sock is not None:
                sock.close()
        if self._stderr > 2:
            os.close(self._stderr)

    def __call__(self, event: str, level: int = INFO, **fields: object) -> None:
        """Write one record; fields that are None are left out."""
        known = {key: value for key, value in fields.items() if value is not None}
        if self._dropped:
            known["dropped_before"] = self._dropped
        try:
            text = line(event, known)
            if self._journal is not None:
                self._journal.send(self._native(text, event, level, known))
            elif self._syslog is not None:
                self._syslog.send(f"<{DAEMON | level}>{self._identifier}: {text}".encode())
            elif self._stderr >= 0:
                self._write(f"{self._identifier}: {text}\n".encode())
            self._dropped = 0
        except (OSError, MemoryError):  # full, or its reader is gone
            self._dropped += 1

    def _write(self, data: bytes) -> None:
        if self._stderr_is_socket:
            sock = socket.socket(fileno=os.dup(self._stderr))
            try:
                sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            finally:
                sock.close()
        else:
            os.write(self._stderr, data)

    def _native(self, text: str, event: str, level: int, fields: dict[str, object]) -> bytes:
        records = {
            "MESSAGE": text,
            "PRIORITY": level,
            "SYSLOG_IDENTIFIER": self._identifier,
            "TTYBROKER_EVENT": event,
        }
        for key, value in fields.items():
            records[f"TTYBROKER_{key.upper()}"] = escape(value)
        return "".join(f"{key}={value}\n" for key, value in records.items()).encode()


def connect(path: str) -> socket.socket | None:
    """Return a datagram socket to `path`, on which a send never blocks; None if nobody is there."""
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        log.connect(path)
    except OSError:
        log.close()
        return None
    return log


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # closed: the write will tell
        return False


def _nonblocking_stderr() -> int:
    """Return standard error; if it is a pipe or a terminal, opened anew without blocking.

    O_NONBLOCK belongs to the open file description, and the first one is shared with whoever
    started us. What is open for reading alone is not opened anew, because root's rights would make
    it writable.
    """
    number = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
    try:
        mode = os.fstat(number).st_mode
        writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if writable and (stat.S_ISFIFO(mode) or os.isatty(number)):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{number}", flags)
    except OSError:  # closed, or no /proc: the write will tell
        pass
    return number
