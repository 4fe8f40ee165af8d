"""Signals that wait for a thread which is stopped in a call: they tell that it is to go on."""

from __future__ import annotations

_CORE = {3, 4, 5, 6, 7, 8, 11, 24, 25, 31}  # signal(7): "Core" and handled or not, they end it
_STOP = {20, 21, 22}  # SIGTSTP, SIGTTIN, SIGTTOU


def _mask(numbers: set[int]) -> int:
    return sum(1 << (number - 1) for number in numbers)


# Those for which the kernel does not wake a killable wait by itself though nobody handles them.
# SIGSTOP cannot be handled.
_UNHANDLED = _mask(_CORE | _STOP | {19})


class Pending:
    """The signals that thread `tid` has still to take, from /proc/TID/status: proc_pid_status(5).

    any: whether there is one. is_ours: whether no other thread can take it away, so that it will
    surely be taken when the call ends.
    """

    def __init__(self, tid: int) -> None:
        try:
            with open(f"/proc/{tid}/status", "rb") as file:
                status = file.read()
        except OSError:
            status = b""
        own, shared = _field(status, b"SigPnd", 16), _field(status, b"ShdPnd", 16)
        taken = _field(status, b"SigCgt", 16) | _UNHANDLED & ~_field(status, b"SigIgn", 16)
        wanted = taken & ~_field(status, b"SigBlk", 16)
        self.any = bool((own | shared) & wanted)
        self.is_ours = bool(own & wanted) or (_field(status, b"Threads", 10) == 1 and self.any)


def _field(status: bytes, name: bytes, base: int) -> int:
    at = status.find(b"\n" + name + b":\t")
    if at < 0:
        return 0
    begin = at + len(name) + 3
    return int(status[begin : status.index(b"\n", begin)], base)
