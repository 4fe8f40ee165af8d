"""Bytes as they come out of a store that somebody has meddled with."""

from __future__ import annotations

from hypothesis import strategies as st


def damaged(whole: bytes, draw: st.DataObject) -> bytes:
    """Some beginning of these bytes, in which one byte is another."""
    data = bytearray(whole)
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    return bytes(data[: draw.draw(st.integers(0, len(data)))])
