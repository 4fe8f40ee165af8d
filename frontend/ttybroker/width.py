"""How many columns of a terminal a text takes, which is not its number of characters."""

from __future__ import annotations


def columns(text: str) -> int:
    """Return the number of columns that a printable text takes.

    Wide characters take two, by UAX #11, "East Asian Width". Marks on the character before take
    none.
    """
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width  # here, for most texts are ASCII

    shown = [character for character in text if category(character) not in ("Mn", "Me")]
    return len(shown) + sum(east_asian_width(character) in ("W", "F") for character in shown)


def cut(text: str, room: int) -> str:
    """Return the beginning of the text, as much as fits into so many columns."""
    for at in range(len(text)):
        room -= columns(text[at])
        if room < 0:
            return text[:at]
    return text
