"""Answers questions about users and groups, one a message; the other end is names.py.

    ttybroker-names@.service: socket ── standard input of this file, run as a script

It imports nothing of ours: as a script it is there in a moment and takes little memory.
"""

from __future__ import annotations

import _socket as socket  # see lean.py
import grp
import os
import pwd

MAX_MESSAGE = 2048
USER_ID, GROUP_ID, USER_NAME = "user", "group", "name"  # the questions


def look_up(question: str, about: str) -> bytes:
    """The id of a name, or the name of a uid; b"" if nobody has it. May block as long as the
    name service likes."""
    try:
        if question == USER_ID:
            return b"%d" % pwd.getpwnam(about).pw_uid
        if question == GROUP_ID:
            return b"%d" % grp.getgrnam(about).gr_gid
        return os.fsencode(pwd.getpwuid(int(about)).pw_name)
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        return b""


def serve(sock: socket.socket) -> None:
    """Answer until the other end is gone: NUMBER QUESTION NAME, and then NUMBER ANSWER."""
    while message := sock.recv(MAX_MESSAGE):
        number, question, about = message.decode().split(" ", 2)
        sock.send(number.encode() + b" " + look_up(question, about))


if __name__ == "__main__":
    serve(socket.socket(fileno=0))
