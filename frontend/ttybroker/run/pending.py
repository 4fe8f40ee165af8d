"""Signals that wait for a thread which is stopped in a call. They mean that it should go on."""

from __future__ import annotations

# Signals that end, stop or do nothing when nobody handles them: signal(7). The kernel wakes a
# killable wait itself for those that end a process, but not for a core dump, and not at all in
# a traced process. In that one, those that do nothing are pending, too.
_IGNORED = sum(1 << (number - 1) for number in (17, 18, 23, 28))  # CHLD, CONT, URG, WINCH


class Pending:
    """The signals that thread `tid` has not taken yet: proc_pid_status(5).

    any: whether there is one. is_ours: whether no other thread can take it, so that this thread
    will take it when the call ends.
    """

    def __init__(self, tid: int) -> None:
        try:
            with open(f"/proc/{tid}/status", "rb") as file:
                status = file.read()
        except OSError:
            status = b""
        own, shared = _field(status, b"SigPnd", 16), _field(status, b"ShdPnd", 16)
        idle = _field(status, b"SigIgn", 16) | _IGNORED & ~_field(status, b"SigCgt", 16)
        wanted = ~idle & ~_field(status, b"SigBlk", 16)
        self.any = bool((own | shared) & wanted)
        self.is_ours = bool(own & wanted) or (_field(status, b"Threads", 10) == 1 and self.any)


def _field(status: bytes, name: bytes, base: int) -> int:
    at = status.find(b"\n" + name + b":\t")
    if at < 0:
        return 0
    begin = at + len(name) + 3
    return int(status[begin : status.index(b"\n", begin)], base)
