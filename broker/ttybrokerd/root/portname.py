"""What names of ports look like: the kernel's, and a rule's globs over them.

Written by hand, because `re` and `fnmatch` load enum, functools and collections at every start.
tests/unit/test_portname.py compares it with them.
"""

from __future__ import annotations

DIGITS = "0123456789"


def split(name: str) -> tuple[str, int] | None:
    """Return ("ttyS", 0) for "ttyS0"; None for what is no kernel name of a port.

    A kernel name is letters, and a number of up to five digits without leading zeros.
    """
    family = name.rstrip(DIGITS)
    number = name[len(family) :]
    if not family or not family.isascii() or not family.isalpha() or not 0 < len(number) <= 5:
        return None
    if number[0] == "0" and number != "0":  # guard: no-leading-zeros
        return None
    return family, int(number)


def literal(glob: str) -> str:
    """Return what stands before the first *, ? or [. Every name that the glob matches begins so."""
    for at, char in enumerate(glob):
        if char in "*?[":
            return glob[:at]
    return glob


def matches(name: str, glob: str) -> bool:
    """Return whether the glob matches the whole name, as fnmatch.fnmatchcase().

    In a glob, * stands for any characters, ? for one, [a-z] for one of these, and [!a-z] for one
    that is none of these. It takes no longer than the product of both lengths.
    """
    at, here = 0, 0  # in the name, in the glob
    star, behind = -1, 0  # where the last * is, and where in the name its characters end
    while at < len(name):
        if here < len(glob) and glob[here] == "*":
            star, behind = here, at
            here += 1
            continue
        after = _one(name[at], glob, here)
        if after:
            at, here = at + 1, after
        elif star >= 0:  # the * stands for one character more
            behind += 1
            at, here = behind, star + 1
        else:
            return False
    return not glob[here:].strip("*")  # guard: glob-to-the-end


def _one(char: str, glob: str, here: int) -> int:
    """Return where the glob goes on if its part at `here` matches this character, else 0."""
    if here >= len(glob):
        return 0
    end = _end_of_set(glob, here) if glob[here] == "[" else 0
    if end:
        return end if _in_set(char, glob[here + 1 : end - 1]) else 0
    return here + 1 if glob[here] in (char, "?") else 0


def _end_of_set(glob: str, here: int) -> int:
    """Return where a set that begins here ends; 0 if none does, and the [ is just a [."""
    first = here + 1
    first += glob.startswith("!", first)
    return glob.find("]", first + 1) + 1  # a ] in the first place is one of the characters


def _in_set(char: str, inside: str) -> bool:
    wanted = not inside.startswith("!")  # guard: negated-set
    at = 0 if wanted else 1
    while at < len(inside):
        low = high = inside[at]
        if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside):
            high = inside[at + 2]
            at += 2
        at += 1
        if low <= char <= high:
            return wanted
    return not wanted
