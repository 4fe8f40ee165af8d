"""What globs over the kernel's names of ports can match. A glob matches no alias."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from string import ascii_letters, digits

from ttybrokerd.root import portname

# How the kernel's names of serial ports begin: drivers/tty and drivers/usb; drivers/tty/n_gsm.c;
# net/bluetooth/rfcomm/tty.c; drivers/tty/nozomi.c.
FAMILIES = ("tty", "gsmtty", "rfcomm", "noz")
PIECE = re.compile(r"\[(?:!.|[^!])[^]]*\]|.", re.DOTALL)  # of a glob: a set, or one character
ALPHABET = ascii_letters + digits  # of kernel names: portname.split
LONGEST = 5  # digits of a kernel name's number

Token = frozenset[str] | None  # the characters that it stands for; None: any number of any
Stands = frozenset[int]  # tokens that may come next


def is_kernels(name: str) -> bool:
    """Return whether the kernel may use this name for a port. It never makes one like board1."""
    return portname.split(name) is not None and name.startswith(FAMILIES)


@cache
def may_be_kernels(glob: str) -> bool:
    """Return whether the glob matches any name that the kernel may use for a port."""
    tokens = _tokens(glob)
    one = "".join(min(token or "0") for token in tokens)  # with digits, where a digit fits
    if is_kernels(one) and portname.matches(one, glob):
        return True  # most globs
    return any(_numbered(tokens, _lettered(tokens, family)) for family in FAMILIES)


def _lettered(tokens: list[Token], family: str) -> set[Stands]:
    """Return where the glob may stand behind the letters of this family's names."""
    stands = {_reach(tokens, {0})}
    for letter in family:
        stands = _after(tokens, stands, letter)
    todo = list(stands)
    while todo:
        more = _after(tokens, {todo.pop()}, ascii_letters) - stands
        stands |= more
        todo += more
    return stands


def _numbered(tokens: list[Token], stands: set[Stands]) -> bool:
    """Return whether a number brings the glob to its end from there: 0, or without a 0 in front."""
    ends = _after(tokens, stands, "0")
    stands = _after(tokens, stands, digits[1:])
    for _ in range(LONGEST):
        ends |= stands
        stands = _after(tokens, stands, digits)
    return any(len(tokens) in each for each in ends)


def _after(tokens: list[Token], stands: Iterable[Stands], chars: str) -> set[Stands]:
    return {_step(tokens, each, char) for each in stands for char in chars}


def covers(wide: str, narrow: str) -> bool:
    """Return whether the glob `wide` matches every kernel name that `narrow` matches.

    It walks over the positions that both globs can have after the same characters: one token of
    `narrow`, and each token of `wide` that fits it.
    """
    theirs = _tokens(narrow)
    one = "".join(min(token, default="") for token in theirs if token is not None)
    if not portname.matches(one, wide):
        return False  # most pairs
    ours = _tokens(wide)
    chars = _representatives([token for token in (*ours, *theirs) if token is not None])
    todo = [(0, _reach(ours, {0}))]
    seen = set(todo)
    while todo:
        at, stands = todo.pop()
        if at == len(theirs):
            if len(ours) not in stands:
                return False
            continue
        token = theirs[at]
        nexts = [(at + 1, stands)] if token is None else []
        for char in chars:
            if token is None or char in token:
                nexts.append((at if token is None else at + 1, _step(ours, stands, char)))
        todo += [each for each in nexts if each not in seen]
        seen.update(nexts)
    return True


@cache
def _tokens(glob: str) -> list[Token]:
    return [
        None if piece == "*" else frozenset(c for c in ALPHABET if portname.matches(c, piece))
        for piece in PIECE.findall(glob)
    ]


def _representatives(sets: list[frozenset[str]]) -> list[str]:
    """Return one character of each group of characters that are in the same sets."""
    return list({tuple(char in each for each in sets): char for char in ALPHABET}.values())


def _step(tokens: list[Token], stands: frozenset[int], char: str) -> frozenset[int]:
    after = set()
    for at in stands:
        if at < len(tokens):
            token = tokens[at]
            if token is None:
                after.add(at)
            elif char in token:
                after.add(at + 1)
    return _reach(tokens, after)


def _reach(tokens: list[Token], stands: set[int]) -> frozenset[int]:
    """Return these positions, and those behind a * at one of them."""
    for at in sorted(stands):
        while at < len(tokens) and tokens[at] is None:
            at += 1
            stands.add(at)
    return frozenset(stands)
