"""The filter of system calls is tried, on this interpreter and C library, before it is used."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from support.numbers import made_here, number_of
from ttybrokerd.prepare import filter, selftest, syscalls


def test_the_filter_lets_this_interpreter_live() -> None:
    assert selftest.refused(*filter.build()) is None
    assert filter.tried() == filter.build()


HERE = [call for call in syscalls.CALLS
        if number_of(call.name) >= 0 and not call.unseen and made_here(call)]  # fmt: skip


@pytest.mark.parametrize("call", HERE, ids=lambda call: call.name)
def test_a_filter_that_would_end_this_interpreter_is_refused_with_the_name_of_the_call(
    call: syscalls.Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    less = tuple(one for one in syscalls.CALLS if one is not call)
    assert less != syscalls.CALLS
    monkeypatch.setattr(syscalls, "CALLS", less)
    monkeypatch.setattr(selftest, "PATIENCE", 2.0)
    told = f"lacks {call.name}, which this Python or C library makes|no word comes by {call.name}$"
    with pytest.raises(filter.NoFilter, match=told):
        filter.tried()


def test_an_argument_that_the_filter_does_not_permit_is_found_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TCGETS2, say, where the C library was TCGETS before."""
    ioctls = [call for call in syscalls.CALLS if call.name == "ioctl"]
    less = tuple(call for call in syscalls.CALLS if "TCGETS" not in call.why)
    assert len(ioctls) > 3
    monkeypatch.setattr(syscalls, "CALLS", less)
    with pytest.raises(filter.NoFilter, match="lacks ioctl"):
        filter.tried()


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda: os._exit(3), "the process that tries it has ended"),
        (signal.pause, "it does not end"),
    ],
    ids=["ends", "hangs"],
)
def test_a_trial_that_comes_to_no_end_says_so(
    act: Callable[[], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "PATIENCE", 0.5)
    monkeypatch.setattr(selftest, "_memory", act)
    with pytest.raises(filter.NoFilter, match=f"the filter cannot be tried: {why}$"):
        filter.tried()
