"""Takes what a daemon tells its manager, as systemd does, and keeps its descriptors: sd_notify(3).

    store.py PATH

Standard output: "bound", then "ready" for each READY=1. Standard input: a line has it forget all
that it keeps (and is answered "forgot"), the end ends it.
"""

from __future__ import annotations

import array
import os
import select
import socket
import sys

ROOM = socket.CMSG_SPACE(4 * 253)  # SCM_MAX_FD, include/net/scm.h


def main(path: str) -> None:
    """Serve until standard input ends."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    kept: dict[bytes, list[int]] = {}
    print("bound", flush=True)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if sock.fileno() in ready:
            hear(sock, kept)
        elif not os.read(0, 1024):
            return
        else:
            for name in list(kept):
                forget(kept, name)
            print("forgot", flush=True)


def hear(sock: socket.socket, kept: dict[bytes, list[int]]) -> None:
    """Do what one message asks for."""
    data, ancillary, _, _ = sock.recvmsg(4096, ROOM)
    fields = dict(line.split(b"=", 1) for line in data.splitlines())
    name = fields.get(b"FDNAME", b"stored")
    if b"FDSTOREREMOVE" in fields:
        forget(kept, name)
    for _level, _kind, numbers in ancillary:
        kept.setdefault(name, []).extend(array.array("i", numbers))
    if b"READY" in fields:
        print("ready", flush=True)


def forget(kept: dict[bytes, list[int]], name: bytes) -> None:
    """Close what is kept under a name."""
    for descriptor in kept.pop(name, []):
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1])
